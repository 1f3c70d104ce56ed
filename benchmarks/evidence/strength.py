"""Effect of E at equal hyperparameters, by its mixing share c and its memory, from the tuning trials of ``tuned``.

    python benchmarks/evidence/strength.py

A trial of an adapted optimizer and the trial of its base with the same number share learning rate, momentum, weight
decay and training seed, while c and memory are spread over their ranges: an experiment on E alone, in every tuning.
Trains nothing; writes ``strength.md`` beside the results. ``plan.yaml`` says how a rule is looked for.
"""

from __future__ import annotations

import json
import lzma
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from evidence.report import RESULTS
from finished_runs import is_tuning, records
from valleys.lab.optimizers.spaces import TUNED
from valleys.lab.statistics.intervals import mean_interval

__all__ = ["PAGE", "PAIRS", "Effect", "cells", "effects", "page", "suggested"]

PAIRS = {"eadamw-tuned": "adamw", "alto-tuned": "lamb"}
PAGE = RESULTS / "strength.md"
SHORT = 10  # steps


@dataclass(frozen=True)
class Effect:
    """Change that E made in one trial.

    Args:
        c: E's mixing share, alpha (1 - beta).
        memory: in steps, 1 / (1 - beta).
        ratio: logarithm of the adapted optimizer's validation error or loss over its base's; below 0 E helped.
    """

    c: float
    memory: float
    ratio: float


def effects(runs: Sequence[Mapping[str, Any]], adapted: str, about: Mapping[str, Any], near: float) -> list[Effect]:
    """Return the effects in the trials whose learning rate is near the base's tuned one.

    Args:
        runs: records of the comparison.
        adapted: an optimizer of ``PAIRS``.
        about: the comparison's configuration and selected hyperparameters, as in ``numbers.json``.
        near: factor between the learning rates, at most. Trials of which either run diverged are left out.
    """
    base = PAIRS[adapted]
    trials: dict[str, dict[int, Mapping[str, Any]]] = {adapted: {}, base: {}}
    for run in runs:
        if run["optimizer"] in trials and is_tuning(run):
            trials[run["optimizer"]][run["seed"]] = run
    selected = [math.log(values["lr"]) for values in about["selected"][base] if values]
    centre = statistics.fmean(selected)
    pairs = []
    for seed in sorted(trials[base].keys() & trials[adapted].keys()):
        one, other = trials[adapted][seed], trials[base][seed]
        values = one["hyperparameters"]
        assert all(values[name] == value for name, value in other["hyperparameters"].items()), "points are shared"
        if one["diverged"] or other["diverged"] or abs(math.log(values["lr"]) - centre) > math.log(near):
            continue
        ratio = math.log(_loss(one["validation"], about) / _loss(other["validation"], about))
        pairs.append(Effect(values["c"], values["memory"], ratio))
    return pairs


def _loss(value: float, about: Mapping[str, Any]) -> float:
    """Return a loss as it is, and the error of an accuracy in %, of which none counts as half an example."""
    configuration = about["configuration"]
    return max(100 - value, configuration["resolution"] / 2) if configuration["maximize"] else value


def cells(effects: Sequence[Effect], count: int) -> dict[tuple[int, int], float]:
    """Return the mean effect by cell: parts of the range of c, by parts of that of memory."""
    grouped: dict[tuple[int, int], list[float]] = {}
    for effect in effects:
        places = TUNED["c"].position(effect.c), TUNED["memory"].position(effect.memory)
        cell = tuple(min(int(place * count), count - 1) for place in places)
        grouped.setdefault((cell[0], cell[1]), []).append(effect.ratio)
    return {cell: statistics.fmean(ratios) for cell, ratios in grouped.items()}


def suggested(problems: Sequence[Mapping[tuple[int, int], float]], count: int) -> tuple[float, float] | None:
    """Return c and memory of the middle of the best cell over some problems, None if no interval is on E's side."""
    limits = {}
    for cell in product(range(count), repeat=2):
        values = [means[cell] for means in problems if cell in means]
        if len(values) > 1:
            mean, half = mean_interval(values)
            limits[cell] = mean + half
    best = min(limits, key=lambda cell: limits[cell], default=None)
    return _middle(best, count) if best is not None and limits[best] < 0 else None


def _middle(cell: tuple[int, int], count: int) -> tuple[float, float]:
    return TUNED["c"].value((cell[0] + 0.5) / count), TUNED["memory"].value((cell[1] + 0.5) / count)


def page(plan: Mapping[str, Any], results: Path = RESULTS) -> str:
    """All of it in Markdown: a table for each pair and set of problems, and the rule or that there is none."""
    strength, count = plan["strength"], plan["strength"]["cells"]
    lines = [
        "# The effect of E at equal hyperparameters, by its strength and memory",
        "",
        "From the tuning trials of [`tuned`](README.md#tuned) by `python benchmarks/evidence/strength.py`. "
        f"{strength['effect'].strip()} Only learning rates within a factor of {strength['near']} of the base's tuned "
        "one count. Each cell is the mean change of the error or loss in %, its 95 % interval over problems in "
        "brackets, and the number of trials; below zero E is better. A rule is looked for on five problems and tested "
        f"on two, as [plan.yaml](../../evidence/plan.yaml) fixed: without any effect, one of the {count**2} cells "
        f"would be below zero by luck in {100 - 100 * 0.975**count**2:.0f} % of cases.",
    ]
    for adapted, base in PAIRS.items():
        lines += ["", f"## {adapted} against {base}", "", _choices(adapted, [*plan["problems"]], results)]
        for title in ("made_on", "tested_on"):
            lines += ["", *_table(_read(adapted, strength[title], strength["near"], results), count)]
        problems = _read(adapted, strength["made_on"], strength["near"], results)
        if len(problems) == len(strength["made_on"]):
            lines += ["", _sentence(suggested([cells(effects, count) for effects in problems.values()], count))]
    return "\n".join(lines) + "\n"


def _read(adapted: str, names: Sequence[str], near: float, results: Path) -> dict[str, list[Effect]]:
    """Return the effects by problem, of those that are finished."""
    problems = {}
    for name in names:
        folder = results / f"{name}-tuned"
        if (folder / "numbers.json").exists():
            about = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
            with tempfile.TemporaryDirectory() as temporary:
                database = Path(temporary) / "comparison.db"
                database.write_bytes(lzma.decompress((folder / "comparison.db.xz").read_bytes()))
                problems[name] = effects(records(database), adapted, about, near)
    return problems


def _choices(adapted: str, names: Sequence[str], results: Path) -> str:
    """Say what tuning chose, over all rounds of the finished problems."""
    paths = [results / f"{name}-tuned" / "numbers.json" for name in names]
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    selected = [values for document in documents for values in document["selected"][adapted] if values]
    share = 100 * TUNED["memory"].position(SHORT)
    return (
        f"Tuning chose c > 0 in {sum(values['c'] > 0 for values in selected)} of {len(selected)} rounds (50 % of the "
        f"trials have it) and a memory below {SHORT} steps in {sum(values['memory'] < SHORT for values in selected)} "
        f"({share:.0f} %)."
    )


def _table(problems: Mapping[str, Sequence[Effect]], count: int) -> list[str]:
    if not problems:
        return ["Not finished."]
    means = [cells(effects, count) for effects in problems.values()]
    share, memory = ([TUNED[name].value(place / count) for place in range(count + 1)] for name in ("c", "memory"))
    pooled = [effect for effects in problems.values() for effect in effects]
    lines = [
        f"On {', '.join(problems)}:",
        "",
        f"| c | {' | '.join(f'memory {low:.3g} to {high:.3g}' for low, high in pairwise(memory))} |",
        f"|{' --- |' * (count + 1)}",
    ]
    for row in range(count):
        entries = []
        for column in range(count):
            values = [cell[row, column] for cell in means if (row, column) in cell]
            trials = sum((row, column) in cells([effect], count) for effect in pooled)
            entries.append(f"{_percent(values)}, {trials}")
        lines.append(f"| {share[row]:.2f} to {share[row + 1]:.2f} | {' | '.join(entries)} |")
    return lines


def _percent(values: Sequence[float]) -> str:
    """Write a mean of logarithms of ratios, with its interval, as changes in %."""
    if not values:
        return "-"
    mean, half = mean_interval(values)
    if half is None:
        return f"{100 * math.expm1(mean):+.1f}"
    low, middle, high = (100 * math.expm1(value) for value in (mean - half, mean, mean + half))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


def _sentence(rule: tuple[float, float] | None) -> str:
    if rule is None:
        return "No cell's interval lies on E's side: the five problems suggest no rule."
    return f"The five problems suggest c = {rule[0]:.2g} and a memory of {rule[1]:.2g} steps."


if __name__ == "__main__":
    from evidence.run import PLAN

    PAGE.write_text(page(PLAN), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
