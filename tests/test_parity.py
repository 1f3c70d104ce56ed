"""Lamb and ALTO equal other people's implementations wherever the options coincide."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_optimizer
import torch
from ALTO import ALTO as AuthorsALTO  # noqa: N811

import valleys

SHAPES = [(4, 3), (6,), (2, 3, 2), (1,)]
PAPERS_RATIO: Any = {"layer_adaptation": True, "trust_eps": 0.0, "norm_eps": 0.0}


def start() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]
    return [*values, torch.zeros(3, dtype=torch.float64)]  # a zero layer: every LAMB's ratio is 1 there


def sequence(steps: int = 40, scale: float = 1.0) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[scale * torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in start()] for _ in range(steps)]


def train(make: Any, grads: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    params = [torch.nn.Parameter(value) for value in start()]
    optimizer = make(params)
    for row in grads:
        for param, grad in zip(params, row, strict=True):
            param.grad = grad.clone()
        optimizer.step()
    return [param.detach() for param in params]


def assert_equal(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_lamb_equals_optax(weight_decay: float) -> None:
    jax, optax = (pytest.importorskip(name, reason="pip install 'valleys[jax]'") for name in ("jax", "optax"))
    options = {"b1": 0.9, "b2": 0.98, "eps": 1e-4, "weight_decay": weight_decay}
    with jax.enable_x64(True):
        transform = optax.lamb(0.02, **options)
        params = [jax.numpy.asarray(value.numpy()) for value in start()]
        state = transform.init(params)
        for row in sequence():
            updates, state = transform.update([jax.numpy.asarray(g.numpy()) for g in row], state, params)
            params = optax.apply_updates(params, updates)
        expected = [torch.tensor(jax.device_get(p)) for p in params]
    own = train(
        lambda p: valleys.Lamb(p, 0.02, (0.9, 0.98), eps=1e-4, weight_decay=weight_decay, **PAPERS_RATIO),
        sequence(),
    )
    assert_equal(own, expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("maximize", [False, True])
def test_lamb_equals_pytorch_optimizer(weight_decay: float, maximize: bool) -> None:
    """Theirs corrects no bias with adam_debias, adds eps to both denominators and clamps |theta| at 10."""

    def theirs(params: Any) -> Any:
        return pytorch_optimizer.Lamb(
            params,
            0.02,
            (0.9, 0.98),
            weight_decay,
            weight_decouple=False,
            eps=0.0,
            maximize=maximize,
            adam_debias=True,
        )

    def ours(params: Any) -> Any:
        return valleys.Lamb(
            params,
            0.02,
            (0.9, 0.98),
            0.0,
            weight_decay,
            bias_correction=False,
            maximize=maximize,
            **PAPERS_RATIO,
        )

    assert_equal(train(ours, sequence()), train(theirs, sequence()))


@pytest.mark.parametrize(("alpha", "beta1"), [(-5.0, 0.99), (0.5, 0.01), (-50.0, 0.99)])
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_alto_equals_the_authors(alpha: float, beta1: float, scale: float) -> None:
    """Theirs clips all gradients to norm 1, which the larger scale needs, and adds no eps to the ratio."""
    betas = (beta1, 0.9, 0.99)
    twins = train(lambda p: AuthorsALTO(p, 0.02, betas, alpha, eps=1e-6, weight_decay=1e-4), sequence(scale=scale))
    params = train(
        lambda p: valleys.ALTO(p, 0.02, betas[1:], alpha, beta1, 1e-6, 1e-4, max_grad_norm=1.0, **PAPERS_RATIO),
        sequence(scale=scale),
    )
    assert_equal(params, twins)


def test_authors_switch_the_ratio_off_without_decay() -> None:
    betas = (0.99, 0.9, 0.99)
    twins = train(lambda p: AuthorsALTO(p, 0.02, betas, -5, eps=1e-6, weight_decay=0), sequence())
    params = train(
        lambda p: valleys.ALTO(p, 0.02, betas[1:], -5, 0.99, 1e-6, 0.0, max_grad_norm=1.0, layer_adaptation=False),
        sequence(),
    )
    assert_equal(params, twins)


def test_the_paper_ratios_eps_hardly_matter() -> None:
    """The defaults' eps2 and eps3 change a run of 40 steps in the sixth digit at most."""
    plain = train(lambda p: valleys.Lamb(p, 0.02, **PAPERS_RATIO), sequence())
    default = train(lambda p: valleys.Lamb(p, 0.02, layer_adaptation=True), sequence())
    for a, b in zip(plain, default, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
