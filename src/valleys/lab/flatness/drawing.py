"""The landscape between the minima of a comparison's optimizers, in numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from valleys.lab.errors import LabError
from valleys.lab.flatness.measure import Spaced
from valleys.lab.flatness.plane import Plane, through
from valleys.lab.problem.data import count
from valleys.lab.problem.task import Task
from valleys.lab.progress import Follow, Watch
from valleys.landscape.curvature.density import density
from valleys.landscape.evaluation import statistics
from valleys.landscape.objective import Objective
from valleys.landscape.sharpness.worst_case import sharpness
from valleys.landscape.slices.interpolation import interpolate
from valleys.landscape.slices.slices import slice_2d

__all__ = ["drawing"]

GRID = 41
"""Points on each side of the surface."""
START = "initial weights"
"""Name of the point where training began."""
_MARGIN, _NARROW = 0.25, 0.4  # of the longer side: what is added on every side, and the least of the shorter side
_POINTS = 21  # on the line between two minima
_STEPS, _SAMPLES, _EIGENVALUES = 30, 3, 512  # of the spectral density
_ASCENT = 10  # candidates of a sharpness
RADII = {"l2": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "adaptive": (0.1, 0.2, 0.5, 1.0, 2.0)}
"""Radii of the balls in which the loss is raised, by the kind of ball."""

_Batches = list[tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Minimum:
    """A model that an optimizer trained."""

    optimizer: str
    model: nn.Module  # in evaluation mode
    start: nn.Module  # the same model before its training
    run: Mapping[str, int]  # round, seed and trial, as the report counts them
    score: float  # the validation metric, or its negative if it is minimized: the best minimum has the largest


def drawing(
    task: Task,
    minima: Sequence[Minimum],
    *,
    examples: int,
    device: torch.device | str = "cpu",
    grid: int = GRID,
    bar: Watch | None = None,
) -> dict[str, Any]:
    r"""Measure the surface that the minima share, the barriers between them, their spectra and their sharpness.

    The plane goes through the three best minima by validation metric; where there are two, or three on one line,
    through the initial weights of the best as well. The best is the origin, x points to the second, and distances in
    the plane are those of the parameters.

    .. math:: f(x, y) = L(\theta_1 + x\, e_x + y\, e_y), \qquad
        e_x = \frac{\theta_2 - \theta_1}{\lVert \theta_2 - \theta_1 \rVert} \perp e_y

    Running statistics of batch normalisation are estimated anew, from the training examples, wherever weights are
    those of no run, and at the minima in surface and barriers too, so that these are one function of the weights.
    Spectra and sharpness are those of each model with its own statistics.

    Args:
        task: what was learnt; its loss, without augmentation, is what is drawn.
        minima: of two or more optimizers, whose order is kept.
        examples: training and validation examples, evenly spaced, at least 1; they are held in memory.
        device: where the models are.
        grid: points on each side of the surface, 2 or more.
        bar: shows the progress.

    Returns:
        Nested dictionaries and lists of numbers, with inf and NaN where the loss overflows:

        * ``plane``: ``spanned_by`` (three names); ``x`` (grid,) and ``y`` (grid,), the coordinates; ``loss``, a row
          for each y; ``start``, the initial weights of the best minimum: ``x``, ``y``, ``distance`` (from the plane).
        * ``minima``: ``optimizer``, ``round``, ``seed``, ``trial``, ``x``, ``y``, ``distance`` (from the plane),
          ``training_loss`` and ``validation_loss`` of the model, ``plane_loss`` (training loss at the coordinates).
        * ``barriers``, a pair each: ``first``, ``second``, ``distance`` (between them), ``t`` (0 at the first, 1 at the
          second), and for ``training`` and ``validation``: ``losses``, ``barrier`` (largest loss above the straight
          line between the ends' losses) and ``at`` (its t).
        * ``spectra``, a minimum each: ``optimizer``, ``eigenvalues``, ``density``, ``standard_error``, ``sigma`` (the
          width of the smoothing), ``smallest`` and ``largest`` (eigenvalues, before smoothing).
        * ``sharpness``, a minimum each: ``optimizer``, and for the balls ``l2`` and ``adaptive``: ``radii``, ``rises``.
        * ``examples``: how many, of ``training`` and ``validation``.

    Raises:
        LabError: minima on one line with the initial weights; models that differ in more than what was trained; a model
            that the instruments refuse.
    """
    bar = bar or (lambda label, done: lambda step, total: None)
    splits = {"training": task.train, "validation": task.validation}
    batches = {name: list(Spaced(split, examples, torch.device(device))) for name, split in splits.items()}
    ranked = sorted(minima, key=lambda minimum: -minimum.score)
    for minimum in minima:
        _require_comparable(ranked[0], minimum)
    own = {minimum.optimizer: _objective(task, minimum, batches["training"]) for minimum in ranked}
    points = {name: objective.flatten(objective.parameters) for name, objective in own.items()}
    start = torch.cat([one.detach().reshape(-1) for one in ranked[0].start.parameters() if one.requires_grad])
    losses = {
        "training": own[ranked[0].optimizer],
        "validation": Objective(ranked[0].model, task.loss, batches["validation"], check=False),
    }
    between = _Between(losses, batches["training"], points, through({**points, START: start}))
    names = [minimum.optimizer for minimum in minima]
    pairs = list(itertools.combinations(names, 2))
    try:
        return {
            "examples": {name: objective.examples for name, objective in losses.items()},
            "plane": between.surface(start, grid, bar("surface", 0)),
            "minima": [
                {"optimizer": minimum.optimizer, **minimum.run, **between.minimum(minimum.optimizer)}
                for minimum in minima
            ],
            "barriers": [
                between.barrier(*pair, bar(f"barrier between {' and '.join(pair)}", number))
                for number, pair in enumerate(pairs, 1)
            ],
            "spectra": [
                {"optimizer": name, **_spectrum(own[name], bar(f"spectrum of {name}", number))}
                for number, name in enumerate(names, 1 + len(pairs))
            ],
            "sharpness": [
                {"optimizer": name, **_rises(own[name], bar(f"sharpness of {name}", number))}
                for number, name in enumerate(names, 1 + len(pairs) + len(names))
            ],
        }
    except ValueError as error:
        raise LabError(f"the landscape of {task.name} cannot be drawn: {error}") from error


def parts(minima: int) -> int:
    """Return the parts of a drawing that ``bar`` counts: the surface, and what each pair and each minimum has."""
    return 1 + minima * (minima - 1) // 2 + 2 * minima


@dataclass(frozen=True, eq=False)
class _Between:
    """The two losses as functions of the weights alone, with batch statistics that belong to them."""

    losses: Mapping[str, Objective]
    training: _Batches
    points: Mapping[str, Tensor]
    plane: Plane

    def surface(self, start: Tensor, grid: int, follow: Follow) -> dict[str, Any]:
        """Return the plane's grid with its losses, wide enough for all that lies in it."""
        coordinates = [self.plane.locate(point) for point in self.points.values()]
        begin = self.plane.locate(start)
        if START in self.plane.spanned_by:
            coordinates.append(begin)
        ends = [(min(one[axis] for one in coordinates), max(one[axis] for one in coordinates)) for axis in (0, 1)]
        longer = max(high - low for low, high in ends)
        halves = [max(high - low, _NARROW * longer) / 2 + _MARGIN * longer for low, high in ends]
        width, height = (
            ((low + high) / 2 - half, (low + high) / 2 + half) for (low, high), half in zip(ends, halves, strict=True)
        )
        objective = self.losses["training"]
        across, along = (objective.unflatten(axis) for axis in (self.plane.x, self.plane.y))
        surface = slice_2d(objective, across, along, (width, height), grid, recalibrate=self.training, progress=follow)
        assert surface.y is not None
        return {
            "spanned_by": list(self.plane.spanned_by),
            "x": surface.x.tolist(),
            "y": surface.y.tolist(),
            "loss": surface.values.tolist(),
            "start": dict(zip(("x", "y", "distance"), begin, strict=True)),
        }

    def minimum(self, name: str) -> dict[str, float]:
        """Return where a minimum lies, and the losses there."""
        x, y, distance = self.plane.locate(self.points[name])
        return {
            "x": x,
            "y": y,
            "distance": distance,
            "training_loss": self._loss("training", self.points[name]),
            "validation_loss": self._loss("validation", self.points[name]),
            "plane_loss": self._loss("training", self.plane.at(x, y)),
        }

    def barrier(self, first: str, second: str, follow: Follow) -> dict[str, Any]:
        """Return the losses on the straight line between two minima."""
        ends = self.points[first], self.points[second]
        paths = {
            name: interpolate(objective, *ends, _POINTS, recalibrate=self.training, progress=follow)
            for name, objective in self.losses.items()
        }
        return {
            "first": first,
            "second": second,
            "distance": float(torch.linalg.vector_norm(ends[0].double() - ends[1].double())),
            "t": paths["training"].t.tolist(),
            **{
                name: {"losses": path.losses.tolist(), "barrier": path.barrier, "at": path.barrier_at}
                for name, path in paths.items()
            },
        }

    def _loss(self, split: str, point: Tensor) -> float:
        objective = self.losses[split]
        with statistics(objective, self.training) as estimate, objective.placed(objective.unflatten(point)):
            estimate()
            return objective.value()


def _spectrum(objective: Objective, follow: Follow) -> dict[str, Any]:
    result = density(objective, steps=_STEPS, samples=_SAMPLES, points=_EIGENVALUES, progress=follow)
    nodes = torch.cat(result.nodes)
    return {
        "eigenvalues": result.grid.tolist(),
        "density": result.values.tolist(),
        "standard_error": result.standard_error.tolist(),
        "sigma": result.sigma,
        "smallest": float(nodes.min()),
        "largest": float(nodes.max()),
    }


def _rises(objective: Objective, follow: Follow) -> dict[str, Any]:
    """Return the sharpness by radius; what a smaller ball holds, a larger one holds too."""
    result = {}
    for kind, radii in RADII.items():
        climbs = [
            sharpness(objective, radius, adaptive=kind == "adaptive", steps=_ASCENT, progress=follow).value
            for radius in radii
        ]
        result[kind] = {"radii": list(radii), "rises": list(itertools.accumulate(climbs, max))}
    return result


def _objective(task: Task, minimum: Minimum, batches: _Batches) -> Objective:
    try:
        return Objective(minimum.model, task.loss, batches, denominator=count)
    except ValueError as error:
        raise LabError(f"the minimum of {minimum.optimizer} cannot be drawn: {error}") from error


def _require_comparable(best: Minimum, other: Minimum) -> None:
    """Raise LabError if the models differ in what is neither trained nor estimated anew."""
    norms = {name for name, module in best.model.named_modules() if isinstance(module, _NormBase)}
    trained = {
        name for name, parameter in best.model.named_parameters(remove_duplicate=False) if parameter.requires_grad
    }
    values = other.model.state_dict()
    for name, value in best.model.state_dict().items():
        if name in trained or name.rpartition(".")[0] in norms:
            continue
        if not torch.equal(value, values[name]):
            raise LabError(
                f"{name} is not trained and differs between {best.optimizer} and {other.optimizer}, so that no line "
                "joins their models; draw a task whose untrained tensors are the same for all seeds"
            )
