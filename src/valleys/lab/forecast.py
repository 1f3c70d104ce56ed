"""Cost of a comparison before its first run: number of runs, core-hours, peak memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from valleys.lab.config import ComparisonConfig
from valleys.lab.optimizers.spec import OptimizerSpec, tunable
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.task import Problem, Task
from valleys.lab.progress import duration
from valleys.lab.run.rehearsal import Rehearsal, rehearse
from valleys.lab.run.training_loop import EVALUATIONS


@dataclass(frozen=True)
class Forecast:
    """The estimated cost of a comparison."""

    runs: int
    product: str  # the same as a product, such as "4 optimizers x 5 rounds x (8 trials + 1 fresh seed)"
    steps: int  # optimizer steps of a run
    seconds: Mapping[str, float]  # of one run, by optimizer; empty where a training loop of its own leaves it unknown
    total: float | None  # seconds of all runs; None: unknown
    processors: int  # how many processors a run keeps busy: CPU threads, or GPUs
    device: str  # "cpu" or "cuda"
    peak_bytes: int | None  # the most memory that one worker needs; None: unknown

    def __str__(self) -> str:
        """The estimate in a line or two."""
        first = f"{self.product} = {self.runs} runs of {self.steps} steps"
        if self.total is None:
            return f"{first}; the task has a training loop of its own: what a run costs shows after the first"
        unit = "core-hours" if self.device == "cpu" else "GPU-hours"
        hours = f"{self.total * self.processors / 3600:.2g}"
        low, high = (duration(end(self.seconds.values())) for end in (min, max))
        each = low if low == high else f"{low} to {high}"
        memory = "" if self.peak_bytes is None else f", peak memory of a worker {self.peak_bytes / 2**30:.1f} GiB"
        return f"{first}\nestimate from one step of each optimizer: {hours} {unit}, {each} a run{memory}"


def forecast(problem: Problem, specs: Sequence[OptimizerSpec], config: ComparisonConfig) -> Forecast:
    """Let each optimizer make a step on the task, and estimate from it what the comparison costs.

    The estimate is for training steps, evaluations and the test of each run, on this machine in its present state.

    Raises:
        LabError: an optimizer that cannot be built for the task, or cannot make a step on it.
    """
    rehearsals = rehearse(problem, specs, config)
    assert config.batch_size is not None
    assert config.epochs is not None
    if isinstance(problem, Task):
        steps = problem.steps(config.batch_size, config.epochs)
    else:
        assert isinstance(problem, Loop)
        steps = problem.plan(config.batch_size, config.epochs).steps
    seconds = {one.optimizer: _seconds(one, problem, config, steps) for one in rehearsals if isinstance(problem, Task)}
    runs = {spec.name: (config.trials if tunable(spec.space) else 0) + config.seeds for spec in specs}
    return Forecast(
        config.rounds * sum(runs.values()),
        _product(specs, config),
        steps,
        seconds,
        config.rounds * sum(runs[name] * cost for name, cost in seconds.items()) if seconds else None,
        torch.get_num_threads() if config.device == "cpu" else 1,
        config.device,
        _peak_bytes(config, rehearsals) if seconds else None,
    )


def _seconds(one: Rehearsal, task: Task, config: ComparisonConfig, steps: int) -> float:
    """Seconds of a run: backward passes and updates, evaluations on the validation split, and the test."""
    assert config.batch_size is not None
    gradients = one.gradients * config.batch_size / one.examples * one.gradient_seconds
    evaluated = min(EVALUATIONS, steps) * len(task.validation) + len(task.test)
    return steps * (gradients + one.step_seconds) + evaluated / one.examples * one.evaluation_seconds


def _product(specs: Sequence[OptimizerSpec], config: ComparisonConfig) -> str:
    def counted(count: int, word: str) -> str:
        return f"{count} {word}{'s' * (count != 1)}"

    seeds, rounds = counted(config.seeds, "fresh seed"), counted(config.rounds, "round")
    tuned = sum(tunable(spec.space) for spec in specs)
    parts = [
        f"{counted(tuned, 'optimizer')} x {rounds} x ({counted(config.trials, 'trial')} + {seeds})" * bool(tuned),
        f"{counted(len(specs) - tuned, 'untuned optimizer')} x {rounds} x {seeds}" * (tuned < len(specs)),
    ]
    return " + ".join(filter(None, parts))


def _peak_bytes(config: ComparisonConfig, rehearsals: Sequence[Rehearsal]) -> int | None:
    """Peak of this process, which has made a step with each optimizer, and activations of a micro-batch's rest."""
    assert config.batch_size is not None
    examples = min(config.batch_size, config.micro_batch or config.batch_size)
    more = max(math.ceil(one.activation_bytes * (examples / one.examples - 1)) for one in rehearsals)
    if config.device == "cuda":
        return torch.cuda.max_memory_allocated() + more
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else 1024 * peak) + more
