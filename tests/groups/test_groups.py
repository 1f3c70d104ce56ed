"""Groups of a model: tied, frozen and lazy parameters, overrides, optimizers that take the groups."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from groups.models import LAYERS, Tied, named, split
from valleys.groups import param_groups


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
    by_name = options(net(), {"head.*": {"lr": 0.5, "weight_decay": 0.2}})
    assert by_name["head.weight"] == {"weight_decay": 0.2, "layer_adaptation": True, "lr": 0.5}
    assert by_name["head.bias"] == {"weight_decay": 0.2, "layer_adaptation": False, "lr": 0.5}
    assert by_name["body.weight"] == {"weight_decay": 0.1, "layer_adaptation": True}


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
    original = copy.deepcopy(overrides)
    model = net()
    for group in param_groups(model, overrides=overrides):
        group["lr"] = 7.0
    assert overrides == original
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
    selection = data.draw(st.lists(st.sampled_from(names), max_size=3))
    overrides = {name: {"lr": data.draw(st.sampled_from([0.1, 0.2]))} for name in selection}

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
