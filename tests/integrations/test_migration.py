"""Moments and options of other optimizers continue as they would have continued with those."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import torch
from ALTO import ALTO as TheirALTO  # noqa: N811
from ALTO import create_ALTO_optimizer
from E import E as TheirE
from torch import nn

import valleys
from valleys.integrations.migration import authors_alto, authors_e, load_moments

BETAS = (0.97, 0.9, 0.99)
SHAPES = [(4, 3), (6,), (2, 3, 2), ()]


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator)) for shape in SHAPES]


def step(
    optimizer: torch.optim.Optimizer, params: list[nn.Parameter], first: int, last: int, clip: bool = False
) -> None:
    for k in range(first, last):
        generator = torch.Generator().manual_seed(100 + k)
        for param in params:
            param.grad = torch.randn(param.shape, dtype=param.dtype, generator=generator)
        if clip:
            nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()


def assert_close(actual: list[nn.Parameter], expected: list[nn.Parameter]) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize("alp", [-5, 0.5])
def test_the_authors_names_give_the_authors_numbers(alp: float, weight_decay: float) -> None:
    twins, params = parameters(), parameters()
    step(TheirALTO(twins, 0.02, BETAS, alp, 1e-6, weight_decay), twins, 0, 30)
    step(authors_alto(params, 0.02, BETAS, alp, 1e-6, weight_decay), params, 0, 30)
    assert_close(params, twins)


def test_defaults_are_those_of_their_factory() -> None:
    model = nn.Linear(3, 2)
    optimizer = create_ALTO_optimizer(model, 1e-3, exclude_layers=[])
    group = authors_alto(model.parameters()).param_groups[0]
    assert (group["beta"], *group["betas"]) == optimizer.defaults["betas"]
    for name, option in {"alp": "alpha", "eps": "eps", "weight_decay": "weight_decay"}.items():
        assert group[option] == optimizer.defaults[name]


def test_groups_with_their_names_are_understood_and_clipping_is_left_to_the_user() -> None:
    twins, own = parameters(), parameters()

    def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [
            {"params": params[:2], "alp": 0.5, "betas": (0.1, 0.9, 0.99)},
            {"params": params[2:], "weight_decay": 0},
        ]

    step(TheirALTO(groups(twins), 0.02, BETAS, -5, 1e-6, 1e-2), twins, 0, 20)
    with pytest.warns(UserWarning, match="clip_grad_norm_"):
        optimizer = authors_alto(groups(own), 0.02, BETAS, -5, 1e-6, 1e-2)
    assert [group["max_grad_norm"] for group in optimizer.param_groups] == [None, None]
    step(optimizer, own, 0, 20, clip=True)
    assert_close(own, twins)


def test_their_class_default_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="alpha"):
        authors_alto(parameters(), betas=(0.1, 0.9, 0.99))


@pytest.mark.parametrize("base", [lambda p: torch.optim.SGD(p, 0.05, 0.9), lambda p: torch.optim.AdamW(p, 0.01)])
def test_their_adaptor_gives_the_same_numbers(base: Callable[[Any], torch.optim.Optimizer]) -> None:
    twins, params = parameters(), parameters()
    step(TheirE(base(twins), -5, 0.97), twins, 0, 30)
    step(authors_e(base(params), -5, 0.97), params, 0, 30)
    assert_close(params, twins)


def test_what_their_adaptor_does_besides_is_refused_with_a_remedy() -> None:
    optimizer = torch.optim.SGD(parameters(), 0.1)
    with pytest.raises(ValueError, match=r"noise_std=0\.1.*add it"):
        authors_e(optimizer, noise_std=0.1)
    with pytest.raises(ValueError, match=r"grad_clip=2\.0.*clip_grad_value_"):
        authors_e(optimizer, grad_clip=2.0)
    assert type(optimizer) is torch.optim.SGD


def test_a_checkpoint_of_their_alto_goes_on_as_theirs_would() -> None:
    twins = parameters()
    old = TheirALTO(twins, 0.02, BETAS, -5, 1e-6, 1e-2)
    step(old, twins, 0, 15)
    params = copy.deepcopy(twins)
    saved = copy.deepcopy(old.state_dict())
    step(old, twins, 15, 40)
    new = authors_alto(params, 0.02, BETAS, -5, 1e-6, 1e-2)
    assert load_moments(new, saved) is new
    step(new, params, 15, 40)
    assert_close(params, twins)


def test_a_checkpoint_of_adamw_gives_its_moments_and_its_count() -> None:
    params = parameters()
    old = torch.optim.AdamW(params, 1e-3, (0.9, 0.99))
    step(old, params, 0, 7)
    new = load_moments(valleys.Lamb(params, 1e-2, (0.9, 0.99), layer_adaptation=False), old.state_dict())
    for param in params:
        assert float(new.state[param]["step"]) == 7
        assert torch.equal(new.state[param]["exp_avg"], old.state[param]["exp_avg"])
        assert torch.equal(new.state[param]["exp_avg_sq"], old.state[param]["exp_avg_sq"])
        assert new.state[param]["exp_avg"] is not old.state[param]["exp_avg"]
    assert new.param_groups[0]["lr"] == 1e-2


def test_without_layer_ratio_and_decay_lamb_goes_on_as_adamw_would() -> None:
    twins = parameters()
    old = torch.optim.AdamW(twins, 1e-2, (0.9, 0.99), 1e-8, weight_decay=0.0)
    step(old, twins, 0, 7)
    params = copy.deepcopy(twins)
    new = valleys.Lamb(params, 1e-2, (0.9, 0.99), 1e-8, weight_decay=0.0, layer_adaptation=False)
    load_moments(new, old.state_dict())
    step(old, twins, 7, 20)
    step(new, params, 7, 20)
    assert_close(params, twins)


def test_a_checkpoint_of_pytorch_optimizers_lamb_goes_on_as_theirs_would() -> None:
    """Its count is the group's, as apex and timm have it."""
    options: dict[str, Any] = {"weight_decouple": False, "eps": 0.0, "adam_debias": True}
    twins = parameters()
    old = pytorch_optimizer.Lamb(twins, 0.02, (0.9, 0.98), 0.05, **options)
    step(old, twins, 0, 9)
    params = copy.deepcopy(twins)
    ratio: Any = {"layer_adaptation": True, "bias_correction": False, "trust_eps": 0.0, "norm_eps": 0.0}
    new = load_moments(valleys.Lamb(params, 0.02, (0.9, 0.98), 0.0, 0.05, **ratio), copy.deepcopy(old.state_dict()))
    assert float(new.state[params[0]]["step"]) == 9
    step(old, twins, 9, 25)
    step(new, params, 9, 25)
    assert_close(params, twins)


def test_e_starts_empty_from_a_checkpoint_without_it() -> None:
    params = parameters()
    old = torch.optim.Adam(params)
    step(old, params, 0, 3)
    new = load_moments(valleys.ALTO(params), old.state_dict())
    for param in params:
        assert not new.state[param]["explore_exp_avg"].any()
        assert new.state[param]["exp_avg"].any()


def test_parameters_in_another_order_are_told_apart() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)).double()
    old = torch.optim.AdamW(model.parameters())
    for k, param in enumerate(model.parameters()):
        param.grad = torch.full_like(param, k + 1.0)
    old.step()
    new = valleys.Lamb(valleys.param_groups(model))
    with pytest.raises(ValueError, match=r"groups have \[6\].*\[2, 4\].*list\(model.parameters\(\)\)"):
        load_moments(new, old.state_dict())
    load_moments(new, old.state_dict(), list(model.parameters()))
    for param in model.parameters():
        assert torch.equal(new.state[param]["exp_avg"], old.state[param]["exp_avg"])


def test_parameters_without_a_state_stay_without() -> None:
    params = parameters()
    old = torch.optim.AdamW(params)
    params[0].grad = torch.ones_like(params[0])
    old.step()
    new = load_moments(valleys.Lamb(params), old.state_dict())
    assert set(new.state) == {params[0]}
    step(new, params, 0, 2)
    assert float(new.state[params[0]]["step"]) == 3
    assert float(new.state[params[1]]["step"]) == 2


def test_what_cannot_be_loaded_is_refused() -> None:
    params = parameters()
    adam = torch.optim.Adam(params)
    step(adam, params, 0, 1)
    saved = adam.state_dict()
    sgd = torch.optim.SGD(params, 0.1, 0.9)
    step(sgd, params, 0, 1)
    with pytest.raises(ValueError, match="no 'exp_avg' but \\['momentum_buffer'\\]"):
        load_moments(valleys.Lamb(params), sgd.state_dict())
    with pytest.raises(ValueError, match="it has 4 parameters and the optimizer 3"):
        load_moments(valleys.Lamb(params[:3]), saved)
    with pytest.raises(ValueError, match=r"shape \(4, 3\), the parameter \(6,\)"):
        load_moments(valleys.Lamb([params[1], params[0], *params[2:]]), saved)
    with pytest.raises(ValueError, match="each once"):
        load_moments(valleys.Lamb(params), saved, params[:3])
    with pytest.raises(TypeError, match=r"not EAdamW.*load_state_dict"):
        load_moments(valleys.EAdamW(params), saved)
    bare = copy.deepcopy(saved)
    del bare["state"][0]["step"]
    with pytest.raises(ValueError, match="has a 'step'"):
        load_moments(valleys.Lamb(params), bare)
