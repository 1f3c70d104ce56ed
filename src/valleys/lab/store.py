"""Where a comparison keeps its runs: Optuna's storage, so that what is finished is never run again.

One Optuna study per optimizer and phase (tuning, final), one trial per run, the run's record as the trial's
attribute. A study without trials holds the configuration, the search spaces and the environments seen.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from valleys.lab.errors import LabError
from valleys.lab.parallel import Ranks
from valleys.lab.record import Record

if TYPE_CHECKING:
    import optuna

    from valleys.lab.optimizers import Range

__all__ = ["GROWING", "Key", "Phase", "Results", "SharedStore", "Store"]

Phase = Literal["tuning", "final"]

GROWING = ("trials", "seeds")
"""What the same folder may be asked for again with a larger value: the finished runs stay valid."""


@dataclass(frozen=True, order=True)
class Key:
    """What tells two runs of one optimizer and phase apart.

    Args:
        point: number of the hyperparameters in the tuning sequence.
        seed: the run's seed.
    """

    point: int
    seed: int


@dataclass(frozen=True)
class Results:
    """Everything a store holds about a comparison; all that a report is made of.

    Args:
        configuration: task, batch size, trials and so on.
        environments: the environments it ran in, oldest first.
        spaces: range of each hyperparameter, by optimizer.
        tuning: finished tuning runs, by optimizer.
        final: finished runs with fresh seeds, by optimizer.
    """

    configuration: Mapping[str, Any]
    environments: Sequence[Mapping[str, Any]]
    spaces: Mapping[str, Mapping[str, Range]]
    tuning: Mapping[str, Mapping[Key, Record]]
    final: Mapping[str, Mapping[Key, Record]]


class Store:
    """The runs of the comparison in one folder, held by one process at a time.

    Args:
        folder: the comparison's folder; it is made if need be.
        url: an Optuna storage URL; default: the SQLite file ``comparison.db`` in the folder. The folder's
            file ``comparison.id`` tells the comparisons in a shared storage apart.

    Raises:
        LabError: if the folder cannot be written, another process uses it, or the storage cannot be opened.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        from filelock import FileLock, Timeout

        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The kernel drops the lock when its process dies, however it dies: there are no stale locks.
            self._lock = FileLock(folder / "comparison.lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise LabError(f"{folder} is in use by another process; wait for it or choose another --out") from error
        except OSError as error:
            raise LabError(f"cannot write in {folder}: {error.strerror or error}; choose another --out") from error
        try:
            self._storage = _open(url or f"sqlite:///{(folder / 'comparison.db').resolve()}")
            self._id = _identity(folder / "comparison.id")
        except BaseException:
            self._lock.release()
            raise
        self._studies: dict[tuple[str, Phase], optuna.Study] = {}
        self._finished: dict[tuple[str, Phase], dict[Key, Record]] = {}
        self._maximize = False

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the storage and let other processes in."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        self._lock.release()

    def configure(
        self,
        configuration: Mapping[str, Any],
        environment: Mapping[str, Any],
        spaces: Mapping[str, Mapping[str, Range]],
    ) -> list[str]:
        """Say what is going to be compared; refuse a folder that holds something else.

        Args:
            configuration: plain numbers and strings, ``maximize`` among them. Those in ``GROWING`` may have
                grown, the others must be as they were.
            environment: plain numbers and strings; a change only warns.
            spaces: range of each hyperparameter, by optimizer. Optimizers may be added or left out.

        Returns:
            Warnings.

        Raises:
            LabError: naming what differs, and the remedy.
        """
        self._maximize = bool(configuration["maximize"])
        study = self._study_named(self._id)
        known = study.user_attrs
        old = known.get("configuration", {})
        differences = [
            f"{name.replace('_', ' ')} {old[name]} there, {value} now"
            for name, value in configuration.items()
            if name in old and (value < old[name] if name in GROWING else value != old[name])
        ]
        for name, space in spaces.items():
            if known.get(f"space:{name}", _plain(space)) != _plain(space):
                differences.append(f"another search space of {name}")
        if differences:
            raise LabError(
                f"{self.folder} holds a comparison with other settings ({'; '.join(differences)}); choose another --out"
            )
        study.set_user_attr("configuration", dict(configuration))
        for name, space in spaces.items():
            study.set_user_attr(f"space:{name}", _plain(space))
        environments = _environments(known)
        if environment not in environments:
            study.set_user_attr("environments", [*environments, dict(environment)])
        return _changes(environments[-1], environment) if environments else []

    def run(
        self,
        optimizer: str,
        phase: Phase,
        key: Key,
        hyperparameters: Mapping[str, float],
        space: Mapping[str, Range],
        work: Callable[[], Record],
    ) -> Record:
        """The record of one run: from the storage if it was finished before, else by doing the work.

        Args:
            optimizer: its name.
            phase: tuning or final.
            key: which run.
            hyperparameters: its values, stored with the trial.
            space: their ranges.
            work: does the run.

        Returns:
            The run's record.
        """
        from optuna.trial import TrialState

        study, finished = self._study(optimizer, phase)
        if key in finished:
            return finished[key]
        study.enqueue_trial(dict(hyperparameters), user_attrs=asdict(key))
        trial = study.ask()
        for name, ranges in space.items():
            trial.suggest_float(name, ranges.low, ranges.high, log=ranges.log)
        try:
            record = work()
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("record", record.to_json())
        study.tell(trial, self._value(record))
        finished[key] = record
        return record

    def finished(self, optimizer: str, phase: Phase) -> Mapping[Key, Record]:
        """The finished runs of an optimizer.

        Args:
            optimizer: its name.
            phase: tuning or final.

        Returns:
            Records in the order of their keys.
        """
        return dict(sorted(self._study(optimizer, phase)[1].items()))

    def results(self, spaces: Mapping[str, Mapping[str, Range]]) -> Results:
        """Everything the store holds about these optimizers.

        Args:
            spaces: the optimizers, in the report's order, with their search spaces.

        Returns:
            The results.
        """
        known = self._study_named(self._id).user_attrs
        return Results(
            known["configuration"],
            _environments(known),
            spaces,
            {name: self.finished(name, "tuning") for name in spaces},
            {name: self.finished(name, "final") for name in spaces},
        )

    def _study(self, optimizer: str, phase: Phase) -> tuple[optuna.Study, dict[Key, Record]]:
        from optuna.trial import TrialState

        if (optimizer, phase) not in self._studies:
            study = self._study_named(f"{self._id}/{optimizer}/{phase}")
            _abandon_unfinished(study)
            self._studies[optimizer, phase] = study
            self._finished[optimizer, phase] = {
                Key(trial.user_attrs["point"], trial.user_attrs["seed"]): Record.from_json(trial.user_attrs["record"])
                for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
            }
        return self._studies[optimizer, phase], self._finished[optimizer, phase]

    def _study_named(self, name: str) -> optuna.Study:
        import optuna

        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.create_study(
                study_name=name,
                storage=self._storage,
                direction="maximize" if self._maximize else "minimize",
                sampler=optuna.samplers.RandomSampler(seed=0),  # every trial is enqueued: nothing is ever sampled
                load_if_exists=True,
            )
        finally:
            optuna.logging.set_verbosity(level)

    def _value(self, record: Record) -> float:
        if record.diverged or record.validation is None or not math.isfinite(record.validation):
            return -math.inf if self._maximize else math.inf
        return record.validation


class SharedStore:
    """A store that rank 0 holds and all ranks use: every method is called by all, and tells all the same.

    Args:
        ranks: the processes of the comparison.
        folder, url: see ``Store``.

    Raises:
        LabError: on all ranks, what ``Store`` raises on rank 0.
    """

    def __init__(self, ranks: Ranks, folder: Path, url: str | None = None) -> None:
        self._ranks = ranks
        self._held: list[Store] = []
        ranks.decide(lambda: self._held.append(Store(folder, url)))

    def __enter__(self) -> SharedStore:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store where it is open."""
        for store in self._held:
            store.__exit__(kind, error, trace)

    def configure(
        self,
        configuration: Mapping[str, Any],
        environment: Mapping[str, Any],
        spaces: Mapping[str, Mapping[str, Range]],
    ) -> list[str]:
        """``Store.configure`` on rank 0."""
        return self._ranks.decide(lambda: self._held[0].configure(configuration, environment, spaces))

    def run(
        self,
        optimizer: str,
        phase: Phase,
        key: Key,
        hyperparameters: Mapping[str, float],
        space: Mapping[str, Range],
        work: Callable[[], Record],
    ) -> None:
        """``Store.run`` on rank 0; the others join in the work if there is any."""
        if self._ranks.decide(lambda: key in self._held[0].finished(optimizer, phase)):
            return
        if self._ranks.main:
            self._held[0].run(optimizer, phase, key, hyperparameters, space, work)
        else:
            work()

    def results(self, spaces: Mapping[str, Mapping[str, Range]]) -> Results:
        """``Store.results`` on rank 0."""
        return self._ranks.decide(lambda: self._held[0].results(spaces))


def _open(url: str) -> optuna.storages.RDBStorage:
    try:
        import optuna
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        raise LabError("the lab needs its extra: pip install 'valleys[lab]'") from error
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError as error:
        raise LabError("--storage is no database URL such as postgresql://user@host/name") from error
    try:
        return optuna.storages.RDBStorage(url)
    except (ImportError, RuntimeError, ValueError, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise LabError(f"cannot open the storage {shown}: {reason}") from error


def _identity(path: Path) -> str:
    """The comparison's name in the storage, made on the folder's first use."""
    if not path.exists():
        new = path.with_suffix(".id.new")
        new.write_text(uuid.uuid4().hex)
        new.replace(path)  # whole or not at all, should the process die here
    return path.read_text().strip()


def _abandon_unfinished(study: optuna.Study) -> None:
    """Mark as failed what a killed process left behind: under the lock nobody else can be at work on it."""
    from optuna.trial import TrialState

    for _ in study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        study.tell(study.ask(), state=TrialState.FAIL)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)


def _environments(known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The environments seen; those recorded before there were ranks had one."""
    return [{"ranks": 1, **environment} for environment in known.get("environments", [])]


def _plain(space: Mapping[str, Range]) -> dict[str, list[Any]]:
    return {name: [ranges.low, ranges.high, ranges.log] for name, ranges in space.items()}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changed = [f"{name} {before.get(name)} then, {now[name]} now" for name in now if now[name] != before.get(name)]
    return [f"the environment changed since the last sitting: {'; '.join(changed)}"] if changed else []
