"""The plane that minima share, and where other points of the parameter space lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from valleys.lab.errors import LabError
from valleys.landscape.slices.slices import project

_PARALLEL = 1e-4  # share of a distance that must lie across the plane's first direction, above the rounding of float32


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane in the parameter space, with coordinates in which distances are those of the parameters."""

    origin: Tensor  # the point of coordinates (0, 0), flat
    x: Tensor  # orthonormal to y; both flat, float64
    y: Tensor
    spanned_by: tuple[str, str, str]  # names of the three points that lie in it

    def locate(self, point: Tensor) -> tuple[float, float, float]:
        """Return a point's coordinates, and its distance from the plane."""
        ((x, y),) = project([point], self.origin, [[self.x], [self.y]]).tolist()
        return x, y, float(torch.linalg.vector_norm(point.double() - self.at(x, y)))

    def at(self, x: float, y: float) -> Tensor:
        """Return the point of these coordinates, flat, float64."""
        return self.origin.double() + x * self.x + y * self.y


def through(points: Mapping[str, Tensor]) -> Plane:
    """Lay a plane through the first three points that span one, or raise LabError if all lie on one line.

    The first is the origin, and x points to the next that differs from it. A point on the line through these two spans
    nothing and is passed over; it lies in the plane all the same.

    Example:
        >>> corners = {"a": [0.0, 0.0, 1.0], "b": [2.0, 0.0, 1.0], "c": [3.0, 0.0, 1.0], "d": [1.0, 3.0, 1.0]}
        >>> plane = through({name: torch.tensor(corner) for name, corner in corners.items()})
        >>> plane.spanned_by, plane.locate(torch.tensor([1.0, 1.0, 3.0]))
        (('a', 'b', 'd'), (1.0, 1.0, 2.0))
    """
    (first, origin), *others = points.items()
    names, axes = [first], list[Tensor]()
    for name, point in others:
        step = point.double() - origin.double()
        across = step
        for axis in axes * 2:  # twice: once leaves what rounding made of a long step
            across = across - (across @ axis) * axis
        length = torch.linalg.vector_norm(across)
        if float(length) > _PARALLEL * float(torch.linalg.vector_norm(step)):
            names, axes = [*names, name], [*axes, across / length]
        if len(axes) == 2:
            return Plane(origin, axes[0], axes[1], (names[0], names[1], names[2]))
    raise LabError(
        f"{', '.join(points)} lie at one point or on one line, so that no plane goes through them; draw a comparison "
        "whose optimizers reach different weights"
    )
