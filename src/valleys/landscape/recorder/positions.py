"""Positions of the parameters: at the start, some steps ago, along the path; whole, or projected to a few numbers."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys.landscape.recorder.projection import Projection
from valleys.landscape.recorder.sums import square_sums, wide

Position = list[Tensor]


class Path(NamedTuple):
    """The positions that a recorder kept.

    Args:
        steps: at which they were.
        points: (number of positions, n) in the order of the optimizer's parameters, or (number of positions, d) if they
            are projected: distances and angles between them are then those of the parameters but for its error.
    """

    steps: list[int]
    points: Tensor

    def coordinates(self, count: int = 2) -> tuple[Tensor, Tensor]:
        r"""The path seen along its principal components.

        .. math:: X - 1 \bar x^T = U S V^T, \qquad \text{coordinates} = U S

        Args:
            count: components, at least 1. Default: 2.

        Returns:
            (number of positions, count) coordinates, in float64, and the share of the variance in each component.

        Raises:
            ValueError: more components than there are.

        Example:
            >>> path = Path([0, 1, 2], torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]))
            >>> [round(x, 6) for x in path.coordinates(1)[0].abs().squeeze().tolist()]
            [1.0, 0.0, 1.0]

        Source: principal component analysis (Pearson 1901) of a training path, as Li et al. 2018 (arXiv 1712.09913).
        """
        most = min(self.points.shape)
        if not 1 <= count <= most:
            raise ValueError(f"count {count}: this path has from 1 to {most} components")
        points = self.points.double()
        left, lengths, _ = torch.linalg.svd(points - points.mean(0), full_matrices=False)
        squares = lengths.square()
        shares = squares / squares.sum() if squares.sum() > 0 else squares
        return left[:, :count] * lengths[:count], shares[:count]


class Positions:
    """The positions a recorder compares with, whole or projected, and a path of ``limit`` of them at most."""

    def __init__(self, every: int, window: int, projection: Projection | None, limit: int | None) -> None:
        self.every, self.window, self.projection, self.limit = every, window, projection, limit
        self.start: Position = []
        self._count = 0  # of tensors
        self._recent: deque[tuple[int, Position]] = deque()
        self._path: list[tuple[int, Tensor]] = []
        self._stride, self._offered = 1, 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Begin with parameters, or go on with more: those count as having been here from the start."""
        here = self._snapshot(tensors, self._count)
        if self._count == 0:
            self.start = here
            if self.due(0):
                self._recent.append((0, here))
            self._walk(0, here)
        else:
            # New lists, not longer ones: the start may be in the window too.
            self.start = self._joined(self.start, here)
            self._recent = deque((step, self._joined(old, here)) for step, old in self._recent)
            flat = _flat(here)
            self._path = [
                (step, point + flat.to(point) if self.projection else torch.cat([point, flat.to(point)]))
                for step, point in self._path
            ]
        self._count += len(tensors)

    def record(self, step: int, tensors: Sequence[Tensor]) -> tuple[list[str], Tensor]:
        """Return names and rows of square distances to the start and, if the window is full, to a window ago.

        A row has one column per tensor, or one in all if projected.
        """
        here = list(tensors) if self.projection is None else self._snapshot(tensors, 0)
        names, rows = ["drift"], [square_sums(here, self.start)]
        if self._recent and self._recent[0][0] == step - self.window:
            names.append("window_drift")
            rows.append(square_sums(here, self._recent.popleft()[1]))
        self._walk(step, here)
        return names, torch.stack(rows)

    def due(self, step: int) -> bool:
        """Return True if a record will look back to this step."""
        return (step + self.window) % self.every == 0

    def keep(self, step: int, tensors: Sequence[Tensor]) -> None:
        """Keep the position, which is due, until then."""
        self._recent.append((step, self._snapshot(tensors, 0)))

    def path(self) -> Path:
        """Return the positions kept along the path."""
        return Path([step for step, _ in self._path], torch.stack([point for _, point in self._path]))

    def tensors(self) -> list[Tensor]:
        """Return all tensors kept, each once."""
        tensors = [*self.start, *(x for _, position in self._recent for x in position), *(x for _, x in self._path)]
        return list({id(x): x for x in tensors}.values())

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors, which are never written to again."""
        return {
            "start": list(self.start),
            "recent": [[step, list(position)] for step, position in self._recent],
            "path": [[step, point] for step, point in self._path],
            "stride": self._stride,
            "offered": self._offered,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, on the devices of the present one."""
        shapes, saved = [x.shape for x in self.start], [x.shape for x in state["start"]]
        if shapes != saved:
            raise ValueError(
                f"state_dict: it is of tensors of the shapes {[tuple(s) for s in saved]}, and this recorder's are "
                f"{[tuple(s) for s in shapes]}; load it into a recorder of the same parameters"
            )
        devices = [x.device for x in self.start]

        def placed(position: Position) -> Position:
            return [x.to(device) for x, device in zip(position, devices, strict=True)]

        self.start = placed(state["start"])
        self._recent = deque((step, placed(position)) for step, position in state["recent"])
        self._path = [(step, point.to(devices[0])) for step, point in state["path"]]
        self._stride, self._offered = state["stride"], state["offered"]

    def _snapshot(self, tensors: Sequence[Tensor], first: int) -> Position:
        if self.projection is None:
            return [tensor.clone() for tensor in tensors]
        return [self.projection(tensors, first)]

    def _joined(self, old: Position, new: Position) -> Position:
        return [*old, *new] if self.projection is None else [old[0] + new[0].to(old[0])]

    def _walk(self, step: int, here: Position) -> None:
        if self.limit is None:
            return
        if self._offered % self._stride == 0:
            self._path.append((step, _flat(here)))
            if len(self._path) > self.limit:
                self._path = self._path[::2]
                self._stride *= 2
        self._offered += 1


def _flat(position: Position) -> Tensor:
    """Return all tensors in one new vector."""
    parts = [wide(x).reshape(-1) for x in position]
    dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts))
    return torch.cat([part.to(parts[0].device, dtype) for part in parts])
