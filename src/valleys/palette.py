"""The look of every plot: Okabe and Ito's colours, with a dash and a marker beside each, and matplotlib's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)

COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Okabe and Ito's palette, which colour-blind readers can tell apart; the lightest yellow left out."""

DASHES = ("-", "--", "-.", ":")
"""Line styles of matplotlib; four and seven share no factor, so that each pair is met before one comes again."""

MARKERS = ("o", "s", "D", "^", "v", "*")
"""Markers of matplotlib."""


def look(number: int) -> dict[str, Any]:
    """Return colour, line style and marker of a series by its number, as ``Axes.plot`` takes them."""
    looks = {"color": COLORS, "linestyle": DASHES, "marker": MARKERS}
    return {name: choices[number % len(choices)] for name, choices in looks.items()}


def new_figure(size: tuple[float, float]) -> Figure:
    """Return a figure of so many inches without pyplot: none is global, no window shows it, no backend changes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Any) -> None:
    """Give axes a grid, and no frame above and on the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def literal(text: str) -> str:
    """Return text that matplotlib shows as it is: dollar signs would start a formula."""
    return text.replace("$", r"\$")
