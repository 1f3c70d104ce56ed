"""Sharpness: how much the loss rises when the parameters are moved a little, at worst and on average."""

from __future__ import annotations

import math
import statistics as sample
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from valleys.landscape.evaluation import Metric, Progress, evaluate
from valleys.landscape.objective import Objective
from valleys.landscape.slices.directions import normal

__all__ = ["Averaged", "Gap", "Sharpness", "average_sharpness", "gap", "sharpness"]

NORMS = ("l2", "linf")


@dataclass(frozen=True)
class Sharpness:
    """What an ascent found within a ball around the parameters.

    Args:
        value: the largest rise of the loss that was found; a lower bound of the largest there is; at least 0.
        one_step: the rise at the end of SAM's one step, the gradient's length cut to the ball.
        first_order: what that step promises by the gradient alone: rho times its dual norm.
        by_restart: the largest rise that each start found.
        steps: candidates tried per start, at most; fewer where the gradient vanished.
        nonfinite: candidates refused because their loss was not finite. Above 0: the ball reaches where the loss
            overflows, and the value is no measure of how far it rises there.
        direction: from the parameters to the highest point found, one tensor per parameter: slice along it.
    """

    value: float
    one_step: float
    first_order: float
    by_restart: tuple[float, ...]
    steps: int
    nonfinite: int
    direction: tuple[Tensor, ...] = field(repr=False, compare=False)

    @property
    def spread(self) -> float | None:
        """The highest less the lowest rise over the starts; None of one start, which cannot tell."""
        return max(self.by_restart) - min(self.by_restart) if len(self.by_restart) > 1 else None


@dataclass(frozen=True)
class Averaged:
    """A mean over random perturbations.

    Args:
        value: the mean rise of the loss.
        standard_error: of the mean, over the pairs.
        samples: how many pairs of opposite perturbations.
    """

    value: float
    standard_error: float
    samples: int


@dataclass(frozen=True)
class Gap:
    """The generalisation gap.

    Args:
        train: mean loss, or metric, per training example.
        test: per test example.
    """

    train: float
    test: float

    @property
    def value(self) -> float:
        """Test minus train: positive where a loss is higher on the test data, negative where an accuracy is lower."""
        return self.test - self.train


def sharpness(
    objective: Objective,
    rho: float = 0.05,
    *,
    norm: str = "l2",
    adaptive: bool = False,
    eta: float = 0.0,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sharpness:
    r"""Worst-case sharpness: the largest rise of the loss in a ball around the parameters.

    .. math:: S = \max_{\lVert \delta / s \rVert_p \le \rho} L(\theta + \delta) - L(\theta), \qquad
        s = 1 \text{ or, adaptive, } s = |\theta| + \eta

    An adaptive ball gives the same number for networks that differ only in the scale of their weights: a ReLU unit's
    incoming weights times c and outgoing weights divided by c. To keep that, the whole ascent takes place in
    :math:`u = \delta / s`, random starts included.

    The ascent goes along the normalised gradient (its sign, in the l-infinity ball) and back into the ball. A step that
    does not raise the loss is taken back and halved, one that does is followed by one twice as long. So the value never
    falls with more steps, and it is a *lower bound*: nothing certifies a maximum of a function that is not concave.

    A parameter that is exactly zero, such as a fresh bias, does not move in an adaptive ball; eta above 0 moves it, and
    costs the invariance.

    Args:
        objective: the loss. Its parameters are exactly as before afterwards.
        rho: the radius, above 0. Relative to the parameters where adaptive.
        norm: of the ball: ``l2`` or ``linf``. Default: l2.
        adaptive: scale each element by its parameter's magnitude.
        eta: added to the magnitude, 0 or more; with ``adaptive`` only.
        steps: candidates per start, at least 1. Each costs a loss and, if it is taken, a gradient.
        restarts: starts, at least 1: the first at the parameters (at random where the gradient is zero), the others at
            random on the border. Their spread shows whether the ascent depends on where it begins.
        seed: of the random starts.
        progress: told the candidates tried and to try.

    Returns:
        The value, with what one step finds and with the spread over the starts.

    Raises:
        ValueError: a number out of range; an unknown norm; eta without adaptive; an adaptive ball around zero.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> inputs = torch.diag(torch.tensor([2.0, 1.0]))
        >>> half = lambda outputs, targets: (outputs - targets).square().sum() / 2
        >>> objective = Objective(model, half, [(inputs, torch.zeros(2, 1))], reduction="sum")
        >>> round(sharpness(objective, rho=0.1).value, 6)  # rho^2 / 2 times the largest eigenvalue, 4
        0.02

    Source: Foret et al. 2021 (arXiv 2010.01412), the one step; Kwon et al. 2021 (arXiv 2102.11600), the adaptive ball
    and eta; Andriushchenko et al. 2023 (arXiv 2302.07011), several steps as a measure. The control of the step is ours.
    """
    _radius(rho, "rho")
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: choose one of {', '.join(NORMS)}")
    for name, number in (("steps", steps), ("restarts", restarts)):
        if number < 1:
            raise ValueError(f"{name} {number}: choose 1 or more")
    scale = _scale(objective, adaptive, eta)
    ball = _Ball(objective, scale, rho, norm)
    centre, slope = objective.value(), ball.slope(torch.zeros_like(scale))
    generator = torch.Generator().manual_seed(seed)
    rises: list[float] = []
    best, nonfinite, longest, one_step = torch.zeros_like(scale), 0, 0, 0.0
    for restart in range(restarts):
        told = None if progress is None else _shifted(progress, restart * steps, restarts * steps)
        if restart == 0 and slope.any():
            climb = ball.climb(torch.zeros_like(scale), centre, slope, steps, told)
            one_step = climb.first - centre
        else:
            start = ball.border(objective.flatten(normal(objective, generator)))
            value = ball.loss(start)
            if not math.isfinite(value):
                nonfinite += 1
                start, value = torch.zeros_like(scale), centre
            climb = ball.climb(start, value, ball.slope(start), steps, told)
        rise = climb.value - centre
        if rise > max([0.0, *rises]):
            best = climb.position
        rises.append(rise)
        nonfinite += climb.nonfinite
        longest = max(longest, climb.steps)
    first_order = rho * float(torch.linalg.vector_norm(slope, 2 if norm == "l2" else 1))
    direction = objective.unflatten(best * scale)
    return Sharpness(max(0.0, *rises), one_step, first_order, tuple(rises), longest, nonfinite, direction)


def average_sharpness(
    objective: Objective,
    sigma: float = 0.01,
    *,
    adaptive: bool = False,
    eta: float = 0.0,
    samples: int = 50,
    seed: int = 0,
    progress: Progress | None = None,
) -> Averaged:
    r"""Average-case sharpness: the mean rise of the loss under Gaussian perturbations.

    .. math:: S = E_\delta \big[ L(\theta + \delta) \big] - L(\theta), \qquad
        \delta \sim N(0, \sigma^2 s^2), \quad s = 1 \text{ or, adaptive, } s = |\theta| + \eta

    Every perturbation is used with both signs, which removes the first-order term exactly, and with it most of the
    noise. What remains is :math:`\sigma^2 \mathrm{tr}(H) / 2` for a small sigma (with :math:`s H s` where adaptive).
    May be negative where the loss curves downwards.

    Args:
        objective: the loss. Its parameters are exactly as before afterwards.
        sigma: the standard deviation, above 0. Relative to the parameters where adaptive.
        adaptive: scale each element by its parameter's magnitude; same number for rescaled ReLU networks.
        eta: added to the magnitude, 0 or more; with ``adaptive`` only.
        samples: pairs of opposite perturbations, at least 2; each costs two losses.
        seed: of the perturbations.
        progress: told the pairs made and to make.

    Returns:
        The mean with its standard error. Infinite or NaN where a perturbed loss is.

    Raises:
        ValueError: a number out of range; eta without adaptive; an adaptive ball around zero.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.zeros(1, 1))])
        >>> found = average_sharpness(objective, sigma=0.1, samples=1000)  # sigma^2, of the loss theta^2
        >>> abs(found.value - 0.01) < 3 * found.standard_error
        True

    Source: Andriushchenko et al. 2023 (arXiv 2302.07011), average-case adaptive sharpness; opposite pairs: Hammersley
    and Morton 1956.
    """
    _radius(sigma, "sigma")
    if samples < 2:
        raise ValueError(f"samples {samples}: choose 2 or more, to have a standard error")
    scale = _scale(objective, adaptive, eta)
    centre = objective.value()
    generator = torch.Generator().manual_seed(seed)
    rises = []
    for pair in range(samples):
        direction = objective.unflatten(objective.flatten(normal(objective, generator)) * scale)
        both = []
        for distance in (sigma, -sigma):
            with objective.moved(direction, distance):
                both.append(objective.value())
        rises.append(sum(both) / 2 - centre)
        if progress is not None:
            progress(pair + 1, samples)
    if not all(map(math.isfinite, rises)):
        return Averaged(sum(rises), math.nan, samples)
    return Averaged(sample.fmean(rises), sample.stdev(rises) / math.sqrt(samples), samples)


def gap(train: Objective, test: Objective, metric: Metric | None = None) -> Gap:
    """The generalisation gap: test minus train, per example.

    Args:
        train: the loss on training examples.
        test: the same loss, at the same parameters, on test examples.
        metric: ``(outputs, targets) -> number`` to compare in place of the loss; reduced over a batch as the loss is.

    Returns:
        Both numbers and their difference.

    Raises:
        ValueError: the parameters of the two differ.

    Example:
        >>> model = torch.nn.Identity()
        >>> parameters = [torch.zeros(1, requires_grad=True)]
        >>> train, test = (
        ...     Objective(model, torch.nn.functional.mse_loss, [(torch.full((2,), x), torch.zeros(2))],
        ...               parameters=parameters) for x in (1.0, 2.0)
        ... )
        >>> gap(train, test).value
        3.0

    Source: ours; the usual definition.
    """
    same = len(train.parameters) == len(test.parameters) and all(
        torch.equal(a, b) for a, b in zip(train.parameters, test.parameters, strict=True)
    )
    if not same:
        raise ValueError("test: its parameters differ from train's; build both objectives on one model")
    values = []
    for objective in (train, test):
        loss, measured = evaluate(objective, metric)
        total = loss if measured is None else measured
        values.append(total / objective.examples if objective.reduction == "sum" else total)
    return Gap(*values)


@dataclass
class _Climb:
    position: Tensor
    value: float
    first: float
    """The loss of the first candidate."""
    steps: int
    nonfinite: int


class _Ball:
    """The problem in the coordinates u = delta / scale, in which the ball is round."""

    def __init__(self, objective: Objective, scale: Tensor, rho: float, norm: str) -> None:
        self.objective, self.scale, self.rho, self.norm = objective, scale, rho, norm

    def loss(self, position: Tensor) -> float:
        with self.objective.moved(self.objective.unflatten(position * self.scale)):
            return self.objective.value()

    def slope(self, position: Tensor) -> Tensor:
        with self.objective.moved(self.objective.unflatten(position * self.scale)):
            return self.objective.flatten(self.objective.gradient()).to(self.scale) * self.scale

    def border(self, drawn: Tensor) -> Tensor:
        """A random point: on the sphere, or a corner of the cube; nowhere where the scale is zero."""
        drawn = drawn.to(self.scale) * (self.scale > 0)
        return drawn.sign() * self.rho if self.norm == "linf" else self.rho * drawn / torch.linalg.vector_norm(drawn)

    def climb(
        self, position: Tensor, value: float, slope: Tensor, steps: int, told: Callable[[int], None] | None
    ) -> _Climb:
        climb = _Climb(position, value, value, 0, 0)
        length = self.rho
        while climb.steps < steps and slope.any():
            candidate = self._inside(climb.position + length * self._steepest(slope))
            value = self.loss(candidate)
            climb.steps += 1
            if climb.steps == 1:
                climb.first = value
            if told is not None:
                told(climb.steps)
            climb.nonfinite += not math.isfinite(value)
            if math.isfinite(value) and value > climb.value:
                climb.position, climb.value = candidate, value
                length = min(2 * length, 1e6 * self.rho)
                if climb.steps < steps:
                    slope = self.slope(candidate)
            else:
                length /= 2
        return climb

    def _steepest(self, slope: Tensor) -> Tensor:
        """The step of length 1 that raises the loss most."""
        if self.norm == "linf":
            return slope.sign()
        slope = slope / slope.abs().max()  # the square of a tiny gradient would be zero
        return slope.div(torch.linalg.vector_norm(slope))

    def _inside(self, position: Tensor) -> Tensor:
        if self.norm == "linf":
            return position.clamp(-self.rho, self.rho)
        length = float(torch.linalg.vector_norm(position))
        return position * (self.rho / length) if length > self.rho else position


def _scale(objective: Objective, adaptive: bool, eta: float) -> Tensor:
    """A flat vector, in float32 or better."""
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta {eta}: choose 0 or a small positive number; Kwon et al. take 0.01")
    if eta and not adaptive:
        raise ValueError(f"eta {eta}: it is part of the adaptive scale; pass adaptive=True, or leave it out")
    theta = objective.flatten(objective.parameters)
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
    if not adaptive:
        return torch.ones_like(theta)
    scale = theta.abs() + eta
    if not scale.any():
        raise ValueError("adaptive: all parameters are zero, so nothing can move; pass eta above 0, or adaptive=False")
    return scale


def _radius(value: float, name: str) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {value}: choose a positive number; 0.05 is usual for rho, 0.01 for sigma")


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda step: progress(done + step, total)
