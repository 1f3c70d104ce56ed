"""The oracle itself: both forms of E agree, and Algs. 1-5 equal cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from valleys import reference
from valleys.reference import OneBuffer, TwoBuffer

F64 = torch.float64
# Smallest relative error one can ask of a dtype over 60 steps of either form.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.complex128: 1e-12}


def scalar(x: float) -> Tensor:
    return torch.tensor([x], dtype=F64)


@st.composite
def exploration(draw: st.DrawFn) -> tuple[float, float]:
    """Alpha and beta1 anywhere inside |alpha| (1 - beta1) < 1."""
    b1 = draw(st.floats(0.0, 0.9999))
    c = draw(st.floats(-0.999, 0.999))
    return c / (1 - b1), b1


@settings(max_examples=150, deadline=None)
@given(
    hyperparameters=exploration(),
    shape=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**31),
)
def test_the_two_forms_agree(
    hyperparameters: tuple[float, float], shape: list[int], dtype: torch.dtype, seed: int
) -> None:
    alpha, b1 = hyperparameters
    generator = torch.Generator().manual_seed(seed)
    zero = torch.zeros(shape, dtype=dtype)
    two: TwoBuffer | OneBuffer = TwoBuffer(zero, zero)
    one: TwoBuffer | OneBuffer = OneBuffer(zero)
    for _ in range(60):
        g = torch.randn(shape, dtype=dtype, generator=generator)
        expected, two = reference.explore(g, two, alpha, b1)
        actual, one = reference.explore(g, one, alpha, b1)
        torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


def test_the_forms_part_when_beta_changes() -> None:
    """The known limit of the one-buffer form: a_k carries the old coefficients."""
    g, zero = scalar(1.0), scalar(0.0)
    two: TwoBuffer | OneBuffer = TwoBuffer(zero, zero)
    one: TwoBuffer | OneBuffer = OneBuffer(zero)
    _, two = reference.explore(g, two, -1.0, 0.5)
    _, one = reference.explore(g, one, -1.0, 0.5)
    assert reference.explore(g, two, -1.0, 0.9)[0].item() == pytest.approx(1 - 0.9 * 0.5)
    assert reference.explore(g, one, -1.0, 0.9)[0].item() == pytest.approx(1 - 0.1 * 0.5)


@pytest.mark.parametrize("memory", [TwoBuffer(scalar(0), scalar(0)), OneBuffer(scalar(0))])
def test_e_by_hand(memory: TwoBuffer | OneBuffer) -> None:
    # alpha = -2, b1 = 3/4: a1 = (1/4) 4 = 1, g~1 = 4 - 2 = 2; a2 = 3/4 + (1/4)(-2) = 1/4, g~2 = 2 - 1/2 = 3/2.
    first, memory = reference.explore(scalar(4.0), memory, -2.0, 0.75)
    second, _ = reference.explore(scalar(2.0), memory, -2.0, 0.75)
    assert first.item() == 2.0
    assert second.item() == 1.5


SYMBOLS = {
    "alpha": -2.0,
    "b1": 0.75,
    "b2": 0.5,
    "b3": 0.75,
    "lam": 0.0,
    "eps1": 0.0,
    "eps2": 0.0,
    "eps3": 0.0,
}


def two_steps(**changes: float | bool) -> list[float]:
    """Alg. 2 on one scalar: theta = 1, g = 4 then 2, lr = 1/10."""
    theta, moments = scalar(1.0), reference.zeros(scalar(0.0))
    memory: TwoBuffer | OneBuffer | None = TwoBuffer(scalar(0), scalar(0))
    path = []
    for g in (4.0, 2.0):
        options = {**SYMBOLS, "lr": 0.1, **changes}
        theta, memory, moments = reference.alto(theta, scalar(g), memory, moments, **options)  # type: ignore[arg-type]
        path.append(theta.item())
    return path


def test_alto_with_a_after_the_momentum_by_hand() -> None:
    # mh is 4, then 8/3; a is 1, then 1/4 (above); vh is 16, then 4 / (1 - 9/16) = 64/7. The moments are those of g.
    path = two_steps(layer_adaptation=False, after_m=True)
    assert path == pytest.approx([1 - 0.1 * 2 / 4, 0.95 - 0.1 * (8 / 3 - 1 / 2) * 7**0.5 / 8], rel=1e-14)
    assert path == two_steps(layer_adaptation=False, after_m=True, in_m=False, in_v=False)


def test_alto_by_hand() -> None:
    # g~ = 2, then 3/2 (above). For one positive number the ratio makes every step lr |theta|: 1 -> .9 -> .81.
    assert two_steps() == pytest.approx([0.9, 0.81])
    # eps2 halves the step where |r| = eps2 |theta|: k = 1, r = mh / sqrt(vh) = 1.
    assert two_steps(eps2=1.0)[0] == pytest.approx(1 - 0.1 / 2)
    # phi: 1 + eps3 in the numerator.
    assert two_steps(eps3=0.5)[0] == pytest.approx(1 - 0.1 * 1.5)
    # Without the ratio, step 2: m = 5/4, v = 21/16, mh = 5/3, vh = 3, u = (5/3) / sqrt 3.
    assert two_steps(layer_adaptation=False)[1] == pytest.approx(0.9 - 0.1 * (5 / 3) / math.sqrt(3))
    # Alg. 1 (no bias correction), step 1: m = 1, v = 1, u = 1; step 2: m = 5/4, v = 21/16.
    plain = two_steps(layer_adaptation=False, bias_correction=False)
    assert plain == pytest.approx([0.9, 0.9 - 0.1 * 1.25 / math.sqrt(21 / 16)])
    # The weight decay enters before the ratio: without it, r = u + theta.
    assert two_steps(layer_adaptation=False, lam=1.0)[0] == pytest.approx(1 - 0.1 * 2)
    # eps1 beside the root: u = 2 / (2 + 2).
    assert two_steps(layer_adaptation=False, eps1=2.0)[0] == pytest.approx(1 - 0.1 / 2)


def test_the_ablation_switches_by_hand() -> None:
    # Step 1 without a in v: m = g~/2 -> mh = 2, vh = 16, u = 1/2. Without a in m: mh = 4, vh = 4, u = 2.
    assert two_steps(layer_adaptation=False, in_v=False)[0] == pytest.approx(1 - 0.1 / 2)
    assert two_steps(layer_adaptation=False, in_m=False)[0] == pytest.approx(1 - 0.1 * 2)


def test_alto_vanilla_is_alto_without_bias_correction() -> None:
    memory, moments = TwoBuffer(scalar(0), scalar(0)), reference.zeros(scalar(0.0))
    theta, _, after = reference.alto_vanilla(scalar(1.0), scalar(4.0), memory, moments, lr=0.1, **SYMBOLS)
    assert theta.item() == pytest.approx(0.9)
    assert (after.m.item(), after.v.item(), after.k) == (1.0, 1.0, 1)


def test_lamb_by_hand() -> None:
    # theta = (3, 4), u = (1, -1), |theta| = 5, |u| = sqrt 2: a step of 5 lr along u / sqrt 2.
    theta = torch.tensor([3.0, 4.0], dtype=F64)
    symbols = {"b2": 0.9, "b3": 0.99, "lam": 0.0, "eps1": 0.0, "eps2": 0.0, "eps3": 0.0}
    g = torch.tensor([2.0, -7.0], dtype=F64)
    actual, moments = reference.lamb(theta, g, reference.zeros(theta), lr=0.1, **symbols)
    step = 0.5 / math.sqrt(2)
    torch.testing.assert_close(actual, torch.tensor([3 - step, 4 + step], dtype=F64))
    torch.testing.assert_close(moments.v, 0.01 * g * g)


def test_trust_ratio_at_the_edges() -> None:
    zero, one = torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)

    def ratio(theta: Tensor, r: Tensor, g: Tensor = one, clip: tuple[float, float] | None = None) -> float:
        return reference.trust_ratio(theta, r, g, eps2=0.0, eps3=1e-10, clip=clip).item()

    assert ratio(2 * one, one) == pytest.approx(2.0)
    assert ratio(zero, one) == 1.0
    assert ratio(one, zero) == 1.0
    assert ratio(zero, zero) == 1.0
    assert ratio(2 * one, one, zero) == 1.0
    assert ratio(one, 2 * one, zero) == pytest.approx(0.5)
    assert ratio(one, one, clip=(2.0, 3.0)) == 2.0
    assert ratio(one, one, clip=(0.0, 0.5)) == 0.5


def test_esgd_by_hand() -> None:
    # m1 = 2, theta = 1 - .1 * 2; m2 = .5 * 2 + 1.5, theta = .8 - .25.
    theta, m = scalar(1.0), scalar(0.0)
    memory: TwoBuffer | OneBuffer = TwoBuffer(scalar(0), scalar(0))
    for g, expected in ((4.0, 0.8), (2.0, 0.55)):
        theta, memory, m = reference.esgd(theta, scalar(g), memory, m, lr=0.1, alpha=-2.0, b1=0.75, b2=0.5)
        assert theta.item() == pytest.approx(expected)


def test_eadam_by_hand() -> None:
    theta, moments = scalar(1.0), reference.zeros(scalar(0.0))
    memory: TwoBuffer | OneBuffer = TwoBuffer(scalar(0), scalar(0))
    for g, expected in ((4.0, 0.9), (2.0, 0.9 - 0.1 * (5 / 3) / math.sqrt(3))):
        theta, memory, moments = reference.eadam(
            theta, scalar(g), memory, moments, lr=0.1, alpha=-2.0, b1=0.75, b2=0.5, b3=0.75, eps=0.0
        )
        assert theta.item() == pytest.approx(expected)


def test_any_optimizer_by_hand() -> None:
    def sign_descent(theta: Tensor, g: Tensor, count: int) -> tuple[Tensor, int]:
        return theta - 0.5 * g.sign(), count + 1

    # g = 1 after g = 4: a2 = 3/4 - 3/4 = 0; g = -1 after 4 with alpha = 3: a2 = 3/4 - 5/4 < 0, so g~ = -1 - 3/2.
    memory: TwoBuffer | OneBuffer = TwoBuffer(scalar(1.0), scalar(4.0))
    theta, after, count = reference.any_optimizer(
        sign_descent, scalar(0.0), scalar(-1.0), memory, 7, alpha=3.0, b1=0.75
    )
    assert (theta.item(), count) == (0.5, 8)
    assert isinstance(after, TwoBuffer)
    assert (after.a.item(), after.g.item()) == (-0.5, -1.0)


def test_clip_by_hand() -> None:
    gs = [torch.tensor([3.0], dtype=F64), torch.tensor([4.0], dtype=F64)]
    clipped = reference.clip(gs, 1.0)
    assert [g.item() for g in clipped] == pytest.approx([0.6, 0.8], rel=1e-6)
    assert [g.item() for g in reference.clip(gs, 10.0)] == [3.0, 4.0]


def test_moments_start_at_zero() -> None:
    m, v, k = reference.zeros(torch.ones(2, 3, dtype=F64))
    assert (m.shape, m.dtype, k) == ((2, 3), F64, 0)
    assert not m.any()
    assert not v.any()
