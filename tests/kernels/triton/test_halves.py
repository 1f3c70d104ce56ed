"""The two halves of a step in Triton: layers in several tensors, and rows with gaps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from kernels.triton.cases import FEW, OPTIONS, RULE, all_tensors, assert_rounded_alike, gradients, run, same_bits, start
from triton_interpreter import BLOCK
from valleys.kernels import Tensors
from valleys.kernels import triton as backend
from valleys.kernels.ratio import step_lengths

pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float64, "capturable"),
        (torch.float32, "exploit"),
        (torch.float32, "ratio at least 30"),
        (torch.bfloat16, "tensor lr"),
    ],
    ids=str,
)
def test_the_halves_make_the_step(dtype: torch.dtype, options: str) -> None:
    """The same, where every tensor is a layer; the sums are those of what is stored."""
    rule = RULE._replace(**OPTIONS[options], stochastic_rounding=True)
    shapes = [(4, 3), (5,), (), (0,), (6 * BLOCK + 1,), (2 * BLOCK,), (7,)]
    clip = torch.tensor(0.3)
    once, twice = run(start(shapes, dtype), rule, 1), run(start(shapes, dtype), rule, 1)
    for tensors in (once, twice):
        gradients(tensors, 2)
        tensors.params[6].zero_()
        tensors.grads[1][3] = float("nan")
    before = [p.to(torch.float64, copy=True) for p in twice.params]
    sums = backend.measure_(twice, rule, clip)
    backend.apply_(twice, rule, step_lengths(sums, rule))
    backend.alto_(once, rule, clip)
    assert_rounded_alike(all_tensors(twice), all_tensors(once))
    assert sums.dtype == torch.float64
    moving = [bool((g != 0).any()) for g in twice.grads]
    assert 0 < sum(moving) < len(moving) - 1
    assert (sums[2] != 0).tolist() == moving
    for i, (p, m, v, k) in enumerate(zip(before, twice.exp_avgs, twice.exp_avg_sqs, twice.steps, strict=True)):
        m, v = m.double() / (1 - rule.beta2 ** k.double()), v.double() / (1 - rule.beta3 ** k.double())
        r = m / (v.sqrt() + rule.eps) + rule.weight_decay * p
        expected = torch.stack([p.square().sum(), r.square().sum()])
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(sums[:2, i], expected, rtol=tolerance, atol=0, equal_nan=True)


@pytest.mark.usefixtures("kernels")
def test_a_gradient_that_clipping_makes_zero_is_none() -> None:
    tensors = start(FEW, torch.float32)
    gradients(tensors, 0)
    tensors.grads[1].zero_()
    torch._foreach_add_(tensors.steps, 1)
    assert (backend.measure_(tensors, RULE, torch.tensor(0.0))[2] != 0).tolist() == [True, False, True]


@pytest.mark.usefixtures("kernels")
def test_parts_add_up_and_round_like_the_whole() -> None:
    rule = RULE._replace(stochastic_rounding=True)
    whole, together = (run(start([(4 * BLOCK + 9,)], torch.bfloat16), rule, 1) for _ in range(2))
    begins = [0, 1, BLOCK, 3 * BLOCK + 5]
    columns: Any = [list(column[0].tensor_split(begins[1:])) for column in together[:5] if column]
    parts = Tensors._make([*columns, together.steps * 4, together.keys * 4, begins, None])
    sums, expected = backend.measure_(parts, rule), backend.measure_(whole, rule)
    torch.testing.assert_close(sums.sum(1, keepdim=True), expected, rtol=1e-6, atol=0)
    factors = step_lengths(expected, rule)
    backend.apply_(parts, rule, factors.expand(4))
    backend.apply_(whole, rule, factors)
    assert same_bits(all_tensors(together), all_tensors(whole))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_rows_with_gaps(dtype: torch.dtype) -> None:
    """Like rows without, beside which they are; what lies in the gaps stays. In whole blocks and in part of one."""
    rule = RULE._replace(stochastic_rounding=True)
    shapes, strides = (
        [(70, 1), (40, 3), (3, BLOCK), (2, 4 * BLOCK), (2, 1), (1, 7)],
        [2, 5, BLOCK + 16, 5 * BLOCK, 8, 8],
    )
    plain, other = start(shapes, dtype), start(shapes, dtype)
    columns: Any = other[:5]
    memories = [[x.new_full((2 * len(x) + 1, n), 7) for x, n in zip(xs, strides, strict=True)] for xs in columns]
    inner = [[x[: shape[0], : shape[1]] for x, shape in zip(xs, shapes, strict=True)] for xs in memories]
    for column, views in zip(columns, inner, strict=True):
        torch._foreach_copy_(views, column)
    gapped = Tensors._make([*inner, *other[5:]])
    assert not any(p.is_contiguous() for p in gapped.params[:5])
    norms = []
    for k in range(2):
        for tensors in (plain, gapped):
            gradients(tensors, k)
            torch._foreach_add_(tensors.steps, 1)
            norms.append(backend.measure_(tensors, rule))
            backend.apply_(tensors, rule, torch.linspace(0.01, 0.02, len(shapes), dtype=torch.float64))
    assert same_bits(norms[::2], norms[1::2])
    assert same_bits(all_tensors(gapped), all_tensors(plain))
    for memory, view in zip(itertools.chain(*memories), itertools.chain(*inner), strict=True):
        view.fill_(7)
        assert (memory == 7).all()
