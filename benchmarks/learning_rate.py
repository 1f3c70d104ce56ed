"""Tuned learning rates of LAMB and ALTO by the number of updates, from the committed comparisons.

    python benchmarks/learning_rate.py

Reads the tuned learning rates of every comparison below ``benchmarks/results`` that has LAMB or ALTO, and AdamW; trains
nothing. Fits rate = C / sqrt(updates), asks how far the rate of a comparison is from the C of the others, and whether
AdamW's tuned rate on the same task or a free exponent would have told more. Writes
``README.md`` and ``rates.png`` in ``benchmarks/results/learning-rate``, from which ``valleys suggest --from`` has its
constants.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from valleys.lab.suggestions.learning_rate import _COEFFICIENT, _FACTOR

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS / "learning-rate" / "README.md"
OURS = ("lamb", "alto")


@dataclass(frozen=True)
class Study:
    """Tuned learning rates of one comparison.

    Args:
        name: of its folder.
        updates: optimizer steps of a run.
        rates: by optimizer, the geometric mean over rounds of the learning rate that was selected.
    """

    name: str
    updates: int
    rates: dict[str, float]


def studies(results: Path = RESULTS) -> list[Study]:
    """Read all comparisons of LAMB, ALTO and AdamW, the shortest runs first."""
    comparisons = _withdrawn(results / "learning-rate" / "withdrawn.json")
    comparisons += [_rounds(path) for path in sorted(results.glob("comparisons/*/report.json"))]
    comparisons += [_numbers(path) for path in sorted(results.glob("evidence/*-rule/numbers.json"))]
    return sorted(comparisons, key=lambda study: (study.updates, study.name))


def _withdrawn(path: Path) -> list[Study]:
    """Read the rates that a withdrawn comparison tuned, each optimizer by itself: those are still what they were."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return [Study(f"{name} (withdrawn)", study["updates"], study["rates"]) for name, study in document.items()]


def _rounds(path: Path) -> Study:
    document = json.loads(path.read_text(encoding="utf-8"))
    runs = [run for entry in document["rounds"] for run in entry["runs"] if run["phase"] == "final"]
    selected = defaultdict(list)
    for run in runs:
        selected[run["optimizer"]].append(run["hyperparameters"]["lr"])
    rates = {name: _geometric(selected[name]) for name in (*OURS, "adamw")}
    return Study(f"{path.parent.name} (3 rounds)", runs[0]["steps"], rates)


def _numbers(path: Path) -> Study:
    document = json.loads(path.read_text(encoding="utf-8"))
    selected = {name: [v["lr"] for v in document["selected"][name] if v] for name in (*OURS, "adamw")}
    return Study(path.parent.name, document["updates"], {name: _geometric(v) for name, v in selected.items()})


def _geometric(values: Sequence[float]) -> float:
    return math.exp(float(np.mean(np.log(values))))


Features = Callable[[Study], list[float]]
MODELS: dict[str, Features] = {
    "one rate for all": lambda study: [1.0],
    "C / sqrt(updates)": lambda study: [1.0],
    "a free exponent of the updates": lambda study: [1.0, math.log(study.updates)],
    "C / sqrt(updates) and a free exponent of AdamW's tuned rate": lambda study: [1.0, math.log(study.rates["adamw"])],
}


def targets(studies: Sequence[Study], optimizer: str, *, scaled: bool) -> np.ndarray:
    """Logarithms of the tuned rates, times sqrt(updates) if ``scaled``."""
    return np.array([math.log(s.rates[optimizer]) + scaled * math.log(s.updates) / 2 for s in studies])


def errors(studies: Sequence[Study], optimizer: str, model: str) -> np.ndarray:
    """Return the factors by which each study's rate differs from what the others predict, 1 or more."""
    y = targets(studies, optimizer, scaled="sqrt" in model)
    x = np.array([MODELS[model](study) for study in studies])
    factors = []
    for left_out in range(len(studies)):
        rest = np.arange(len(studies)) != left_out
        weights = np.linalg.lstsq(x[rest], y[rest], rcond=None)[0]
        factors.append(math.exp(abs(y[left_out] - float(x[left_out] @ weights))))
    return np.array(factors)


def coefficient(studies: Sequence[Study], optimizer: str) -> float:
    """Return C of rate = C / sqrt(updates): the geometric mean over studies."""
    return math.exp(float(np.mean(targets(studies, optimizer, scaled=True))))


def page(studies: Sequence[Study]) -> str:
    """Return the results in Markdown."""
    lines = [
        "# The tuned learning rates of LAMB and ALTO, by the number of updates",
        "",
        "From the committed comparisons by `python benchmarks/learning_rate.py`; nothing is trained. In each, 8 trials "
        "chose the learning rate by validation, from 0.003 to 0.3 for LAMB and ALTO and from 0.0003 to 0.03 for AdamW. "
        "The networks are small. Of a [withdrawn comparison](../withdrawn.md) only the learning rates are used.",
        "",
        "![tuned rates of LAMB and ALTO fall with the root of the updates, AdamW's do not](rates.png)",
        "",
        "| comparison | updates | AdamW | LAMB | ALTO | LAMB x sqrt(updates) | ALTO x sqrt(updates) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for study in studies:
        products = [study.rates[name] * math.sqrt(study.updates) for name in OURS]
        rates = [study.rates[name] for name in ("adamw", *OURS)]
        row = [study.name, f"{study.updates:,}", *(f"{r:.2g}" for r in rates), *(f"{p:.2f}" for p in products)]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        "How far the tuned rate of a comparison is from what the others predict, as a factor, median and largest:",
        "",
        "| prediction | LAMB | ALTO |",
        "| --- | --- | --- |",
    ]
    for model in MODELS:
        cells = [errors(studies, name, model) for name in OURS]
        lines.append(f"| {model} | {' | '.join(f'{np.median(c):.2f}, {c.max():.2f}' for c in cells)} |")
    constants = [
        f"{coefficient(studies, name):.3f} for {title}" for name, title in (("lamb", "LAMB"), ("alto", "ALTO"))
    ]
    lines += ["", f"C of C / sqrt(updates), the geometric mean over the comparisons: {' and '.join(constants)}."]
    return "\n".join(lines) + "\n"


def draw(studies: Sequence[Study], path: Path) -> None:
    """Draw the tuned rates against the number of updates, with the rule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="updates of a run", ylabel="tuned learning rate")
    colours = {"LAMB": "#4269d0", "ALTO": "#ff725c", "AdamW": "#9a9a9a"}
    for (title, colour), marker in zip(colours.items(), "o^x", strict=True):
        axes.scatter(
            [study.updates for study in studies],
            [study.rates[title.lower()] for study in studies],
            label=title,
            color=colour,
            marker=marker,
            alpha=0.8,
        )
    updates = np.geomspace(30, 10_000, 2)
    rule = _COEFFICIENT / np.sqrt(updates)
    axes.plot(updates, rule, color="black", linewidth=1, label=f"{_COEFFICIENT:g} / sqrt(updates)")
    axes.fill_between(updates, rule / _FACTOR, rule * _FACTOR, color="black", alpha=0.07)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(studies()), encoding="utf-8")
    draw(studies(), PAGE.with_name("rates.png"))
    print(PAGE.read_text(encoding="utf-8"))
