"""The picture for readers without JavaScript: one pair of walks down the cardioid's valley, as SVG."""

from __future__ import annotations

import torch
from torch import Tensor

from valleys import reference
from valleys.paper.walks.functions import FUNCTIONS

_LR, _ALPHA, _B1, _B2, _STEPS, _START = 0.2, -160.0, 0.995, 0.5, 600, (-1.5, 1.5)
_WIDTH, _HEIGHT, _UNIT = 620, 520, 160.0
_LEVELS = (0.1, 0.3, 0.7, 1.4, 2.6)  # of the root of the function
_CARDIOID = FUNCTIONS["cardioid"]

SAYS = (
    f"The valley of the squared cardioid from ({_START[0]}, {_START[1]}), {_STEPS} steps. Orange square: Adam at "
    f"lr {_LR}, which stops where it meets the floor. Blue circle: EAdam at alpha {_ALPHA:.0f}, beta1 {_B1}, which "
    "goes on along it. Dashed: the middle of the floor, where the function is zero."
)


def walk(alpha: float) -> Tensor:
    """Return the points of EAdam's walk down the squared cardioid, (steps + 1, 2); alpha = 0 is Adam itself.

    Example:
        >>> bool((walk(0.0)[-1] - walk(0.0)[-100]).norm() < 1e-6)  # Adam has stopped
        True

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 4 and Fig. 1; start, lr, alpha, beta1 and beta2 are ours.
    """
    theta = torch.tensor(_START, dtype=torch.float64)
    memory: reference.TwoBuffer | reference.OneBuffer = reference.TwoBuffer(0 * theta, 0 * theta)
    moments, points = reference.zeros(theta), [theta]
    for _ in range(_STEPS):
        gradient = _CARDIOID.gradient(theta)
        theta, memory, moments = reference.eadam(
            theta, gradient, memory, moments, lr=_LR, alpha=alpha, b1=_B1, b2=_B2, b3=0.999, eps=1e-8
        )
        points.append(theta)
    return torch.stack(points)


def draw() -> str:
    """Return the picture, an ``svg`` element whose colours are the page's."""
    floor = _level(0.0)
    parts = [f'<path class="floor" d="{floor}"/>', f'<path class="middle" d="{floor}"/>']
    parts += [f'<path class="level" d="{_level(level)}"/>' for level in _LEVELS]
    plain, adapted = walk(0.0), walk(_ALPHA)
    for name, points in (("adapted", adapted), ("plain", plain)):
        parts.append(f'<g class="{name}"><path class="walk" d="{_path(points)}"/>{_end(name, points[-1])}</g>')
    x, y = _place(plain[0])
    parts.append(f'<circle class="start" cx="{x}" cy="{y}" r="5"/>')
    title = "Two walks from one start into the valley of the squared cardioid"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def _level(level: float) -> str:
    """Return the outer curve of this level: by bisection, since the function grows with the radius beyond the floor."""
    phi = torch.linspace(0, 2 * torch.pi, 241, dtype=torch.float64)
    direction = torch.stack((phi.cos(), phi.sin()), dim=-1)
    low = 1 - phi.cos()  # the floor
    high = low + 2
    for _ in range(40):
        middle = (low + high) / 2
        outside = _CARDIOID.f(middle.unsqueeze(-1) * direction) > level**2
        low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
    return _path(low.unsqueeze(-1) * direction)


def _place(point: Tensor) -> tuple[float, float]:
    return round(_WIDTH * 0.68 + _UNIT * float(point[0]), 1), round(_HEIGHT / 2 - _UNIT * float(point[1]), 1)


def _path(points: Tensor) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in map(_place, points))


def _end(name: str, point: Tensor) -> str:
    x, y = _place(point)
    if name == "adapted":
        return f'<circle class="end" cx="{x}" cy="{y}" r="8"/>'
    return f'<path class="end" d="M{x - 7} {y - 7}h14v14h-14z"/>'
