"""The Triton kernels equal the reference, run by Triton's interpreter on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backends import largest_error
from kernels.triton.cases import (
    FEW,
    OPTIONS,
    RULE,
    SHAPES,
    TOLERANCE,
    all_tensors,
    by_reference,
    gradients,
    run,
    same_bits,
    start,
)
from triton_interpreter import BLOCK
from valleys.kernels import Tensors
from valleys.kernels import triton as backend

pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("dtype", "state", "steps"),
    [
        (torch.float64, torch.float64, 10),
        (torch.float32, torch.float32, 10),
        (torch.bfloat16, torch.float32, 4),
        (torch.float16, torch.float32, 4),
    ],
    ids=str,
)
def test_equals_the_reference(dtype: torch.dtype, state: torch.dtype, steps: int) -> None:
    tensors = start(SHAPES, dtype, state)
    expected = by_reference(tensors, RULE, steps)
    assert largest_error(run(tensors, RULE, steps).params, expected) < TOLERANCE[dtype]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_equals_the_reference(options: str) -> None:
    rule = RULE._replace(**OPTIONS[options])
    tensors = start(FEW, torch.float64)
    expected = by_reference(tensors, rule, 4)
    assert largest_error(run(tensors, rule, 4).params, expected) < TOLERANCE[torch.float64]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lamb(dtype: torch.dtype) -> None:
    """Against the reference; and ALTO at alpha = 0 is the same, bit for bit, clipped or not."""
    clip = torch.tensor(0.3, dtype=dtype)
    lamb = start(FEW, dtype, explores=False)
    expected = by_reference(lamb, RULE, 5, clip=clip.item())
    assert largest_error(run(lamb, RULE, 5, clip).params, expected) < TOLERANCE[dtype]
    alto = run(start(FEW, dtype), RULE._replace(alpha=0.0), 5, clip)
    assert same_bits(alto.params, lamb.params)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layer_adaptation", [True, False])
def test_mixed_dtypes(layer_adaptation: bool) -> None:
    rule = RULE._replace(layer_adaptation=layer_adaptation, lr=torch.tensor(0.02))
    tensors = start(FEW, torch.float32, torch.float64, grad=torch.bfloat16)
    expected = by_reference(tensors, rule, 4)
    assert largest_error(run(tensors, rule, 4).params, expected) < TOLERANCE[torch.float32]
    assert {g.dtype for g in tensors.grads} == {torch.bfloat16}


@pytest.mark.usefixtures("kernels")
def test_grads_are_left_as_found() -> None:
    tensors = start(FEW, torch.float32)
    gradients(tensors, 0)
    before = [g.clone() for g in tensors.grads]
    torch._foreach_add_(tensors.steps, 1)
    backend.alto_(tensors, RULE._replace(maximize=True), torch.tensor(0.5))
    assert same_bits(tensors.grads, before)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("size", "offset"), [(2 * BLOCK, 1), (2 * BLOCK - 1, 0), (2 * BLOCK - 1, 4)])
def test_nothing_beside_a_tensor_is_touched(size: int, offset: int) -> None:
    """Views into larger tensors, some from the middle of 16 bytes on, which must not be moved 16 bytes at a time."""
    alone, views = start([(size,)], torch.float32), start([(size,)], torch.float32)

    def embed(x: Tensor) -> Tensor:
        return torch.cat([x.new_full((offset,), 7.0), x, x.new_full((4,), 7.0)])

    columns: Any = views[:5]
    whole = [[embed(x) for x in column] for column in columns]
    inner: Any = [[x[offset:-4] for x in column] for column in whole] + [*views[5:]]
    views = Tensors._make(inner)
    assert views.params[0].data_ptr() % 16 == 4 * offset % 16
    run(alone, RULE, 2)
    run(views, RULE, 2)
    assert same_bits(all_tensors(views), all_tensors(alone))
    assert all((x[:offset] == 7).all() and (x[-4:] == 7).all() for column in whole for x in column)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("steps", [0, 10**6])
def test_bias_correction_does_not_cancel(steps: int, capturable: bool) -> None:
    """1 - beta^k in float32 for beta near 1."""
    rule = RULE._replace(beta2=1 - 1e-6, beta3=1 - 1e-7, capturable=capturable, layer_adaptation=False)
    tensors = start(FEW[:1], torch.float32)
    tensors.steps[0].fill_(steps)
    expected = by_reference(tensors, rule, 1)
    before = tensors.params[0].double()
    run(tensors, rule, 1)
    # The moments' step of 1e-7 and the parameter's rounding leave less than this.
    shift, expected_shift = tensors.params[0].double() - before, expected[0] - before
    torch.testing.assert_close(shift, expected_shift, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("kernels")
def test_zeros_and_nan() -> None:
    """A zero parameter, a zero gradient, one element's NaN, each beside healthy tensors."""
    rule = RULE._replace(weight_decay=0.1)
    tensors = start([(5,), (5,), (BLOCK + 2,), (5,)], torch.float64)
    tensors.params[0].zero_()
    expected = by_reference(tensors, rule, 1)
    gradients(tensors, 0)
    tensors.grads[1].zero_()
    tensors.grads[2][BLOCK] = float("nan")
    torch._foreach_add_(tensors.steps, 1)
    shrunk = tensors.params[1] * (1 - rule.lr * rule.weight_decay)
    backend.alto_(tensors, rule)
    torch.testing.assert_close(tensors.params[0], expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(tensors.params[1], shrunk, rtol=1e-12, atol=0)
    torch.testing.assert_close(tensors.params[3], expected[3], rtol=1e-12, atol=0)
    nan = torch.arange(BLOCK + 2) == BLOCK
    for tensor in (column[2] for column in tensors[2:5] if column is not None):
        assert torch.equal(tensor.isnan(), nan)
    assert tensors.params[2].isnan().all()  # the layer's norm is not a number


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [6e-8, 255.0])
def test_norms_of_float16_tensors(value: float) -> None:
    """The square of 6e-8 is zero in float16, 300 squares of 255 overflow it; the ratio shows it."""
    tensors = start([(300,)], torch.float16, torch.float32)
    tensors.params[0].fill_(255.0)
    tensors.grads[0].fill_(value)
    tensors.steps[0].add_(1)
    backend.alto_(tensors, RULE._replace(lr=0.25, eps=0.0, weight_decay=0.0, trust_eps=0.0, norm_eps=0.0))
    # ratio = |theta| / |r| = 255, so every element moves by 255 lr.
    assert torch.equal(tensors.params[0], torch.full_like(tensors.params[0], 0.75 * 255))
