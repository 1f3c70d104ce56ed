"""One run: a problem, an optimizer, a seed; what comes back is a record. No optimizer is named here."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError, finite
from valleys.lab.optimizers.spec import OptimizerSpec, judged
from valleys.lab.problem.loop import Diverged, Loop, Running
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task
from valleys.lab.record import Evaluation, Record
from valleys.lab.run import interruption
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.run.config import RunConfig
from valleys.lab.run.noise_scale import NoiseScale
from valleys.lab.run.ranks import Ranks, joined
from valleys.lab.run.training_loop import Fitting, start

__all__ = ["Hooks", "train"]


@dataclass(frozen=True)
class Hooks:
    """Callbacks and companions of a run, which change nothing of its result.

    Args:
        progress: called with (steps made, steps in all) after each step, on rank 0.
        observe: called with each evaluation, on rank 0.
        checkpoint: where the run's state is kept while it is under way; a run that is begun again goes on from there,
            with the result of one that was not interrupted. Not for a ``Loop``.
        noise: learns the gradient noise scale; a batch then has at least two micro-batches. For one process, not for a
            ``Loop``; it knows nothing of the steps before a run was resumed.
        keep: called with the trained model at the end of a run that did not diverge, on rank 0.
    """

    progress: Callable[[int, int], None] | None = None
    observe: Callable[[Evaluation], None] | None = None
    checkpoint: Checkpoint | None = None
    noise: NoiseScale | None = None
    keep: Callable[[nn.Module], None] | None = None


def train(
    problem: Problem,
    spec: OptimizerSpec,
    hyperparameters: Mapping[str, float],
    config: RunConfig,
    *,
    seed: int,
    test: bool = False,
    hooks: Hooks | None = None,
) -> Record:
    r"""Train once, to the end of the schedule.

    .. math:: g = \nabla \sum_j \frac{n_j}{n} L_j,\quad \text{the mean losses } L_j
        \text{ of micro-batches of } n_j \text{ examples weighted by their share of the batch's } n

    The processes of a launch (torchrun, ``accelerate launch``), or of the process group that is there, share every
    batch: the sum then runs over the micro-batches of all ranks. All of them make the same call.

    Epochs are shuffled and their last, incomplete batch is left out. The validation metric is read 20 times, evenly, or
    at every step of a shorter run. The same arguments give the same record on the same machine, but for the times. A
    problem with a training loop of its own (``Loop``) decides about all this itself, and trains in one process.

    Args:
        problem: what to learn.
        spec: the optimizer.
        hyperparameters: values for ``spec.space``.
        config: batch size and the other settings. Like the number of ranks the micro batch changes neither gradient nor
            metric but for rounding, unless the model normalises over the batch or something is random (dropout,
            augmentation). With several ranks the device ``cuda`` is each rank's own.
        seed: of initialisation, order and dropout; the caller's random state is left alone.
        test: evaluate the test split at the end, once.
        hooks: callbacks; default: none.

    Returns:
        The record, rank 0's on all ranks. A run whose loss or metric stops being finite ends there, marked as diverged.

    Raises:
        LabError: see ``RunConfig``; hyperparameters that are not those of the space; noise where it cannot be measured.

    Example:
        >>> from valleys.lab import tasks
        >>> from valleys.lab.optimizers.resolve import resolve
        >>> record = train(
        ...     tasks.load("digits"),
        ...     resolve("adamw"),
        ...     {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.01},
        ...     RunConfig(batch_size=1024, epochs=3),
        ...     seed=0,
        ... )
        >>> record.steps, len(record.curve), record.test
        (3, 3, None)
    """
    config = config.resolved(problem)
    if hyperparameters.keys() != spec.space.keys():
        raise LabError(
            f"{spec.name} needs values for {', '.join(spec.space) or 'nothing'}, "
            f"got {', '.join(hyperparameters) or 'nothing'}"
        )
    with joined() as ranks:
        run = _Run(problem, spec, hyperparameters, config, seed, test, hooks or Hooks(), ranks.device(config.device))
        _check_together(run, ranks.size)
        # What a run holds must be gone before ``joined`` takes the process group down: the wrapped model holds it too.
        record = _looped(run) if isinstance(problem, Loop) else _supervised(run, ranks)
        return ranks.decide(lambda: record)  # the times are rank 0's


@dataclass(frozen=True)
class _Run:
    """The arguments of ``train``, resolved."""

    problem: Problem
    spec: OptimizerSpec
    hyperparameters: Mapping[str, float]
    config: RunConfig
    seed: int
    test: bool
    hooks: Hooks
    device: torch.device

    @property
    def batch_size(self) -> int:
        assert self.config.batch_size is not None
        return self.config.batch_size

    @property
    def epochs(self) -> int:
        assert self.config.epochs is not None
        return self.config.epochs

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes this run from others, for its checkpoint."""
        return {
            "problem": self.problem.name,
            "variant": self.problem.variant,
            "optimizer": self.spec.name,
            "hyperparameters": dict(self.hyperparameters),
            "seed": self.seed,
            **{name: getattr(self.config, name) for name in _IDENTITY},
        }


_BLOCK = 10  # steps
_IDENTITY = [entry.name for entry in fields(RunConfig) if "identity" in entry.metadata and entry.name != "device"]


def _check_together(run: _Run, processes: int) -> None:
    """Refuse what does not go together."""
    name, own = run.problem.name, isinstance(run.problem, Loop)
    if run.hooks.noise is not None and (processes > 1 or run.batch_size < 2 or own):
        raise LabError(
            f"noise: it cannot be measured for {name} at batch {run.batch_size} on {processes} process(es); "
            "that takes one process, a batch of 2 or more, and no training loop of its own"
        )
    if isinstance(run.problem, Loop):
        run.problem.check(run.spec)
    if own and run.hooks.checkpoint is not None:
        raise LabError(f"{name} has a training loop of its own: leave the checkpoint out")
    if own and processes > 1:
        raise LabError(f"{name} has a training loop of its own, for one process: start it without torchrun")


def _supervised(run: _Run, ranks: Ranks) -> Record:
    task, hooks, device = run.problem, run.hooks, run.device
    assert isinstance(task, Task)
    with seeded(device, run.seed):
        fitting = start(task, run.spec, run.hyperparameters, run.config, ranks, seed=run.seed, noise=hooks.noise)
        with interruption.polled():
            fitting.fit(run.epochs, hooks.progress, hooks.observe, hooks.checkpoint, run.identity())
        metric = fitting.evaluate(task.test.reader(device)) if run.test and not fitting.diverged else None
        if hooks.keep is not None and ranks.main and not fitting.diverged:
            with fitting.evaluation():
                hooks.keep(fitting.model)
    return _record(run, fitting, fitting.optimizer, fitting.model, metric)


def _looped(run: _Run) -> Record:
    problem, progress = run.problem, run.hooks.progress
    assert isinstance(problem, Loop)
    plan = problem.plan(run.batch_size, run.epochs)

    def build(model: nn.Module) -> Optimizer:
        with run.spec.blamed(problem.name):
            return run.spec.build(model, run.hyperparameters, plan)

    running = Running(
        run.batch_size,
        run.epochs,
        run.seed,
        run.device,
        run.test,
        build,
        lambda steps: progress(steps, plan.steps) if progress is not None else None,
        run.hooks.observe,
        run.spec.own_schedule,
    )
    with seeded(run.device, run.seed):
        try:
            problem.run(running)
        except (Diverged, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            # The latter: a preconditioner of numbers that are not finite.
            running.diverged = True
    if running.made is None or running.model is None:
        raise LabError(f"the loop of {problem.name} never asked for its optimizer: call running.optimizer(model)")
    if not running.diverged and (not running.curve or running.curve[-1].step != running.steps):
        raise LabError(f"the loop of {problem.name} must end with an evaluation: call running.evaluated(...)")
    if run.test and not running.diverged and running.result is None:
        raise LabError(f"the loop of {problem.name} gave no test metric: call running.tested(...) if running.test")
    if run.hooks.keep is not None and not running.diverged:
        with judged(running.made):
            run.hooks.keep(running.model)
    metric = running.result if run.test and not running.diverged else None
    return _record(run, running, running.made, running.model, metric)


def _record(
    run: _Run, fitting: Fitting | Running, optimizer: Optimizer, model: nn.Module, test: float | None
) -> Record:
    reached = next((e for e in fitting.curve if run.problem.reached(e.validation)), None)
    return Record(
        optimizer=run.spec.name,
        hyperparameters=dict(run.hyperparameters),
        seed=run.seed,
        batch_size=run.batch_size,
        steps=fitting.steps,
        diverged=fitting.diverged,
        curve=fitting.curve,
        validation=None if fitting.diverged else fitting.curve[-1].validation,
        test=test if test is None or finite(test) else math.nan,
        steps_to_target=reached.step if reached else None,
        seconds_to_target=reached.seconds if reached else None,
        step_seconds=_typical(fitting.step_seconds),
        optimizer_seconds=_typical(fitting.optimizer_seconds),
        state_bytes=_bytes(_tensors(optimizer.state_dict()["state"]), without=model.parameters()),
        parameter_bytes=_bytes(model.parameters()),
        examples=fitting.examples if isinstance(fitting, Fitting) else fitting.steps * run.batch_size,
        ended=time.time(),
    )


def _typical(seconds: Sequence[float]) -> float:
    """Return the median over blocks of ten steps of their mean, so that work that is due every ten steps counts.

    The first step, which pays for allocations, is left out.

    Example:
        >>> _typical([9.0, *[1.0] * 9, 11.0, *[1.0] * 9, 11.0, *[1.0] * 9, 500.0])
        2.0
    """
    rest = seconds[1:] or seconds or [0.0]
    size = min(_BLOCK, len(rest))
    return statistics.median(sum(rest[i : i + size]) / size for i in range(0, len(rest) - size + 1, size))


def _tensors(state: object) -> list[Tensor]:
    """Return the tensors in a nested state; a few optimizers keep them inside objects."""
    tensors, waiting, ids = [], [state], set()
    while waiting:
        value = waiting.pop()
        if id(value) in ids or isinstance(value, type):
            continue
        ids.add(id(value))
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        else:
            waiting += getattr(value, "__dict__", {}).values()
    return tensors


def _bytes(tensors: Iterable[Tensor], without: Iterable[Tensor] = ()) -> int:
    """Bytes of the storages under the tensors, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    return sum(size for address, size in storages.items() if address not in left_out)
