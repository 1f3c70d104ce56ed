"""Growth of a step's time with the parameters, and with the tensors that hold them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provenance import Others
from report import listing, table
from rivals import Contender
from shapes import even
from stage import Stage
from timing import Timing, interleave

__all__ = ["DEFAULT", "benchmark"]

DEFAULT = r"^ALTO (c|triton|foreach)$|^AdamW fused$"

SIZES = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000, 300_000_000)
TENSORS = 100
COUNTS = (10, 30, 100, 300, 1_000, 2_000)
TOTAL = 10_000_000

METHOD = """\
Equal tensors. Each column is a run of its own, with interleaved rounds as in the other tables; a large copy empties the
caches before every timed step. The last columns are a straight line, fitted by least squares to the medians: its slope
is the cost of one more parameter, or of one more tensor at the same number of parameters."""

Curves = dict[str, list[tuple[int, Timing]]]
"""By contender: number of parameters or tensors, and what was found there."""


def benchmark(
    chosen: Sequence[Contender],
    device: str,
    rounds: int,
    seed: int,
    texts: dict[str, str],
    out: Path,
    *,
    sizes: Sequence[int] = SIZES,
    counts: Sequence[int] = COUNTS,
    tensors: int = TENSORS,
    total: int = TOTAL,
    copied: int = 1 << 28,
) -> Path:
    """Measures both curves and writes ``scaling.md``, ``scaling.png`` and ``scaling.json``.

    Args:
        chosen: who takes part.
        device: ``cpu`` or ``cuda``.
        rounds: timed steps of each contender at each point.
        seed: of the values and the order.
        texts: provenance.
        out: folder, made if missing.
        sizes: numbers of parameters, in ``tensors`` tensors.
        counts: numbers of tensors, with ``total`` parameters together.
        tensors: how many hold each of ``sizes``.
        total: how many parameters each of ``counts`` holds.
        copied: see :class:`stage.Stage`.

    Returns:
        The Markdown file.
    """

    def run(total: int, tensors: int) -> list[Timing]:
        stage = Stage(even(total, tensors), device, seed, copied)
        return interleave(chosen, stage, rounds, seed)[: len(chosen)]

    others = Others()
    names = [contender.name for contender in chosen]
    by_size = _curves(names, [(size, run(size, tensors)) for size in sizes])
    by_count = _curves(names, [(count, run(total, count)) for count in counts])
    texts = {**texts, "other processes": others.share(), "n": f"{rounds} rounds per column, seed {seed}"}
    parts = [
        "# How a step's time grows",
        listing(texts),
        METHOD,
        f"## Nanoseconds per parameter, {tensors} tensors",
        _table(by_size, lambda size, time: f"{time * 1e9 / size:.3f}", 1e9, "ns per parameter", 1e3, "fixed, ms"),
        f"## Milliseconds per step, {total / 1e6:g} million parameters in so many tensors",
        _table(by_count, lambda _, time: f"{time * 1e3:.2f}", 1e6, "us per tensor", 1e3, "fixed, ms"),
        "![scaling](scaling.png)",
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "scaling.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    document: dict[str, Any] = dict(texts)
    for label, curves in (("parameters", by_size), ("tensors", by_count)):
        document[label] = {name: [[at, asdict(timing)] for at, timing in curve] for name, curve in curves.items()}
    (out / "scaling.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _draw(by_size, by_count, tensors, total, out / "scaling.png")
    return path


def _curves(names: Sequence[str], runs: Sequence[tuple[int, list[Timing]]]) -> Curves:
    return {name: [(at, timings[index]) for at, timings in runs] for index, name in enumerate(names)}


def _table(
    curves: Curves,
    show: Callable[[int, float], str],
    slope_unit: float,
    slope_label: str,
    intercept_unit: float,
    intercept_label: str,
) -> str:
    """One row per contender: a cell per point, then slope and intercept of the fitted line."""
    points = [at for at, _ in next(iter(curves.values()))]
    rows = []
    for name, curve in curves.items():
        failure = next((timing.failure for _, timing in curve if timing.failure), None)
        if failure is not None:
            rows.append([name, f"unavailable: {failure}", *[""] * (len(points) + 1)])
            continue
        slope, intercept = statistics.linear_regression(points, [timing.median for _, timing in curve])
        cells = [show(at, timing.median) for at, timing in curve]
        rows.append([name, *cells, f"{slope * slope_unit:.3f}", f"{intercept * intercept_unit:.2f}"])
    return table(["optimizer", *(f"{at:,}" for at in points), slope_label, intercept_label], rows)


def _draw(by_size: Curves, by_count: Curves, tensors: int, total: int, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, curves, scale in ((left, by_size, lambda at: 1e9 / at), (right, by_count, lambda _: 1e3)):
        for name, curve in curves.items():
            ran = [(at, timing) for at, timing in curve if timing.failure is None]
            if not ran:
                axes.plot([], [], label=f"{name} (unavailable)", color="#999999")
                continue
            points = [at for at, _ in ran]
            medians = [timing.median * scale(at) for at, timing in ran]
            low = [timing.quartiles[0] * scale(at) for at, timing in ran]
            high = [timing.quartiles[1] * scale(at) for at, timing in ran]
            (line,) = axes.plot(points, medians, marker="o", linewidth=2, label=name)
            axes.fill_between(points, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    left.set_xscale("log")
    left.set_xlabel(f"parameters, in {tensors} tensors")
    left.set_ylabel("nanoseconds per parameter")
    right.set_xlabel(f"tensors, {total / 1e6:g} million parameters in all")
    right.set_ylabel("milliseconds per step")
    figure.suptitle("medians and quartiles")
    figure.savefig(path, dpi=130)
