"""The page of the evidence, made of the committed numbers alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from valleys.lab.statistics.formatting import fixed, format_mean
from valleys.lab.statistics.intervals import mean_interval
from valleys.lab.statistics.outcome import Metric, Outcome, Verdict
from valleys.lab.statistics.verdicts import judge

__all__ = ["RESULTS", "confirmations", "draw", "numbers", "overview", "planned", "summary"]

RESULTS = Path(__file__).parents[1] / "results" / "evidence"


def numbers(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page needs of a ``report.json``: no curves, no tables.

    Args:
        document: the comparison's.

    Returns:
        Configuration, environment, seconds, count and updates of the runs and, by optimizer and round, the test metric
        of the run on the fresh seed (None: diverged or missing) and the selected hyperparameters.
    """
    rounds = [entry for entry in document["rounds"] if entry["complete"]]
    runs = [run for entry in rounds for run in entry["runs"]]
    finals = [{run["optimizer"]: run for run in entry["runs"] if run["phase"] == "final"} for entry in rounds]
    names = document["outcomes"]
    return {
        "configuration": document["configuration"],
        "environment": document["environments"][-1],
        "runs": len(runs),
        "updates": max(run["steps"] for run in runs),
        "seconds": sum(run["curve"][-1]["seconds"] for run in runs if run["curve"]),
        "timed": sum(bool(run["curve"]) for run in runs),
        "test": {name: [final[name]["test"] if name in final else None for final in finals] for name in names},
        "selected": {
            name: [final[name]["hyperparameters"] if name in final else None for final in finals] for name in names
        },
    }


def planned(numbers: Mapping[str, Any], pairs: Iterable[str], plan: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """Judge the planned pairs on the rounds of the plan."""
    return _judge(numbers, pairs, slice(plan["rounds"]), plan["level"])


def confirmations(numbers: Mapping[str, Any], pairs: Iterable[str], plan: Mapping[str, Any]) -> dict[str, Verdict]:
    """Judge, on the fresh rounds alone and each at the plain level, the pairs that were significant on the others."""
    fresh = slice(plan["rounds"], plan["rounds"] + plan["confirmation"])
    significant = [f"{v.first}:{v.second}" for v in planned(numbers, pairs, plan) if v.better is not None]
    if any(len(values) < fresh.stop for values in numbers["test"].values()):
        return {}
    return {pair: _judge(numbers, [pair], fresh, plan["level"])[0] for pair in significant}


def _judge(numbers: Mapping[str, Any], pairs: Iterable[str], rounds: slice, level: float) -> tuple[Verdict, ...]:
    outcomes = {name: Outcome(dict(enumerate(values[rounds]))) for name, values in numbers["test"].items()}
    return judge(
        [(a, b) for a, _, b in (pair.partition(":") for pair in pairs)], outcomes, _metric(numbers), level=level
    )


def _metric(numbers: Mapping[str, Any]) -> Metric:
    about = numbers["configuration"]
    return Metric(about["metric"], about["maximize"], about["scale"], about["resolution"])


def overview(plan: Mapping[str, Any]) -> str:
    """All finished comparisons in Markdown: every planned pair, then the test metric of every optimizer."""
    lines = [
        "# Does E help? Seven small problems, by a plan",
        "",
        "[plan.yaml](../../evidence/plan.yaml) fixed problems, pairs, tuning and level before the first run; "
        "[problems.py](../../evidence/problems.py) has the problems. Each comparison is by "
        "[the lab's protocol](../../../docs/lab.md#how-it-judges): rounds of tuning at shared points, the best by "
        "validation on a fresh seed. `rule`: E's alpha and beta by the paper's rule for the batch size, 8 trials; "
        "`tuned`: E's mixing share c and memory tuned, too, 16 trials. Intervals of one comparison hold together at "
        "95 %. Made by `OMP_NUM_THREADS=1 python benchmarks/evidence/run.py --data FOLDER`.",
    ]
    if any(_documents(kind, plan) for kind in plan["comparisons"]):
        lines += ["", "![of each pair the difference in the test metric, with its interval](pairs.png)"]
    for kind, comparison in plan["comparisons"].items():
        documents = _documents(kind, plan)
        lines += ["", f"## {kind.capitalize()}", ""]
        missing = [name for name in plan["problems"] if name not in documents]
        if missing:
            lines += [f"Not finished: {', '.join(missing)}."]
        if documents:
            lines += [*[""] * bool(missing), f"**{summary(kind, plan)}.**", ""]
            lines += _pairs(documents, comparison["pairs"], plan)
            lines += ["", *_tests(documents, comparison, plan), "", *_cost(documents)]
    return "\n".join(lines) + "\n"


def summary(kind: str, plan: Mapping[str, Any]) -> str:
    """Say in how many of the finished pairs E was significantly better or worse, and what would have been detected.

    Args:
        kind: name of a planned comparison.
        plan: all of it.
    """
    documents, pairs = _documents(kind, plan), plan["comparisons"][kind]["pairs"]
    verdicts = [v for document in documents.values() for v in planned(document, pairs, plan) if _is_e(v)]
    again = [v for document in documents.values() for v in confirmations(document, pairs, plan).values() if _is_e(v)]
    better = sum(verdict.better == verdict.first for verdict in verdicts)
    worse = sum(verdict.better == verdict.second for verdict in verdicts)
    confirmed = sum(verdict.better == verdict.first for verdict in again)
    limits = []
    for scale, words in (("linear", "{} points of test accuracy"), ("log", "a factor of {} of the test loss")):
        sizes = [v.detectable for v in verdicts if v.scale == scale and v.better is None and v.detectable is not None]
        if sizes:
            ends = dict.fromkeys(f"{size:.{2 + (scale == 'log')}g}" for size in (min(sizes), max(sizes)))
            limits.append(words.format(" to ".join(ends)))
    fresh = f", of which fresh rounds confirm {confirmed}," * bool(better and again)
    text = (
        f"On {len(documents)} of {len(plan['problems'])} problems E was significantly better than its base in {better} "
        f"of {len(verdicts)} pairs{fresh} and worse in {worse}"
    )
    limit = f"; in the others differences above {' or '.join(limits)}, depending on the pair, would have been detected"
    return text + limit * bool(limits)


def _is_e(verdict: Verdict) -> bool:
    """Return True for a pair of an adapted optimizer and its base, False for others that were planned beside them."""
    return verdict.first.startswith(("alto", "eadamw"))


def draw(plan: Mapping[str, Any], path: Path) -> None:
    """Draw the interval of every planned pair of the finished comparisons; right of the line the first is better.

    Accuracies share an axis; ratios of losses have one for each problem, as their intervals differ by much.
    """
    from matplotlib.figure import Figure

    panels: dict[str, list[tuple[str, Verdict]]] = {}
    for name, verdict in _intervals(plan):
        loss = f"ratio of the test losses on {name} (the axis is reversed)"
        title = "points of test accuracy" if verdict.scale == "linear" else loss
        panels.setdefault(title, []).append((f"{name}: {verdict.first} against {verdict.second}", verdict))
    if not panels:
        return
    counts = [len(rows) for rows in panels.values()]
    figure = Figure(figsize=(8, 0.24 * sum(counts) + 0.7 * len(counts)), layout="constrained")
    grid = figure.subplots(len(panels), height_ratios=[count + 1 for count in counts], squeeze=False)
    for axes, (title, rows) in zip(grid[:, 0], panels.items(), strict=True):
        for place, (_, verdict) in enumerate(rows):
            colour = "#9a9a9a" if verdict.first == "nadam" else "#4269d0"
            axes.plot([verdict.low, verdict.high], [place, place], color=colour, linewidth=2)
            axes.plot([verdict.difference], [place], "o", color=colour, markersize=5)
        axes.set(yticks=range(len(rows)), yticklabels=[label for label, _ in rows], xlabel=title)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.axvline(0 if rows[0][1].scale == "linear" else 1, color="black", linewidth=0.8)
        if rows[0][1].scale == "log":
            _reverse(axes)
    figure.savefig(path, dpi=110)


def _reverse(axes: Any) -> None:
    """Make the horizontal axis one of ratios, the smallest, which is the best for a loss, on the right."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    wide = FixedLocator([ratio for ratio in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= ratio <= high])
    axes.xaxis.set_major_locator(wide if high > 2 * low else MaxNLocator(6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(high, low)


def _intervals(plan: Mapping[str, Any]) -> Iterator[tuple[str, Verdict]]:
    """Yield the problem and the verdict of each planned pair that has an interval."""
    for kind, comparison in plan["comparisons"].items():
        for name, document in _documents(kind, plan).items():
            for verdict in planned(document, comparison["pairs"], plan):
                if verdict.low is not None:
                    yield name, verdict


def _documents(kind: str, plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the numbers of the comparisons that have all their rounds, by problem."""
    documents = {}
    for name in plan["problems"]:
        path = RESULTS / f"{name}-{kind}" / "numbers.json"
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            if all(len(values) >= plan["rounds"] for values in document["test"].values()):
                documents[name] = document
    return documents


def _pairs(documents: Mapping[str, Any], pairs: Iterable[str], plan: Mapping[str, Any]) -> list[str]:
    """Return a list of all sentences, those of the fresh rounds below what they confirm or do not."""
    lines = []
    for name, document in documents.items():
        fresh = confirmations(document, pairs, plan)
        for verdict in planned(document, pairs, plan):
            lines.append(f"* {name}: {verdict.sentence}.")
            if (again := fresh.get(f"{verdict.first}:{verdict.second}")) is not None:
                word = "Confirmed" if again.better == verdict.better else "Not confirmed"
                lines.append(f"  * {word} on {plan['confirmation']} fresh rounds: {again.sentence}.")
    return lines


def _tests(documents: Mapping[str, Any], comparison: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Return a table of the test metric's mean over the rounds, with its 95 % interval."""
    header = ["problem", "updates", "metric", *comparison["optimizers"]]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for name, document in documents.items():
        cells = [name, str(plan["problems"][name]["updates"]), document["configuration"]["metric"]]
        for optimizer in comparison["optimizers"]:
            values = [value for value in document["test"][optimizer][: plan["rounds"]] if value is not None]
            lost = plan["rounds"] - len(values)
            text = format_mean(*mean_interval(values)) if len(values) > 1 else "-"
            cells.append(text + f", {lost} lost" * bool(lost))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cost(documents: Mapping[str, Any]) -> list[str]:
    runs = sum(document["runs"] for document in documents.values())
    environment = next(iter(documents.values()))["environment"]
    seconds = {name: document["seconds"] / max(document["timed"], 1) for name, document in documents.items()}
    each = ", ".join(f"{name} {fixed(value, 0)}" for name, value in seconds.items())
    return [
        f"{runs} runs; torch {environment['torch']}, {environment['device']}, {environment['threads']} thread(s). "
        f"Seconds of a run, with other work on the machine: {each}."
    ]
