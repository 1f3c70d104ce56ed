"""The page on states in 8 bits, made of the committed numbers alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import torch
from torch import nn

import valleys
from report import table
from valleys.lab.statistics.formatting import about, decimals, fixed, format_mean, ratios
from valleys.lab.statistics.intervals import mean_interval
from valleys.lab.statistics.outcome import Metric, Outcome, Verdict
from valleys.lab.statistics.verdicts import judge

__all__ = ["RESULTS", "numbers", "overview", "share", "verdicts"]

RESULTS = Path(__file__).parent / "results" / "eight_bit"
LOSS = Metric("training loss", maximize=False, scale="log")


def share(model: nn.Module) -> float:
    """Return the share of a model's parameters whose states are in 8 bits."""
    optimizer = valleys.ALTO(model.parameters(), state_dtype="8bit")
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    params = list(model.parameters())
    codes = sum(param.numel() for param in params if "exp_avg_sq_code" in optimizer.state[param])
    return codes / sum(param.numel() for param in params)


def numbers(document: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return what the page needs of a ``report.json``: no curves, no tables.

    Args:
        document: the comparison's.
        model: the task's.

    Returns:
        Configuration, environment, learning rate, updates, parameters, their share in 8 bits, and of each arm the bytes
        of its states and, by round and fresh seed, the test metric and the training loss at the end, over the last
        twentieth of the updates (None: diverged).
    """
    configuration, rounds = document["configuration"], [entry for entry in document["rounds"] if entry["complete"]]
    arms = list(document["outcomes"])
    runs = {arm: [[run for run in entry["runs"] if run["optimizer"] == arm] for entry in rounds] for arm in arms}
    first = runs[arms[0]][0][0]
    return {
        "configuration": configuration,
        "environment": document["environments"][-1],
        "lr": first["hyperparameters"]["lr"],
        "updates": first["steps"],
        "parameters": sum(param.numel() for param in model.parameters()),
        "share": share(model),
        "state_bytes": {arm: runs[arm][0][0]["state_bytes"] for arm in arms},
        "test": {arm: [[run["test"] for run in one] for one in runs[arm]] for arm in arms},
        "training_loss": {arm: [[_last_loss(run) for run in one] for one in runs[arm]] for arm in arms},
    }


def _last_loss(run: Mapping[str, Any]) -> float | None:
    return None if run["diverged"] else float(run["curve"][-1]["train_loss"])


def verdicts(document: Mapping[str, Any], what: str) -> tuple[Verdict, ...]:
    """Judge each arm against the first one by ``test`` or ``training_loss``; their intervals hold together."""
    about_it = document["configuration"]
    metric = Metric(about_it["metric"], about_it["maximize"], about_it["scale"], about_it["resolution"])
    base, *arms = document[what]
    outcomes = {arm: Outcome(_means(document[what][arm])) for arm in (base, *arms)}
    return judge([(arm, base) for arm in arms], outcomes, LOSS if what == "training_loss" else metric)


def _means(rounds: Iterable[Sequence[float | None]]) -> dict[int, float | None]:
    """Return each round's mean over its fresh seeds; None if one diverged."""
    means: dict[int, float | None] = {}
    for number, values in enumerate(rounds):
        finished = [value for value in values if value is not None]
        means[number] = fmean(finished) if len(finished) == len(values) else None
    return means


def overview(problems: Mapping[str, Any]) -> str:
    """All finished problems in Markdown: how large they are, the paired differences, and the sentences."""
    documents = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in problems
        if (path := RESULTS / name / "numbers.json").exists()
    }
    lines = [
        "# States in 8 bits beside states in float32",
        "",
        "ALTO with its states s, m and v in float32, in bfloat16, in 8 bits rounded stochastically (the default) "
        "and in 8 bits rounded to nearest, all else equal, by [the lab's "
        "protocol](../../../docs/lab.md#how-it-judges). The learning rate is tuned once for each problem, for "
        "float32 (5 trials, by validation), and is the same for all arms: the question is whether narrow states can"
        " take the place of float32 in a run as it is, so that tuning, if it favours any arm, favours float32. Arms"
        " are paired: a round's fresh seeds (initial weights, order of the data) are the same for all.",
        "",
        "Made by `OMP_NUM_THREADS=1 python benchmarks/eight_bit.py --data FOLDER` on 2 cores of an AMD EPYC, torch "
        "2.13.0+cpu; other work shared them, so there are no times.",
        "",
        *_sizes(documents),
        "",
        "`digits-long-memory` is digits with averages of 1,000 steps for v (beta3 = 0.999) and 500 for E (beta = "
        "0.998); the others are ALTO as it comes, with 100 for both.",
        "",
        "| problem | states in float32 | bfloat16 | 8 bits |",
        "| --- | ---: | ---: | ---: |",
        *_bytes(documents),
        "",
        "Bytes per parameter of s, m and v together, as measured in the runs.",
        "",
        "## Differences",
        "",
        "Each arm against float32, paired by round: mean, and the interval, at 95 % for the three arms of a problem "
        "together (Bonferroni). Detectable: the smallest difference that so many rounds find with 80 % power. The "
        "training loss is the mean over the last twentieth of a run; where it ends near 0, on digits, its ratio swings "
        "by factors from seed to seed and says little.",
        "",
        *_differences(documents),
    ]
    rounding = RESULTS / "rounding.json"
    if rounding.exists():
        lines += ["", *_rounding(json.loads(rounding.read_text(encoding="utf-8")))]
    for name, document in documents.items():
        lines += ["", f"## [{name}]({name}/report.md)", ""]
        lines += [f"* {verdict.sentence}." for verdict in verdicts(document, "test")]
        lines += [
            f"* {verdict.sentence.replace('test training', 'training')}."
            for verdict in verdicts(document, "training_loss")
        ]
    return "\n".join(lines) + "\n"


def _sizes(documents: Mapping[str, Any]) -> list[str]:
    header = [
        "problem",
        "parameters",
        "in 8 bits",
        "batch",
        "updates",
        "learning rate",
        "n",
        "test, float32",
        "training loss",
    ]
    rows = []
    for name, document in documents.items():
        configuration = document["configuration"]
        values = [value for value in _means(document["test"]["float32"]).values() if value is not None]
        losses = [value for value in _means(document["training_loss"]["float32"]).values() if value is not None]
        seeds = configuration["seeds"]
        rows.append(
            [
                name,
                f"{document['parameters']:,}",
                f"{100 * document['share']:.1f} %",
                str(configuration["batch_size"]),
                f"{document['updates']:,}",
                f"{document['lr']:.3g}",
                f"{configuration['rounds']} rounds of {seeds} seed{'s' * (seeds > 1)}",
                f"{format_mean(*mean_interval(values))} {configuration['metric']}",
                f"{geometric_mean(losses):.2g}",
            ]
        )
    return table(header, rows).splitlines()


def _bytes(documents: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, document in documents.items():
        sizes = [document["state_bytes"][arm] / document["parameters"] for arm in ("float32", "bfloat16", "8bit")]
        lines.append(f"| {name} | {' | '.join(f'{size:.2f}' for size in sizes)} |")
    return lines


def _differences(documents: Mapping[str, Any]) -> list[str]:
    header = ["problem", "states", "test metric", "detectable", "training loss", "detectable"]
    rows = []
    for name, document in documents.items():
        for test, loss in zip(verdicts(document, "test"), verdicts(document, "training_loss"), strict=True):
            rows.append([name, test.first, *_cells(test, document["configuration"]["metric"]), *_cells(loss, "")])
    return table(header, rows).splitlines()


def _cells(verdict: Verdict, metric: str) -> list[str]:
    """Return a difference or ratio with its interval and what would have been detected."""
    assert verdict.difference is not None
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.detectable is not None
    limits = [verdict.low, verdict.high]
    lost = f"; diverged {verdict.lost[0]} : {verdict.lost[1]}" * any(verdict.lost)
    if verdict.scale == "log":
        estimate, *ends = ratios(verdict.difference, limits)
        return [f"x {estimate} ({ends[0]} to {ends[1]}){lost}", f"x {about(verdict.detectable)}"]
    places = decimals(verdict.difference, limits)
    estimate, *ends = [fixed(value, places) for value in (verdict.difference, *limits)]
    unit = " points" if metric.endswith("%") else ""
    return [f"{estimate}{unit} ({ends[0]} to {ends[1]}){lost}", f"{about(verdict.detectable)}{unit}"]


def _rounding(cases: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the section on the second moment when some gradients become small."""
    lines = [
        "## Why stochastic",
        "",
        "v of blocks of 256 elements with gradients from N(0, 1), of which the second half become ten times smaller "
        "after so many steps: the root of their v after as many steps again, as a multiple of float32's (64 blocks, "
        "one seed).",
        "",
    ]
    rows = [
        [f"{case['beta3']:g}", f"{case['steps']:,}", f"{case['nearest']:.2f}", f"{case['stochastic']:.2f}"]
        for case in cases
    ]
    return lines + table(["beta3", "steps", "to nearest", "stochastically"], rows).splitlines()
