"""Tables and the picture of a step benchmark."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reach import Verdict
from timing import COPY, IN_PLACE, Timing

__all__ = ["draw", "listing", "reach_table", "step_table", "table"]

BASE = "AdamW fused"

_MET = {True: "yes", False: "**no**", None: "-"}

_ARTICLES = {COPY: "a", IN_PLACE: "an"}

COLORS = {"valleys": "#0072B2", "torch": "#009E73"}
OTHERS = "#E69F00"
"""Colours from Okabe and Ito's palette, which colour-blind readers can tell apart."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns after the first are set flush right.

    Args:
        header: its first row.
        rows: the others.
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listing(texts: Mapping[str, str]) -> str:
    """A Markdown list of labelled texts."""
    return "\n".join(f"- {label}: {text}" for label, text in texts.items())


def step_table(timings: Sequence[Timing], numel: int) -> str:
    """One row per contender, the fastest first, those that did not run last.

    Args:
        timings: what :func:`timing.interleave` returned.
        numel: parameters of the set.
    """
    ran = sorted((timing for timing in timings if timing.failure is None), key=lambda timing: timing.median)
    base = next((timing.median for timing in ran if timing.name == BASE), None)
    limits = {timing.name: timing for timing in ran if timing.name in (COPY, IN_PLACE)}
    launches = any(timing.launches is not None for timing in ran)
    header = [
        "optimizer",
        "median, ms",
        "quartiles, ms",
        f"x {BASE}",
        "least bytes per parameter",
        "GB/s",
        *(f"% of {_ARTICLES[name]} {name}" for name in limits),
        "first step, s",
        *(["launches"] if launches else []),
    ]
    rows = []
    for timing in ran:
        if timing.name in limits:
            continue
        rate = timing.traffic / timing.median
        rows.append(
            [
                timing.name,
                f"{timing.median * 1e3:.1f}",
                " to ".join(f"{value * 1e3:.1f}" for value in timing.quartiles),
                "-" if base is None else f"{timing.median / base:.2f}",
                f"{timing.traffic:.0f}",
                f"{rate * numel / 1e9:.1f}",
                *(f"{100 * rate * limit.median / limit.traffic:.0f}" for limit in limits.values()),
                "-" if timing.first is None else f"{timing.first:.2f}",
                *([str(timing.launches)] if launches else []),
            ]
        )
    blanks = [""] * (len(header) - 2)
    rows += [[timing.name, f"unavailable: {timing.failure}", *blanks] for timing in timings if timing.failure]
    rates = " and ".join(
        f"{_ARTICLES[name]} {name} {limit.traffic * numel / limit.median / 1e9:.1f} GB/s"
        for name, limit in limits.items()
    )
    return f"{table(header, rows)}\n\nThe memory allows {rates}."


def reach_table(verdicts: Sequence[Verdict]) -> str:
    """Bounds: demanded, measured, met or not.

    Args:
        verdicts: what :func:`reach.judge` returned.
    """
    rows = []
    for verdict in verdicts:
        bound = verdict.bound
        demand = "none" if bound.limit is None else f"{'>=' if bound.bandwidth else '<='} {bound.limit:g}"
        demand += "" if bound.aim is None else f" (aim {bound.aim:g})"
        if verdict.ratio is None or verdict.spread is None or verdict.names is None:
            rows.append([bound.text, demand, "-", "-", f"not measured: {verdict.failure}", "-"])
            continue
        spread = " to ".join(f"{value:.2f}" for value in verdict.spread)
        compared = " / ".join(verdict.names)
        rows.append([bound.text, demand, f"{verdict.ratio:.2f}", spread, _MET[verdict.met], compared])
    header = ["ratio of medians", "bound", "found", "quartiles of the rounds", "met", "compared"]
    return table(header, rows)


def draw(timings: Sequence[Timing], title: str, numel: int, path: Path) -> None:
    """Bars of the medians with quartiles, and for each what the memory allows.

    Args:
        timings: what :func:`timing.interleave` returned.
        title: above the picture.
        numel: parameters of the set.
        path: the PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator, NullLocator

    limits = {timing.name: timing for timing in timings if timing.name in (COPY, IN_PLACE)}
    ran = sorted((t for t in timings if t.failure is None and t.name not in limits), key=lambda t: t.median)
    missing = [timing for timing in timings if timing.failure is not None]
    names = [timing.name for timing in [*ran, *missing]]
    figure = Figure(figsize=(9, 1.9 + 0.3 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    shortest = min((limit.median / limit.traffic * t.traffic for limit in limits.values() for t in ran), default=1e-3)
    left = 0.8e3 * shortest
    beside = axes.get_yaxis_transform()  # x in shares of the width, y in rows
    for row, timing in enumerate(ran):
        median, (low, high) = timing.median * 1e3, timing.quartiles
        axes.barh(row, median - left, left=left, color=COLORS.get(timing.package, OTHERS), height=0.7)
        axes.plot([low * 1e3, high * 1e3], [row, row], color="black", linewidth=1.2)
        for (name, limit), style in zip(limits.items(), ("--", "-"), strict=True):
            place = limit.median * timing.traffic / limit.traffic * 1e3
            label = f"limit: the same bytes by {_ARTICLES[name]} {name}" if row == 0 else None
            axes.plot(
                [place, place], [row - 0.42, row + 0.42], color="black", linestyle=style, linewidth=2, label=label
            )
        axes.text(1.01, row, f"{median:,.1f} ms", va="center", fontsize=9, transform=beside)
    for row, timing in enumerate(missing, start=len(ran)):
        text = textwrap.shorten(f"unavailable: {timing.failure}", 100, placeholder="...")
        axes.text(0.01, row, text, va="center", fontsize=8, color="#555555", transform=beside)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(left=left)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("milliseconds per step, logarithmic: median and quartiles")
    axes.set_title(f"{title}: {numel / 1e6:.1f} million float32 parameters", loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    families = [("valleys", COLORS["valleys"]), ("torch", COLORS["torch"]), ("other packages", OTHERS)]
    handles, _ = axes.get_legend_handles_labels()
    handles = [*(Patch(color=color, label=label) for label, color in families), *handles]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=130)
