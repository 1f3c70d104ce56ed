"""Compare optimizers fairly: rounds of equal tuning and fresh seeds, then a verdict on each planned pair."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from valleys.lab.config import ComparisonConfig
from valleys.lab.errors import LabError, pointing
from valleys.lab.forecast import Forecast, forecast
from valleys.lab.optimizers.spec import OptimizerSpec, Plan
from valleys.lab.problem.fingerprint import fingerprint
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Problem
from valleys.lab.progress import Announce, Follow
from valleys.lab.record import Record
from valleys.lab.report import document
from valleys.lab.report.summary import Row, lines, summarize
from valleys.lab.run import trackers, trainer, weights
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.run.environment import environment
from valleys.lab.run.interruption import interruptible
from valleys.lab.run.ranks import Ranks, joined
from valleys.lab.statistics.budget import BudgetPoint
from valleys.lab.statistics.outcome import Metric, Outcome, Verdict
from valleys.lab.store.database import check_folder, parsed
from valleys.lab.store.job import Job
from valleys.lab.store.rank_store import RankStore
from valleys.lab.tasks import from_file
from valleys.lab.worker import Work, work

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison.

    Args:
        task: the task's name.
        batch_size: examples per optimizer step.
        metric: the metric's name with its unit.
        selected: the selected hyperparameters of each round by optimizer; None where every trial diverged.
        trials: the tuning runs by optimizer, in the order of rounds and points.
        records: the runs with the selected hyperparameters, by optimizer, in the order of rounds and fresh seeds.
        rows: the table, best optimizer first.
        verdicts: one for each planned pair; without any, one for the two best by validation.
        budget: the expected test metric by number of trials, by optimizer.
        outcomes: results by round or, with one round, by fresh seed, by optimizer; what the verdicts rest on.
        test_metric: the metric as the verdicts judge it.
        warnings: what a reader of the numbers should know.
        paths: the files written: ``markdown``, ``json``, ``html``, ``curves``.
    """

    task: str
    batch_size: int
    metric: str
    selected: Mapping[str, tuple[Mapping[str, float] | None, ...]]
    trials: Mapping[str, tuple[Record, ...]]
    records: Mapping[str, tuple[Record, ...]]
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    budget: Mapping[str, tuple[BudgetPoint, ...]]
    outcomes: Mapping[str, Outcome]
    test_metric: Metric
    warnings: tuple[str, ...]
    paths: Mapping[str, Path]


def compare(
    task: str | Problem,
    config: ComparisonConfig | None = None,
    *,
    out: Path | str,
    progress: bool | None = None,
    announce: Announce | None = None,
    command: str | None = None,
    **settings: Any,
) -> Comparison:
    """Compare optimizers in rounds: in each, tune all with equally many trials and run the best on fresh seeds.

    An interrupted comparison goes on when it is called again with the same arguments; finished runs are kept. Several
    such calls at once, on one machine or, with ``storage``, on many, share the runs; all end with the same report. The
    processes of a launch (torchrun, ``accelerate launch``), or of the process group that is there, share every batch;
    all of them make the same call, rank 0 alone writes.

    Args:
        task: name of a task, or a task of your own: an object, or ``FILE.py:NAME``.
        config: all settings.
        out: folder of the report, and of the comparison's storage.
        progress: whether to show a progress bar on stderr; default: where it is a terminal.
        announce: called with lines for the user: what the comparison costs, before its first run, and, where there is
            no bar, how far it is. Default: they are not shown.
        command: the command line of the report. Default: what repeats this call.
        settings: fields of ``ComparisonConfig``, in place of ``config`` or of its values.

    Returns:
        The comparison, the same on all ranks; its report is in ``out``.

    Raises:
        LabError: on a mistake in the arguments, before any work; with several ranks, on all of them.
    """
    config = replace(config or ComparisonConfig(), **settings)
    with joined() as ranks, interruptible():
        setup = ranks.agree(lambda: _Setup(task, config, Path(out), ranks))
        setup.request["command"] = command or setup.request["command"]
        cost = ranks.agree(setup.forecast)
        with RankStore(ranks, setup.folder, config.storage, config.name) as store:
            machine = environment(setup.config.device, ranks.size)
            about = setup.spaces, setup.request, setup.settings, setup.fingerprint
            warnings = store.configure(setup.identity, machine, *about)
            plan = Work(setup.specs, config.rounds, config.trials, config.seeds, setup.problem.maximize)
            _, finished = plan.status(store)
            if announce is not None and ranks.main and finished < plan.total():
                announce(f"{cost}" + f"\n{finished} runs are finished already" * bool(finished))
            callbacks = (progress, announce) if ranks.main else (False, None)
            work(plan, store, setup.run, setup.problem.name, *callbacks)
            results = store.results(setup.spaces)
            summary = summarize(results, warnings)
            python = lines(setup.specs, summary, setup.identity["batch_size"])
            line = setup.request["command"]
            paths = ranks.decide(lambda: document.write(results, summary, setup.folder, line, python))
    return Comparison(
        setup.problem.name,
        setup.identity["batch_size"],
        setup.problem.metric_name,
        summary.selected,
        {name: tuple(runs.values()) for name, runs in results.tuning.items()},
        summary.records,
        summary.rows,
        summary.verdicts,
        summary.budget,
        summary.outcomes,
        summary.metric,
        summary.notes,
        paths,
    )


def dry_run(task: str | Problem, config: ComparisonConfig, out: Path | str) -> Forecast:
    """Check everything that ``compare`` checks before its first run, and estimate the cost; nothing is written."""
    with joined() as ranks:
        return ranks.agree(lambda: _Setup(task, config, Path(out), ranks).forecast())


class _Setup:
    """A comparison with everything resolved and checked before any work: problem, optimizers, batch size, device."""

    def __init__(self, task: str | Problem, config: ComparisonConfig, folder: Path, ranks: Ranks) -> None:
        here = config.on_this_machine()
        ranks.device(here.device)  # there may be none for this rank
        self.problem = here.problem(task)
        self.config = here.resolved(self.problem)
        self.specs = self.config.specs()
        trackers.check(here.log)
        check_folder(folder)
        if here.storage is not None:
            parsed(here.storage)
        self.folder, self.ranks = folder, ranks
        self.identity = self.config.identity(self.problem)
        file = from_file.file_of(task) if isinstance(task, str) else None
        self.fingerprint = fingerprint(self.problem, file, not isinstance(task, str), here.originals)
        self.request: dict[str, Any] = {
            "task": task if isinstance(task, str) else None,
            "data_dir": None if here.data_dir is None else str(here.data_dir),
            "preset": here.preset,
            "schedule": None if isinstance(here.schedule, Schedule) else here.schedule,
            "optimizers": here.originals,
            "copies": here.copies,
            "planned": self._planned(),
            "command": replace(here, batch_size=self.config.batch_size).command(task, folder),
        }
        for spec in self.specs:
            with spec.blamed(self.problem.name):
                self._check_line(spec)

    def _check_line(self, spec: OptimizerSpec) -> None:
        """Refuse an optimizer whose Python the report could not show."""
        values = {name: ranges.middle for name, ranges in spec.space.items()}
        if spec.line is not None and not isinstance(line := spec.line(values, Plan(1, 1)), str):
            raise LabError(f"optimizer {spec.name!r}: line must return text, not a {type(line).__name__}")

    def _planned(self) -> list[tuple[str, str]]:
        """Return each adapted optimizer with its base, or all pairs of copies, then the pairs that were asked for."""
        names = self.config.names
        if self.config.copies > 1:
            return list(itertools.combinations(names, 2))
        adapted = [(spec.name, spec.base) for spec in self.specs if spec.base in names]
        return list(dict.fromkeys([*adapted, *self.config.planned]))

    def forecast(self) -> Forecast:
        """Try each optimizer on the task, and estimate the cost of the comparison."""
        with self._pointing():
            return forecast(self.problem, self.specs, self.config)

    def _pointing(self) -> AbstractContextManager[None]:
        """Name the user's line that an exception came through or, of a task of the user's own, the task."""
        file = from_file.file_of(self.request["task"] or "")
        own = file is not None or self.request["task"] is None
        return pointing(file, f"{file or 'task'}: {self.problem.name}" if own else "")

    @property
    def spaces(self) -> dict[str, Mapping[str, Any]]:
        return {spec.name: spec.space for spec in self.specs}

    @property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        return {spec.name: spec.settings for spec in self.specs}

    def run(self, job: Job, follow: Follow) -> Record:
        """Train once, followed by the trackers, and from the run's checkpoint if it was interrupted."""
        spec = next(spec for spec in self.specs if spec.name == job.optimizer)
        path = self.folder / "checkpoints" / f"{job.stem}.pt"
        checkpoint = None if isinstance(self.problem, Loop) else Checkpoint(path)
        final = job.phase == "final"
        save = partial(weights.save, path=weights.path(self.folder, job.stem))
        keep = save if final and self.config.keep_weights else None
        names = self.config.log if self.ranks.main else ()
        label = trackers.run_name(job.optimizer, job.phase, job.key.point, job.key.seed)
        about: dict[str, Any] = {"optimizer": job.optimizer, "phase": job.phase, "round": job.key.round + 1}
        about |= {"seed": job.key.seed, **job.hyperparameters}
        with (
            trackers.tracker(names, self.folder, label, {**self.identity, **about}) as observe,
            self._pointing(),
        ):
            hooks = trainer.Hooks(follow, observe, checkpoint, keep=keep)
            record = trainer.train(
                self.problem, spec, job.hyperparameters, self.config, seed=job.key.seed, test=True, hooks=hooks
            )
            observe(record)
        if checkpoint is not None and self.ranks.main:
            checkpoint.remove()
        return record
