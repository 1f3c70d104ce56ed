from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from valleys.groups import param_groups

WEIGHTS, REST = True, False  # the two values of layer_adaptation


def split(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the weights, and of the norms and biases; checks the options of both."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[bool, list[str]] = {WEIGHTS: [], REST: []}
    for group in param_groups(model, weight_decay=0.1):
        kind = group["layer_adaptation"]
        assert group.keys() == {"params", "weight_decay", "layer_adaptation"}
        assert group["weight_decay"] == (0.1 if kind is WEIGHTS else 0.0)
        assert not found[kind]
        found[kind] = [names[id(p)] for p in group["params"]]
    return found[WEIGHTS], found[REST]


class Owner(nn.Module):
    """A module that owns parameters of the given names and shapes."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def named(class_name: str, base: type[nn.Module] = Owner, **shapes: Any) -> nn.Module:
    module = type(class_name, (base,), {})(**shapes)
    assert isinstance(module, nn.Module)
    return module


# --- torch's layers

LAYERS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "Linear": (lambda: nn.Linear(3, 4), {"weight"}),
    "Linear to one": (lambda: nn.Linear(3, 1), {"weight"}),
    "Linear 1x1": (lambda: nn.Linear(1, 1), {"weight"}),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), {"weight"}),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 1), {"weight"}),
    "Conv2d depthwise": (lambda: nn.Conv2d(4, 4, 1, groups=4), {"weight"}),
    "Conv3d": (lambda: nn.Conv3d(3, 4, 1), {"weight"}),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 2), {"weight"}),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 2), {"weight"}),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(3, 4, 2), {"weight"}),
    "Embedding": (lambda: nn.Embedding(5, 3), {"weight"}),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3), {"weight"}),
    "PReLU": (lambda: nn.PReLU(4), set()),
    "RNNCell": (lambda: nn.RNNCell(3, 4), {"weight_ih", "weight_hh"}),
    "RNN": (lambda: nn.RNN(3, 4), {"weight_ih_l0", "weight_hh_l0"}),
    "GRU": (
        lambda: nn.GRU(3, 4, num_layers=2),
        {"weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"},
    ),
    "LSTM": (
        lambda: nn.LSTM(3, 4, bidirectional=True, proj_size=2),
        {f"weight_{kind}_l0{way}" for kind in ("ih", "hh", "hr") for way in ("", "_reverse")},
    ),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
        {"in_proj_weight", "out_proj.weight"},
    ),
    "MultiheadAttention kdim": (
        lambda: nn.MultiheadAttention(8, 2, kdim=3, vdim=5),
        {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"},
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_torch_layers(case: str) -> None:
    make, weights = LAYERS[case]
    model = make()
    names = [name for name, _ in model.named_parameters()]
    assert split(model) == ([n for n in names if n in weights], [n for n in names if n not in weights])


NORM_ARGUMENTS: dict[str, Callable[[type[Any]], nn.Module]] = {
    "GroupNorm": lambda layer: layer(2, 4),
    "LocalResponseNorm": lambda layer: layer(2),
    "CrossMapLRN2d": lambda layer: layer(2),
    **{f"InstanceNorm{d}d": lambda layer: layer(4, affine=True) for d in (1, 2, 3)},
    **{f"LazyInstanceNorm{d}d": lambda layer: layer(affine=True) for d in (1, 2, 3)},
    **{f"LazyBatchNorm{d}d": lambda layer: layer() for d in (1, 2, 3)},
}
# Searched in torch's source files, not by name as the code under test does.
TORCH_NORMS = [
    layer
    for file in (nn.modules.batchnorm, nn.modules.instancenorm, nn.modules.normalization)
    for name, layer in inspect.getmembers(file, inspect.isclass)
    if layer.__module__ == file.__name__ and not name.startswith("_") and issubclass(layer, nn.Module)
]


@pytest.mark.parametrize("layer", TORCH_NORMS, ids=lambda layer: layer.__name__)
def test_every_torch_norm(layer: type[nn.Module]) -> None:
    norm = NORM_ARGUMENTS.get(layer.__name__, lambda layer: layer(4))(layer)
    if "Lazy" in layer.__name__:
        norm(torch.randn(2, 4, *[2] * int(layer.__name__[-2])))
    names = [f"1.{name}" for name, _ in norm.named_parameters()]
    assert bool(names) == (layer.__name__ not in ("LocalResponseNorm", "CrossMapLRN2d"))
    assert split(nn.Sequential(nn.Linear(4, 4, bias=False), norm)) == (["0.weight"], names)


def test_the_table_of_torch_norms_is_not_empty() -> None:
    assert {"BatchNorm1d", "SyncBatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm3d"} <= {
        layer.__name__ for layer in TORCH_NORMS
    }


def test_torch_norms_of_any_shape() -> None:
    assert split(nn.LayerNorm((3, 4, 5))) == ([], ["weight", "bias"])
    assert split(nn.RMSNorm((3, 4))) == ([], ["weight"])


def test_subclasses_of_torch_norms_need_no_telling_name() -> None:
    class Scaler(nn.LayerNorm):
        def __init__(self) -> None:
            super().__init__((2, 4))
            self.projection = nn.Parameter(torch.zeros(4, 8))

    class Activated(nn.modules.batchnorm._BatchNorm):
        pass

    assert split(Scaler()) == (["projection"], ["weight", "bias"])
    assert split(Activated(4)) == ([], ["weight", "bias"])


# --- norms of third parties


@pytest.mark.parametrize(
    "name",
    [
        "LlamaRMSNorm",
        "T5LayerNorm",
        "FusedLayerNorm",
        "MixedFusedRMSNorm",
        "GemmaRMSNorm",
        "LayerNorm2d",
        "RmsNorm",
        "layer_norm",
        "EvoNorm2dS0",
        "LayerNormalization",
        "GlobalResponseNorm",
        "NormAct",
    ],
)
def test_foreign_norms_are_known_by_name(name: str) -> None:
    norm = named(name, weight=(4,), scale=(1, 4, 1, 1), shift=(4, 1), temperature=(1, 1))
    assert split(norm) == ([], ["weight", "scale", "shift", "temperature"])


def test_a_foreign_norm_may_tell_its_shape() -> None:
    norm = named("FusedLayerNorm", weight=(3, 4), table=(4, 3))
    assert split(norm) == (["weight", "table"], [])
    norm.normalized_shape = (3, 4)  # type: ignore[assignment]
    assert split(norm) == (["table"], ["weight"])


def test_frozen_batch_norm_has_buffers_only() -> None:
    class FrozenBatchNorm2d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(4))

    assert split(nn.Sequential(nn.Linear(2, 4), FrozenBatchNorm2d())) == (["0.weight"], ["0.bias"])


@pytest.mark.parametrize("name", ["AddNorm", "PreNorm", "NormMLP", "LinearNorm", "AdaLayerNorm"])
def test_blocks_named_after_norms_keep_their_weights(name: str) -> None:
    block = named(name, table=(3, 4), gain=(4,))
    block.fn = nn.Linear(3, 1)
    block.norm = nn.LayerNorm(3)
    assert split(block) == (["table", "fn.weight"], ["gain", "fn.bias", "norm.weight", "norm.bias"])


def test_a_torch_layer_with_norm_in_its_name_is_no_norm() -> None:
    assert split(named("NormLinear", nn.Linear, in_features=3, out_features=1)) == (["weight"], ["bias"])
    conv = named("SpectralNormConv", nn.Conv2d, in_channels=1, out_channels=4, kernel_size=1)
    assert split(conv) == (["weight"], ["bias"])


@pytest.mark.parametrize("name", ["NormalPolicy", "LogNormalHead", "Abnormality"])
def test_normal_is_no_norm(name: str) -> None:
    assert split(named(name, loc=(1, 4))) == (["loc"], [])


# --- names and shapes


def test_vectors_and_scalars_are_gains() -> None:
    model = Owner(gamma=(4,), logit_scale=(), cls_token=(1, 1, 4), pos_embed=(1, 7, 4), weight=(4,), empty=(0,))
    assert split(model) == (["cls_token", "pos_embed"], ["gamma", "logit_scale", "weight", "empty"])


def test_biases_are_known_by_name_in_any_shape() -> None:
    biases = ["bias", "q_bias", "bias_v", "gate_up_proj_bias", "relative_position_bias_table", "Bias"]
    weights = ["weight", "bias_weight", "debiased", "biasing"]
    model = Owner(**dict.fromkeys(weights + biases, (2, 3)))
    assert split(model) == (weights, biases)


def test_the_names_of_transformers() -> None:
    block = nn.ModuleDict(
        {
            "q_proj": nn.Linear(4, 4, bias=False),
            "q_norm": named("Qwen3RMSNorm", weight=(2,)),
            "input_layernorm": named("LlamaRMSNorm", weight=(4,)),
            "LayerNorm": nn.LayerNorm(4),
            "relative_attention_bias": nn.Embedding(8, 2),
            "experts": named("GptOssExperts", gate_up_proj=(2, 4, 8), gate_up_proj_bias=(2, 8)),
        }
    )
    model = nn.ModuleDict({"embed_tokens": nn.Embedding(9, 4), "layers": nn.ModuleList([block])})
    weights, rest = split(model)
    assert weights == [
        "embed_tokens.weight",
        "layers.0.q_proj.weight",
        "layers.0.relative_attention_bias.weight",
        "layers.0.experts.gate_up_proj",
    ]
    assert len(rest) == 5


# --- parametrizations


def test_weight_norm_magnitude_is_a_gain() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)))
    path = "0.parametrizations.weight.original"
    assert split(model) == ([f"{path}1"], ["0.bias", f"{path}0"])


def test_the_older_weight_norm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.utils.weight_norm(nn.Conv1d(3, 4, 2))
    assert split(model) == (["weight_v"], ["bias", "weight_g"])
    assert split(Owner(weight_g=(4, 1), weight_v=(4, 3))) == (["weight_g", "weight_v"], [])


def test_other_parametrizations_keep_the_kind_of_their_tensor() -> None:
    model = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(3, 3)),
        parametrizations.spectral_norm(nn.GRU(3, 3), "weight_hh_l0"),
    )
    weights, _ = split(model)
    assert weights == [
        "0.parametrizations.weight.original",
        "1.weight_ih_l0",
        "1.parametrizations.weight_hh_l0.original",
    ]


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class LowRank(Double):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(3, 1))


def test_parametrized_norms_and_biases_stay_what_they_are() -> None:
    attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    parametrize.register_parametrization(attention, "bias_k", Double())
    assert "parametrizations.bias_k.original" in split(attention)[1]

    norm = nn.LayerNorm((3, 4))
    parametrize.register_parametrization(norm, "weight", Double())
    assert split(norm) == ([], ["bias", "parametrizations.weight.original"])

    # A parameter of the parametrization itself is judged on its own.
    linear = nn.Linear(3, 3)
    parametrize.register_parametrization(linear, "weight", LowRank())
    assert split(linear)[0] == ["parametrizations.weight.original", "parametrizations.weight.0.down"]


# --- tied, frozen, lazy


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight


def test_tied_weights_appear_once() -> None:
    assert split(Tied()) == (["embedding.weight"], ["norm.weight", "norm.bias", "head.bias"])
    layer = nn.Linear(3, 3)
    assert split(nn.Sequential(layer, layer)) == (["0.weight"], ["0.bias"])
    assert split(copy.deepcopy(nn.Sequential(layer, layer))) == (["0.weight"], ["0.bias"])


@pytest.mark.parametrize("pattern", ["embedding.*", "head.weight", "*.weight"])
def test_tied_weights_answer_to_each_name(pattern: str) -> None:
    model = Tied()
    groups = param_groups(model, overrides={pattern: {"lr": 0.5}})
    assert any(p is model.embedding.weight for group in groups if "lr" in group for p in group["params"])


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    assert split(model) == (["1.weight"], ["1.bias"])
    # A pattern that finds frozen parameters only is no typing error.
    assert len(param_groups(model, overrides={"0.*": {"lr": 0.1}})) == 2


def test_a_model_without_trainable_parameters() -> None:
    for model in (nn.ReLU(), nn.Linear(3, 3).requires_grad_(False)):
        with pytest.raises(ValueError, match="no trainable parameters; unfreeze"):
            param_groups(model, overrides={"head.*": {}})


@pytest.mark.parametrize("layer", [nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyConv2d(3, 1)], ids=str)
def test_lazy_parameters_need_a_batch(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"the parameter 1\.weight has no shape yet; run one batch"):
        param_groups(nn.Sequential(nn.Linear(2, 2), layer))


def test_lazy_parameters_after_a_batch() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    model(torch.randn(2, 5))
    assert split(model) == (["0.weight"], ["0.bias", "1.weight", "1.bias"])


def test_bad_arguments() -> None:
    model = nn.Linear(3, 3)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got generator"):
        param_groups(model.parameters())  # type: ignore[arg-type]
    for bad in (-0.1, float("nan"), True, None):
        with pytest.raises(ValueError, match=r"weight_decay must be a number in \[0, inf\)"):
            param_groups(model, bad)  # type: ignore[arg-type]


# --- groups and overrides


def test_groups_without_members_are_left_out() -> None:
    (group,) = param_groups(nn.Linear(3, 3, bias=False))
    assert group["layer_adaptation"] is True
    (group,) = param_groups(nn.LayerNorm(3))
    assert group["layer_adaptation"] is False


def test_the_order_is_the_models() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), *[nn.Linear(3, 3) for _ in range(12)])
    groups = param_groups(model)
    assert [g["layer_adaptation"] for g in groups] == [True, False]
    order = [id(p) for p in model.parameters()]
    for group in groups:
        positions = [order.index(id(p)) for p in group["params"]]
        assert positions == sorted(positions)


def net() -> nn.Module:
    return nn.ModuleDict({"body": nn.Linear(3, 3), "norm": nn.LayerNorm(3), "head": nn.Linear(3, 2)})


def options(model: nn.Module, overrides: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: {key: value for key, value in group.items() if key != "params"}
        for group in param_groups(model, 0.1, overrides=overrides)
        for p in group["params"]
    }


def test_overrides_are_laid_over_the_base_options() -> None:
    found = options(net(), {"head.*": {"lr": 0.5, "weight_decay": 0.2}})
    assert found["head.weight"] == {"weight_decay": 0.2, "layer_adaptation": True, "lr": 0.5}
    assert found["head.bias"] == {"weight_decay": 0.2, "layer_adaptation": False, "lr": 0.5}
    assert found["body.weight"] == {"weight_decay": 0.1, "layer_adaptation": True}


def test_later_patterns_win() -> None:
    wide, narrow = {"lr": 1.0, "eps": 1e-3}, {"lr": 2.0}
    assert options(net(), {"*": wide, "head.weight": narrow})["head.weight"]["lr"] == 2.0
    assert options(net(), {"*": wide, "head.weight": narrow})["head.weight"]["eps"] == 1e-3
    assert options(net(), {"head.weight": narrow, "*": wide})["head.weight"]["lr"] == 1.0


def test_patterns_are_case_sensitive() -> None:
    with pytest.raises(ValueError, match=r"'HEAD\.\*' matches no parameter"):
        param_groups(net(), overrides={"HEAD.*": {}})


def test_a_pattern_that_matches_nothing_shows_near_names() -> None:
    with pytest.raises(ValueError, match=r"'haed\.\*' matches no parameter; this model has, .*head\.(weight|bias)"):
        param_groups(net(), overrides={"haed.*": {"lr": 0.1}})
    with pytest.raises(ValueError, match="'head' matches no parameter"):  # a prefix is no pattern
        param_groups(net(), overrides={"head": {"lr": 0.1}})


def test_overrides_do_not_choose_parameters() -> None:
    with pytest.raises(ValueError, match="must not set 'params'"):
        param_groups(net(), overrides={"head.*": {"params": []}})


def test_equal_options_share_a_group() -> None:
    model = net()
    assert len(param_groups(model, overrides={"head.weight": {"lr": 0.5}, "body.weight": {"lr": 0.5}})) == 2
    assert len(param_groups(model, overrides={"head.weight": {"lr": 0.5}, "body.weight": {"lr": 0.25}})) == 3
    # An override may also move a parameter from one base group to the other.
    groups = param_groups(model, overrides={"body.weight": {"weight_decay": 0.0, "layer_adaptation": False}})
    assert [len(g["params"]) for g in groups] == [1, 5]
    assert groups[1]["params"][0] is model.get_parameter("body.weight")


def test_tensor_options_are_never_compared_by_value() -> None:
    # Reading a meta tensor raises.
    a, b = torch.empty((), device="meta"), torch.empty((), device="meta")
    groups = param_groups(net(), overrides={"body.*": {"lr": a}, "head.*": {"lr": b}, "norm.*": {"lr": 0.1}})
    assert [len(g["params"]) for g in groups] == [1, 1, 2, 1, 1]
    assert len(param_groups(net(), overrides={"*": {"lr": a}})) == 2


def test_a_parametrized_tensor_answers_to_its_plain_name() -> None:
    model = nn.ModuleDict({"head": parametrizations.weight_norm(nn.Linear(3, 3))})
    for pattern in ("head.weight", "head.parametrizations.weight.*"):
        groups = param_groups(model, overrides={pattern: {"lr": 0.5}})
        assert sum(len(g["params"]) for g in groups if "lr" in g) == 2


def test_the_arguments_are_not_changed() -> None:
    overrides = {"head.*": {"lr": 0.5}}
    kept = copy.deepcopy(overrides)
    model = net()
    for group in param_groups(model, overrides=overrides):
        group["lr"] = 7.0
    assert overrides == kept
    assert all("lr" not in g or g["lr"] == 0.5 for g in param_groups(model, overrides=overrides))


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adafactor", "ASGD", "Rprop"]
)
def test_torch_optimizers_accept_the_groups(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    optimizer = getattr(torch.optim, name)(param_groups(model, 0.0, overrides={"2.*": {"lr": 0.5}}), lr=0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25, 0.5, 0.5]
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.load_state_dict(optimizer.state_dict())
    assert [group["layer_adaptation"] for group in optimizer.param_groups] == [True, False, True, False]


def test_decay_reaches_weights_only() -> None:
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.bias.fill_(1.0)
    weight = model.weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    torch.optim.AdamW(param_groups(model, 0.5), lr=0.1).step()
    torch.testing.assert_close(model.weight, 0.95 * weight)
    assert torch.equal(model.bias, torch.ones(4))


# --- every trainable parameter is in exactly one group

MAKERS: list[Callable[[], nn.Module]] = [
    *[make for make, _ in LAYERS.values()],
    lambda: nn.LayerNorm((2, 3)),
    lambda: nn.BatchNorm2d(3),
    lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
    lambda: parametrizations.spectral_norm(nn.Linear(3, 4)),
    lambda: named("PreNorm", table=(3, 4), gain=(1, 4)),
    lambda: nn.ParameterList([torch.zeros(3), torch.zeros(3, 3)]),
    lambda: nn.ParameterDict({"bias": torch.zeros(3, 3)}),
    Tied,
]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_trainable_parameter_is_in_exactly_one_group(data: st.DataObject) -> None:
    layers = [make() for make in data.draw(st.lists(st.sampled_from(MAKERS), min_size=1, max_size=6))]
    shared = data.draw(st.lists(st.sampled_from(layers), max_size=2))
    model = nn.Sequential(*layers, *shared)
    names = [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        p.requires_grad_(name == names[-1] or data.draw(st.booleans()))
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=3))
    overrides = {name: {"lr": data.draw(st.sampled_from([0.1, 0.2]))} for name in chosen}

    groups = param_groups(model, overrides=overrides)
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(trainable)
    assert all(group["params"] for group in groups)
    kinds = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    assert all(a != b for i, a in enumerate(kinds) for b in kinds[:i])
    again = param_groups(model, overrides=overrides)
    assert [[id(p) for p in group["params"]] for group in again] == [
        [id(p) for p in group["params"]] for group in groups
    ]
    torch.optim.AdamW(groups)
