"""Measure the finished runs of a comparison, and put what was found into its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from valleys.lab import optimizers as registry
from valleys.lab import own, report, trainer, weights
from valleys.lab.compare import configuration_of
from valleys.lab.errors import LabError
from valleys.lab.flatness.measure import EXAMPLES, measure
from valleys.lab.flatness.table import Flatness
from valleys.lab.job import Job, Key, Results
from valleys.lab.optimizers import OptimizerSpec
from valleys.lab.progress import Follow, watch
from valleys.lab.record import Record
from valleys.lab.schedules import Schedule
from valleys.lab.seeds import seeded
from valleys.lab.store import Store
from valleys.lab.summary import Summary, summarize
from valleys.lab.task import Problem, Task

__all__ = ["Measured", "landscape"]

_SAME = 1e-4
"""Relative difference of a validation metric below which a run that was trained again counts as the same."""


@dataclass(frozen=True)
class Measured:
    """What ``landscape`` found.

    Args:
        task, batch_size: of the comparison.
        flatness: the table.
        trained_again: how many runs had no weights left and were trained again.
        paths: the report's files.
    """

    task: str
    batch_size: int
    flatness: Flatness
    trained_again: int
    paths: dict[str, Path]


def landscape(
    run: Path | str,
    *,
    task: str | Problem | None = None,
    optimizers: Sequence[OptimizerSpec] = (),
    data_dir: Path | str | None = None,
    examples: int = EXAMPLES,
    storage: str | None = None,
    name: str | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> Measured:
    """Measure how flat the minima are that a finished comparison's runs ended in.

    Each run on a fresh seed that did not diverge is measured once: its weights are read from ``RUN/weights``, where
    ``compare(keep_weights=True)`` left them; a run without is trained again, from the same seed, and what it then
    reaches is compared with its record. The measurements are kept in the comparison's storage, and its report is
    written again with them.

    Args:
        run: folder of the comparison.
        task: the comparison's task. Default: what the comparison was asked for.
        optimizers: specifications of the optimizers that the lab does not know by name.
        data_dir: where the task's data lies now. Default: where it lay then.
        examples: training examples of the loss that is measured, at least 1.
        storage: Optuna storage URL of the comparison, if it had one.
        name: what it is called there; default: the folder's name.
        device: ``cpu`` or ``cuda``.
        progress: whether to show a progress bar on stderr; default: where it is a terminal.

    Returns:
        The table and the report's files.

    Raises:
        LabError: no comparison, or an unfinished one; a task or an optimizer that cannot be found or is not the one
            that was compared; a task with a training loop of its own.
    """
    folder = Path(run)
    if examples < 1:
        raise LabError(f"examples {examples}: choose 1 or more")
    if storage is None and not (folder / "comparison.db").exists():
        raise LabError(f"{folder} holds no comparison; name the folder that `valleys compare --out` wrote")
    with Store(folder, storage, name) as store:
        configuration, names, asked = store.held()
        if not configuration:
            raise LabError(f"the storage holds no comparison called {store.name}; give --name")
        problem = _problem(task, configuration, asked, data_dir)
        specs = _specs(names, optimizers, configuration["batch_size"])
        spaces = {spec.name: spec.space for spec in specs.values()}
        results = store.results(spaces)
        jobs = _jobs(results, summarize(results))
        examples = min(examples, len(problem.train))
        wanted = [job for job in jobs if _missing(results, job, examples)]
        again = 0
        with watch(f"landscape of {problem.name}", len(jobs), progress) as bar:
            for number, job in enumerate(wanted, len(jobs) - len(wanted)):
                follow = bar(f"{job.optimizer}, seed {job.key.seed}", number)
                spec, record = specs[job.optimizer], results.final[job.optimizer][job.key]
                found, trained = _measure(problem, spec, record, job, configuration, folder, examples, device, follow)
                store.measured(job.optimizer, job.key, found)
                again += trained
            bar("", len(jobs))
        results = store.results(spaces)
        summary = summarize(results)
        if summary.flatness is None:
            raise LabError(f"{folder} holds no finished run on a fresh seed yet; let `valleys compare` finish")
        paths = report.write(results, summary, folder, asked.get("command", f"valleys compare {problem.name}"))
    return Measured(problem.name, configuration["batch_size"], summary.flatness, again, paths)


def _problem(
    task: str | Problem | None, configuration: dict[str, Any] | Any, asked: Any, data_dir: Path | str | None
) -> Task:
    named = task or asked.get("task") or configuration["task"]
    given = asked if isinstance(named, str) and own.file_of(named) is None else {}
    problem = own.resolve(named, data_dir or given.get("data_dir"), given.get("preset"))
    if not isinstance(problem, Task):
        raise LabError(f"{problem.name} has a training loop of its own; flatness is measured of supervised tasks")
    if asked.get("schedule"):
        problem = replace(problem, schedule=Schedule(asked["schedule"]))
    now = configuration_of(
        problem,
        configuration["batch_size"],
        configuration["trials"],
        configuration["seeds"],
        configuration["epochs"],
        configuration["micro_batch"],
        configuration["precision"],
        configuration["device"],
    )
    differences = [
        f"{key.replace('_', ' ')} {configuration[key]} there, {now[key]} now"
        for key in now
        if now[key] != configuration.get(key)
    ]
    if differences:
        raise LabError(f"this is not the task that was compared ({'; '.join(differences)}); give it by --task, --data")
    return problem


def _specs(names: Sequence[str], own_specs: Sequence[OptimizerSpec], batch_size: int) -> dict[str, OptimizerSpec]:
    given = {spec.name: spec for spec in own_specs}
    return {name: given[name] if name in given else registry.resolve(name, batch_size) for name in names}


def _jobs(results: Results, summary: Summary) -> list[Job]:
    return [
        Job(name, "final", key, record.hyperparameters, results.spaces[name])
        for name, runs in results.final.items()
        for key, record in runs.items()
        if key.point == summary.chosen[name] and not record.diverged
    ]


def _missing(results: Results, job: Job, examples: int) -> bool:
    held = results.flatness.get(job.optimizer, {}).get(job.key)
    return held is None or held["examples"] != examples


def _measure(
    problem: Task,
    spec: OptimizerSpec,
    record: Record,
    job: Job,
    configuration: Any,
    folder: Path,
    examples: int,
    device: str,
    follow: Follow,
) -> tuple[dict[str, Any], bool]:
    where = torch.device(device)
    file = weights.path(folder, job)
    state, note = weights.load(file, where), ""
    trained = state is None
    if trained:
        note = _train(problem, spec, record, configuration, file, device, follow)
        state = weights.load(file, where)
    model, start = _model(problem, job.key, where), _model(problem, job.key, where)
    assert state is not None
    model.load_state_dict(state)
    found: dict[str, Any] = measure(problem, model, start, examples=examples, device=where, progress=follow)
    return {**found, "examples": examples, "note": note}, trained


def _model(problem: Task, key: Key, device: torch.device) -> nn.Module:
    """The model as the run with this seed began."""
    with seeded(device, key.seed):
        return problem.build_model().to(device)


def _train(
    problem: Task, spec: OptimizerSpec, record: Record, configuration: Any, file: Path, device: str, follow: Follow
) -> str:
    """Train a run again and keep its weights; say so if it is not the run that was recorded."""
    now = trainer.train(
        problem,
        spec,
        record.hyperparameters,
        batch_size=configuration["batch_size"],
        seed=record.seed,
        epochs=configuration["epochs"],
        micro_batch=configuration["micro_batch"],
        precision=configuration["precision"],
        device=device,
        progress=follow,
        keep=partial(weights.save, path=file),
    )
    if now.diverged or now.validation is None or record.validation is None:
        raise LabError(
            f"{record.optimizer} with seed {record.seed} diverged when it was trained again, which it did not before: "
            "this machine is not like the one that compared; compare anew with --keep-weights"
        )
    if abs(now.validation - record.validation) > _SAME * abs(record.validation):
        return (
            f"{record.optimizer}, seed {record.seed}: trained again on another machine or version, the validation "
            f"metric is {now.validation:.6g} and was {record.validation:.6g}"
        )
    return ""
