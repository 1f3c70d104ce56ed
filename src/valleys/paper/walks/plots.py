"""Pictures of walks on test functions: the plain optimizer beside its adapted form, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from valleys import palette
from valleys.paper.walks.functions import FUNCTIONS, Function
from valleys.paper.walks.measures import Measures, measure
from valleys.paper.walks.walk import Walk, walk
from valleys.paper.walks.walkers import FAMILIES, PRESETS, Walker, walkers

__all__ = ["TrajectoryReport", "TrajectoryRow", "draw"]

COLORS = {
    "SGD": palette.SKY,
    "ESGD": palette.BLUE,
    "Adam": palette.ORANGE,
    "EAdam": palette.VERMILION,
    "LAMB": palette.PURPLE,
    "ALTO": palette.GREEN,
}
"""Each optimizer's colour in every picture."""

_CONTROL = palette.BLACK
_VALLEY = ("#FFF3B0", "#B59B00")  # fill and edge

_STYLES: Mapping[str, Any] = {
    "plain": {"linestyle": (0, (4, 1.5)), "linewidth": 2.0, "zorder": 4},
    "adapted": {"linestyle": "-", "linewidth": 2.0, "zorder": 3},
    "control": {"linestyle": (0, (1, 1.2)), "linewidth": 1.2, "zorder": 5},
}
_ENDS = {"plain": "D", "adapted": "s", "control": "o"}


@dataclass(frozen=True)
class TrajectoryRow:
    """One walk.

    Args:
        function: on which.
        walker: the optimizer with its settings.
        walk: its points and values.
        measures: the walk in numbers.
    """

    function: str
    walker: Walker
    walk: Walk
    measures: Measures


@dataclass(frozen=True)
class TrajectoryReport:
    """Walks in numbers and pictures, from :func:`draw`.

    Args:
        rows: one per walk.
        pictures: the PNG files.
    """

    rows: tuple[TrajectoryRow, ...]
    pictures: tuple[Path, ...]

    def table(self) -> list[list[str]]:
        """Return the numbers as text, the header first; "-" where a function has no valley or no known floor."""
        header = ["function", "optimizer", "lr", "length in the valley", "floor covered", "lowest f"]
        return [
            [*header, "minima passed", "ends at"],
            *(
                [
                    row.function,
                    row.walker.name,
                    f"{row.walker.lr:.3g}",
                    _number(row.measures.arc),
                    _number(row.measures.floor),
                    f"{row.measures.lowest:.3g}",
                    str(row.measures.passed),
                    "diverged" if row.measures.diverged else _place(row.measures.end),
                ]
                for row in self.rows
            ),
        ]


def draw(
    functions: Sequence[str] | None = None,
    *,
    optimizers: Sequence[str] | None = None,
    lr: float | None = None,
    alpha: float | None = None,
    beta1: float | None = None,
    steps: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    control: bool = True,
    out: Path,
) -> TrajectoryReport:
    """Walk from each function's start and draw the walks.

    Args:
        functions: names in ``FUNCTIONS``. Default: all.
        optimizers: of sgd, adam and lamb; each walks beside its adapted form, ESGD, EAdam or ALTO. Default: all three.
        lr: learning rate of all, > 0. Default: that of ``PRESETS`` for each function and optimizer.
        alpha: strength of E, at most 0. Default: the preset's, -50 but on f1 and f2, where it is the paper's.
        beta1: memory of E, in [0, 1). Default: the preset's, 0.99.
        steps: of each walk, >= 1. Default: the preset's, 500 or 2000.
        noise: standard deviation of what is added to each coordinate of the gradient, >= 0. Default: 0.
        seed: of the noise. Default: 0.
        control: show the plain optimizer with a momentum that remembers as long as E, too. Default: True.
        out: folder for ``FUNCTION.png``; made if it is not there.

    Returns:
        The walks, their numbers and the pictures.

    Raises:
        ValueError: an unknown function or optimizer, or a value out of range; before anything is drawn.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = draw(["cardioid"], optimizers=["sgd"], out=Path(folder))
        ...     [path.name for path in report.pictures]
        ['cardioid.png']
        >>> for row in report.rows:
        ...     print(row.walker.name, round(row.measures.floor, 2))
        SGD 0.05
        ESGD 0.31
        SGD, equal memory 0.86

    Source: Zhao et al. 2025 (arXiv 2510.27153), Figs. 1 and 8, in kind.
    """
    names = list(FUNCTIONS if functions is None else functions)
    families = list(FAMILIES if optimizers is None else optimizers)
    if not names:
        raise ValueError(f"functions: name at least one of {', '.join(FUNCTIONS)}")
    if not families:
        raise ValueError(f"optimizers: name at least one of {', '.join(FAMILIES)}")
    for name in names:
        if name not in FUNCTIONS:
            raise ValueError(f"function {name!r}: choose of {', '.join(FUNCTIONS)}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps {steps}: choose 1 or more")
    plans = [(name, _walkers(name, family, lr, alpha, beta1)) for name in names for family in families]
    rows = []
    for name, trio in plans:
        function, length = FUNCTIONS[name], PRESETS[name].steps if steps is None else steps
        for walker in trio if control else trio[:2]:
            path = walk(function, walker.make, steps=length, noise=noise, seed=seed)
            rows.append(TrajectoryRow(name, walker, path, measure(path)))
    out.mkdir(parents=True, exist_ok=True)
    pictures = tuple(out / f"{name}.png" for name in names)
    for name, file in zip(names, pictures, strict=True):
        picture(FUNCTIONS[name], [row for row in rows if row.function == name], file)
    return TrajectoryReport(tuple(rows), pictures)


def picture(function: Function, rows: Sequence[TrajectoryRow], path: Path) -> None:
    """Draw walks on one function into a PNG file, a panel for each family of optimizers."""
    if not rows or any(row.function != function.name for row in rows):
        raise ValueError(f"rows: give one walk or more, all on {function.name}")
    from matplotlib.transforms import offset_copy

    families = list(dict.fromkeys(row.walker.family for row in rows))
    flat = function.dimension == 1
    wide, high = _panel(function)
    figure = palette.new_figure((wide * len(families) + 0.5, high))
    grid = figure.subplots(2 if flat else 1, len(families), squeeze=False, sharex=True, sharey="row")
    window = _range(rows) if flat else (0.0, 0.0)
    for column, family in enumerate(families):
        panel = [row for row in rows if row.walker.family == family]
        if flat:
            _line(grid[0][column], grid[1][column], function, panel, window)
        else:
            _contours(grid[0][column], function)
            _paths(grid[0][column], function, panel)
        grid[0][column].set_title(f"{FAMILIES[family].plain} and {FAMILIES[family].adapted}", fontsize=11)
        below = offset_copy(grid[-1][column].transAxes, figure, 0.0, -0.5)  # inches, under the label of the axis
        handles, labels = grid[-1][column].get_legend_handles_labels()
        places: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "bbox_transform": below}
        grid[-1][column].legend(handles, labels, frameon=False, fontsize=8, handlelength=3, **places)
    if flat:
        grid[0][0].set_ylabel("f(x)")
        grid[1][0].set_ylabel("step")
    else:
        grid[0][0].set_ylabel("y")
    figure.savefig(path, dpi=100)
    _shrink(path)


def _walkers(
    name: str, family: str, lr: float | None, alpha: float | None, beta1: float | None
) -> tuple[Walker, Walker, Walker]:
    preset = PRESETS[name]
    return walkers(
        family,
        preset.lr.get(family, math.nan) if lr is None else lr,
        alpha=preset.alpha if alpha is None else alpha,
        beta1=preset.beta1 if beta1 is None else beta1,
        momentum=preset.momentum,
        beta2=preset.beta2.get(family, 0.0),
    )


def _panel(function: Function) -> tuple[float, float]:
    """Return width and height in inches such that lengths are alike along both axes as far as is sensible."""
    if function.dimension == 1:
        return 4.1, 5.2
    (left, right), (low, high) = function.bounds
    return 4.1, 1.7 + 3.3 * min(max((high - low) / (right - left), 0.6), 1.1)


def _contours(axes: Any, function: Function) -> None:
    from matplotlib.colors import LogNorm

    (left, right), (low, high) = function.bounds
    x = torch.linspace(left, right, 401, dtype=torch.float64)
    y = torch.linspace(low, high, 401, dtype=torch.float64)
    values = function.f(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1))
    top = float(values.max())
    low_value = max(float(values.quantile(0.01)), 1e-5 * top)
    levels = torch.logspace(math.log10(low_value), math.log10(top), 13).tolist()
    levels[-1] *= 1 + 1e-6  # rounding must not leave the highest point white
    shade = LogNorm(low_value, top * (top / low_value) ** 1.2)  # the darkest stays a light grey
    axes.contourf(x, y, values.clip(min=low_value), levels=levels, norm=shade, cmap="Greys", zorder=0)
    axes.contour(x, y, values, levels=levels, colors="#AAAAAA", linewidths=0.4, zorder=1)
    if function.valley is not None:
        axes.contourf(x, y, values, levels=[-1, function.valley], colors=[_VALLEY[0]], zorder=1)
        axes.contour(x, y, values, levels=[function.valley], colors=[_VALLEY[1]], linewidths=0.7, zorder=2)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_xlabel("x")


def _paths(axes: Any, function: Function, rows: Sequence[TrajectoryRow]) -> None:
    for row in rows:
        points = row.walk.points[: row.walk.finite]
        style = _STYLES[row.walker.role]
        axes.plot(points[:, 0], points[:, 1], color=_color(row.walker), label=_label(row, function), **style)
        axes.plot(*points[-1].tolist(), color=_color(row.walker), **_end(row.walker.role))
    start = rows[0].walk.points[0].tolist()
    axes.plot(*start, **_START)


def _line(
    above: Any, below: Any, function: Function, rows: Sequence[TrajectoryRow], window: tuple[float, float]
) -> None:
    x = torch.linspace(*window, 4001, dtype=torch.float64)
    values = function.f(x.unsqueeze(-1))
    above.plot(x[values.isfinite()], values[values.isfinite()], color="#777777", linewidth=1.2, zorder=1)
    for minimum in function.minima:
        if window[0] <= minimum[0] <= window[1]:
            below.axvline(minimum[0], color="#DDDDDD", linewidth=0.8, zorder=0)
    for row in rows:
        points, values = row.walk.points[: row.walk.finite, 0], row.walk.values[: row.walk.finite]
        color, style = _color(row.walker), _STYLES[row.walker.role]
        below.plot(points, range(len(points)), color=color, label=_label(row, function), **style)
        above.plot(points[-1], values[-1], color=color, **_end(row.walker.role))
    above.plot(rows[0].walk.points[0, 0], rows[0].walk.values[0], **_START)
    above.set_xlim(*window)
    above.set_ylim(top=1.15 * float(rows[0].walk.values[0]))  # f1 has a pole
    below.set_ylim(len(rows[0].walk.points) - 1, 0)
    below.set_xlabel("x (lines: minima)")


_START: Mapping[str, Any] = {
    "marker": "*",
    "markersize": 13,
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "linestyle": "",
    "zorder": 6,
}


def _end(role: str) -> dict[str, Any]:
    size = {"plain": 7, "adapted": 8, "control": 5}[role]
    return {"marker": _ENDS[role], "markersize": size, "markeredgecolor": "black", "linestyle": "", "zorder": 7}


def _range(rows: Sequence[TrajectoryRow]) -> tuple[float, float]:
    """Return the function's window, widened to the walks, but to ten times its width at the most."""
    ((low, high),) = FUNCTIONS[rows[0].function].bounds
    width = high - low
    points = torch.cat([row.walk.points[: row.walk.finite] for row in rows])
    least, most = float(points.min()) - width / 20, float(points.max()) + width / 20
    return max(min(low, least), low - 5 * width), min(max(high, most), high + 5 * width)


def _color(walker: Walker) -> str:
    return COLORS.get(walker.name, _CONTROL)


def _label(row: TrajectoryRow, function: Function) -> str:
    measures = row.measures
    if measures.diverged:
        words = "diverges"
    elif function.dimension == 1:
        words = f"{measures.passed} minim{'um' if measures.passed == 1 else 'a'} passed"
    elif measures.floor is not None:
        words = f"valley floor walked: {measures.floor:.2f}"
    else:
        words = f"lowest f = {measures.lowest:.2g}"
    return f"{row.walker.name} (lr {row.walker.lr:.2g}): {words}"


def _shrink(path: Path) -> None:
    """Reduce a picture to a palette of greys and of each colour towards white and black: a third of the bytes."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    shades = [(level, level, level) for level in range(0, 256, 3)]
    for color in (*COLORS.values(), *_VALLEY):
        parts = [round(255 * part) for part in to_rgb(color)]
        shades += [(*[round(part + (255 - part) * k / 9) for part in parts],) for k in range(9)]  # type: ignore[misc]
        shades += [(*[round(part * k / 9) for part in parts],) for k in range(1, 9)]  # type: ignore[misc]
    colors = Image.new("P", (1, 1))
    colors.putpalette([part for shade in shades[:256] for part in shade])
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(palette=colors, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _place(point: tuple[float, ...]) -> str:
    return f"({', '.join(f'{x:.4g}' for x in point)})"
