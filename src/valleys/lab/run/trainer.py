"""One run: a problem, an optimizer, a seed; what comes back is a record. No optimizer is named here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError
from valleys.lab.optimizers.resolve import OptimizerSpec, Plan
from valleys.lab.problem.loop import Diverged, Loop, Running
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task
from valleys.lab.record import Evaluation, Record
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.run.noise_scale import NoiseScale
from valleys.lab.run.ranks import Ranks, joined
from valleys.lab.run.training_loop import Fitting

__all__ = ["PRECISIONS", "check", "train"]

PRECISIONS = ("float32", "bfloat16")
"""In what forward passes compute: the model's own type, or bfloat16 by autocast, weights and updates as they are."""


def check(problem: Problem, batch_size: int, micro_batch: int | None = None, precision: str = "float32") -> None:
    """Refuse what ``train`` could not do, before any work.

    Args:
        problem: what is trained.
        batch_size: examples per optimizer step.
        micro_batch: examples per forward and backward pass, at least 1; None: the task's.
        precision: one of ``PRECISIONS``.

    Raises:
        LabError: a size below 1, a batch larger than the training data, an unknown precision, or a setting that a
            problem with its own training loop does not have.
    """
    own = isinstance(problem, Loop)
    examples = problem.examples if isinstance(problem, Loop) else len(_task(problem).train)
    if batch_size < 1 or (examples is not None and batch_size > examples):
        there = f"has {examples} training examples" if not own else f"takes batches of at most {examples}"
        most = f"1 to {examples}" if examples is not None else "1 or more"
        raise LabError(f"batch size {batch_size}: {problem.name} {there}; choose {most}")
    if micro_batch is not None and micro_batch < 1:
        raise LabError(f"micro batch {micro_batch}: choose 1 or more; it only bounds the memory of a backward pass")
    if precision not in PRECISIONS:
        raise LabError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if own and (micro_batch is not None or precision != "float32"):
        raise LabError(f"{problem.name} has a training loop of its own: leave micro batch and precision out")


def train(
    problem: Problem,
    spec: OptimizerSpec,
    hyperparameters: Mapping[str, float],
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    micro_batch: int | None = None,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    test: bool = False,
    progress: Callable[[int, int], None] | None = None,
    observe: Callable[[Evaluation], None] | None = None,
    checkpoint: Checkpoint | None = None,
    noise: NoiseScale | None = None,
    keep: Callable[[nn.Module], None] | None = None,
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
        batch_size: examples per optimizer step, of all ranks together; 1 to the number of training examples.
        seed: of initialisation, order and dropout; the caller's random state is left alone.
        epochs: passes over the data, at least 1; None: the problem's.
        micro_batch: examples per forward and backward pass on one rank, at least 1; None: the task's. Like the number
            of ranks it changes neither gradient nor metric but for rounding, unless the model normalises over the batch
            or something is random (dropout, augmentation).
        precision: one of ``PRECISIONS``.
        device: where to train; with several ranks ``cuda`` is each rank's own device.
        test: evaluate the test split at the end, once.
        progress: called with (steps made, steps in all) after each step, on rank 0.
        observe: called with each evaluation, on rank 0.
        checkpoint: where the run's state is kept while it is under way; a run that is begun again goes on from there,
            with the result of one that was not interrupted. Not for a ``Loop``.
        noise: learns the gradient noise scale; a batch then has at least two micro-batches. For one process, not for a
            ``Loop``; it knows nothing of the steps before a run was resumed.
        keep: called with the trained model at the end of a run that did not diverge, on rank 0.

    Returns:
        The record, rank 0's on all ranks. A run whose loss or metric stops being finite ends there, marked as diverged.

    Raises:
        LabError: see ``check``; fewer than one epoch; hyperparameters that are not those of the space; noise where it
            cannot be measured.

    Example:
        >>> from valleys.lab import optimizers, tasks
        >>> record = train(
        ...     tasks.load("digits"),
        ...     optimizers.resolve("adamw"),
        ...     {"lr": 1e-2, "one_minus_beta1": 0.1},
        ...     batch_size=1024,
        ...     seed=0,
        ...     epochs=3,
        ... )
        >>> record.steps, len(record.curve), record.test
        (3, 3, None)
    """
    check(problem, batch_size, micro_batch, precision)
    epochs = problem.epochs if epochs is None else epochs
    if epochs < 1:
        raise LabError(f"epochs {epochs}: choose 1 or more; {problem.name} has {problem.epochs} by default")
    if hyperparameters.keys() != spec.space.keys():
        raise LabError(
            f"{spec.name} needs values for {', '.join(spec.space) or 'nothing'}, "
            f"got {', '.join(hyperparameters) or 'nothing'}"
        )
    with joined() as ranks:
        wanted = _Wanted(
            problem,
            spec,
            hyperparameters,
            batch_size,
            seed,
            epochs,
            micro_batch,
            precision,
            ranks.device(device),
            test,
            progress,
            observe,
            checkpoint,
            noise,
            keep,
        )
        _check_together(wanted, ranks.size)
        # What a run holds must be gone before ``joined`` takes the process group down: the wrapped model holds it too.
        record = _looped(wanted) if isinstance(problem, Loop) else _supervised(wanted, ranks)
        return ranks.decide(lambda: record)  # the times are rank 0's


@dataclass(frozen=True)
class _Wanted:
    """The arguments of ``train``."""

    problem: Problem
    spec: OptimizerSpec
    hyperparameters: Mapping[str, float]
    batch_size: int
    seed: int
    epochs: int
    micro_batch: int | None
    precision: str
    device: torch.device
    test: bool
    progress: Callable[[int, int], None] | None
    observe: Callable[[Evaluation], None] | None
    checkpoint: Checkpoint | None
    noise: NoiseScale | None
    keep: Callable[[nn.Module], None] | None

    def identity(self) -> dict[str, Any]:
        """What tells this run from others, for its checkpoint."""
        return {
            "problem": self.problem.name,
            "variant": self.problem.variant,
            "optimizer": self.spec.name,
            "hyperparameters": dict(self.hyperparameters),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "epochs": self.epochs,
            "micro_batch": self.micro_batch,
            "precision": self.precision,
        }


def _check_together(wanted: _Wanted, processes: int) -> None:
    """Refuse what does not go together."""
    problem, batch_size = wanted.problem, wanted.batch_size
    own = isinstance(problem, Loop)
    if wanted.noise is not None and (processes > 1 or batch_size < 2 or own):
        raise LabError(
            f"noise: it cannot be measured for {problem.name} at batch {batch_size} on {processes} process(es); "
            "that takes one process, a batch of 2 or more, and no training loop of its own"
        )
    if own and wanted.checkpoint is not None:
        raise LabError(f"{problem.name} has a training loop of its own: leave the checkpoint out")
    if own and processes > 1:
        raise LabError(f"{problem.name} has a training loop of its own, for one process: start it without torchrun")


def _supervised(wanted: _Wanted, ranks: Ranks) -> Record:
    task, device = _task(wanted.problem), wanted.device
    plan = Plan(wanted.batch_size, wanted.epochs * (len(task.train) // wanted.batch_size))
    most = task.micro_batch if wanted.micro_batch is None else wanted.micro_batch
    with seeded(device, wanted.seed):
        model = task.build_model().to(device)
        if task.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        run = Fitting(
            task,
            model,
            ranks.replicate(model),
            wanted.spec.build(model, wanted.hyperparameters, plan),
            device,
            ranks,
            wanted.batch_size,
            most if wanted.noise is None else min(most, -(-wanted.batch_size // 2)),
            wanted.seed,
            wanted.precision == "bfloat16",
            wanted.noise,
        )
        run.fit(wanted.epochs, wanted.progress, wanted.observe, wanted.checkpoint, wanted.identity())
        result = run.evaluate(task.test.reader(device)) if wanted.test and not run.diverged else None
    if wanted.keep is not None and ranks.main and not run.diverged:
        wanted.keep(model)
    return _record(wanted, run, run.optimizer, model, result)


def _looped(wanted: _Wanted) -> Record:
    problem, progress, test = wanted.problem, wanted.progress, wanted.test
    assert isinstance(problem, Loop)
    plan = problem.plan(wanted.batch_size, wanted.epochs)
    running = Running(
        wanted.batch_size,
        wanted.epochs,
        wanted.seed,
        wanted.device,
        test,
        lambda model: wanted.spec.build(model, wanted.hyperparameters, plan),
        lambda steps: progress(steps, plan.steps) if progress is not None else None,
        wanted.observe,
    )
    with seeded(wanted.device, wanted.seed):
        try:
            problem.run(running)
        except Diverged:
            running.diverged = True
    if running.made is None or running.model is None:
        raise LabError(f"the loop of {problem.name} never asked for its optimizer: call running.optimizer(model)")
    if not running.diverged and (not running.curve or running.curve[-1].step != running.steps):
        raise LabError(f"the loop of {problem.name} must end with an evaluation: call running.evaluated(...)")
    if test and not running.diverged and running.result is None:
        raise LabError(f"the loop of {problem.name} gave no test metric: call running.tested(...) if running.test")
    if wanted.keep is not None and not running.diverged:
        wanted.keep(running.model)
    return _record(
        wanted, running, running.made, running.model, running.result if test and not running.diverged else None
    )


def _record(
    wanted: _Wanted, run: Fitting | Running, optimizer: Optimizer, model: nn.Module, test: float | None
) -> Record:
    reached = next((e for e in run.curve if wanted.problem.reached(e.validation)), None)
    return Record(
        optimizer=wanted.spec.name,
        hyperparameters=dict(wanted.hyperparameters),
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        steps=run.steps,
        diverged=run.diverged,
        curve=run.curve,
        validation=None if run.diverged else run.curve[-1].validation,
        test=test,
        steps_to_target=reached.step if reached else None,
        seconds_to_target=reached.seconds if reached else None,
        step_seconds=_median_after_first(run.step_seconds),
        optimizer_seconds=_median_after_first(run.optimizer_seconds),
        state_bytes=_bytes(_tensors(optimizer.state_dict()["state"]), without=model.parameters()),
        parameter_bytes=_bytes(model.parameters()),
        ended=time.time(),
    )


def _task(problem: Problem) -> Task:
    if not isinstance(problem, Task):
        raise LabError(f"{type(problem).__name__} {problem.name!r} is neither a Task nor a Loop")
    return problem


def _median_after_first(seconds: list[float]) -> float:
    """Without the first step, which pays for allocations."""
    return statistics.median(seconds[1:] or seconds or [0.0])


def _tensors(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def _bytes(tensors: Iterable[Tensor], without: Iterable[Tensor] = ()) -> int:
    """Bytes of the storages under the tensors, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    return sum(size for address, size in storages.items() if address not in left_out)
