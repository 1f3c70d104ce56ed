from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from valleys.hyperparameters import check_explore, check_range, suggest

NOT_NUMBERS = [None, "0.5", True, False, 1j, [0.5], torch.zeros(2), torch.tensor(True), torch.tensor(1j)]
NOT_FINITE = [math.nan, math.inf, -math.inf, 10**400, torch.tensor(math.nan), np.float32("inf")]


@given(st.integers(1, 1023))
def test_small_batches_exploit(batch: int) -> None:
    assert suggest(batch) == {"alpha": 0.5, "beta": 0.01}


@given(st.integers(1024, 2**80))
def test_large_batches_explore(batch: int) -> None:
    assert suggest(batch) == {"alpha": -5.0, "beta": 0.99}


@given(st.integers(1, 2**40))
def test_suggestions_pass_the_check_both_ways(batch: int) -> None:
    rule = suggest(batch)
    check_explore(rule["alpha"], rule["beta"])


def test_suggest_takes_any_integer_type() -> None:
    assert suggest(int(np.int64(4096))) == suggest(np.int64(4096)) == {"alpha": -5.0, "beta": 0.99}  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [True, False, 128.0, "128", None, np.float32(3)])
def test_suggest_refuses_what_is_no_integer(batch: Any) -> None:
    with pytest.raises(TypeError, match=r"batch_size must be an integer, got .*; pass the number"):
        suggest(batch)


@given(st.integers(max_value=0))
def test_suggest_refuses_empty_batches(batch: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch};"):
        suggest(batch)


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.booleans(),
    st.booleans(),
)
def test_range_is_the_interval(value: float, a: float, b: float, low_open: bool, high_open: bool) -> None:
    low, high = min(a, b), max(a, b)
    for x in (value, low, high, (low + high) / 2):
        inside = (low < x if low_open else low <= x) and (x < high if high_open else x <= high)
        if inside:
            check_range("x", x, low, high, low_open=low_open, high_open=high_open)
        else:
            with pytest.raises(ValueError, match="x must be a number in "):
                check_range("x", x, low, high, low_open=low_open, high_open=high_open)


@pytest.mark.parametrize("value", NOT_NUMBERS + NOT_FINITE)
def test_range_refuses_what_is_no_finite_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"lr must be a number in \[0, inf\), got .*; try 1e-3"):
        check_range("lr", value, 0.0, remedy="try 1e-3")
    with pytest.raises(ValueError, match=r"lr must be a number in \(-inf, inf\), got "):
        check_range("lr", value, -math.inf)


@pytest.mark.parametrize(
    "value",
    [0, 1, 0.5, Fraction(1, 2), np.float32(0.5), np.int64(1), torch.tensor(0.5), torch.tensor([[0.5]])],
)
def test_range_takes_every_kind_of_real_number(value: Any) -> None:
    check_range("x", value, 0.0, 1.0)


def test_range_reads_cpu_tensors_only() -> None:
    with pytest.raises(ValueError, match=r"lr must be a number in \[0, inf\), got tensor\(-1\.\)"):
        check_range("lr", torch.tensor(-1.0), 0.0)
    check_range("lr", torch.tensor(-1.0, requires_grad=True), -2.0)
    # Reading a meta tensor raises, so passing shows that it was not read.
    check_range("lr", torch.empty((), device="meta"), 0.0)
    with pytest.raises(ValueError, match=r"got a tensor of shape \(2,\)"):
        check_range("lr", torch.empty(2, device="meta"), 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_range_does_not_wait_for_the_gpu() -> None:
    lr = torch.tensor(-1.0, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        check_range("lr", lr, 0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@given(st.floats(-0.999, 0.999), st.floats(0, 0.9999))
def test_explore_takes_everything_inside_the_constraint(c: float, beta: float) -> None:
    check_explore(c / (1 - beta), beta)


@given(st.floats(1.001, 1e6), st.sampled_from([-1, 1]), st.floats(0, 0.9999))
def test_explore_refuses_everything_outside(c: float, sign: int, beta: float) -> None:
    with pytest.raises(ValueError, match="which must be below 1; use"):
        check_explore(sign * c / (1 - beta), beta)


@given(st.floats(1.01, 1e4), st.sampled_from([-1, 1]))
def test_explore_names_the_bounds_it_enforces(size: float, sign: int) -> None:
    beta = (1 - 1 / size) / 2
    with pytest.raises(ValueError) as error:
        check_explore(sign * size, beta)
    message = str(error.value)
    largest_alpha = float(message.split("use |alpha| < ")[1].split(" ")[0])
    smallest_beta = float(message.split("or beta > ")[1].split(" ")[0])
    assert largest_alpha == pytest.approx(1 / (1 - beta), rel=1e-9)
    assert smallest_beta == pytest.approx(1 - 1 / size, rel=1e-9)
    check_explore(sign * largest_alpha * 0.999, beta)
    check_explore(sign * size, 1 - 0.999 * (1 - smallest_beta))


def test_explore_excludes_the_boundary() -> None:
    for alpha, beta in [(1.0, 0.0), (-1.0, 0.0), (2, 0.5), (-4, 0.75)]:
        with pytest.raises(ValueError, match=r"= 1, which must be below 1"):
            check_explore(alpha, beta)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, *NOT_NUMBERS, *NOT_FINITE])
def test_explore_refuses_beta_out_of_range(beta: Any) -> None:
    with pytest.raises(ValueError, match=r"beta must be a number in \[0, 1\), got "):
        check_explore(0.0, beta)


@pytest.mark.parametrize("alpha", NOT_NUMBERS + NOT_FINITE)
def test_explore_refuses_alpha_that_is_no_finite_number(alpha: Any) -> None:
    with pytest.raises(ValueError, match=r"alpha must be a number in \(-inf, inf\), got "):
        check_explore(alpha, 0.5)


def test_explore_speaks_with_the_callers_names() -> None:
    with pytest.raises(ValueError, match=r"explore_alpha = -5 and explore_beta = 0.5 give \|explore_alpha\|"):
        check_explore(-5, 0.5, alpha_name="explore_alpha", beta_name="explore_beta")
    with pytest.raises(ValueError, match="explore_beta must be"):
        check_explore(-5, 2.0, beta_name="explore_beta")
