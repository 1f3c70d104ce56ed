"""A/A test of the lab: copies of one optimizer under other names, at shared points, with seeds of their own.

    OMP_NUM_THREADS=1 python benchmarks/copies.py

Interrupted, it goes on where it was. Every "better" among copies is false.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from report import listing, table
from valleys.lab import ComparisonConfig, compare
from valleys.lab.statistics import Metric, Outcome, judge

RESULTS = Path(__file__).parent / "results" / "protocol"
CONFIG = ComparisonConfig(optimizers=("lamb",), copies=12, batch_size=1024, epochs=40, device="cpu")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/copies"), help="folder of the finished runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    comparison = compare("digits", CONFIG, out=arguments.runs, announce=print)
    report = json.loads(comparison.paths["json"].read_text(encoding="utf-8"))
    names = ("task", "batch_size", "epochs", "rounds", "trials", "seeds", "metric", "resolution")
    document = {
        "configuration": {name: report["configuration"][name] for name in names},
        "environment": report["environments"][-1],
        "tests": {name: outcome["test"] for name, outcome in report["outcomes"].items()},
    }
    (RESULTS / "copies.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "copies.md").write_text(page(document), encoding="utf-8")


def page(document: Mapping[str, Any]) -> str:
    """Return the report of what ``copies.json`` holds."""
    settings, environment = document["configuration"], document["environment"]
    tests = {
        name: {int(number): value for number, value in values.items()} for name, values in document["tests"].items()
    }
    outcomes = {name: Outcome(values) for name, values in tests.items()}
    pairs = list(itertools.combinations(outcomes, 2))
    metric = Metric(settings["metric"], maximize=True, resolution=settings["resolution"])
    rows = []
    for rule, shared in ((f"5 % shared by all {len(pairs)} pairs, as the lab does", len(pairs)), ("5 % each", 1)):
        better = sum(verdict.better is not None for verdict in judge(pairs, outcomes, metric, shared=shared))
        rows.append([rule, f"{better} of {len(pairs)}", f"{better / len(pairs):.1%}"])
    about = {
        "command": "`OMP_NUM_THREADS=1 python benchmarks/copies.py`",
        "task": f"{settings['task']} at batch {settings['batch_size']}, {settings['epochs']} epochs",
        "n": f"{len(outcomes)} copies of lamb; {settings['rounds']} rounds of {settings['trials']} trials and "
        f"{settings['seeds']} fresh seed",
        "versions": f"Python {environment['python']}, torch {environment['torch']}, {environment['device']}, "
        f"{environment['cpus']} cores, {environment['threads']} thread",
    }
    rounds = sorted(next(iter(tests.values())))
    values = [[name, *(f"{numbers[number]:.2f}" for number in rounds)] for name, numbers in tests.items()]
    parts = [
        "# Copies of LAMB compared with each other",
        listing(about),
        'Points are shared, seeds are each copy\'s own, so that every "better" is false. The pairs share copies: the '
        "share of them is no independent estimate of a rate, which the [simulations](README.md) give.",
        table(["level", '"better"', "share"], rows),
        f"Test {settings['metric']} of the selected values on the fresh seed, round by round:",
        table(["", *(f"round {number}" for number in rounds)], values),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
