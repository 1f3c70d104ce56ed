"""Pictures of slices and of the way between two solutions: a curve, contours, a surface; a trajectory on top."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from valleys.landscape.slices.interpolation import Path1D
from valleys.landscape.slices.scales import color_range, is_wide, levels_between, norm, round_ticks
from valleys.landscape.slices.slices import Slice
from valleys.palette import VERMILION, literal, look, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["contour", "plot_1d", "surface"]

_MAP = "viridis"
_MISSING = "#d9d9d9"
_ENDS = (("o", "#ffffff", 7, 0, "start"), ("*", VERMILION, 13, -1, "end"))  # marker, colour, size, index, name


def plot_1d(
    curves: Slice | Path1D | Mapping[str, Slice | Path1D],
    path: str | Path | None = None,
    *,
    metric: str | None = None,
    xlabel: str | None = None,
    title: str = "",
) -> Figure:
    """Draw losses along a line.

    The scale is logarithmic where the losses are positive and differ by more than a factor of 10. Of an interpolation
    the straight line between its ends is dotted, and the barrier above it named. A point whose loss is not finite
    leaves a gap, with a cross at the upper edge.

    Args:
        curves: one, or several by name: slices on a line or interpolations.
        path: the file to write, PNG or what its ending says; None: none.
        metric: the name of the curves' metric, to draw it in a second panel.
        xlabel: of the horizontal axis. Default: what the curves are.
        title: of the figure.

    Returns:
        The figure; no window shows it.

    Raises:
        ValueError: no curves; a slice of a plane; a metric that was not measured.

    Example:
        >>> import torch
        >>> t = torch.linspace(0, 1, 3, dtype=torch.float64)
        >>> figure = plot_1d(Path1D(t, torch.tensor([1.0, 3.0, 1.0]), None))
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['barrier 2', '_line between the ends']

    Source: ours.
    """
    table = curves if isinstance(curves, Mapping) else {"": curves}
    if not table:
        raise ValueError("curves: there are none; give at least one slice or interpolation")
    for name, curve in table.items():
        if isinstance(curve, Slice) and curve.y is not None:
            raise ValueError(f"curves: {name!r} is a plane; draw it with contour or surface")
        if metric is not None and curve.metric is None:
            raise ValueError(f"metric {metric!r}: {name!r} has none; pass metric= where it is measured")
    figure = new_figure((8, 5) if metric is None else (8, 7))
    panels = figure.subplots(1 if metric is None else 2, 1, sharex=True, squeeze=False)[:, 0]
    finite: list[float] = []
    for number, (name, curve) in enumerate(table.items()):
        style: dict[str, Any] = {**look(number), "linewidth": 2, "markersize": 3}
        color = style["color"]
        if isinstance(curve, Slice):
            x, losses, label = curve.x, curve.values, name
        else:
            x, losses = curve.t, curve.losses
            label = f"{name} (barrier {curve.barrier:.3g})" if name else f"barrier {curve.barrier:.3g}"
        panels[0].plot(x, losses, label=literal(label) or None, **style)
        if isinstance(curve, Path1D):
            panels[0].plot(x, losses - curve.excess, ":", color=color, linewidth=1, label="_line between the ends")
        _mark_missing(panels[0], x, losses, color)
        finite += losses[losses.isfinite()].tolist()
        if metric is not None:
            panels[1].plot(x, curve.metric, **style)
    if is_wide(finite):
        panels[0].set_yscale("log")
    panels[0].set_ylabel("loss")
    if metric is not None:
        panels[1].set_ylabel(literal(metric))
    both_ends = all(isinstance(curve, Path1D) for curve in table.values())
    default = "t, from the first solution (0) to the second (1)" if both_ends else "coordinate along the direction"
    panels[-1].set_xlabel(literal(default if xlabel is None else xlabel))
    panels[0].set_title(literal(title))
    for axes in panels:
        if not both_ends:
            axes.axvline(0, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
        plain(axes)
    if panels[0].get_legend_handles_labels()[1]:
        panels[0].legend(frameon=False)
    return _written(figure, path)


def contour(
    plane: Slice,
    path: str | Path | None = None,
    *,
    trajectory: Tensor | None = None,
    metric: str | None = None,
    levels: int = 24,
    xlabel: str = "first direction",
    ylabel: str = "second direction",
    title: str = "",
) -> Figure:
    """Draw a plane as contours, with a trajectory on top.

    The levels are logarithmic where the values are positive and differ by more than a factor of 10, and then span six
    decades at most. Points whose loss is not finite are grey.

    Args:
        plane: from ``slice_2d``.
        path: the file to write, PNG or what its ending says; None: none.
        trajectory: (points, 2) coordinates from ``project``, in order. Parts outside of the plane are cut off, and the
            legend says how many points they have.
        metric: the name of the slice's metric, to draw it in place of the loss.
        levels: how many bands of colour, at least 2.
        xlabel: of the first direction.
        ylabel: of the second.
        title: of the figure.

    Returns:
        The figure, which no window shows by itself.

    Raises:
        ValueError: a slice on a line; nothing finite; a metric that was not measured; a trajectory of another shape.

    Example:
        >>> x = torch.linspace(-1, 1, 5, dtype=torch.float64)
        >>> plane = Slice(x, x, x**2 + x[:, None] ** 2, 0.0, None)
        >>> figure = contour(plane, trajectory=torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['trajectory', 'start', 'end']

    Source: ours; the trajectory on the plane: Li et al. 2018 (arXiv 1712.09913), Sec. 7.
    """
    import numpy as np
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    values, points = _plane(plane, metric), _trajectory(trajectory)
    if levels < 2:
        raise ValueError(f"levels {levels}: choose 2 or more")
    low, high, logarithmic = color_range(values, metric is None)
    steps = levels_between(low, high, levels, logarithmic)
    extend = "min" if float(values[values.isfinite()].min()) < low else "neither"
    figure = new_figure((7.5, 6))
    axes = figure.add_subplot()
    axes.set_facecolor(_MISSING)
    # A logarithm takes no zero: what is below the scale goes just below it.
    heights = np.ma.masked_invalid((values.clamp(min=low / 2) if logarithmic else values).numpy())
    filled = axes.contourf(
        plane.x, plane.y, heights, levels=steps, norm=norm(low, high, logarithmic), cmap=_MAP, extend=extend
    )
    axes.contour(plane.x, plane.y, heights, levels=steps, colors="white", linewidths=0.4, alpha=0.5)
    bar = figure.colorbar(filled, ax=axes, label=literal(metric or "loss"))
    if logarithmic:
        bar.set_ticks(round_ticks(low, high), labels=[f"{tick:g}" for tick in round_ticks(low, high)])
        bar.ax.minorticks_off()
    else:
        bar.set_ticks([tick for tick in MaxNLocator(7).tick_values(low, high) if low <= tick <= high])
    handles = []
    if points is not None:
        handles = _draw_trajectory(axes, points, plane)
    if not bool(values.isfinite().all()):
        handles.append(Patch(facecolor=_MISSING, label="not finite"))
    if handles:
        axes.legend(handles=handles, loc="best", framealpha=0.85, fontsize=9)
    _frame(axes, plane, xlabel, ylabel, title)
    return _written(figure, path)


def surface(
    plane: Slice,
    path: str | Path | None = None,
    *,
    trajectory: Tensor | None = None,
    metric: str | None = None,
    xlabel: str = "first direction",
    ylabel: str = "second direction",
    title: str = "",
    elevation: float = 40.0,
    azimuth: float = -60.0,
) -> Figure:
    """Draw a plane as a surface in three dimensions, with a trajectory on it.

    The height is logarithmic where ``contour`` is. The trajectory lies on the surface, at the height that the surface
    has there; the points' own losses may differ, as they need not lie in the plane. Points that are not finite are
    holes.

    Args:
        plane: from ``slice_2d``.
        path: the file to write, PNG or what its ending says; None: none.
        trajectory: (points, 2) coordinates from ``project``, in order; points outside of the plane are left out.
        metric: the name of the slice's metric, to draw it in place of the loss.
        xlabel: of the first direction.
        ylabel: of the second.
        title: of the figure.
        elevation: of the eye above the plane, in degrees.
        azimuth: of the eye around the vertical, in degrees.

    Returns:
        The figure, which no window shows by itself.

    Raises:
        ValueError: a slice on a line; nothing finite; a metric that was not measured; a trajectory of another shape.

    Example:
        >>> x = torch.linspace(-1, 1, 5, dtype=torch.float64)
        >>> surface(Slice(x, x, x**2 + x[:, None] ** 2, 0.0, None)).axes[0].get_zlabel()
        'loss'

    Source: ours.
    """
    import numpy as np

    values, points = _plane(plane, metric), _trajectory(trajectory)
    low, high, logarithmic = color_range(values, metric is None)
    heights = torch.where(values.isfinite(), values.clamp(min=low), math.nan)
    heights = heights.log10() if logarithmic else heights
    ends = (math.log10(low), math.log10(high)) if logarithmic else (low, high)
    figure = new_figure((8, 6.5))
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    xs, ys = np.meshgrid(plane.x.numpy(), _y(plane).numpy())
    style: dict[str, Any] = {"cmap": _MAP, "norm": norm(*ends, False), "linewidth": 0.15, "edgecolor": (1, 1, 1, 0.35)}
    sheet = axes.plot_surface(xs, ys, heights.numpy(), rcount=len(ys), ccount=len(xs[0]), zorder=1, **style)
    bar = figure.colorbar(sheet, ax=axes, label=literal(metric or "loss"), shrink=0.65, pad=0.1)
    if logarithmic:
        ticks = round_ticks(low, high)
        for axis in (bar, axes.zaxis):
            axis.set_ticks([math.log10(tick) for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    if points is not None:
        lifted = _heights(plane, heights, points) + 0.01 * (ends[1] - ends[0])  # above what it would sink into
        handles = _draw_trajectory(axes, points, plane, lifted)
        axes.legend(handles=handles, loc="upper left", framealpha=0.85, fontsize=9)
    axes.view_init(elev=elevation, azim=azimuth)
    axes.set_zlabel(literal(metric or "loss"))
    _frame(axes, plane, xlabel, ylabel, title)
    return _written(figure, path)


def _frame(axes: Any, plane: Slice, xlabel: str, ylabel: str, title: str) -> None:
    axes.set(xlabel=literal(xlabel), ylabel=literal(ylabel), title=literal(title))
    axes.set(xlim=(float(plane.x[0]), float(plane.x[-1])), ylim=(float(_y(plane)[0]), float(_y(plane)[-1])))


def _written(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _y(plane: Slice) -> Tensor:
    if plane.y is None:
        raise ValueError("plane: it is a slice on a line; draw it with plot_1d, or measure a plane with slice_2d")
    return plane.y


def _plane(plane: Slice, metric: str | None) -> Tensor:
    """Return the values to draw."""
    _y(plane)
    if metric is not None and plane.metric is None:
        raise ValueError(f"metric {metric!r}: the slice has none; pass metric= to slice_2d")
    values = plane.values if metric is None or plane.metric is None else plane.metric
    if not bool(values.isfinite().any()):
        raise ValueError("plane: no value of it is finite; choose a smaller span")
    return values


def _trajectory(trajectory: Tensor | None) -> Tensor | None:
    if trajectory is not None and (trajectory.dim() != 2 or trajectory.shape[1] != 2 or len(trajectory) == 0):
        raise ValueError(f"trajectory: of shape {tuple(trajectory.shape)}; give (points, 2), as project does")
    return trajectory


def _draw_trajectory(axes: Any, points: Tensor, plane: Slice, heights: Tensor | None = None) -> list[Any]:
    """Draw on the plane, or at heights above it; return what the legend names: no end that is not seen."""
    from matplotlib.patheffects import withStroke

    columns = [*points.T.tolist(), *([] if heights is None else [heights.tolist()])]
    outline = [withStroke(linewidth=3, foreground="black")]
    line = axes.plot(*columns, color="white", linewidth=1.5, path_effects=outline, zorder=3)[0]
    if heights is None:
        axes.plot(*columns, ".", color="black", markersize=3, zorder=4)
    visible = _inside(plane, points)
    out = len(points) - int(visible.sum())
    line.set_label("trajectory" if out == 0 else f"trajectory ({out} of {len(points)} points outside)")
    ends = [
        axes.plot(*([c[at]] for c in columns), marker, color=color, markersize=size, mec="black", label=label, zorder=5)
        for marker, color, size, at, label in _ENDS
        if visible[at]
    ]
    return [line, *(end[0] for end in ends)]


def _inside(plane: Slice, points: Tensor) -> Tensor:
    corners = torch.stack([torch.stack([axis[0], axis[-1]]) for axis in (plane.x, _y(plane))])
    return ((points >= corners[:, 0]) & (points <= corners[:, 1])).all(1)


def _heights(plane: Slice, heights: Tensor, points: Tensor) -> Tensor:
    """Interpolate bilinearly in each cell; NaN outside, where nothing is drawn."""
    cells, shares = [], []
    for axis, position in zip((plane.x, _y(plane)), points.T, strict=True):
        cell = torch.searchsorted(axis, position.to(axis).contiguous(), right=True).clamp(1, len(axis) - 1) - 1
        cells.append(cell)
        shares.append((position - axis[cell]) / (axis[cell + 1] - axis[cell]))
    (i, j), (x, y) = cells, shares
    lower, upper = ((1 - x) * heights[row, i] + x * heights[row, i + 1] for row in (j, j + 1))
    return torch.where(_inside(plane, points), (1 - y) * lower + y * upper, math.nan)


def _mark_missing(axes: Any, x: Tensor, losses: Tensor, color: str) -> None:
    missing = x[~losses.isfinite()].tolist()
    if missing:
        where = axes.get_xaxis_transform()  # horizontally data, vertically a share of the axes
        axes.plot(missing, [0.98] * len(missing), "x", color=color, transform=where, label="not finite")
