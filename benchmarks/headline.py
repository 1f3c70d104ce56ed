"""The paper's headline at its own number of updates, on shares of CIFAR-10, part by part.

    OMP_NUM_THREADS=1 python benchmarks/headline.py --data FOLDER

* ``fortieth``: all 16 recipes of beta3, bias correction, exclusion of norms and biases, and E (``headline.yaml``);
* ``tenth``: the four printed arms of ``valleys reproduce headline``, with the options of the authors' package;
* ``digits``: from LAMB as published to ALTO on scikit-learn's digits, tuned, 5 rounds of 8 trials (10 minutes);
* ``rates``: ``lamb`` and ``alto`` with norms and biases excluded, the learning rate tuned by 4 trials in each round.

Interrupted, it goes on where it was; the same command in a second shell joins in; ``--rounds`` and ``--seeds`` may
grow.
The finished runs are in ``benchmarks/results/headline``, from where any machine can go on. A run of ``fortieth`` takes
about 7 minutes of one core, of ``tenth`` about 26; all of it about 20 core-hours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from finished_runs import finished, keep, restore
from valleys.lab.attribution import attribute
from valleys.lab.attribution.sentence import sentence
from valleys.lab.statistics.intervals import mean_interval
from valleys.lab.statistics.outcome import Metric
from valleys.lab.statistics.shapley import decompose, designed
from valleys.paper.reproduce import reproduce

RESULTS = Path(__file__).parent / "results" / "headline"
RECIPES = Path(__file__).with_name("headline.yaml")
PAPER = {"momentum": 0.9, "weight_decay": 1e-4}  # as in the paper's tables


def fortieth(data: Path, out: Path, rounds: int, seeds: int) -> None:
    """Share the difference between two recipes out among the four switches in which they differ."""
    attribute(
        "cifar10-resnet20",
        preset="fortieth-16px",
        data_dir=data,
        first="lamb-uncorrected",
        last="alto-excluded",
        recipes=RECIPES,
        fixed={"lr": 0.05, **PAPER},
        rounds=rounds,
        device="cpu",
        out=out,
        announce=print,
    )


def tenth(data: Path, out: Path, rounds: int, seeds: int) -> None:
    """Run the paper's four arms."""
    settings: dict[str, Any] = {"preset": "tenth-16px", "exclude_norms": True, "clip": 1.0, "device": "cpu"}
    reproduce("headline", data_dir=data, seeds=seeds, out=out, **settings)


def rates(data: Path, out: Path, rounds: int, seeds: int) -> None:
    """Compare LAMB and ALTO where the learning rate is tuned."""
    attribute(
        "cifar10-resnet20",
        preset="fortieth-16px",
        data_dir=data,
        first="lamb-excluded",
        last="alto-excluded",
        recipes=RECIPES,
        fixed=PAPER,
        rounds=rounds,
        trials=4,
        device="cpu",
        out=out,
        announce=print,
    )


def digits(data: Path, out: Path, rounds: int, seeds: int) -> None:
    """Tune LAMB as published, ALTO and what lies between on scikit-learn's digits."""
    attribute("digits", batch_size=1024, first="lamb-paper", last="alto", device="cpu", out=out, announce=print)


STUDIES: dict[str, Callable[[Path, Path, int, int], None]] = {
    "fortieth": fortieth,
    "tenth": tenth,
    "rates": rates,
    "digits": digits,
}


TITLES = {
    "fortieth": "A fortieth: 1,250 images, batch 410, four switches",
    "tenth": "A tenth: 5,000 images, batch 1,638, the four printed arms, with the options of the authors' package",
    "rates": "A fortieth with the learning rate tuned: is it E?",
    "digits": "Scikit-learn's digits at batch 1,024, all tuned: from LAMB as published to ALTO",
}


def main() -> None:
    """Run the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar-10-batches-bin")
    parser.add_argument("--runs", type=Path, default=Path("runs/headline"), help="folder of the runs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of fortieth and rates (default: 3)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each of tenth's arms (default: 2)")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), help="studies to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two processes then use both cores, and no run depends on how many there are
    for name in arguments.only:
        out = arguments.runs / name
        restore(RESULTS / name, out)
        STUDIES[name](arguments.data, out, arguments.rounds, arguments.seeds)
        large = ("comparison.db", "report.json") if name == "digits" else ()  # made again in minutes
        hidden = {
            str(arguments.runs): "runs/headline",
            str(arguments.data): "FOLDER",
            str(RECIPES.parent): "benchmarks",
        }
        keep(out, RESULTS / name, hidden, large)
        (RESULTS / "README.md").write_text(overview(), encoding="utf-8")


def overview() -> str:
    """All studies in Markdown: every finished run and, of whole rounds, what follows from them."""
    lines = [
        "# The paper's headline, part by part",
        "",
        "ALTO and LAMB on CIFAR-10 with ResNet-20 at the paper's number of updates (1,200), its learning rate (0.05, a "
        "tenth after each quarter) and its 400 epochs, on a share of the images and of the batch, the images of 16x16 "
        "pixels. They were JPEG-compressed once: CIFAR-10 (JPEG). Made by `OMP_NUM_THREADS=1 python "
        "benchmarks/headline.py --data FOLDER` on 2 cores of an AMD EPYC, torch 2.13.0+cpu; other work shared them, so "
        "there are no times. The databases have every run; the same command goes on from them.",
    ]
    for name, title in TITLES.items():
        folder = RESULTS / name
        databases = sorted(folder.rglob("comparison.db"))
        if not folder.exists():
            continue
        lines += ["", f"## {title}", ""]
        if databases:
            tests = finished(databases[0])
        if (folder / "attribution.json").exists():
            document = json.loads((folder / "attribution.json").read_text(encoding="utf-8"))
            lines += [f"{document['sentence']}. [Tables]({name}/attribution.md)", ""]
            lines += [f"![from the first recipe to the last, switch by switch]({name}/waterfall.png)", ""]
            tests = {recipe["name"]: recipe["test"] for recipe in document["recipes"]}
        if name == "fortieth":
            lines += [*_arms(tests), *_excluded(tests)]
        if (folder / "reproduce.json").exists():
            lines += _printed(name, json.loads((folder / "reproduce.json").read_text(encoding="utf-8")))
        lines += _runs(tests)
    return "\n".join(lines) + "\n"


ARMS = {
    "LAMB": ("bias_correction", "norms_and_biases"),
    "ALTO without E and bias correction": ("beta3", "norms_and_biases"),
    "ALTO without E": ("beta3", "bias_correction", "norms_and_biases"),
    "ALTO": ("beta3", "bias_correction", "norms_and_biases", "E"),
}
"""Switches that each of the paper's arms has changed from the first recipe of ``fortieth``."""

PRINTED = {"LAMB": 83.56, "ALTO without E and bias correction": 84.91, "ALTO without E": 88.11, "ALTO": 88.83}
"""Of Tables 3 and 7: CIFAR-10 at batch 16,384."""


def _recipe(switches: Collection[str]) -> str:
    """Return the name of a recipe of ``fortieth``."""
    first, last = "lamb-uncorrected", "alto-excluded"
    return (
        last if len(switches) == len(ARMS["ALTO"]) else "+".join([first, *(s for s in ARMS["ALTO"] if s in switches)])
    )


def _arms(tests: dict[str, dict[Any, float | None]]) -> list[str]:
    """Return a table of the paper's arms: what each adds to the one before, printed and ours."""
    lines = ["The paper's four arms, all with norms and biases excluded, as in the authors' package:", ""]
    lines += ["| step | printed | ours | 95 % interval, paired by round |", "| --- | --- | --- | --- |"]
    steps = [*itertools.pairwise(ARMS), ("LAMB", "ALTO")]
    for before, after in steps:
        first, second = (tests.get(_recipe(ARMS[arm]), {}) for arm in (before, after))
        pairs = [(first[key], second[key]) for key in first if key in second]
        differences = [b - a for a, b in pairs if a is not None and b is not None]
        mean, width = mean_interval(differences) if len(differences) > 1 else (math.nan, None)
        limits = "-" if width is None else f"{mean - width:+.2f} to {mean + width:+.2f}"
        lines.append(f"| from {before} to {after} | {PRINTED[after] - PRINTED[before]:+.2f} | {mean:+.2f} | {limits} |")
    return [*lines, ""]


def _excluded(tests: dict[str, dict[Any, float | None]]) -> list[str]:
    """Return the effects of the other three switches where norms and biases are excluded, from the same runs."""
    switches = ("beta3", "bias_correction", "E")
    values = {changed: tests.get(_recipe([*changed, "norms_and_biases"]), {}) for changed in designed(switches)}
    rounds = set.intersection(*(set(runs) for runs in values.values()))
    if len(rounds) < 2:
        return []
    whole = {changed: {int(key): runs[key] for key in sorted(rounds)} for changed, runs in values.items()}
    names = {changed: _recipe([*changed, "norms_and_biases"]) for changed in values}
    metric = Metric("accuracy %", maximize=True, resolution=0.01)
    text = sentence(names, decompose(whole, switches, metric), metric, "round")
    return [f"Exploratory, where norms and biases are excluded: {text[0].lower()}{text[1:]}.", ""]


def _runs(tests: dict[str, dict[Any, float | None]]) -> list[str]:
    """Return a table of the runs, a column for each round or seed."""
    seeds = sorted({int(seed) for runs in tests.values() for seed in runs})
    tests = {name: {int(seed): test for seed, test in runs.items()} for name, runs in tests.items()}
    rows = [["test accuracy %, by round or seed", *map(str, seeds)], ["---"] * (len(seeds) + 1)]
    for name, runs in tests.items():
        cells = [
            "" if seed not in runs else "diverged" if runs[seed] is None else f"{runs[seed]:.2f}" for seed in seeds
        ]
        rows.append([name, *cells])
    return [f"| {' | '.join(row)} |" for row in rows]


def _printed(name: str, document: dict[str, Any]) -> list[str]:
    """Return printed and measured differences between the arms."""
    lines = [f"[Printed, ours, difference]({name}/reproduce.md)", ""]
    lines += ["| difference | printed | ours (95 % interval, paired by seed) |", "| --- | --- | --- |"]
    for order in document["orders"]:
        difference, width = order["ours"], order["ours"]["half_width"]
        limits = "" if width is None else f" ({difference['mean'] - width:+.2f} to {difference['mean'] + width:+.2f})"
        lines.append(
            f"| {order['first']} - {order['second']} | {order['paper']:+.2f} | {difference['mean']:+.2f}{limits} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    main()
