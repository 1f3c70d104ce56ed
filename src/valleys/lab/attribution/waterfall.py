"""The waterfall of an attribution: from the first recipe's metric to the last one's, switch by switch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from valleys.lab.atomic_write import write_picture
from valleys.lab.attribution.sentence import amount
from valleys.lab.statistics.shapley import Decomposition, Effect
from valleys.palette import BLACK, BLUE, VERMILION, literal, new_figure

_REST = "the rest: switches together"
_SLIGHT = 1e-9  # of the total: a rest of rounding alone


class _Bar(NamedTuple):
    label: str
    start: float
    end: float
    half_width: float | None
    significant: bool
    effect: Effect | None


def draw(
    path: Path,
    ends: tuple[str, str],
    start: float,
    decomposition: Decomposition,
    title: str,
    metric: str,
    maximize: bool,
) -> None:
    """Draw a bar for each switch, from where the one before it ends, with its interval.

    The start is the first recipe's mean, on the metric's scale; all switches have a mean.
    """
    from matplotlib.patches import Patch

    bars = _bars(start, decomposition)
    figure = new_figure((8, 1.8 + 0.5 * (len(bars) + 2)))
    axes = figure.add_subplot()
    undo = decomposition.scale.undo
    for row, place in ((0, start), (len(bars) + 1, bars[-1].end)):
        axes.plot(undo(place), row, "D", color=BLACK, markersize=8)
        axes.annotate(f"{undo(place):.4g}", (undo(place), row), (9, 0), textcoords="offset points", va="center")
        axes.axhline(row, color="#dddddd", linewidth=1, zorder=0)
    for row, bar in enumerate(bars, 1):
        left, right = undo(bar.start), undo(bar.end)
        color = BLUE if (right > left) == maximize else VERMILION
        axes.barh(row, right - left, left=left, height=0.56, color=color, alpha=1.0 if bar.significant else 0.35)
        if bar.half_width is not None:
            limits = [undo(bar.end - bar.half_width), undo(bar.end + bar.half_width)]
            axes.plot(limits, [row, row], color=BLACK, linewidth=1.4, marker="|", markersize=9)
        text = amount(effect, decomposition).partition(" (")[0] if (effect := bar.effect) else ""
        axes.annotate(
            text,
            ((left * right) ** 0.5 if decomposition.scale.log else (left + right) / 2, row - 0.32),
            ha="center",
            fontsize=9,
        )
        axes.plot([right, right], [row, row + 1], color="#888888", linewidth=0.8, linestyle=":")
    axes.plot([undo(start)] * 2, [0, 1], color="#888888", linewidth=0.8, linestyle=":")
    labels = [ends[0], *(bar.label for bar in bars), ends[1]]
    axes.set_yticks(range(len(labels)), list(map(literal, labels)))
    axes.invert_yaxis()
    axes.use_sticky_edges = False
    axes.margins(x=0.12)
    if decomposition.scale.log:
        axes.set_xscale("log")
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(lambda value, _: f"{value:.4g}")
    axes.set_xlabel(literal(metric))
    axes.set_title(literal(title), fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=BLUE, label="better"), Patch(color=VERMILION, label="worse")]
    handles.append(Patch(color="#000000", alpha=0.35, label="pale: not significant"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    write_picture(path, figure)


def _bars(start: float, decomposition: Decomposition) -> Sequence[_Bar]:
    bars: list[_Bar] = []
    place = start
    for effect in decomposition.effects:
        assert effect.mean is not None
        label = f"{effect.name} (makes a recipe diverge)" if effect.diverges else effect.name
        bars.append(_Bar(label, place, place + effect.mean, effect.half_width, effect.significant, effect))
        place += effect.mean
    assert decomposition.total.mean is not None
    if decomposition.of == 0 and abs(decomposition.rest) > _SLIGHT * (abs(decomposition.total.mean) or 1.0):
        bars.append(_Bar(_REST, place, place + decomposition.rest, None, False, None))
    return bars
