"""Pictures of the landscape between the minima."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from valleys.lab.atomic_write import write_picture
from valleys.lab.flatness.drawing import START
from valleys.landscape.slices.plots import contour
from valleys.landscape.slices.scales import is_wide
from valleys.landscape.slices.slices import Slice
from valleys.palette import literal, look, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Drawn = Mapping[str, Any]
_FLOOR = 1e-6  # share of the largest value that a logarithmic scale still shows


def paths(folder: Path) -> dict[str, Path]:
    """Return the files of the pictures by their names in ``PICTURES``."""
    return {name: folder / f"landscape-{name}.png" for name in PICTURES}


def write(drawn: _Drawn, folder: Path) -> None:
    """Write the pictures of a ``drawing`` with ``title`` and ``optimizers``, whose order chooses the colours."""
    for name, path in paths(folder).items():
        write_picture(path, PICTURES[name][0](drawn))


def _surface(drawn: _Drawn) -> Figure:
    plane = drawn["plane"]
    x, y, values = (torch.tensor(plane[name], dtype=torch.float64) for name in ("x", "y", "loss"))
    first, second, third = (f"the {START}" if name == START else name for name in plane["spanned_by"])
    figure = contour(
        Slice(x, y, values, float("nan"), None),
        xlabel=f"distance from {first} towards {second}",
        ylabel=f"distance across, towards {third}",
        title=f"{drawn['title']}: training loss, with its value at each minimum",
    )
    width, height = float(x[-1] - x[0]), float(y[-1] - y[0])
    figure.set_size_inches(6 * width / max(width, height) + 1.8, 6 * height / max(width, height) + 0.8)
    axes = figure.axes[0]
    axes.set_aspect("equal")
    axes.title.set_wrap(True)  # the plane may be narrow
    marks = []
    for minimum in drawn["minima"]:
        style = _look(drawn, minimum["optimizer"])
        inside = minimum["distance"] <= 1e-3 * float(x[-1] - x[0])
        away = "" if inside else f"\n{minimum['distance']:.3g} off the plane"
        fill = style["color"] if inside else "none"
        at = (minimum["x"], minimum["y"])
        axes.plot(*at, style["marker"], color=fill, markersize=11, mec="white", mew=3.5, zorder=5)
        axes.plot(*at, style["marker"], color=fill, markersize=11, mec=style["color"], mew=1.5, zorder=6)
        marks.append((at, f"{minimum['optimizer']}: {minimum['training_loss']:.2g}{away}"))
    if START in plane["spanned_by"]:
        at = (plane["start"]["x"], plane["start"]["y"])
        axes.plot(*at, "X", color="white", markersize=11, mec="black", zorder=6)
        marks.append((at, START))
    _label(figure, axes, marks)
    return figure


def _barriers(drawn: _Drawn) -> Figure:
    pairs = drawn["barriers"]
    figure = new_figure((11.5, max(4.5, 1.5 + 0.23 * len(pairs))))
    dense = torch.linspace(0, 1, 201, dtype=torch.float64)  # a straight line is curved on a logarithmic scale
    for axes, split in zip(figure.subplots(1, 2), ("training", "validation"), strict=True):
        lines = []
        for number, pair in enumerate(pairs):
            line = {**look(number), "marker": ""}
            losses = torch.tensor(pair[split]["losses"], dtype=torch.float64)
            heights = " / ".join(f"{pair[name]['barrier']:.2g}" for name in ("training", "validation"))
            label = literal(f"{pair['first']} to {pair['second']}: {heights}")
            lines += axes.plot(pair["t"], losses, **line, linewidth=2, label=label)
            axes.plot(dense, torch.lerp(losses[0], losses[-1], dense), ":", color=line["color"], linewidth=1)
        lines += axes.plot([], [], ":", color="black", linewidth=1, label="between the losses of the ends")
        axes.set(title=f"{split} loss", xlabel="from the first minimum (0) to the second (1)")
        _logarithmic(axes, [loss for pair in pairs for loss in pair[split]["losses"]])
        plain(axes)
    figure.legend(handles=lines, loc="outside right upper", title="barrier: training / validation", frameon=False)
    figure.suptitle(literal(f"{drawn['title']}: straight lines between the minima"))
    return figure


def _spectra(drawn: _Drawn) -> Figure:
    from matplotlib.ticker import LogLocator, NullLocator

    entries = drawn["spectra"]
    figure = new_figure((8, 1 + 2.1 * len(entries)))
    panels = figure.subplots(len(entries), 1, squeeze=False)[:, 0]
    for axes, entry in zip(panels, entries, strict=True):
        style = _look(drawn, entry["optimizer"])
        x, density = entry["eigenvalues"], torch.tensor(entry["density"], dtype=torch.float64)
        axes.fill_between(x, density, color=style["color"], alpha=0.25, linewidth=0)
        axes.plot(x, density, color=style["color"], linewidth=1.5)
        top = float(density.max())
        axes.set(yscale="log", ylim=(_FLOOR * top, 10 * top), ylabel="density")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
        text = f"{entry['optimizer']}: from {entry['smallest']:.2g} to {entry['largest']:.3g}"
        axes.text(0.99, 0.92, literal(text), transform=axes.transAxes, ha="right", va="top")
        plain(axes)
    panels[-1].set_xlabel("eigenvalue of the Hessian of the training loss; each minimum has its own scale")
    figure.suptitle(literal(f"{drawn['title']}: spectral density at the minima"))
    return figure


def _sharpness(drawn: _Drawn) -> Figure:
    figure = new_figure((10, 4.5))
    panels = figure.subplots(1, 2)
    titles = {"l2": "l2 ball: distance of the weights", "adaptive": "adaptive ball: relative to each weight"}
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for entry in drawn["sharpness"]:
            curve, style = entry[kind], _look(drawn, entry["optimizer"])
            axes.plot(curve["radii"], curve["rises"], label=literal(entry["optimizer"]), linewidth=2, **style)
        rises = [rise for entry in drawn["sharpness"] for rise in entry[kind]["rises"]]
        axes.set(xscale="log", title=title, xlabel="radius", ylabel="largest rise of the training loss")
        ticks = drawn["sharpness"][0][kind]["radii"]
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        _logarithmic(axes, rises)
        axes.legend(frameon=False)
        plain(axes)
    figure.suptitle(literal(f"{drawn['title']}: sharpness by radius"))
    return figure


PICTURES: dict[str, tuple[Callable[[_Drawn], Figure], str]] = {
    "surface": (_surface, "training loss over the plane through the minima"),
    "barriers": (_barriers, "losses on the straight lines between the minima"),
    "spectra": (_spectra, "spectral density of the Hessian at the minima"),
    "sharpness": (_sharpness, "largest rise of the training loss by radius"),
}
"""The pictures in the order of a report: what draws each, and its description."""


def _look(drawn: _Drawn, optimizer: str) -> dict[str, Any]:
    """Return the colour, dash and marker that an optimizer has in every picture of the comparison."""
    return look(drawn["optimizers"].index(optimizer))


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if is_wide(finite):
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(min(finite), _FLOOR * max(finite)) / 2)


def _label(figure: Figure, axes: Any, marks: Sequence[tuple[tuple[float, float], str]]) -> None:
    """Write beside each mark, where no mark and no earlier label is."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # so that the axes have their place
    pixels = axes.transData.transform([at for at, _ in marks])
    boxes = [Bbox([point - 12, point + 12]) for point in pixels]
    frame = axes.get_window_extent()
    for at, text in marks:
        label = axes.annotate(literal(text), at, (0, 0), textcoords="offset points", fontsize=10, zorder=7)
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
        for label.xyann, horizontal, vertical in _offsets():
            label.set(ha=horizontal, va=vertical)
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in boxes):
                break
        boxes.append(box)


def _offsets() -> Iterator[tuple[tuple[float, float], str, str]]:
    """Yield places beside a mark, the nearest first."""
    for distance in range(12, 120, 12):
        yield (distance, 0), "left", "center"
        yield (-distance, 0), "right", "center"
        yield (0, distance), "center", "bottom"
        yield (0, -distance), "center", "top"
        for x, horizontal in ((distance, "left"), (-distance, "right")):
            yield (x, distance), horizontal, "bottom"
            yield (x, -distance), horizontal, "top"
