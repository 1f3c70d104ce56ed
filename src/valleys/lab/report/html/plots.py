"""Parts that Plotly figures share: traces in an optimizer's colour, dash and mark, and axes.

A figure is plain data: ``data`` and ``layout`` as plotly.js takes them, and ``controls``, the buttons above it.
``page.js`` draws it in the colours of the reader's scheme. Colours are those of ``valleys.palette``.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from valleys.palette import COLORS

__all__ = ["Figure"]

Figure = dict[str, Any]
"""A figure as plotly.js takes it."""

Choice = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""A button's label, and its changes of all traces and of the layout."""

DASHES = ("solid", "dash", "dashdot", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star")
INK, SOFT = "#1b1f24", "#59626d"
_LETTERS = 24  # of a name beside its row
_BAND = "26"  # opacity of a band, as the end of a colour


def text(name: str) -> str:
    """Return a name as Plotly shows it: it reads a few tags of HTML and, between dollar signs, formulas in all texts.

    Example:
        >>> text("a<b>c $5")
        'a&lt;b&gt;c &#36;5'
    """
    return html.escape(" ".join(name.split()), quote=False).replace("$", "&#36;")


def rows(names: Sequence[str]) -> dict[str, Any]:
    """Return the settings of an axis with a row for each name, from top to bottom; long names are cut there."""
    labels = [text(name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…") for name in names]
    keys = [text(name) for name in names]
    order = {"categoryorder": "array", "categoryarray": keys, "autorange": "reversed"}
    return {"type": "category", **order, "tickvals": keys, "ticktext": labels, "showgrid": False}


def look(index: int) -> dict[str, str]:
    """Return colour, dash and symbol of an optimizer by its number.

    Example:
        >>> look(1)
        {'color': '#D55E00', 'dash': 'dash', 'symbol': 'square'}
    """
    return {
        "color": COLORS[index % len(COLORS)],
        "dash": DASHES[index % len(DASHES)],
        "symbol": SYMBOLS[index % len(SYMBOLS)],
    }


def figure(
    data: Sequence[Mapping[str, Any]],
    *,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    height: int = 380,
    controls: Sequence[Figure] = (),
    **layout: Any,
) -> Figure:
    """Return a figure with two axes; ``x`` and ``y`` are Plotly's settings of them, ``controls`` the buttons above."""
    common = {"gridcolor": "#dfe3e8", "zeroline": False, "automargin": True, "linecolor": SOFT}
    settings = {
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "xaxis": {**common, "ticks": "outside", **x},
        "yaxis": {**common, **y},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **layout,
    }
    return {"data": list(data), "layout": settings, "controls": list(controls)}


def axis(title: str, log: bool = False, **settings: Any) -> dict[str, Any]:
    """Return an axis with a title, logarithmic or not."""
    scale = {"type": "log", "exponentformat": "power"} if log else {"type": "linear"}
    return {"title": {"text": text(title)}, **scale, **settings}


def trace(
    mode: str, name: str, index: int, xs: Sequence[float | None], ys: Sequence[Any], **more: Any
) -> dict[str, Any]:
    """Return a trace that is shown and hidden with the others of its optimizer."""
    own = {"type": "scatter", "mode": mode, "name": text(name), "legendgroup": str(index)}
    return {**own, "x": list(xs), "y": list(ys), **more}


def line(name: str, index: int, xs: Sequence[float], ys: Sequence[float], **more: Any) -> dict[str, Any]:
    """Return a line with marks."""
    style = look(index)
    strokes = {
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "marker": {"color": style["color"], "symbol": style["symbol"], "size": 7},
    }
    return trace("lines+markers", name, index, xs, ys, **{**strokes, **more})


def band(name: str, index: int, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> dict[str, Any]:
    """Return the area between two lines; it is hidden with its optimizer's line."""
    area: dict[str, Any] = {"fill": "toself", "fillcolor": look(index)["color"] + _BAND, "line": {"width": 0}}
    outline = [*xs, *reversed(xs)], [*highs, *reversed(lows)]
    return trace("lines", name, index, *outline, showlegend=False, hoverinfo="skip", **area)


def whiskers(index: int, lows: Sequence[float], middles: Sequence[float], highs: Sequence[float]) -> dict[str, Any]:
    """Return error bars from the lower to the upper ends, around the marks of an optimizer."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - middle for high, middle in zip(highs, middles, strict=True)],
        "arrayminus": [middle - low for low, middle in zip(lows, middles, strict=True)],
        "color": look(index)["color"],
    }


def intervals(
    name: str, index: int, x: float, y: str, limits: tuple[float | None, float | None], hover: str
) -> dict[str, Any]:
    """Return a mark at x in the row y with the whiskers of its interval, where it has one."""
    style, (low, high) = look(index), limits
    frame = {"size": 11, "line": {"width": 1, "color": "#ffffff"}}
    more: dict[str, Any] = {"marker": {"color": style["color"], "symbol": style["symbol"], **frame}}
    if low is not None and high is not None:
        more["error_x"] = {**whiskers(index, [low], [x], [high]), "thickness": 2.5, "width": 5}
    return trace("markers", name, index, [x], [y], hovertemplate=text(hover) + "<extra></extra>", **more)


def dots(name: str, index: int, xs: Sequence[float], y: str, hovers: Sequence[str]) -> dict[str, Any]:
    """Return small marks in the row y, one for each round, seed or run."""
    marker = {"color": look(index)["color"], "size": 6, "opacity": 0.55}
    return trace("markers", name, index, xs, [y] * len(xs), showlegend=False, marker=marker, **hovering(hovers))


def hovering(texts: Sequence[str]) -> dict[str, Any]:
    """Return what a trace shows at each of its points under the mouse."""
    return {"text": [text(one) for one in texts], "hovertemplate": "%{text}<extra></extra>"}


def rule(at: float, across: str = "y", label: str = "") -> dict[str, Any]:
    """Return a dashed line at a value of the axis, through the whole figure, such as a target."""
    place = {"x0": 0, "x1": 1, "xref": "paper", "y0": at, "y1": at, "yref": "y"}
    if across == "x":
        place = {"y0": 0, "y1": 1, "yref": "paper", "x0": at, "x1": at, "xref": "x"}
    shape: dict[str, Any] = {"type": "line", **place, "line": {"color": SOFT, "dash": "dash", "width": 1.2}}
    return {**shape, "label": {"text": label, "textposition": "start", "font": {"color": SOFT}}} if label else shape


def control(name: str, choices: Sequence[Choice], active: int = 0) -> Figure:
    """Return a row of buttons above a figure, of which ``active`` is pressed at first.

    The name is what is chosen, for screen readers; a choice changes traces and layout as ``Plotly.update`` does.
    """
    return {
        "name": name,
        "active": active,
        "choices": [{"label": label, "data": dict(data), "layout": dict(layout)} for label, data, layout in choices],
    }
