"""Parameters that count as weights, and those that are norms and biases."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from groups.models import LAYERS, Owner, named, split


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
