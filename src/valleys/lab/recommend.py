"""Advice for a batch size: the paper's rule, beside the gradient noise scale that a brief run measures."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from valleys.hyperparameters import suggest
from valleys.lab.errors import LabError
from valleys.lab.optimizers import resolve as registry
from valleys.lab.optimizers.resolve import OptimizerSpec, Range
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Problem, Task
from valleys.lab.recommendation import Recommendation, Trial
from valleys.lab.run import trainer
from valleys.lab.run.noise_scale import Measurement, NoiseScale
from valleys.lab.tasks import from_file

__all__ = ["STEPS", "recommend"]

STEPS = 200
"""Steps of the run that measures."""

_FEWEST = 40
_MODERATE, _PARTS = 256, 8  # examples of a measured batch, and its micro-batches
_RIVALS = ("adamw", "eadamw", "eadamw-tuned", "lamb", "alto", "alto-strong", "alto-tuned")


def recommend(
    batch_size: int,
    task: str | Problem | None = None,
    *,
    data_dir: Path | str | None = None,
    preset: str | None = None,
    optimizer: str = "adamw",
    lr: float | None = None,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Recommendation:
    r"""Give the paper's rule and, for a task, measure the gradient noise scale in a brief run.

    .. math:: S / S_{min} = 1 + B_{noise} / B, \quad E / E_{min} = 1 + B / B_{noise}

    for the steps S and examples E to a given loss. The brief run has a moderate batch, at most 256 examples in 8
    micro-batches, a constant learning rate, and ends after so many steps; the noise scale is that of the training
    examples, drawn without replacement. It depends on the model's stage, the optimizer and the learning rate; a model
    that normalises over the batch has no gradient of one example, and its noise scale is a rough guide at best.

    Args:
        batch_size: examples per optimizer step that advice is wanted for.
        task: a task of the lab or one of your own; None: the rule alone.
        data_dir: folder of its data.
        preset: one of its presets. Default: its first.
        optimizer: of the brief run. Default: AdamW.
        lr: its learning rate. Default: like its other hyperparameters the middle of the range that tuning searches.
        steps: of the brief run, at least 40. Default: 200.
        seed: of the brief run. Default: 0.
        device: where it runs. Default: the CPU.
        progress: called with (steps made, steps in all).

    Returns:
        The advice; ``print`` shows it.

    Raises:
        LabError: a value out of range, what ``trainer.train`` refuses, a task with a loop of its own, or a run that
            diverged.

    Example:
        >>> print(recommend(16384))
        batch size 16384
        the paper's rule: alpha = -5, beta1 = 0.99, ...

    Source:
        McCandlish et al. 2018, arXiv 1812.06162, section 2; the rule: Zhao et al. 2025, arXiv 2510.27153.
    """
    if batch_size < 1:
        raise LabError(f"batch size {batch_size}: choose 1 or more")
    if task is None:
        return Recommendation(batch_size, suggest(batch_size))
    if steps < _FEWEST:
        raise LabError(f"steps {steps}: choose {_FEWEST} or more; fewer say nothing about the noise")
    problem = from_file.resolve(task, data_dir, preset)
    trainer.check(problem, batch_size)
    if not isinstance(problem, Task):
        raise LabError(
            f"{problem.name} has a training loop of its own, which shows no micro-batches: leave the task out"
        )
    spec = registry.resolve(optimizer, batch_size)
    values = {name: _middle(ranges) for name, ranges in spec.space.items()}
    if lr is not None:
        if "lr" not in values or not (0 < lr < math.inf):
            raise LabError(f"lr {lr}: choose a number above 0, for an optimizer whose search space has an lr")
        values["lr"] = lr
    size = max(2, min(batch_size, _MODERATE, len(problem.train) // 4))
    early, late = _measure(problem, spec, values, size, steps, seed, device, progress)
    words = ["valleys", "compare", task if isinstance(task, str) else problem.name, "--batch-size", str(batch_size)]
    words += ["--optimizers", ",".join([optimizer, *(name for name in _RIVALS if name != optimizer)])]
    words += [] if preset is None else ["--preset", preset]
    words += [] if data_dir is None else ["--data", str(data_dir)]
    words += ["--trials", "8", "--seeds", "5", "--out", f"runs/{problem.name}-{batch_size}"]
    run_steps = problem.epochs * (len(problem.train) // batch_size)
    trial = Trial(problem.name, optimizer, values, size, steps, early, late, run_steps, shlex.join(words))
    return Recommendation(batch_size, suggest(batch_size), trial)


class _Enough(Exception):  # noqa: N818 - an outcome, not an error
    """The brief run has made its steps."""


def _measure(
    task: Task,
    spec: OptimizerSpec,
    values: dict[str, float],
    batch_size: int,
    steps: int,
    seed: int,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
) -> tuple[Measurement, Measurement]:
    noise = NoiseScale(decay=1 - 8 / steps, examples=len(task.train))  # what is late knows little of what was early
    early: list[Measurement] = []

    def follow(made: int, _: int) -> None:
        if progress is not None:
            progress(made, steps)
        if made == steps // 4:
            early.append(noise.measurement)
        if made == steps:
            raise _Enough

    try:
        trainer.train(
            replace(task, schedule=Schedule("constant")),
            spec,
            values,
            batch_size=batch_size,
            seed=seed,
            epochs=math.ceil(steps / (len(task.train) // batch_size)),
            micro_batch=min(task.micro_batch, max(1, batch_size // _PARTS)),
            device=device,
            progress=follow,
            noise=noise,
        )
    except _Enough:
        if noise.steps == steps:  # no step had a gradient that is not finite
            return early[0], noise.measurement
    shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    raise LabError(f"{spec.name} with {shown} diverged on {task.name}: choose a smaller lr or another optimizer")


def _middle(ranges: Range) -> float:
    return math.sqrt(ranges.low * ranges.high) if ranges.log else (ranges.low + ranges.high) / 2
