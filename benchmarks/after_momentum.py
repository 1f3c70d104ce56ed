"""E's average a in front of the momentum, beside a behind it: reasons for the former, in numbers.

Writes ``after-momentum.md``: the linear system of a quadratic, the paper's test functions, a small network. Everything
is computed exactly or seeded.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import valleys
from provenance import provenance
from report import listing, table
from valleys.lab import tasks
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.run.config import RunConfig
from valleys.lab.run.trainer import train
from valleys.paper.walks.functions import FUNCTIONS
from valleys.paper.walks.walk import walk
from valleys.paper.walks.walkers import PRESETS

__all__ = ["limit", "main", "parser", "system", "weights"]

BETA2 = 0.9
SETTINGS = ((0.0, 0.99), (-0.05, 0.99), (-0.2, 0.99), (-0.5, 0.99), (-0.9, 0.99), (0.495, 0.01))
"""c = alpha (1 - beta1) and beta1; the second and the last are the paper's rule."""

PLACES: Mapping[str, Any] = {
    "in g": ("momentum", "second_moment"),
    "in m alone": ("momentum",),
    "after m": "after_momentum",
}
WALKS = ("cardioid", "rosenbrock", "f1", "f2")
RATES = (0.03, 0.1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--out", type=Path, default=Path("benchmarks/results/analysis"), help="folder to write")
    result.add_argument("--seeds", type=int, default=3, help="training seeds of the network")
    result.add_argument("--epochs", type=int, default=60, help="length of a training, at batch 1,024; a sixth at 128")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute and write."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    parts = [
        "# a in the gradient, or after the momentum",
        listing(provenance("cpu", 1, ("numpy", "torch", "valleys"))),
        "## A quadratic, by eigenvalues\n\nbeta2 = 0.9, m an average. Largest stable lr times curvature; standard "
        "deviation of the update, and the correlation of an update with the next one, where the gradient is white "
        "noise of standard deviation 1; at lr times curvature = 1 the largest eigenvalue and its angle in degrees per "
        "step.",
        quadratic_table(),
        "## Test functions\n\nALTO with the settings of `valleys trajectories`; cosine is that between a step and the "
        "next one, its mean over the walk; turns are the share of steps with a cosine below 0; straightness is the "
        "distance from the start over the length of the way.",
        walk_table(),
        f"## Digits\n\nThe lab's task, {options.seeds} seeds, mean and standard deviation over them, at the learning "
        f"rate out of {RATES} with the best mean validation accuracy; cosine and straightness are those of "
        "all parameters together.",
        digits_table(options.seeds, options.epochs),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "after-momentum.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def system(x: float, c: float, beta1: float, beta2: float, after: bool) -> np.ndarray:
    r"""Return the matrix of (theta, m, s) for momentum on a quadratic, with a in g or after m.

    .. math::
        m \leftarrow \beta_2 m + (1-\beta_2)(\theta + \alpha a), \; u = m \quad\text{or}\quad
        m \leftarrow \beta_2 m + (1-\beta_2)\,\theta, \; u = m + \alpha a; \qquad
        \alpha a = c (\theta - s), \; \theta \leftarrow \theta - x u

    in units of the curvature; x is the learning rate times the curvature.
    """
    lead = np.array([c, 0.0, -c])  # alpha a of (theta, m, s)
    m = np.array([1 - beta2, beta2, 0.0]) + (0.0 if after else 1 - beta2) * lead
    update = m + lead if after else m
    theta = np.array([1.0, 0.0, 0.0]) - x * update
    return np.stack([theta, m, [1 - beta1, 0.0, beta1]])


def limit(c: float, beta1: float, beta2: float, after: bool) -> float:
    """Return the first x at which an eigenvalue leaves the unit circle, to six digits."""

    def stable(x: float) -> bool:
        return bool(np.abs(np.linalg.eigvals(system(x, c, beta1, beta2, after))).max() < 1)

    grid = np.geomspace(1e-5, 1e5, 4001)
    first = next(i for i, x in enumerate(grid) if not stable(x))
    low, high = grid[first - 1], grid[first]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return float(low)


def weights(c: float, beta1: float, beta2: float, after: bool, count: int = 4000) -> np.ndarray:
    """Return the weights of the gradients in an update, the newest first."""
    m = s = 0.0
    rows = []
    for k in range(count):
        g = float(k == 0)
        lead = c * (g - s)
        m = beta2 * m + (1 - beta2) * (g if after else g + lead)
        s = beta1 * s + (1 - beta1) * g
        rows.append(m + lead if after else m)
    return np.array(rows)


def quadratic_table() -> str:
    """Stability, noise and oscillation of both places."""
    rows = []
    for c, beta1 in SETTINGS:
        for place in ("in g", "after m") if c else ("no E",):
            after = place == "after m"
            h = weights(c, beta1, BETA2, after)
            largest = max(np.linalg.eigvals(system(1.0, c, beta1, BETA2, after)), key=abs)
            rows.append(
                [
                    f"{c:g}, {beta1:g}",
                    place,
                    f"{limit(c, beta1, BETA2, after):.4g}",
                    f"{np.sqrt((h**2).sum()):.3f}",
                    f"{(h[1:] * h[:-1]).sum() / (h**2).sum():.3f}",
                    f"{abs(largest):.4f}, {np.degrees(abs(np.angle(largest))):.1f}",
                ]
            )
    header = ["c, beta1", "a", "stable lr", "noise", "correlation", "eigenvalue at 1, angle"]
    return table(header, rows)


def cosines(steps: Tensor) -> Tensor:
    """Return the cosine between each step and the next one, of those that are not zero."""
    values = torch.nn.functional.cosine_similarity(steps[1:], steps[:-1], dim=1)
    return values[(steps[1:] != 0).any(1) & (steps[:-1] != 0).any(1)]


def walk_table() -> str:
    """ALTO in its places beside LAMB on the paper's test functions."""
    rows = []
    for name in WALKS:
        preset = PRESETS[name]
        shared: dict[str, Any] = {
            "lr": preset.lr["lamb"],
            "betas": (preset.momentum, preset.beta2["lamb"]),
            "weight_decay": 0.0,
            "layer_adaptation": True,
            "foreach": False,
        }
        for place in ("LAMB", *PLACES):
            rule = {"alpha": preset.alpha, "beta": preset.beta1, "accelerate": PLACES.get(place)}
            build = partial(valleys.Lamb, **shared) if place == "LAMB" else partial(valleys.ALTO, **shared, **rule)
            walked = walk(FUNCTIONS[name], build, steps=preset.steps)
            points = walked.points[: walked.finite]
            turns = cosines(points.diff(dim=0))
            distance = (points[-1] - points[0]).norm().item()
            rows.append(
                [
                    name,
                    place,
                    f"{walked.values[walked.finite - 1].item():.3g}",
                    f"{walked.values[: walked.finite].min().item():.3g}",
                    f"{distance:.3g}",
                    f"{distance / points.diff(dim=0).norm(dim=1).sum().item():.3f}",
                    f"{turns.mean().item():.3f}",
                    f"{100 * (turns < 0).double().mean().item():.1f} %",
                ]
            )
    return table(["function", "a", "last value", "lowest value", "distance", "straightness", "cosine", "turns"], rows)


class Swings:
    """Cosines between consecutive updates of an optimizer's parameters, and the way they make, by hooks."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.cosines: list[float] = []
        self.length = 0.0
        self.start = _flat(optimizer)
        self._before, self._last = torch.empty(0), torch.empty(0)
        optimizer.register_step_pre_hook(lambda stepped, *_: self._start(stepped))
        optimizer.register_step_post_hook(lambda stepped, *_: self._end(stepped))

    def _start(self, optimizer: Optimizer) -> None:
        self._before = _flat(optimizer)

    def _end(self, optimizer: Optimizer) -> None:
        self.end = _flat(optimizer)
        update = self.end - self._before
        self.length += update.norm().item()
        if len(self._last):
            self.cosines.append(torch.nn.functional.cosine_similarity(update, self._last, dim=0).item())
        self._last = update


def _flat(optimizer: Optimizer) -> Tensor:
    return torch.cat([p.detach().flatten().double() for group in optimizer.param_groups for p in group["params"]])


def digits_run(
    options: dict[str, Any], lr: float, batch: int, epochs: int, seed: int
) -> tuple[float, float, float, float]:
    """Train once; return both accuracies, the updates' mean cosine, and distance over length of the way."""
    watched: list[Swings] = []

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        groups = valleys.param_groups(model, weight_decay=1e-4)
        optimizer = valleys.ALTO(groups, lr=values["lr"], foreach=True, **options)
        watched.append(Swings(optimizer))
        return optimizer

    spec = OptimizerSpec("alto", build, {"lr": Range(1e-3, 1.0)})
    config = RunConfig(batch_size=batch, epochs=epochs)
    record = train(tasks.load("digits"), spec, {"lr": lr}, config, seed=seed, test=True)
    if record.diverged or record.validation is None or record.test is None:
        return 0.0, 0.0, float("nan"), float("nan")
    evaluation = watched[-1]
    straightness = (evaluation.end - evaluation.start).norm().item() / evaluation.length
    return record.validation, record.test, statistics.fmean(evaluation.cosines), straightness


def digits_table(seeds: int, epochs: int) -> str:
    """Accuracy and oscillation for each place at the best of the learning rates."""
    rows = []
    for batch, length, alphas, beta in ((1024, epochs, (-5.0, -50.0), 0.99), (128, epochs // 6, (0.5,), 0.01)):
        cases: list[tuple[str, float, Any]] = [("no E", 0.0, ())]
        cases += [(place, alpha, PLACES[place]) for alpha in alphas for place in ("in g", "after m")]
        for place, alpha, accelerate in cases:
            options = {"alpha": alpha, "beta": beta, "accelerate": accelerate}
            results = {
                lr: [digits_run(options, lr, batch, max(1, length), seed) for seed in range(seeds)] for lr in RATES
            }
            best = max(RATES, key=lambda lr: statistics.fmean(run[0] for run in results[lr]))
            cells = [_spread([run[i] for run in results[best]], digits) for i, digits in ((1, 2), (2, 3), (3, 3))]
            rows.append([str(batch), f"{alpha:g}, {beta:g}", place, f"{best:g}", *cells])
            print(rows[-1], flush=True)
    return table(["batch", "alpha, beta1", "a", "lr", "test accuracy, %", "cosine", "straightness"], rows)


def _spread(values: Sequence[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} +- {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
