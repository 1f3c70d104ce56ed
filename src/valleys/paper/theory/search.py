"""Search for the best hyperparameters of E-adapted momentum on the noisy quadratic model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from valleys.hyperparameters import suggest
from valleys.paper.theory.checks import Floats, real, whole
from valleys.paper.theory.quadratic import Hyper, NoisyQuadratic, final_loss, loss_after, steps_to
from valleys.paper.theory.stability import largest_stable_lr

__all__ = ["FAMILIES", "STRONG", "Best", "Family", "fewest_steps", "shortest_horizon"]


SCHEDULES: dict[str, Callable[[int], Floats]] = {
    "constant": np.ones,
    "linear": lambda steps: 1 - np.arange(steps) / steps,
    "cosine": lambda steps: 0.5 + 0.5 * np.cos(np.pi * np.arange(steps) / steps),
    "quarters": lambda steps: 0.1 ** (4 * np.arange(steps) // steps).astype(float),
}
"""Factors of the learning rate by steps: constant; to zero along a line or a cosine; a tenth after every quarter, as
the paper trains on CIFAR."""


@dataclass(frozen=True)
class Family:
    """A choice of the hyperparameters that are free.

    Args:
        name: for tables.
        momentum: beta2 is free; otherwise 0.
        c: fixed, or None for free in (-0.99, 0.99).
        beta1: fixed, or None for free.
        memory: 1 / (1 - beta1) as a share of the horizon, instead of beta1.
    """

    name: str
    momentum: bool
    c: float | None = 0.0
    beta1: float | None = 0.0
    memory: float | None = None


def _paper(size: str, batch_size: int) -> Family:
    rule = suggest(batch_size)
    beta1 = rule["beta"]
    c = round(rule["alpha"] * (1 - beta1), 12)
    symbols = (f"{name} = {value:g}".replace(" 0.", " .") for name, value in (("c", c), ("beta1", beta1)))
    return Family(f"+ E, {', '.join(symbols)} (paper, {size} batch)", momentum=True, c=c, beta1=beta1)


FAMILIES = (
    Family("SGD", momentum=False),
    Family("+ momentum", momentum=True),
    _paper("large", 16384),
    _paper("small", 128),
    Family("+ E, c and beta1 free", momentum=True, c=None, beta1=None),
    Family("E without momentum, c and beta1 free", momentum=False, c=None, beta1=None),
)
"""The rows of the tables."""

STRONG = Family("strong E: c = -.75, memory a quarter of the run", momentum=True, c=-0.75, beta1=None, memory=0.25)
"""The best in the model with a constant learning rate and much noise; it needs a horizon."""


@dataclass(frozen=True)
class Best:
    """The best setting of a search.

    Args:
        value: the minimum: steps, or the relative loss.
        lr, c, beta1, beta2: the setting.
        evaluations: how many settings were tried.
    """

    value: float
    lr: float
    c: float
    beta1: float
    beta2: float
    evaluations: int


# The default budget: settings at random, then rounds of settings around the best few, closer and closer.
_FIRST, _ROUNDS, _EACH, _ELITE = 384, 16, 64, 8
_SHORT = 64  # steps up to which every horizon is tried
# Log of lr over its stability limit, log of 1 / (1 - beta2), c, log of 1 / (1 - beta1).
_LOW = np.array([np.log(1e-4), 0.0, -0.99, 0.0])


def _search(
    score: Callable[[Hyper, float], Floats], family: Family, horizon: int, seed: int, start: Best | None, budget: float
) -> Best:
    """Minimise a score that also gets the best value so far: beyond it a rough answer will do."""
    random = np.random.default_rng(seed)
    high = np.array([np.log(8.0), np.log(min(1e3, max(2.0, horizon))), 0.99, np.log(max(4.0, 4.0 * horizon))])
    span = high - _LOW
    free = np.array([True, family.momentum, family.c is None, family.beta1 is None and family.memory is None])
    points = _LOW + span * random.random((max(8, round(_FIRST * budget)), 4))
    points[::3, 1] = 0.0  # no momentum: an edge that a random point misses, and often the best place
    if start is not None:
        points[0] = _point(start)
        near = len(points[1:97])
        points[1:97] = np.clip(points[0] + 0.1 * span * random.standard_normal((near, 4)), _LOW, high)
    best_points, best_values = np.empty((0, 4)), np.empty(0)
    evaluations, rounds = 0, max(1, round(_ROUNDS * budget))
    for turn in range(rounds + 1):
        if turn:
            centre = best_points[random.integers(0, len(best_points), _EACH)]
            width = 0.2 * (0.005 / 0.2) ** (turn / rounds)
            points = np.clip(centre + width * span * random.standard_normal((_EACH, 4)), _LOW, high)
        for chunk in np.array_split(points, max(1, len(points) // _EACH)):
            incumbent = best_values[0] if len(best_values) else np.inf
            values = score(_hyper(chunk, free, family, horizon), incumbent)
            evaluations += len(chunk)
            best_points, best_values = np.concatenate([best_points, chunk]), np.concatenate([best_values, values])
            order = np.argsort(best_values, kind="stable")[:_ELITE]
            best_points, best_values = best_points[order], best_values[order]
    lr, c, b1, b2 = (float(np.asarray(v)[0]) for v in _hyper(best_points[:1], free, family, horizon))
    return Best(float(best_values[0]), lr, c, b1, b2, evaluations)


def _hyper(points: Floats, free: np.ndarray[tuple[int], np.dtype[np.bool_]], family: Family, horizon: int) -> Hyper:
    n = len(points)
    b2 = 1 - np.exp(-points[:, 1]) if free[1] else np.zeros(n)
    c = points[:, 2] if free[2] else np.full(n, 0.0 if family.c is None else family.c)
    if free[3]:
        b1 = 1 - np.exp(-points[:, 3])
    elif family.memory is not None:
        b1 = np.full(n, 1 - 1 / max(1.0, family.memory * horizon))
    else:
        b1 = np.full(n, family.beta1)
    # Where the stable learning rates end depends on the other three by orders of magnitude; the best is below or near.
    return Hyper(np.exp(points[:, 0]) * largest_stable_lr(c / (1 - b1), b1, b2), c, b1, b2)


def _point(best: Best) -> Floats:
    limit = float(largest_stable_lr(best.c / (1 - best.beta1), best.beta1, best.beta2))
    return np.array([np.log(best.lr / limit), -np.log1p(-best.beta2), best.c, -np.log1p(-best.beta1)])


def fewest_steps(
    model: NoisyQuadratic,
    family: Family,
    batch: float,
    *,
    target: float = 0.01,
    limit: int = 20_000,
    seed: int = 0,
    budget: float = 1.0,
) -> Best:
    """Search for the setting of a constant learning rate that reaches the target in the fewest steps.

    Args:
        model: the noisy quadratic.
        family: which hyperparameters are free.
        batch: examples per step.
        target: relative to the first loss, in (0, 1).
        limit: steps after which a setting is given up.
        seed: of the random search.
        budget: times 384 settings at random and 16 rounds of 64 around the best.

    Returns:
        The best setting; its value is a whole number of steps, or infinity if none reached the target.

    Raises:
        ValueError: an argument out of range, or a family with a memory in shares of a horizon, which is not known here.

    Example:
        >>> best = fewest_steps(NoisyQuadratic(), FAMILIES[0], 1e5, limit=200, budget=0.2)
        >>> int(best.value)
        24

    Source: Zhang et al. 2019, arXiv 1907.04164, Sec. 4, with a random search; the search is ours.
    """
    whole("limit", limit, 1, "settings are given up after it")
    if family.memory is not None:
        raise ValueError(f"family {family.name!r}: its memory is a share of a horizon; use shortest_horizon")
    real("budget", budget, 0.0, np.inf, "1 is the default budget", low_open=True)

    def score(hyper: Hyper, incumbent: float) -> Floats:
        most = limit if np.isinf(incumbent) or incumbent > limit else min(limit, int(np.ceil(incumbent)) + 1)
        steps = steps_to(model, hyper, batch, target, most, fraction=True)
        missed = np.isinf(steps)
        if missed.any() and incumbent > limit:  # nothing has reached it yet: nearer is better
            end = loss_after(model, Hyper(*(np.asarray(v)[missed] for v in hyper)), batch, limit)
            steps[missed] = limit * (1 + np.log1p(np.minimum(end, 1e300) / target))
        return steps

    best = _search(score, family, limit, seed, None, budget)
    return replace(best, value=float(np.ceil(best.value)) if best.value <= limit else np.inf)


def best_for_horizon(
    model: NoisyQuadratic,
    family: Family,
    batch: float,
    steps: int,
    schedule: str = "constant",
    *,
    seed: int = 0,
    start: Best | None = None,
    budget: float = 1.0,
) -> Best:
    """Search for the setting with the lowest expected loss after some steps of a schedule, a key of ``SCHEDULES``.

    A quarter of the first settings are drawn near ``start``.

    Example:
        >>> model, sgd = NoisyQuadratic(), FAMILIES[0]
        >>> best_for_horizon(model, sgd, 10, 200, "cosine", budget=0.2).value < best_for_horizon(
        ...     model, sgd, 10, 200, budget=0.2).value
        True
    """
    whole("steps", steps, 1, "it is the length of the run")
    real("budget", budget, 0.0, np.inf, "1 is the default budget", low_open=True)
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
    factors = SCHEDULES[schedule](steps)

    def score(hyper: Hyper, incumbent: float) -> Floats:
        if schedule == "constant":
            return loss_after(model, hyper, batch, steps)
        return final_loss(model, hyper, batch, factors)

    return _search(score, family, steps, seed, start, budget)


def shortest_horizon(
    model: NoisyQuadratic,
    family: Family,
    batch: float,
    schedule: str,
    *,
    target: float = 0.01,
    guess: int = 100,
    seed: int = 0,
    budget: float = 1.0,
    precision: float = 0.01,
) -> tuple[int, Best]:
    """Search for the shortest run at whose end some setting is at the target; each horizon has a schedule of its own.

    Args:
        model: the noisy quadratic.
        family: which hyperparameters are free.
        batch: examples per step.
        schedule: ``constant``, ``linear``, ``cosine`` or ``quarters``.
        target: relative to the first loss, in (0, 1).
        guess: a horizon to begin at.
        seed: of the random searches.
        budget: of each, as in :func:`fewest_steps`.
        precision: relative, of the horizon, found by bisection. A short run is at the target at some lengths and not at
            longer ones; hence, where it is at most 64 steps, every length from half of it on is tried.

    Returns:
        The horizon and its best setting.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> steps, best = shortest_horizon(NoisyQuadratic(), FAMILIES[0], 1e5, "linear", guess=30, budget=0.1)
        >>> steps <= 30 and best.value <= 0.01
        True

    Source: ours.
    """
    real("target", target, 0.0, 1.0, "it is a part of the first loss", low_open=True)
    whole("guess", guess, 1, "it is a number of steps")
    real("precision", precision, 0.0, 1.0, "0.01 is one in a hundred", low_open=True)
    results: dict[int, Best] = {}

    def reached(steps: int) -> bool:
        if steps in results:
            return results[steps].value <= target
        start = min(results.items(), key=lambda item: abs(item[0] - steps))[1] if results else None
        best = best_for_horizon(model, family, batch, steps, schedule, seed=seed, start=start, budget=budget)
        results[steps] = best
        return best.value <= target

    low, high = 0, guess
    while not reached(high):
        low, high = high, max(high + 1, round(1.5 * high))
    if low == 0:
        low = guess
        while low > 1 and reached(low := round(low / 1.5)):
            high = low
        if results[low].value <= target:
            return low, results[low]
    while high - low > max(1, round(precision * high)):
        middle = round(np.sqrt(low * high))
        middle = min(max(middle, low + 1), high - 1)
        if reached(middle):
            high = middle
        else:
            low = middle
    if high <= _SHORT:
        high = next(steps for steps in range(max(1, high // 2), high + 1) if reached(steps))
    return high, results[high]
