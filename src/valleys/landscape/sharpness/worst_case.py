"""Worst-case sharpness: the largest rise of the loss in a ball around the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter
from valleys.landscape.sharpness.scale import perturbation_scale, require_positive
from valleys.landscape.slices.directions import normal

__all__ = ["Sharpness", "sharpness"]

_NORMS = ("l2", "linf")


@dataclass(frozen=True)
class Sharpness:
    """Result of an ascent within a ball around the parameters.

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
    progress: Progress | bool | None = None,
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
        progress: a function of the candidates tried and to try, or True for a counter on a terminal.

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
    require_positive(rho, "rho")
    if norm not in _NORMS:
        raise ValueError(f"norm {norm!r}: choose one of {', '.join(_NORMS)}")
    for name, number in (("steps", steps), ("restarts", restarts)):
        if number < 1:
            raise ValueError(f"{name} {number}: choose 1 or more")
    scale = perturbation_scale(objective, adaptive, eta)
    ball = _Ball(objective, scale, rho, norm)
    centre, slope = objective.value(), ball.slope(torch.zeros_like(scale))
    report = reporter(progress, "sharpness", "candidates")
    generator = torch.Generator().manual_seed(seed)
    rises: list[float] = []
    best, nonfinite, longest, one_step = torch.zeros_like(scale), 0, 0, 0.0
    for restart in range(restarts):
        counted = _shifted(report, restart * steps, restarts * steps)
        if restart == 0 and slope.any():
            climb = ball.climb(torch.zeros_like(scale), centre, slope, steps, counted)
            one_step = climb.first - centre
        else:
            start = ball.border(objective.flatten(normal(objective, generator)))
            value = ball.loss(start)
            if not math.isfinite(value):
                nonfinite += 1
                start, value = torch.zeros_like(scale), centre
            climb = ball.climb(start, value, ball.slope(start), steps, counted)
        rise = climb.value - centre
        if rise > max([0.0, *rises]):
            best = climb.position
        rises.append(rise)
        nonfinite += climb.nonfinite
        longest = max(longest, climb.steps)
    first_order = rho * float(torch.linalg.vector_norm(slope, 2 if norm == "l2" else 1))
    direction = objective.unflatten(best * scale)
    return Sharpness(max(0.0, *rises), one_step, first_order, tuple(rises), longest, nonfinite, direction)


@dataclass
class _Climb:
    position: Tensor
    value: float
    first: float  # the loss of the first candidate
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
        """Return a random point: on the sphere, or a corner of the cube; 0 where the scale is zero."""
        point = drawn.to(self.scale) * (self.scale > 0)
        return point.sign() * self.rho if self.norm == "linf" else self.rho * point / torch.linalg.vector_norm(point)

    def climb(self, position: Tensor, value: float, slope: Tensor, steps: int, report: Callable[[int], None]) -> _Climb:
        climb = _Climb(position, value, value, 0, 0)
        length = self.rho
        while climb.steps < steps and slope.any():
            candidate = self._inside(climb.position + length * self._steepest(slope))
            value = self.loss(candidate)
            climb.steps += 1
            if climb.steps == 1:
                climb.first = value
            report(climb.steps)
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
        """Return the step of length 1 that raises the loss most."""
        if self.norm == "linf":
            return slope.sign()
        slope = slope / slope.abs().max()  # the square of a tiny gradient would be zero
        return slope.div(torch.linalg.vector_norm(slope))

    def _inside(self, position: Tensor) -> Tensor:
        if self.norm == "linf":
            return position.clamp(-self.rho, self.rho)
        length = float(torch.linalg.vector_norm(position))
        return position * (self.rho / length) if length > self.rho else position


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda step: progress(done + step, total)
