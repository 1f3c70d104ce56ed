"""Rounding in the Triton kernels: the same random bits as elsewhere, and every kind of number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.triton.cases import FEW, RULE, all_tensors, assert_rounded_alike, gradients, run, same_bits, start
from valleys.kernels import Rule, Tensors
from valleys.kernels import triton as backend
from valleys.kernels.rounding import Noise, bits, round_to_bfloat16

pytest.importorskip("triton", reason="triton is not installed")


def emulated(tensors: Tensors, rule: Rule, steps: int) -> Tensors:
    """A run without bias correction and ratio in torch's float32, narrowed with the bits of ``rounding``."""
    f = [torch.tensor(x) for x in (1 - rule.beta1, 1 - rule.beta2, rule.beta3, 1 - rule.beta3, rule.eps)]
    c, decay, lr = (torch.tensor(x) for x in (rule.alpha * (1 - rule.beta1), rule.weight_decay, rule.lr))
    columns: Any = tensors[:5]
    for k in range(steps):
        gradients(tensors, k)
        torch._foreach_add_(tensors.steps, 1)
        for i, (p, grad, s, m, v) in enumerate(zip(*columns, strict=True)):
            write = narrowing(rule, Noise(tensors.keys[i], tensors.starts[i]))
            g = grad.float()
            difference = g - s.float()
            adapted = g + c * difference
            write(s, s.float() + f[0] * difference, "explore")
            write(m, m.float() + f[1] * (adapted - m.float()), "exp_avg")
            write(v, f[2] * v.float() + f[3] * adapted * adapted, "exp_avg_sq")
            r = m.float() / (v.float().sqrt() + f[4]) + decay * p.float()
            write(p, p.float() - lr * r, "param")
    return tensors


def narrowing(rule: Rule, place: Noise) -> Callable[[Tensor, Tensor, str], None]:
    def write(to: Tensor, x: Tensor, role: str) -> None:
        if to.dtype == torch.bfloat16 and rule.stochastic_rounding:
            x = round_to_bfloat16(x, bits(place, role, x))
        to.copy_(x)

    return write


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(
    ("dtype", "state"),
    [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_low_precision_rounds_with_the_same_bits(
    dtype: torch.dtype, state: torch.dtype, random: bool, capturable: bool
) -> None:
    rule = RULE._replace(
        bias_correction=False, layer_adaptation=False, stochastic_rounding=random, capturable=capturable
    )
    actual, expected = start(FEW, dtype, state), start(FEW, dtype, state)
    assert_rounded_alike(all_tensors(run(actual, rule, 3)), all_tensors(emulated(expected, rule, 3)))


@pytest.mark.usefixtures("kernels")
def test_stochastic_rounding_with_the_ratio() -> None:
    """The second launch rounds by the same bits: at the ratio of 1, which trust_clip forces, nothing changes."""
    rule = RULE._replace(bias_correction=False, stochastic_rounding=True, trust_clip=(1.0, 1.0))
    actual, expected = (start(FEW, torch.bfloat16) for _ in range(2))
    run(actual, rule, 3)
    run(expected, rule._replace(layer_adaptation=False), 3)
    assert same_bits(all_tensors(actual), all_tensors(expected))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("random", [False, True])
def test_every_kind_of_number_is_rounded_like_torch(random: bool) -> None:
    """Ties, carries into the exponent, subnormal numbers, the largest one, infinities, NaN: s becomes g, narrowed."""
    halves = torch.tensor([0x0000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    tops = torch.tensor([0x0000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x3FFF, 0x7F7F, 0x8000, 0xBF81, 0x7FFF])
    patterns = (tops[:, None] * 2**16 + halves).flatten()
    g = torch.where(patterns >= 2**31, patterns - 2**32, patterns).to(torch.int32).view(torch.float32)
    g = torch.cat([g, torch.tensor([float("inf"), -float("inf"), float("nan")])])
    s = torch.zeros_like(g, dtype=torch.bfloat16)
    backend.explore_([g], [s], [torch.empty_like(g)], alpha=0.0, beta=0.0, keys=[77] if random else None)
    noise = bits(Noise(77, 0), "explore", g)
    expected = round_to_bfloat16(g, noise) if random else g.to(torch.bfloat16)
    assert same_bits([s], [expected])
