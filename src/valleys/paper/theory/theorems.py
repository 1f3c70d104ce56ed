"""Numerical checks of the paper's convergence theorems: how a measured rate scales with the length of the run.

A fitted exponent is evidence about some problems and horizons, not a proof; a single problem that satisfies the
assumptions and has a worse exponent is evidence against. ``docs/analysis.md`` says which is which.

The runs are numpy rows, one problem of one layer each, so that many replicates and learning rates go in one step;
``vanilla_step`` is tested row by row against ``reference.alto_vanilla``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from valleys.hyperparameters import suggest
from valleys.paper.theory.checks import Floats, decay, real, whole

__all__ = ["GAMES", "Rate", "Setting", "mean_squared_gradient", "regret"]

GAMES = ("quadratic", "linear", "rare")
"""Of :func:`regret`."""

_DIMENSION = 20
_LOW, _HIGH = 1.0, 3.0
_PERIOD, _SPIKE = 100, 150.0
_RULE = suggest(16384)  # the paper's largest batch on CIFAR


@dataclass(frozen=True)
class Setting:
    """Hyperparameters of Alg. 1, ALTO Vanilla.

    Args:
        alpha: strength of E. Default: the paper's for large batches.
        beta1, beta2, beta3: decays of E's memory and of the moments, in [0, 1).
        eps1, eps2, eps3: as in Alg. 1, positive.

    Raises:
        ValueError: an argument out of range.
    """

    alpha: float = _RULE["alpha"]
    beta1: float = _RULE["beta"]
    beta2: float = 0.9
    beta3: float = 0.99
    eps1: float = 1e-6
    eps2: float = 1e-6
    eps3: float = 1e-10

    def __post_init__(self) -> None:
        real("alpha", self.alpha, -np.inf, np.inf, "0 switches E off")
        for name in ("beta1", "beta2", "beta3"):
            decay(name, getattr(self, name))
        for name in ("eps1", "eps2", "eps3"):
            real(name, getattr(self, name), 0.0, np.inf, "it keeps a division defined", low_open=True)


class State(NamedTuple):
    """State of Alg. 1: E's memory and the two moments, each (runs, d); all zero before the first step."""

    s: Floats
    m: Floats
    v: Floats


class Rate(NamedTuple):
    """A power law fitted to a quantity at several horizons.

    Args:
        horizons: (H,) numbers of steps.
        values: (H, replicates) the quantity.
        exponent: the mean over replicates of the slope of log value over log horizon.
        interval: its 95 % confidence interval, Student's t over the replicates.
    """

    horizons: Floats
    values: Floats
    exponent: float
    interval: tuple[float, float]


def fit_rate(horizons: Sequence[int], values: Floats) -> Rate:
    r"""Fit value :math:`\propto` horizon^exponent to each replicate by least squares, and average the exponents.

    The values are (horizons, replicates), positive, two or more of both.

    Example:
        >>> rate = fit_rate([100, 400], np.array([[10.0, 10.0], [20.0, 20.0]]))
        >>> round(rate.exponent, 3)
        0.5
    """
    from scipy.stats import t

    values = real("values", values, 0.0, np.inf, "their logarithms are fitted", low_open=True)
    if values.ndim != 2 or len(values) != len(horizons) or len(set(horizons)) < 2 or values.shape[1] < 2:
        raise ValueError(
            f"values of shape {values.shape} at {len(horizons)} horizons: "
            "give (horizons, replicates), two or more of both"
        )
    x = np.log(np.asarray(horizons, float))
    x -= x.mean()
    slopes = (x @ np.log(values)) / (x @ x)
    n = len(slopes)
    half = float(t.ppf(0.975, n - 1) * slopes.std(ddof=1) / math.sqrt(n))
    mean = float(slopes.mean())
    return Rate(np.asarray(horizons, float), values, mean, (mean - half, mean + half))


def vanilla_step(
    theta: Floats, g: Floats, state: State, lr: float | Floats, setting: Setting, alpha: float | None = None
) -> tuple[Floats, State]:
    """Take a step of Alg. 1 without weight decay in each row of theta, (runs, d): a row is one layer.

    ``alpha`` is in place of the setting's, for a decaying one.

    Example:
        >>> theta, zero = np.ones((1, 2)), np.zeros((1, 2))
        >>> theta, _ = vanilla_step(theta, np.ones((1, 2)), State(zero, zero, zero), 0.1, Setting())
        >>> theta.round(3)  # a step of lr |theta|
        array([[0.9, 0.9]])

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 1, with the zero cases of ``reference.trust_ratio``.
    """
    b1, b2, b3 = setting.beta1, setting.beta2, setting.beta3
    c = (setting.alpha if alpha is None else alpha) * (1 - b1)
    adapted = g + c * (g - state.s)
    s = b1 * state.s + (1 - b1) * g
    m = b2 * state.m + (1 - b2) * adapted
    v = b3 * state.v + (1 - b3) * adapted * adapted
    r = m / (np.sqrt(v) + setting.eps1)
    length, update = _norm(theta), _norm(r)
    phi = length + setting.eps3
    ratio = phi / (update + setting.eps2 * phi)
    ratio = np.where((length == 0) | (update == 0), 1.0, ratio)
    ratio = np.where((g != 0).any(axis=1, keepdims=True), ratio, np.minimum(ratio, 1.0))
    return theta - lr * ratio * r, State(s, m, v)


def _norm(rows: Floats) -> Floats:
    return np.asarray(np.sqrt((rows * rows).sum(axis=1, keepdims=True)))


def mean_squared_gradient(
    horizons: Sequence[int],
    *,
    lr: float | str = "best",
    noise: float = 0.0,
    growing_batch: bool = False,
    setting: Setting | None = None,
    replicates: int = 8,
    seed: int = 0,
) -> Rate:
    r"""Measure Theorem 1's quantity on a smooth non-convex function with bounded gradients, over the length of the run.

    .. math:: f(\theta) = \sum_j a_j \Big(\sqrt{1 + u_j^2} + \sin^2 u_j\Big),\; u = \theta - \theta^*, \qquad
        \frac1T \sum_{k=1}^T |\nabla f(\theta_k)|^2 \propto T^{e}

    in 20 dimensions: a bowl with dents, some of them local minima. Its gradient is bounded and does not vanish far out,
    where a run that was thrown away would otherwise seem to have converged. The theorem says
    :math:`\le 4\epsilon^2` for :math:`T \ge O(G^{1.5} \epsilon^{-2})`: an exponent of -1. LAMB's
    :math:`O(\epsilon^{-4})` is -1/2.

    Args:
        horizons: T, at least two.
        lr: ``"best"``: of 25 constant ones at each horizon the best (the most favourable reading); ``"root"``:
            1 / sqrt(T), LAMB's; or a number.
        noise: standard deviation of a gradient's uniform noise per coordinate, for a batch of 1.
        growing_batch: the batch is T, as in LAMB's theorem: the noise is divided by sqrt(T).
        setting: hyperparameters. Default: the paper's.
        replicates: functions, drawn at random, at least 2.
        seed: of the functions and of the noise.

    Returns:
        The rate.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> rate = mean_squared_gradient([100, 400], lr=0.3, setting=Setting(eps1=1.0, eps2=1.0), replicates=2)
        >>> round(rate.exponent, 2)
        -1.0

    Source: Zhao et al. 2025 (arXiv 2510.27153), Theorem 1, as ``reference``'s module cites it; the function is ours.
    """
    horizons = [whole("horizons", T, 1, "a run has steps") for T in horizons]
    whole("replicates", replicates, 2, "an interval needs two")
    real("noise", noise, 0.0, np.inf, "0 is the exact gradient")
    if isinstance(lr, str):
        if lr not in ("best", "root"):
            raise ValueError(f"lr {lr!r}: choose best, root, or a positive number")
    else:
        real("lr", lr, 0.0, np.inf, "it is a learning rate", low_open=True)
    setting = setting or Setting()
    random = np.random.default_rng(seed)
    a = random.uniform(0.5, 1.5, (replicates, _DIMENSION))
    goal = random.uniform(_LOW, _HIGH, (replicates, _DIMENSION))
    start = goal + random.uniform(0.5, 1.5, goal.shape) * random.choice([-1.0, 1.0], goal.shape)
    values = []
    for T in horizons:
        lrs = np.geomspace(1e-5, 1.0, 25) if lr == "best" else np.array([T**-0.5 if lr == "root" else lr], dtype=float)
        a_, goal_, theta = (np.tile(array, (len(lrs), 1)) for array in (a, goal, start))
        column = np.repeat(lrs, replicates)[:, None]
        state, total = State(*[np.zeros_like(theta)] * 3), np.zeros(len(theta))
        level = noise * math.sqrt(3) / (math.sqrt(T) if growing_batch else 1.0)
        for _ in range(T):
            u = theta - goal_
            gradient = a_ * (u / np.sqrt(1 + u * u) + np.sin(2 * u))
            total += (gradient * gradient).sum(axis=1)
            g = gradient + level * random.uniform(-1, 1, theta.shape) if level else gradient
            theta, state = vanilla_step(theta, g, state, column, setting)
        means = (total / T).reshape(len(lrs), replicates)
        values.append(means[means.mean(axis=1).argmin()])
    return fit_rate(horizons, np.array(values))


def regret(
    game: str,
    horizons: Sequence[int],
    *,
    lr0: float = 0.1,
    setting: Setting | None = None,
    replicates: int = 8,
    seed: int = 0,
) -> Rate:
    r"""Measure Theorem 2's regret on convex losses over a box, with lr = lr0 / sqrt(k) and alpha_k = alpha / sqrt(k).

    .. math:: R_T = \sum_{k=1}^T f_k(\theta_k) - \min_\theta \sum_{k=1}^T f_k(\theta) \propto T^{e}

    The theorem says :math:`O(\sqrt T)`, an exponent of at most 1/2. All losses are convex, all gradients bounded, the
    box is [1, 3] in every direction and each step is followed by the projection onto it.

    Args:
        game: ``quadratic``: half the squared distance to a random point of the box, in 20 dimensions; ``linear``:
            random signs, in 20 dimensions; ``rare``: in one dimension 150 theta once in 100 steps, else -theta, in
            the spirit of the sequence on which Adam fails: the rare large gradient decides where the minimum is, and a
            normalised update hardly hears it.
        horizons: T, at least two.
        lr0: positive.
        setting: hyperparameters; beta2^2 / beta3 < 1. Default: the paper's.
        replicates: sequences at random, at least 2.
        seed: of the sequences.

    Returns:
        The rate.

    Raises:
        ValueError: an argument out of range, beta2^2 >= beta3, or a regret that is not positive: it has no power law.

    Example:
        >>> regret("rare", [1000, 4000], replicates=2).exponent > 0.9
        True

    Source:
        Zhao et al. 2025 (arXiv 2510.27153), Theorem 2; the failing sequence after Reddi et al. 2018 (On the
        Convergence of Adam and Beyond), Theorem 1.
    """
    if game not in GAMES:
        raise ValueError(f"game {game!r}: choose one of {', '.join(GAMES)}")
    horizons = [whole("horizons", T, 1, "a run has steps") for T in horizons]
    whole("replicates", replicates, 2, "an interval needs two")
    real("lr0", lr0, 0.0, np.inf, "it is the first learning rate", low_open=True)
    setting = setting or Setting()
    if not setting.beta2**2 < setting.beta3:
        raise ValueError(f"beta2^2 / beta3 must be below 1, got beta2 {setting.beta2} and beta3 {setting.beta3}")
    random = np.random.default_rng(seed)
    d = 1 if game == "rare" else _DIMENSION
    theta = np.full((replicates, d), (_LOW + _HIGH) / 2)
    state = State(*[np.zeros_like(theta)] * 3)
    ledger = _Ledger(game, theta.shape, random)
    regrets = {}
    for k in range(1, max(horizons) + 1):
        g = ledger.play(theta, random)
        alpha = setting.alpha / math.sqrt(k)
        theta, state = vanilla_step(theta, g, state, lr0 / math.sqrt(k), setting, alpha)
        theta = theta.clip(_LOW, _HIGH)
        if k in horizons:
            regrets[k] = ledger.regret()
    return fit_rate(horizons, np.array([regrets[T] for T in horizons]))


class _Ledger:
    """Losses so far, and what the losses of the best fixed point of the box follow from."""

    def __init__(self, game: str, shape: tuple[int, ...], random: np.random.Generator) -> None:
        self.game = game
        self.phase = random.integers(0, _PERIOD, shape)
        self.losses = np.zeros(shape[0])
        self.total = np.zeros(shape)
        self.squares = np.zeros(shape[0])
        self.steps = 0

    def play(self, theta: Floats, random: np.random.Generator) -> Floats:
        """Draw a loss, book it at theta, and return its gradient there."""
        self.steps += 1
        if self.game == "quadratic":
            z = random.uniform(_LOW, _HIGH, theta.shape)
            g: Any = theta - z
            self.losses += 0.5 * (g * g).sum(axis=1)
            self.total += z
            self.squares += (z * z).sum(axis=1)
            return np.asarray(g)
        if self.game == "linear":
            g = random.choice([-1.0, 1.0], theta.shape)
        else:
            g = np.where((self.steps + self.phase) % _PERIOD == 0, _SPIKE, -1.0)
        self.losses += (g * theta).sum(axis=1)
        self.total += g
        return np.asarray(g)

    def regret(self) -> Floats:
        """Return the regret so far."""
        if self.game == "quadratic":
            best = 0.5 * (self.squares - (self.total**2).sum(axis=1) / self.steps)
        else:
            best = np.where(self.total > 0, _LOW * self.total, _HIGH * self.total).sum(axis=1)
        return np.asarray(self.losses - best)
