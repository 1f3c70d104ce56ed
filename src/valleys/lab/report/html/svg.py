"""The few SVG elements that charts are made of. ElementTree escapes every name on its way in."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from valleys import palette
from valleys.lab.report.html.scales import Scale, words

__all__ = ["swatch"]

# Margins of a chart: for the upper title, for the labels below, and a little.
TOP, BOTTOM, RIGHT = 28.0, 46.0, 14.0
# How many of each the style sheet has; each pair of the first two is met before one comes again.
COLORS, DASHES, MARKERS = len(palette.COLORS), len(palette.DASHES), len(palette.MARKERS)


def image(width: float, height: float, title: str, description: str, kind: str = "chart") -> ET.Element:
    """Make an empty picture; title and description are for readers who do not see it."""
    root = ET.Element("svg", {"class": kind, "viewBox": f"0 0 {place(width)} {place(height)}", "role": "img"})
    ET.SubElement(root, "title").text = title
    ET.SubElement(root, "desc").text = description
    return root


def element(root: ET.Element) -> Markup:
    """Return a finished picture as text that may stand in HTML as it is."""
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree has escaped it


def text(parent: ET.Element, x: float, y: float, words: str, kind: str = "label", anchor: str = "start") -> None:
    """Write a label, if there are words, with its start, middle or end (``anchor``) at x on the base line y."""
    if not words:
        return
    attributes = {"class": kind, "x": place(x), "y": place(y), "text-anchor": anchor}
    ET.SubElement(parent, "text", attributes).text = words


def line(parent: ET.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    """Draw a straight line."""
    path(parent, polyline([(x1, y1), (x2, y2)]), kind)


def path(parent: ET.Element, d: str, kind: str) -> None:
    """Draw a path."""
    ET.SubElement(parent, "path", {"class": kind, "d": d})


def polyline(points: Iterable[tuple[float, float]]) -> str:
    """Return a path through points.

    Example:
        >>> polyline([(0, 1), (2.04, 3.06)])
        'M0 1L2 3.1'
    """
    return "M" + "L".join(f"{place(x)} {place(y)}" for x, y in points)


def marker(parent: ET.Element, x: float, y: float, index: int, size: float = 4.0, kind: str = "mark") -> None:
    """Draw an optimizer's mark, of half width ``size``: a shape of its own besides its colour."""
    if index % MARKERS == 0:
        ET.SubElement(parent, "circle", {"class": kind, "cx": place(x), "cy": place(y), "r": place(size)})
        return
    corners: Sequence[tuple[float, float]] = (
        ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
        ((0, 1.2), (1.15, -0.85), (-1.15, -0.85)),
        ((0, -1.3), (0.4, -0.4), (1.3, 0), (0.4, 0.4), (0, 1.3), (-0.4, 0.4), (-1.3, 0), (-0.4, -0.4)),
    )[index % MARKERS - 1]
    path(parent, polyline([(x + size * dx, y + size * dy) for dx, dy in corners]) + "Z", kind)


def series(parent: ET.Element, name: str, index: int) -> ET.Element:
    """Make a group of marks in one optimizer's colour, which says its name under the pointer."""
    group = ET.SubElement(parent, "g", {"class": f"c{index % COLORS}"})
    ET.SubElement(group, "title").text = name
    return group


def swatch(index: int) -> Markup:
    """Draw the sample of an optimizer's line and mark, hidden from screen readers: its name stands beside it."""
    root = ET.Element("svg", {"class": f"swatch c{index % COLORS}", "viewBox": "0 0 30 12", "aria-hidden": "true"})
    line(root, 0, 6, 30, 6, f"line d{index % DASHES}")
    marker(root, 15, 6, index)
    return element(root)


def axes(root: ET.Element, x: Scale, y: Scale, x_title: str, y_title: str) -> None:
    """Draw the frame of a chart: light lines across, labels at both axes; y starts at the bottom."""
    for tick, label in zip(y.ticks, words(y.ticks), strict=True):
        line(root, x.start, y(tick), x.end, y(tick), "grid")
        text(root, x.start - 7, y(tick) + 4, label, anchor="end")
    line(root, x.start, y.start, x.end, y.start, "axis")
    for tick, label in zip(x.ticks, words(x.ticks), strict=True):
        line(root, x(tick), y.start, x(tick), y.start + 4, "axis")
        text(root, x(tick), y.start + 18, label, anchor="middle")
    text(root, 0, 12, y_title, "title")
    text(root, x.end, y.start + 37, x_title, "title", "end")


def message(root: ET.Element, width: float, height: float, words: str) -> None:
    """Write the reason why a picture is empty."""
    text(root, width / 2, height / 2, words, "label", "middle")


def clipped(name: str, letters: int) -> str:
    """Cut a name to so many letters; the whole of it is in the tables.

    Example:
        >>> clipped("my_module:MyOptimizer", 12)
        'my_module:M…'
    """
    return name if len(name) <= letters else name[: letters - 1] + "…"


def text_width(labels: Iterable[str]) -> float:
    """Return the room for labels, also at the larger size they have on a phone and in a wide font."""
    return 10.0 * max(map(len, labels), default=0)


def left(y: Scale) -> float:
    """Return the left margin of a chart, for the labels of its axis upwards."""
    return text_width(words(y.ticks)) + 12


def place(value: float) -> str:
    """Format a coordinate to a tenth of a unit, which is less than a pixel.

    Example:
        >>> place(2.0), place(3.14159), place(-0.01)
        ('2', '3.1', '0')
    """
    rounded = round(value, 1) + 0.0  # + 0.0: minus zero is zero
    return f"{rounded:.1f}".removesuffix(".0")
