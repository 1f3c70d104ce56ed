"""Measure the finished runs of a comparison, and put what was found into its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from valleys.lab.config import LAYOUT, ComparisonConfig
from valleys.lab.errors import LabError
from valleys.lab.flatness.measure import EXAMPLES, MEASURES, chosen, measure
from valleys.lab.flatness.table import Flatness
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task
from valleys.lab.progress import Follow, watch
from valleys.lab.record import Record
from valleys.lab.report import document
from valleys.lab.report.summary import Summary, lines, summarize
from valleys.lab.run import trainer, weights
from valleys.lab.run.config import RunConfig
from valleys.lab.run.ranks import joined
from valleys.lab.settings import documented, option
from valleys.lab.store.job import Job, Results
from valleys.lab.store.store import Store
from valleys.lab.tasks import from_file

__all__ = ["LandscapeConfig", "Measured", "landscape"]

Config = TypeVar("Config", bound=RunConfig)

_SAME = 1e-4
"""Relative difference of a validation metric below which a run that was trained again counts as the same."""


@dataclass(frozen=True)
class Measured:
    """Results of ``landscape``.

    Args:
        task, batch_size: of the comparison.
        flatness: the table.
        runs: the measurements of each run that counts, by optimizer and seed.
        trained_again: how many runs had no weights left and were trained again.
        paths: the report's files.
    """

    task: str
    batch_size: int
    flatness: Flatness
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]]
    trained_again: int
    paths: dict[str, Path]


@documented
@dataclass(frozen=True, kw_only=True)
class LandscapeConfig:
    """Settings of the measurements.

    Raises:
        LabError: fewer than one example, or an unknown measure.
    """

    data_dir: Path | str | None = option(
        None, "Folder of the task's data; default: where it was then.", flag="--data", cli=Path | None
    )
    examples: int = option(EXAMPLES, "Training examples of the loss that is measured.")
    measures: Sequence[str] = option((), f"By commas, of {', '.join(MEASURES)}; default: all.")
    storage: str | None = option(None, "The comparison's Optuna storage URL, if it had one.")
    name: str | None = option(None, "The comparison's name in --storage; default: RUN's.")
    device: str = option("cpu", "cpu or cuda.")

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise LabError(f"examples {self.examples}: choose 1 or more")
        chosen(self.measures or None)


def landscape(
    run: Path | str,
    config: LandscapeConfig | None = None,
    *,
    task: str | Problem | None = None,
    optimizers: Sequence[OptimizerSpec] = (),
    progress: bool | None = None,
    **settings: Any,
) -> Measured:
    """Measure how flat the minima are that a finished comparison's runs ended in.

    Each run on a fresh seed that did not diverge is measured once: its weights are read from ``RUN/weights``, where
    ``compare(keep_weights=True)`` left them; a run without is trained again, from the same seed, and what it then
    reaches is compared with its record. The measurements are kept in the comparison's storage, and its report is
    written again with them.

    Args:
        run: folder of the comparison.
        config: all settings. More measures may be asked for later.
        task: the comparison's task. Default: the one that was compared.
        optimizers: specifications of the optimizers that the lab does not know by name.
        progress: whether to show a progress bar on stderr; default: where it is a terminal.
        settings: fields of ``LandscapeConfig``, in place of ``config`` or of its values.

    Returns:
        The table and the report's files.

    Raises:
        LabError: an unknown measure; no comparison, or an unfinished one; a task or an optimizer that cannot be found
            or is not the one that was compared; a task with a training loop of its own; several processes.
    """
    config = replace(config or LandscapeConfig(), **settings)
    folder = Path(run)
    with joined() as ranks:
        if ranks.size > 1:
            raise LabError("flatness is measured in one process: start without torchrun")
    measures = chosen(config.measures or None)
    if config.storage is None and not (folder / "comparison.db").exists():
        raise LabError(f"{folder} holds no comparison; name the folder that `valleys compare --out` wrote")
    with Store(folder, config.storage, config.name) as store:
        configuration, names, request = store.description()
        if not configuration:
            raise LabError(f"the storage holds no comparison called {store.name}; give --name")
        if configuration.get("layout") != LAYOUT:
            raise LabError(f"{folder} holds a comparison of another version of valleys, without rounds; compare anew")
        compared = replace(_settings(configuration, ComparisonConfig), copies=request.get("copies", 1))
        problem = _problem(task, compared, configuration, request, config.data_dir)
        own = {spec.name: spec for spec in optimizers}
        known = replace(compared, optimizers=[own.get(name, name) for name in names]).specs()
        specs = {spec.name: spec for spec in known}
        spaces = {spec.name: spec.space for spec in specs.values()}
        results = store.results(spaces)
        jobs = _jobs(results, summarize(results))
        examples = min(config.examples, len(problem.train))
        missing = [job for job in jobs if _missing(results, job, examples, measures)]
        again = 0
        with watch(f"landscape of {problem.name}", len(jobs), progress) as bar:
            for number, job in enumerate(missing, len(jobs) - len(missing)):
                follow = bar(f"round {job.key.round + 1}, {job.optimizer}, seed {job.key.seed}", number)
                record = results.final[job.optimizer][job.key]
                device = torch.device(config.device)
                one = _Run(problem, specs[job.optimizer], record, job, configuration, folder, device)
                measurements, trained = one.measured(examples, measures, follow)
                before = results.flatness.get(job.optimizer, {}).get(job.key, {})
                kept = before if before.get("examples") == examples else {}
                store.measured(job.optimizer, job.key, {**kept, **measurements})
                again += trained
            bar("", len(jobs))
        results = store.results(spaces)
        summary = summarize(results)
        if summary.flatness is None:
            raise LabError(f"{folder} holds no finished run on a fresh seed yet; let `valleys compare` finish")
        command = request.get("command", f"valleys compare {problem.name}")
        python = lines(known, summary, configuration["batch_size"])
        paths = document.write(results, summary, folder, command, python)
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for job in jobs:
        runs.setdefault(job.optimizer, {})[job.key.seed] = results.flatness[job.optimizer][job.key]
    return Measured(problem.name, configuration["batch_size"], summary.flatness, runs, again, paths)


def _settings(configuration: Mapping[str, Any], cls: type[Config]) -> Config:
    """Return the settings that a comparison was made with; a loop has no micro batch."""
    values = {entry.name: configuration[entry.name] for entry in fields(cls) if "identity" in entry.metadata}
    return cls(**values)


def _problem(
    task: str | Problem | None,
    compared: ComparisonConfig,
    configuration: Mapping[str, Any],
    request: Mapping[str, Any],
    data_dir: Path | str | None,
) -> Task:
    name = task or request.get("task") or configuration["task"]
    recorded = request if isinstance(name, str) and from_file.file_of(name) is None else {}
    before = replace(compared, data_dir=data_dir or recorded.get("data_dir"), preset=recorded.get("preset"))
    problem = before.problem(name)
    if not isinstance(problem, Task):
        raise LabError(f"{problem.name} has a training loop of its own; flatness is measured of supervised tasks")
    if request.get("schedule"):
        problem = replace(problem, schedule=Schedule(request["schedule"]))
    now = before.identity(problem)
    differences = [
        f"{key.replace('_', ' ')} {configuration[key]} there, {now[key]} now"
        for key in now
        if now[key] != configuration.get(key)
    ]
    if differences:
        raise LabError(f"this is not the task that was compared ({'; '.join(differences)}); give it by --task, --data")
    return problem


def _jobs(results: Results, summary: Summary) -> list[Job]:
    return [
        Job(name, "final", key, record.hyperparameters, results.spaces[name])
        for name, rounds in summary.selections.items()
        for selection in rounds.values()
        for key, record in selection.runs.items()
        if not record.diverged
    ]


def _missing(results: Results, job: Job, examples: int, measures: Sequence[str]) -> bool:
    measured = results.flatness.get(job.optimizer, {}).get(job.key)
    return measured is None or measured["examples"] != examples or any(name not in measured for name in measures)


@dataclass(frozen=True)
class _Run:
    """A finished run whose model is wanted back."""

    problem: Task
    spec: OptimizerSpec
    record: Record
    job: Job
    configuration: Mapping[str, Any]
    folder: Path
    device: torch.device

    def measured(self, examples: int, measures: Sequence[str], follow: Follow) -> tuple[dict[str, Any], bool]:
        """Return the measurements, and whether the run had to be trained again for them."""
        file = weights.path(self.folder, self.job.stem)
        state, note = weights.load(file, self.device), ""
        trained = state is None
        if trained:
            note = self._train(file, follow)
            state = weights.load(file, self.device)
        assert state is not None
        model, start = self._model(), self._model()
        model.load_state_dict(state)
        values: dict[str, Any] = measure(
            self.problem, model, start, examples=examples, device=self.device, measures=measures, progress=follow
        )
        return {**values, "examples": examples, "note": note}, trained

    def _model(self) -> nn.Module:
        """The model as the run with this seed began."""
        with seeded(self.device, self.record.seed):
            return self.problem.build_model().to(self.device)

    def _train(self, file: Path, follow: Follow) -> str:
        """Train a run again and keep its weights; say so if it is not the run that was recorded."""
        record = self.record
        config = replace(_settings(self.configuration, RunConfig), device=str(self.device))
        hooks = trainer.Hooks(follow, keep=partial(weights.save, path=file))
        now = trainer.train(self.problem, self.spec, record.hyperparameters, config, seed=record.seed, hooks=hooks)
        if now.diverged or now.validation is None or record.validation is None:
            raise LabError(
                f"{record.optimizer} with seed {record.seed} diverged when it was trained again, which it did not "
                "before: this machine is not like the one that compared; compare anew with --keep-weights"
            )
        if abs(now.validation - record.validation) > _SAME * abs(record.validation):
            return (
                f"{record.optimizer}, seed {record.seed}: trained again on another machine or version, the validation "
                f"metric is {now.validation:.6g} and was {record.validation:.6g}"
            )
        return ""
