"""Measure the finished runs of a comparison, and put what was found into its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from valleys.lab.atomic_write import write_json
from valleys.lab.config import LAYOUT, ComparisonConfig
from valleys.lab.errors import LabError, pointing, typed
from valleys.lab.flatness import pictures
from valleys.lab.flatness.drawing import GRID, Minimum, drawing, parts
from valleys.lab.flatness.measure import EXAMPLES, MEASURES, chosen, measure
from valleys.lab.flatness.table import Flatness
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.problem.fingerprint import fingerprint
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task
from valleys.lab.progress import Follow, watch
from valleys.lab.record import Record
from valleys.lab.report import additions, document
from valleys.lab.report.summary import Summary, lines, summarize
from valleys.lab.run import trainer, weights
from valleys.lab.run.config import RunConfig, check_device
from valleys.lab.run.ranks import joined
from valleys.lab.settings import documented, option
from valleys.lab.store.job import Job, Results
from valleys.lab.store.store import Store
from valleys.lab.tasks import from_file

__all__ = ["LandscapeConfig", "Measured", "landscape"]

Config = TypeVar("Config", bound=RunConfig)

_MOST = 1000  # points on each side of the surface: each costs a pass over the examples
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
        paths: the report's files, and those of the drawing.
        drawing: what ``landscape.json`` holds; None if nothing was drawn.
    """

    task: str
    batch_size: int
    flatness: Flatness
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]]
    trained_again: int
    paths: dict[str, Path]
    drawing: Mapping[str, Any] | None = None


@documented
@dataclass(frozen=True, kw_only=True)
class LandscapeConfig:
    """Settings of the measurements.

    Raises:
        LabError: a value of another type or out of its range, an unknown measure, or a device that is not here.
    """

    data_dir: Path | str | None = option(
        None, "Folder of the task's data; default: where it was then.", flag="--data", cli=Path | None
    )
    examples: int = option(EXAMPLES, "Training examples of the loss that is measured.")
    measures: Sequence[str] = option((), f"By commas, of {', '.join(MEASURES)}; default: all.")
    draw: bool = option(
        False, "Draw the surface that the minima share, barriers, spectra and sharpness.", flag="--draw"
    )
    grid: int = option(GRID, "Points on each side of the drawn surface.")
    storage: str | None = option(None, "The comparison's Optuna storage URL, if it had one.", secret=True)
    name: str | None = option(None, "The comparison's name in --storage; default: RUN's.")
    device: str = option("cpu", "cpu or cuda.")

    def __post_init__(self) -> None:
        typed(self)
        check_device(self.device)
        if self.examples < 1:
            raise LabError(f"examples {self.examples}: choose 1 or more")
        if not 2 <= self.grid <= _MOST:
            raise LabError(f"grid {self.grid}: choose 2 or more, at most {_MOST}; {GRID} is usual")
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

    With ``draw``, the first of these runs of each optimizer (the earliest round, the lowest seed) is drawn: ``RUN``
    gets ``landscape.json`` and the pictures ``landscape-*.png``, and its report a section with them. The JSON holds
    what :func:`valleys.lab.flatness.drawing.drawing` returns, inf and NaN as null, and

    * ``task``, ``batch_size``, and ``title``, which names both;
    * ``optimizers``: all of the comparison, in the order of the palette's colours;
    * ``left_out``: those of them that have no run that stayed finite;
    * ``notes``: what a reader should know.

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
            or is not the one that was compared; a task with a training loop of its own; several processes; of
            ``draw``, fewer than two optimizers with a run that did not diverge, and what ``drawing`` raises.
    """
    config = replace(config or LandscapeConfig(), **settings)
    folder = Path(run)
    with joined() as ranks:
        if ranks.size > 1:
            raise LabError("flatness is measured in one process: start without torchrun")
    measures = chosen(config.measures or None)
    if config.storage is None and not (folder / "comparison.db").exists():
        raise LabError(f"{folder} holds no comparison; name the folder that `valleys compare --out` wrote")
    with Store(folder, config.storage, config.name) as store, pointing():
        finished = _Finished(store, folder, config, task, optimizers)
        finished.measure(measures, progress)
        drawing = finished.draw(progress) if config.draw else None
        return finished.report(drawing)


class _Finished:
    """A finished comparison with its task, its optimizers, and the runs that count."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        config: LandscapeConfig,
        task: str | Problem | None,
        optimizers: Sequence[OptimizerSpec],
    ) -> None:
        self.store, self.folder, self.config = store, folder, config
        self.again = 0  # runs that were trained again
        self.configuration, names, self.request = store.description()
        if not self.configuration:
            raise LabError(f"the storage holds no comparison called {store.name}; give --name")
        if self.configuration.get("layout") != LAYOUT:
            raise LabError(f"{folder} holds a comparison of another version of valleys, without rounds; compare anew")
        compared = replace(_settings(self.configuration, ComparisonConfig), copies=self.request.get("copies", 1))
        self.problem = _problem(task, compared, self.configuration, self.request, config.data_dir)
        name = task or self.request.get("task") or self.problem.name
        file = from_file.file_of(name) if isinstance(name, str) else None
        store.check_fingerprint(fingerprint(self.problem, file, not isinstance(name, str)))
        own = {spec.name: spec for spec in optimizers}
        self.known = replace(compared, optimizers=[own.get(name, name) for name in names]).specs()
        self.specs = {spec.name: spec for spec in self.known}
        results = self._results()
        self.summary = summarize(results)
        self.jobs = _jobs(results, self.summary)
        if not self.jobs:
            raise LabError(f"{folder} holds no finished run on a fresh seed yet; let `valleys compare` finish")
        self.first: dict[str, Job] = {}
        for job in self.jobs:
            self.first.setdefault(job.optimizer, job)
        if config.draw and len(self.first) == 1:
            raise LabError(
                f"{folder} has a finite final run of {self.jobs[0].optimizer} alone, and a drawing needs the minima of "
                "two optimizers; leave --draw out, or compare more of them"
            )

    def measure(self, measures: Sequence[str], progress: bool | None) -> None:
        """Measure what is not measured yet."""
        results = self._results()
        examples = min(self.config.examples, len(self.problem.train))
        missing = [job for job in self.jobs if _missing(results, job, examples, measures)]
        with watch(f"landscape of {self.problem.name}", len(self.jobs), progress) as bar:
            for number, job in enumerate(missing, len(self.jobs) - len(missing)):
                follow = bar(f"round {job.key.round + 1}, {job.optimizer}, seed {job.key.seed}", number)
                model, start, note = self._models(job, follow)
                values = measure(
                    self.problem,
                    model,
                    start,
                    examples=examples,
                    device=self.config.device,
                    measures=measures,
                    progress=follow,
                )
                before = results.flatness.get(job.optimizer, {}).get(job.key, {})
                record = before if before.get("examples") == examples else {}
                self.store.measured(job.optimizer, job.key, {**record, **values, "examples": examples, "note": note})
            bar("", len(self.jobs))

    def draw(self, progress: bool | None) -> dict[str, Any]:
        """Draw the first run of each optimizer; write the numbers and the pictures."""
        size, minima, notes = self.configuration["batch_size"], [], []
        with watch(f"drawing of {self.problem.name}", parts(len(self.first)), progress) as bar:
            for name, job in self.first.items():
                model, start, note = self._models(job, bar(f"weights of {name}", 0))
                run = {"round": job.key.round + 1, "seed": job.key.seed, "trial": job.key.point + 1}
                validation = self._record(job).validation
                assert validation is not None
                score = validation if self.problem.maximize else -validation
                minima.append(Minimum(name, model.eval(), start, run, score))
                notes += [note] * bool(note)
            numbers = drawing(
                self.problem,
                minima,
                examples=self.config.examples,
                device=self.config.device,
                grid=self.config.grid,
                bar=bar,
            )
        result = {
            "task": self.problem.name,
            "batch_size": size,
            "title": f"{self.problem.name} at batch {size}",
            "optimizers": list(self.specs),
            "left_out": [name for name in self.specs if name not in self.first],
            "notes": notes,
            **numbers,
        }
        write_json(self.folder / additions.DRAWING, document.plain(result), indent=None)
        pictures.write(result, self.folder)
        return result

    def report(self, drawn: Mapping[str, Any] | None) -> Measured:
        """Write the comparison's report again, with all that was measured."""
        results = self._results()
        summary = summarize(results)
        assert summary.flatness is not None
        name, size = self.problem.name, self.configuration["batch_size"]
        command = self.request.get("command", f"valleys compare {name}")
        paths = document.write(results, summary, self.folder, command, lines(self.known, summary, size))
        if drawn is not None:
            paths |= {"drawing": self.folder / additions.DRAWING, **pictures.paths(self.folder)}
        runs: dict[str, dict[int, Mapping[str, Any]]] = {}
        for job in self.jobs:
            runs.setdefault(job.optimizer, {})[job.key.seed] = results.flatness[job.optimizer][job.key]
        return Measured(name, size, summary.flatness, runs, self.again, paths, drawn)

    def _results(self) -> Results:
        return self.store.results({name: spec.space for name, spec in self.specs.items()})

    def _record(self, job: Job) -> Record:
        return self.summary.selections[job.optimizer][job.key.round].runs[job.key]

    def _models(self, job: Job, follow: Follow) -> tuple[nn.Module, nn.Module, str]:
        """Return a run's model as it ended and as it began, and a note if it was trained again to another result."""
        file, device, note = weights.path(self.folder, job.stem), torch.device(self.config.device), ""
        state = weights.load(file, device)
        if state is None:
            note = self._train(job, file, follow)
            state = weights.load(file, device)
            self.again += 1
        assert state is not None
        models = []
        for _ in range(2):
            with seeded(device, self._record(job).seed):
                models.append(self.problem.build_model().to(device))
        models[0].load_state_dict(state)
        return models[0], models[1], note

    def _train(self, job: Job, file: Path, follow: Follow) -> str:
        """Train a run again and keep its weights; say so if it is not the run that was recorded."""
        record, spec = self._record(job), self.specs[job.optimizer]
        config = replace(_settings(self.configuration, RunConfig), device=self.config.device)
        hooks = trainer.Hooks(follow, keep=partial(weights.save, path=file))
        now = trainer.train(self.problem, spec, record.hyperparameters, config, seed=record.seed, hooks=hooks)
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
