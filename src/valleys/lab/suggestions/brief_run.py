"""Advice for a batch size: the paper's rule, beside the gradient noise scale that a brief run measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from valleys.hyperparameters import suggest
from valleys.lab.config import ComparisonConfig
from valleys.lab.errors import LabError, pointing, shortened, typed
from valleys.lab.optimizers import resolve as registry
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Problem, Task
from valleys.lab.run import trainer
from valleys.lab.run.config import RunConfig, check_device
from valleys.lab.run.noise_scale import Measurement, NoiseScale
from valleys.lab.settings import documented, option
from valleys.lab.suggestions.recommendation import Recommendation, Trial
from valleys.lab.tasks import from_file

__all__ = ["BriefRunConfig", "recommend"]

_FEWEST = 40
_MODERATE, _PARTS = 256, 8  # examples of a measured batch, and its micro-batches
_RIVALS = ("adamw", "eadamw", "eadamw-tuned", "lamb", "alto", "alto-tuned")


@documented
@dataclass(frozen=True, kw_only=True)
class BriefRunConfig:
    """Settings of the run that measures.

    Raises:
        LabError: a value of another type, too few steps, or a device that is unknown or not here.
    """

    optimizer: str = option("adamw", "Optimizer of the brief run.", flag="--brief-optimizer")
    lr: float | None = option(None, "Its learning rate; default: the middle of the range.", flag="--brief-lr")
    steps: int = option(200, "Its optimizer steps, at least 40.", flag="--brief-steps")
    preset: str | None = option(None, "paper or smoke, for tasks that have them.")
    data_dir: Path | str | None = option(None, "Folder of the task's data.", flag="--data", cli=Path | None)
    device: str = option("cpu", "cpu or cuda.")

    def __post_init__(self) -> None:
        typed(self)
        check_device(self.device)
        if self.steps < _FEWEST:
            raise LabError(f"steps {self.steps}: choose {_FEWEST} or more; fewer say nothing about the noise")


def recommend(
    batch_size: int,
    task: str | Problem | None = None,
    config: BriefRunConfig | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
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
        config: all settings of the brief run.
        seed: of the brief run. Default: 0.
        progress: called with (steps made, steps in all).
        settings: fields of ``BriefRunConfig``, in place of ``config`` or of its values.

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
    config = replace(config or BriefRunConfig(), **settings)
    if type(batch_size) is not int or batch_size < 1:
        raise LabError(f"batch size {shortened(batch_size)}: choose a whole number of 1 or more")
    if task is None:
        return Recommendation(batch_size, suggest(batch_size))
    problem = from_file.resolve(task, config.data_dir, config.preset)
    RunConfig(batch_size=batch_size).resolved(problem)
    if not isinstance(problem, Task):
        raise LabError(
            f"{problem.name} has a training loop of its own, which shows no micro-batches: leave the task out"
        )
    spec = registry.resolve(config.optimizer, batch_size)
    values = {name: ranges.middle for name, ranges in spec.space.items()}
    if config.lr is not None:
        if "lr" not in values or not (0 < config.lr < math.inf):
            raise LabError(f"lr {config.lr}: choose a number above 0, for an optimizer whose search space has an lr")
        values["lr"] = config.lr
    size = max(2, min(batch_size, _MODERATE, len(problem.train) // 4))
    run = RunConfig(
        batch_size=size,
        epochs=math.ceil(config.steps / problem.steps(size, 1)),
        micro_batch=min(problem.micro_batch, max(1, size // _PARTS)),
        device=config.device,
    )
    early, late = _Brief(problem, spec, values, run, config.steps, progress).measure(seed)
    optimizers = [config.optimizer, *(name for name in _RIVALS if name != config.optimizer)]
    comparison = ComparisonConfig(
        batch_size=batch_size, optimizers=optimizers, preset=config.preset, data_dir=config.data_dir
    )
    command = comparison.command(
        task if isinstance(task, str) else problem.name, Path(f"runs/{problem.name}-{batch_size}")
    )
    run_steps = problem.steps(batch_size, problem.epochs)
    trial = Trial(problem.name, config.optimizer, values, size, config.steps, early, late, run_steps, command)
    return Recommendation(batch_size, suggest(batch_size), trial)


class _Enough(Exception):  # noqa: N818 - an outcome, not an error
    """The brief run has made its steps."""


@dataclass(frozen=True)
class _Brief:
    """A run with a constant learning rate that ends after some steps."""

    task: Task
    spec: OptimizerSpec
    values: dict[str, float]
    config: RunConfig
    steps: int
    progress: Callable[[int, int], None] | None

    def measure(self, seed: int) -> tuple[Measurement, Measurement]:
        """Return the noise scale after a quarter of the steps and at the end."""
        # What is late knows little of what was early.
        noise = NoiseScale(decay=1 - 8 / self.steps, examples=len(self.task.train))
        early: list[Measurement] = []

        def follow(made: int, _: int) -> None:
            if self.progress is not None:
                self.progress(made, self.steps)
            if made == self.steps // 4:
                early.append(noise.measurement)
            if made == self.steps:
                raise _Enough

        task = replace(self.task, schedule=Schedule("constant"))
        with pointing():
            try:
                hooks = trainer.Hooks(follow, noise=noise)
                trainer.train(task, self.spec, self.values, self.config, seed=seed, hooks=hooks)
            except _Enough:
                if noise.steps == self.steps:  # no step had a gradient that is not finite
                    return early[0], noise.measurement
        text = ", ".join(f"{name} {value:.3g}" for name, value in self.values.items())
        raise LabError(
            f"{self.spec.name} with {text} diverged on {task.name}: choose a smaller lr or another optimizer"
        )
