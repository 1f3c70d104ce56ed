"""Compare optimizers fairly: equal tuning for each, then fresh seeds, then a verdict."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from valleys.lab.errors import LabError
from valleys.lab.optimizers import resolve as registry
from valleys.lab.optimizers.resolve import OptimizerSpec
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Problem, Task
from valleys.lab.progress import Follow
from valleys.lab.record import Record
from valleys.lab.report import document
from valleys.lab.report.summary import Row, summarize
from valleys.lab.run import trackers, trainer, weights
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.run.environment import environment
from valleys.lab.run.ranks import Ranks, joined
from valleys.lab.search import candidates
from valleys.lab.statistics import Verdict
from valleys.lab.statistics.planned_pairs import Question
from valleys.lab.store.database import HEARTBEAT
from valleys.lab.store.job import Job
from valleys.lab.store.rank_store import SharedStore
from valleys.lab.tasks import from_file
from valleys.lab.worker import FIRST_SEED, Work, work

__all__ = ["Comparison", "compare", "configuration_of"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Args:
        task: the task's name.
        batch_size: examples per optimizer step.
        metric: the metric's name with its unit.
        selected: the chosen hyperparameters by optimizer; None where every trial diverged.
        trials: the tuning runs by optimizer, in the order of the points.
        records: the runs with the chosen hyperparameters on fresh seeds, by optimizer.
        rows: the table, best optimizer first.
        verdict: who won and by how much.
        planned: whether E helps, for each adapted optimizer whose base takes part.
        warnings: what a reader of the numbers should know.
        paths: the files written: ``markdown``, ``json``, ``html``, ``curves``.
    """

    task: str
    batch_size: int
    metric: str
    selected: Mapping[str, Mapping[str, float] | None]
    trials: Mapping[str, tuple[Record, ...]]
    records: Mapping[str, tuple[Record, ...]]
    rows: tuple[Row, ...]
    verdict: Verdict
    planned: tuple[Question, ...]
    warnings: tuple[str, ...]
    paths: Mapping[str, Path]


def compare(
    task: str | Problem,
    optimizers: Sequence[str | OptimizerSpec],
    *,
    batch_size: int | None = None,
    trials: int = 8,
    seeds: int = 3,
    epochs: int | None = None,
    preset: str | None = None,
    schedule: Schedule | str | None = None,
    micro_batch: int | None = None,
    precision: str = "float32",
    out: Path | str,
    data_dir: Path | str | None = None,
    storage: str | None = None,
    name: str | None = None,
    log: Sequence[str] = (),
    keep_weights: bool = False,
    device: str = "auto",
    progress: bool | None = None,
    heartbeat: int = HEARTBEAT,
) -> Comparison:
    """Tune each optimizer with equally many trials, run the chosen values on fresh seeds, and say who won.

    An interrupted comparison goes on when it is called again with the same arguments; finished runs are kept. Several
    such calls at once, on one machine or, with ``storage``, on many, share the runs; all end with the same report. The
    processes of a launch (torchrun, ``accelerate launch``), or of the process group that is there, share every batch;
    all of them make the same call, rank 0 alone writes.

    Args:
        task: name of a task, or a task of your own: an object, or ``FILE.py:NAME``.
        optimizers: names (``module:callable`` included) or specifications of your own; at least one.
        batch_size: examples per optimizer step, of all ranks together; at most those of the training split. Default:
            the task's, if it has one.
        trials: quasi-random hyperparameter points per optimizer, at least 1. May grow in a later call.
        seeds: fresh seeds for the chosen hyperparameters, at least 1. May grow in a later call.
        epochs: length of a run; default: the task's own.
        preset: ``paper``, ``smoke`` or what else a task of the lab has; default: its first.
        schedule: of the learning rate; default: the task's own.
        micro_batch: examples per backward pass on one rank, gradients accumulated; default: the task's, 4096 mostly.
        precision: ``float32``, or ``bfloat16`` for forward passes under autocast.
        out: folder of the report, and of the comparison's storage.
        data_dir: where the task's data lies, for a task that needs it.
        storage: Optuna storage URL, the same for all workers; default: an SQLite file in ``out``.
        name: what the comparison is called in ``storage``; default: the name of the folder ``out``.
        log: what follows the runs besides: ``tensorboard``, ``mlflow``, ``wandb``.
        keep_weights: keep the trained weights of the fresh seeds' runs in ``out/weights``, as ``state_dict`` files, for
            ``valleys landscape`` and for whoever wants the models. Runs of other workers are in their folders.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where there is one, unless ``accelerate launch --cpu`` says no.
        progress: whether to show a progress bar on stderr; default: where it is a terminal.
        heartbeat: seconds between two signs of life of a worker, at least 1. One on another machine that misses four
            has its run taken over; one on this machine as soon as its process is gone.

    Returns:
        The comparison, the same on all ranks; its report is in ``out``.

    Raises:
        LabError: on a mistake in the arguments, before any work; with several ranks, on all of them.
    """
    for argument, value in (("trials", trials), ("seeds", seeds), ("epochs", epochs), ("heartbeat", heartbeat)):
        if value is not None and value < 1:
            raise LabError(f"{argument} must be at least 1, not {value}")
    folder = Path(out)
    with joined() as ranks:
        device = ranks.agree(lambda: _device(device, ranks))
        problem = ranks.agree(lambda: _problem(task, data_dir, preset, schedule))
        batch = ranks.agree(lambda: _batch_size(problem, batch_size, micro_batch, precision))
        specs = ranks.agree(lambda: _specs(optimizers, batch))
        ranks.agree(lambda: trackers.check(log))
        configuration = configuration_of(problem, batch, trials, seeds, epochs, micro_batch, precision, device)
        by_name = {spec.name: spec for spec in specs}
        spaces = {spec.name: spec.space for spec in specs}

        def run(job: Job, follow: Follow) -> Record:
            kept = None if isinstance(problem, Loop) else Checkpoint(folder / "checkpoints" / f"{job.stem}.pt")
            keeping = keep_weights and job.phase == "final"
            label = trackers.run_name(job.optimizer, job.phase, job.key.point, job.key.seed)
            told = {"optimizer": job.optimizer, "phase": job.phase, "seed": job.key.seed, **job.hyperparameters}
            with (
                trackers.tracker(log if ranks.main else (), folder, label, {**configuration, **told}) as observe,
                from_file.pointing(from_file.file_of(task) if isinstance(task, str) else None),
            ):
                record = trainer.train(
                    problem,
                    by_name[job.optimizer],
                    job.hyperparameters,
                    batch_size=batch,
                    seed=job.key.seed,
                    epochs=epochs,
                    micro_batch=micro_batch,
                    precision=precision,
                    device=device,
                    test=job.phase == "final",
                    progress=follow,
                    observe=observe,
                    checkpoint=kept,
                    keep=partial(weights.save, path=weights.path(folder, job)) if keeping else None,
                )
                observe(record)
            if kept is not None and ranks.main:
                kept.remove()
            return record

        given = {
            "epochs": epochs,
            "preset": preset,
            "schedule": schedule,
            "micro_batch": micro_batch,
            "precision": None if precision == "float32" else precision,
            "data_dir": None if data_dir is None else str(data_dir),
            "storage": None if storage is None else "URL",
            "name": name,
            "log": ",".join(log) or None,
            "keep_weights": keep_weights or None,
        }
        command = _command(task, optimizers, configuration, given, folder)
        asked = {
            "task": task if isinstance(task, str) else None,
            **{name: given[name] for name in ("data_dir", "preset")},
            "schedule": schedule if isinstance(schedule, str) else None,
            "optimizers": list(by_name),
            "command": command,
        }
        with SharedStore(ranks, folder, storage, name, heartbeat) as store:
            warnings = store.configure(configuration, environment(device, ranks.size), spaces, asked)
            wanted = Work(specs, trials, seeds, problem.maximize)
            work(wanted, store, run, problem.name, progress if ranks.main else False)
            results = store.results(spaces)
            summary = summarize(results, warnings)
            paths = ranks.decide(lambda: document.write(results, summary, folder, command))
    return Comparison(
        problem.name,
        batch,
        problem.metric_name,
        summary.selected,
        {name: tuple(runs.values()) for name, runs in results.tuning.items()},
        summary.records,
        summary.rows,
        summary.verdict,
        summary.planned,
        summary.notes,
        paths,
    )


def _specs(optimizers: Sequence[str | OptimizerSpec], batch_size: int) -> list[OptimizerSpec]:
    specs = [registry.resolve(entry, batch_size) if isinstance(entry, str) else entry for entry in optimizers]
    if not specs:
        raise LabError("there is no optimizer to compare; name at least one")
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"optimizers named more than once: {', '.join(twice)}")
    return specs


def _problem(
    task: str | Problem, data_dir: Path | str | None, preset: str | None, schedule: Schedule | str | None
) -> Problem:
    problem = from_file.resolve(task, data_dir, preset)
    if schedule is None:
        return problem
    if not isinstance(problem, Task):
        raise LabError(f"{problem.name} has a training loop of its own, and so its own schedule: leave schedule out")
    return replace(problem, schedule=schedule if isinstance(schedule, Schedule) else Schedule(schedule))  # type: ignore[arg-type]


def _batch_size(problem: Problem, batch_size: int | None, micro_batch: int | None, precision: str) -> int:
    size = problem.batch_size if batch_size is None else batch_size
    if size is None:
        raise LabError(f"{problem.name} has no batch size of its own: name one")
    trainer.check(problem, size, micro_batch, precision)
    return size


def _device(device: str, ranks: Ranks) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise LabError(f"unknown device {device!r}; known: auto, cpu, cuda")
    if device == "auto":
        refused = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        device = "cuda" if torch.cuda.is_available() and not refused else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise LabError("torch finds no CUDA device here; use --device cpu")
    ranks.device(device)  # it may be in want of one for this rank
    return device


def configuration_of(
    task: Problem,
    batch_size: int,
    trials: int,
    seeds: int,
    epochs: int | None,
    micro_batch: int | None,
    precision: str,
    device: str,
) -> dict[str, Any]:
    """What a comparison is: two with other values are not the same one.

    Args:
        task: the problem.
        batch_size: see ``compare``, as all others.
        trials: of each optimizer.
        seeds: of each optimizer.
        epochs: None: the task's.
        micro_batch: None: the task's.
        precision: of forward passes.
        device: resolved.

    Returns:
        Plain numbers and strings.
    """
    return {
        "task": task.name,
        "variant": task.variant,
        "metric": task.metric_name,
        "maximize": task.maximize,
        "target": task.target,
        "schedule": task.schedule.describe() if isinstance(task, Task) else "its own",
        "data": [len(task.train), len(task.validation), len(task.test)] if isinstance(task, Task) else [],
        "batch_size": batch_size,
        "micro_batch": (micro_batch or task.micro_batch) if isinstance(task, Task) else batch_size,
        "precision": precision,
        "epochs": task.epochs if epochs is None else epochs,
        "device": device,
        "tuning_seed": candidates.TUNING_SEED,
        "first_seed": FIRST_SEED,
        "trials": trials,
        "seeds": seeds,
    }


def _command(
    task: str | Problem,
    optimizers: Sequence[str | OptimizerSpec],
    configuration: Mapping[str, Any],
    given: Mapping[str, Any],
    folder: Path,
) -> str:
    """What repeats the comparison, in a shell or in Python; a storage's password stays out of the report."""
    options = {
        **{name: configuration[name] for name in ("batch_size", "trials", "seeds", "device")},
        **{name: value for name, value in given.items() if value is not None},
        "out": str(folder),
    }
    names = [entry for entry in optimizers if isinstance(entry, str)]
    if not isinstance(task, str) or len(names) < len(optimizers):
        made = [entry if isinstance(entry, str) else entry.name for entry in optimizers]
        arguments = "".join(f", {name}={value!r}" for name, value in options.items())
        return f"valleys.lab.compare({configuration['task']}, [{', '.join(made)}]{arguments})"
    words = ["valleys", "compare", task, "--optimizers", ",".join(names)]
    for name, value in options.items():
        option = "--data" if name == "data_dir" else f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return shlex.join(words)
