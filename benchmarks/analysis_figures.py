"""Draw where E-adapted momentum is stable, its largest stable learning rate, and steps against the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valleys.palette import COLORS, VERMILION
from valleys.paper.theory.checks import Floats, decay
from valleys.paper.theory.stability import largest_stable_lr, spectral_radius

__all__ = ["limit_figure", "region_figure", "steps_figure"]

# (beta1, beta2): the paper's for large batches; no momentum; a short memory.
_PAIRS = ((0.99, 0.9), (0.99, 0.0), (0.5, 0.9))


def region_figure(pairs: Sequence[tuple[float, float]] = _PAIRS, *, points: int = 160) -> Any:
    """Draw how fast the error falls over learning rate times curvature and c, one panel per (beta1, beta2)."""
    from matplotlib.figure import Figure

    x, c = np.geomspace(0.01, 100, points), np.linspace(-1.4, 1.4, points)
    figure = Figure(figsize=(3.9 * len(pairs) + 1.2, 4.2), layout="constrained")
    panels: Any = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, (beta1, beta2) in zip(panels, pairs, strict=True):
        decay("beta1", beta1)
        decay("beta2", beta2)
        radius = spectral_radius(x[None, :], c[:, None] / (1 - beta1), beta1, beta2)
        steps = np.log10(-np.log(10) / np.log(radius.clip(1e-12, 1 - 1e-12)))
        filling = axes.contourf(x, c, steps.clip(0.3, 4), levels=np.linspace(0.3, 4, 24), cmap="viridis_r")
        axes.contourf(x, c, radius, levels=[1.0, np.inf], colors=["#dddddd"])
        fine = np.linspace(-1.4, 1.4, 2001)
        axes.plot(largest_stable_lr(fine / (1 - beta1), beta1, beta2), fine, color="black", linewidth=1.5)
        for bound in (-1, 1):
            axes.axhline(bound, color=VERMILION, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(x[0], x[-1])
        axes.set_title(f"beta1 = {beta1:g}, beta2 = {beta2:g}", fontsize=10)
        axes.set_xlabel("lr x curvature")
        axes.text(0.97, 0.5, "unstable", transform=axes.transAxes, ha="right", va="center", fontsize=9)
    panels[0].set_ylabel("c = alpha (1 - beta1)")
    bar = figure.colorbar(filling, ax=list(panels), ticks=[1, 2, 3, 4])
    bar.ax.set_yticklabels(["10", "100", "1000", "10,000"])
    bar.set_label("steps in which the error falls tenfold")
    figure.suptitle("Stable left of the black line; dashed: the paper's |c| < 1", fontsize=10)
    return figure


def limit_figure(pairs: Sequence[tuple[float, float]] = (*_PAIRS, (0.9, 0.9))) -> Any:
    """Draw the largest stable learning rate, times the curvature, against c, one line per (beta1, beta2)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    c = np.linspace(-1.4, 1.4, 4001)
    for color, (beta1, beta2) in zip(COLORS, pairs, strict=False):
        decay("beta1", beta1)
        decay("beta2", beta2)
        limit = largest_stable_lr(c / (1 - beta1), beta1, beta2)
        axes.plot(c, limit, color=color, label=f"beta1 = {beta1:g}, beta2 = {beta2:g}")
    for bound in (-1, 1):
        axes.axvline(bound, color="#666666", linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlim(c[0], c[-1])
    axes.set_xlabel("c = alpha (1 - beta1); dashed: the paper's |c| < 1")
    axes.set_ylabel("largest stable lr x curvature")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def steps_figure(batches: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """Draw steps to the target against the batch size.

    ``panels`` has for each schedule the steps of each optimizer, one per batch; NaN leaves a gap.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("panels: there is none; give at least one title with its optimizers")
    for lines in panels.values():
        for name, steps in lines.items():
            if len(steps) != len(batches):
                raise ValueError(
                    f"panels: {name!r} has {len(steps)} steps for {len(batches)} batches; give one for each"
                )
    figure = Figure(figsize=(3.6 * len(panels) + 0.6, 4.8), layout="constrained")
    grid: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names: dict[str, Any] = {}
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        for name, steps in lines.items():
            color = COLORS[(list(names).index(name) if name in names else len(names)) % len(COLORS)]
            values: Floats = np.asarray(steps, dtype=np.float64)
            (names[name],) = axes.plot(
                batches, values, marker="o", markersize=4, linewidth=1.3, color=color, label=name
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("batch size")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("steps to the target")
    figure.legend(names.values(), names.keys(), frameon=False, loc="outside lower center", ncols=2, fontsize=9)
    return figure
