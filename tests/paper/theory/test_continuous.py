"""E in continuous time: matrices from the update rule by SymPy, their conditions, and the discrete limit's limit."""

import math
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys import reference
from valleys.paper.theory import continuous_limit, largest_stable_lr
from valleys.paper.theory.checks import Floats
from valleys.paper.theory.stability import flip_limit, rotation_limit

X, ALPHA, K, Q, STEP = sympy.symbols("x alpha k q epsilon", positive=True)
C, Z = sympy.symbols("c z")
G, A, M = sympy.symbols("g a m")


def next_a(g: Any, alpha: Any, k: Any) -> Any:
    """The reference's a after a step to the gradient g, from A and G; its arithmetic takes symbols as well."""
    memory: Any = reference.TwoBuffer(A, G)
    return reference.explore(g, memory, alpha, 1 - k)[1].a  # type: ignore[union-attr]


def without_momentum(x: Any, alpha: Any, k: Any) -> Any:
    """The matrix of one step of (g, a): theta by descent, then gradient and a where it ends."""
    g = G - x * (G + alpha * A)  # h times theta - lr (g + alpha a)
    return sympy.Matrix([g, next_a(g, alpha, k)]).jacobian([G, A])


def with_momentum(x: Any, alpha: Any, k: Any, q: Any) -> Any:
    """The matrix of one step of (g, a, m), with the momentum as an average: Alg. 3 with dampening beta2."""
    g = G - x * M
    a = next_a(g, alpha, k)
    m = (1 - q) * M + q * (g + alpha * a)
    return sympy.Matrix([g, a, m]).jacobian([G, A, M])


def generator(step: Any, scale: Any) -> Any:
    """The matrix of the differential equation that small steps make, a in units of the step."""
    change = (scale.inv() * step * scale - sympy.eye(step.rows)) / STEP
    return change.applyfunc(lambda entry: sympy.limit(sympy.expand(entry), STEP, 0))


FIRST = sympy.Matrix([[-X, -X * ALPHA], [-K * X, -K - K * X * ALPHA]])
SECOND = sympy.Matrix([[0, 0, -X], [0, -K, -K * X], [Q, Q * ALPHA, -Q]])


def test_a_step_without_momentum_is_eulers_of_length_1_for_the_differential_equation() -> None:
    assert (without_momentum(X, ALPHA, K) - sympy.eye(2) - FIRST).expand() == sympy.zeros(2)
    assert sympy.expand(FIRST.det()) == K * X
    assert sympy.expand(FIRST.trace() + X * (1 + ALPHA * K) + K) == 0
    scale = sympy.diag(1, STEP)  # a is the change of s in a step
    assert generator(without_momentum(STEP * X, ALPHA / STEP, STEP * K), scale) == FIRST


def test_small_steps_with_momentum_follow_the_differential_equation_of_the_three() -> None:
    scale = sympy.diag(1, STEP, 1)
    assert generator(with_momentum(STEP * X, ALPHA / STEP, STEP * K, STEP * Q), scale) == SECOND


def test_by_routh_and_hurwitz_both_are_stable_for_every_lr_exactly_down_to_the_stated_c() -> None:
    trace = FIRST.trace().subs(ALPHA, C / K)
    assert sympy.expand(trace + K + X * (1 + C)) == 0  # negative for every x > 0 if and only if c >= -1
    polynomial = sympy.Poly(SECOND.subs(ALPHA, C / K).charpoly(Z).as_expr(), Z)
    one, second, first, zeroth = polynomial.all_coeffs()
    assert one == 1
    assert sympy.expand(second - (K + Q)) == 0
    assert sympy.expand(zeroth - K * Q * X) == 0
    condition = sympy.expand((second * first - zeroth) / Q)  # the only one of Hurwitz's that can fail
    assert condition.subs(X, 0) == sympy.expand(K * (K + Q))
    slope = sympy.factor(condition.coeff(X, 1))
    assert sympy.degree(condition, X) == 1
    assert sympy.solve(slope, C) == [-Q / (K + Q)]
    assert sympy.diff(slope, C) == K + Q  # so it is met for every x > 0 exactly from there on
    (limit,) = sympy.solve(condition, X)
    average = K * (K + Q) / (-C * (K + Q) - Q)  # of an averaging momentum; Alg. 3 adds up, and its lr is q of that
    assert sympy.simplify(limit - average) == 0
    numbers = {K: 0.01, Q: 0.1, C: -1.5}
    assert continuous_limit(-150.0, 0.99, 0.9) == pytest.approx(float((Q * average).subs(numbers)), rel=1e-12)
    (limit,) = sympy.solve(trace, X)
    assert continuous_limit(-150.0, 0.99) == pytest.approx(float(limit.subs(numbers)), rel=1e-12)


def eigenvalues(x: Floats, c: Floats, k: Floats, q: Floats | None = None) -> Any:
    """Of the matrices in floating point, for a lr of Alg. 3."""
    matrix, names = (FIRST, (X, ALPHA, K)) if q is None else (SECOND, (X, ALPHA, K, Q))
    numbers = (x, c / k, k) if q is None else (x / q, c / k, k, q)
    entries = sympy.lambdify(names, [[entry + 0 * X for entry in row] for row in matrix.tolist()])(*numbers)
    stack = np.array([[np.broadcast_to(entry, x.shape) for entry in row] for row in entries], dtype=np.float64)
    return np.linalg.eigvals(np.moveaxis(stack, -1, 0))


@pytest.mark.parametrize("momentum", [False, True])
def test_eigenvalues_on_a_random_grid_agree_with_the_limit(momentum: bool) -> None:
    random = np.random.default_rng(0)
    k, q = 10 ** random.uniform(-3, 0, (2, 20_000))
    x, c = 10 ** random.uniform(-3, 3, 20_000), random.uniform(-3, 3, 20_000)
    beta2 = 1 - q if momentum else None
    limit = continuous_limit(c / k, 1 - k, beta2)
    edge = -q / (k + q) if momentum else np.full_like(c, -1.0)
    assert (np.isinf(limit) == (c >= edge)).all()
    near = np.isfinite(limit)  # half of the learning rates around the limit, where there is one
    x[near] = limit[near] * 10 ** random.uniform(-0.5, 0.5, near.sum())
    stable = eigenvalues(x, c, k, q if momentum else None).real.max(axis=-1) < 0
    clear = np.abs(x / limit - 1) > 1e-6
    assert clear.mean() > 0.999
    assert (stable == (x < limit))[clear].all()
    assert 0.2 < stable[near].mean() < 0.8


@given(c=st.floats(-3.0, 3.0), beta1=st.floats(0.0, 0.999), beta2=st.floats(0.0, 0.999))
@settings(max_examples=200, deadline=None)
def test_what_is_stable_in_steps_is_stable_in_continuous_time(c: float, beta1: float, beta2: float) -> None:
    alpha = c / (1 - beta1)
    assert largest_stable_lr(alpha, beta1, beta2) <= continuous_limit(alpha, beta1, beta2) * (1 + 1e-9)
    assert largest_stable_lr(alpha, beta1, 0.0) <= continuous_limit(alpha, beta1) * (1 + 1e-9)


@pytest.mark.parametrize(("c", "share"), [(-1.5, 0.7), (-1.05, 0.7), (-0.95, 2.0), (-1.2, 0.3)])
def test_for_small_steps_the_discrete_limit_is_the_continuous_one_to_first_order(c: float, share: float) -> None:
    """k and q = share k shrink together, c stays."""
    k = np.array([1e-2, 1e-3, 1e-4])
    alpha, beta1, beta2 = c / k, 1 - k, 1 - share * k
    error = 1 - largest_stable_lr(alpha, beta1, beta2) / continuous_limit(alpha, beta1, beta2)
    assert (error > 0).all()
    assert error[:-1] / error[1:] == pytest.approx([10, 10], rel=0.15)
    if c < -1:
        alone = 1 - largest_stable_lr(alpha, beta1, 0.0) / continuous_limit(alpha, beta1)
        assert alone[:-1] / alone[1:] == pytest.approx([10, 10], rel=0.3)


def test_only_the_lower_side_of_the_papers_bound_is_about_stability() -> None:
    beta1 = np.array([0.5, 0.9, 0.99, 0.999])
    memory = 1 / (1 - beta1)
    inside = 1 + 1e-9
    assert np.isinf(continuous_limit(-memory / inside, beta1)).all()
    assert np.isfinite(continuous_limit(-memory * inside, beta1)).all()
    for c in (0.5, 1.0, 2.0, 1e6):  # far beyond the upper side
        assert np.isinf(continuous_limit(c * memory, beta1)).all()
        assert np.isinf(continuous_limit(c * memory, beta1, 0.9)).all()
    # In steps the limit passes c = 1 smoothly: what ends it is the flip, which continuous time does not have.
    around = np.array([0.99, 1.0, 1.01])
    limits = largest_stable_lr(around / 0.01, 0.99, 0.9)
    assert limits == pytest.approx(flip_limit(around / 0.01, 0.99, 0.9))
    assert np.diff(limits)[1] / np.diff(limits)[0] == pytest.approx(1, abs=0.02)
    # With momentum less is stable than c >= -1.
    assert float(continuous_limit(-0.91 / 0.01, 0.99, 0.9)) < math.inf
    assert math.isinf(continuous_limit(-0.909 / 0.01, 0.99, 0.9))
    assert rotation_limit(-0.91 / 0.01, 0.99, 0.9) < continuous_limit(-0.91 / 0.01, 0.99, 0.9)
