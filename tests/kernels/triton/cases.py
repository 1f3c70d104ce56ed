"""Options, tensors and gradients for the Triton kernels; their runs, and the same by the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from triton_interpreter import BLOCK
from valleys import reference
from valleys.kernels import Rule, Tensors
from valleys.kernels import triton as backend
from valleys.kernels.rounding import mix

SHAPES = [(4, 3), (5,), (), (1, 1), (BLOCK,), (4 * BLOCK + 1,)]
FEW = [(4, 3), (), (2 * BLOCK + 3,)]

# Largest error relative to each tensor's largest element, against a float64 reference fed the same gradients.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

RULE = Rule(
    lr=0.02,
    alpha=-5.0,
    beta1=0.99,
    beta2=0.9,
    beta3=0.99,
    eps=1e-6,
    weight_decay=1e-4,
    trust_eps=1e-6,
    norm_eps=1e-10,
    bias_correction=True,
    layer_adaptation=True,
    trust_clip=None,
    accelerate_momentum=True,
    accelerate_second_moment=True,
    maximize=False,
    capturable=False,
    stochastic_rounding=False,
)
OPTIONS: dict[str, dict[str, Any]] = {
    "exploit": {"alpha": 0.5, "beta1": 0.01},
    "strong": {"alpha": -90.0, "beta2": 0.95, "beta3": 0.999},
    "much decay": {"weight_decay": 0.5},
    "large eps": {"eps": 0.1, "trust_eps": 0.2, "norm_eps": 0.3},
    "no eps": {"eps": 0.0, "trust_eps": 0.0, "norm_eps": 0.0},
    "Alg. 1": {"bias_correction": False},
    "betas 0": {"beta1": 0.0, "beta2": 0.0, "beta3": 0.0, "alpha": -0.5},
    "no ratio": {"layer_adaptation": False},
    "ratio at most 1": {"trust_clip": (0.0, 1.0)},
    "ratio at least 30": {"trust_clip": (30.0, 40.0)},
    "in m": {"accelerate_second_moment": False},
    "in v": {"accelerate_momentum": False},
    "maximize": {"maximize": True},
    "capturable": {"capturable": True},
    "tensor lr": {"lr": torch.tensor(0.02, dtype=torch.float64)},
    "tensor lr, no ratio": {"lr": torch.tensor(0.02, dtype=torch.float64), "layer_adaptation": False},
}


def randn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def start(
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
    state: torch.dtype | None = None,
    explores: bool = True,
    grad: torch.dtype | None = None,
) -> Tensors:
    """Parameters before their first step; the i-th has made i steps already, with moments still zero.

    Their random bits begin at 0, shortly before 2^32, where their numbers wrap around, and beyond.
    """
    params = [randn(shape, seed, dtype) for seed, shape in enumerate(shapes)]
    s, m, v = ([torch.zeros_like(p, dtype=state or dtype) for p in params] for _ in range(3))
    grads = [torch.zeros_like(p, dtype=grad or dtype) for p in params]
    steps = [torch.tensor(float(i)) for i in range(len(params))]
    keys, starts = [mix(mix(i) ^ int(k)) for i, k in enumerate(steps)], [i * (2**32 - 3) for i in range(len(params))]
    return Tensors(params, grads, s if explores else None, m, v, steps, keys, starts)


def gradients(tensors: Tensors, k: int) -> None:
    """The k-th of a fixed sequence of gradients; each tensor's is zero at some step."""
    for i, grad in enumerate(tensors.grads):
        grad.copy_(randn(tuple(grad.shape), 1000 * (k + 1) + i) * (k == 0 or (k + i) % 4 != 3))


def run(tensors: Tensors, rule: Rule, steps: int, clip: Tensor | None = None) -> Tensors:
    for k in range(steps):
        gradients(tensors, k)
        torch._foreach_add_(tensors.steps, 1)
        backend.alto_(tensors, rule, clip)
    return tensors


def by_reference(tensors: Tensors, rule: Rule, steps: int, clip: float = 1.0) -> list[Tensor]:
    """The same run from the same start by ``reference.alto`` in float64."""
    thetas = [p.to(torch.float64, copy=True) for p in tensors.params]
    grads = Tensors(*[None if column is None else [*column] for column in tensors])  # type: ignore[arg-type]
    grads = grads._replace(grads=[g.clone() for g in tensors.grads])
    memory: list[Any] = [
        None if tensors.explore is None else reference.OneBuffer(torch.zeros_like(theta)) for theta in thetas
    ]
    moments = [reference.zeros(t)._replace(k=int(k)) for t, k in zip(thetas, tensors.steps, strict=True)]
    for k in range(steps):
        gradients(grads, k)
        for i, grad in enumerate(grads.grads):
            thetas[i], memory[i], moments[i] = reference.alto(
                thetas[i],
                grad.double() * (-clip if rule.maximize else clip),
                memory[i],
                moments[i],
                lr=float(rule.lr),
                alpha=rule.alpha,
                b1=rule.beta1,
                b2=rule.beta2,
                b3=rule.beta3,
                lam=rule.weight_decay,
                eps1=rule.eps,
                eps2=rule.trust_eps,
                eps3=rule.norm_eps,
                bias_correction=rule.bias_correction,
                layer_adaptation=rule.layer_adaptation,
                in_m=rule.accelerate_momentum,
                in_v=rule.accelerate_second_moment,
                ratio_clip=rule.trust_clip,
            )
    return thetas


def all_tensors(tensors: Tensors) -> list[Tensor]:
    return [*tensors.params, *(tensors.explore or []), *tensors.exp_avgs, *tensors.exp_avg_sqs]


def same_bits(actual: list[Tensor], expected: list[Tensor]) -> bool:
    """Equal, NaN included."""
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(actual, expected, strict=True))


def assert_rounded_alike(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Equal but for the last bits: numpy, in the interpreter, and torch contract a * b + c on some processors only.

    Now and then that carries a value over a rounding to bfloat16; other random bits would do so to half of them.
    """
    for a, b in zip(actual, expected, strict=True):
        if a.dtype == torch.bfloat16:
            assert a.numel() == 0 or ((a != b) & ~(a.isnan() & b.isnan())).double().mean() <= 0.01
        last = torch.finfo(a.dtype).eps * (1 if a.dtype == torch.bfloat16 else 8)  # one step of bfloat16
        torch.testing.assert_close(a, b, rtol=last, atol=min(last, 1e-7), equal_nan=True)
