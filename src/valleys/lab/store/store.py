"""The runs of a comparison in Optuna's storage, in which any number of workers share the work.

One Optuna study per optimizer and phase (tuning, final), one trial per run, the run's record as the trial's
attribute. A study without trials holds the configuration, the search spaces and the environments seen.

A run is claimed by setting its trial from waiting to running, which the database lets one worker do. Workers may add a
trial for the same run at the same moment; the one with the lowest number counts, and the others are failed. A worker
gives signs of life; when they stop, any other fails its trial and adds a new one. Should the first one come back, it
finds its trial failed and its result is dropped: a run is complete at most once.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from valleys.lab.atomic_write import sweep
from valleys.lab.config import GROWING
from valleys.lab.errors import LabError, reason
from valleys.lab.problem.fingerprint import changes
from valleys.lab.record import Record
from valleys.lab.store.attributes import FLATNESS, environment_changes, environments_of, measured_of, plain_space
from valleys.lab.store.database import HEARTBEAT, alive, beating, exclusive, is_of_database, open_storage, shown, worker
from valleys.lab.store.job import Job, Key, Phase, Results

if TYPE_CHECKING:
    import optuna

    from valleys.lab.optimizers.spec import Range


class Store(AbstractContextManager["Store"]):
    """The runs of one comparison, in the SQLite file of its folder or in an Optuna storage, by URL and name.

    The heartbeat is the seconds between two signs of life, at least 1. A worker on another machine is taken for dead
    after four of them; one on this machine as soon as its process is gone.

    Raises:
        LabError: if the folder cannot be written, or the storage cannot be opened.
    """

    def __init__(
        self, folder: Path, url: str | None = None, name: str | None = None, heartbeat: int = HEARTBEAT
    ) -> None:
        self.folder = folder
        self.heartbeat = heartbeat
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise LabError(f"cannot write in {folder}: {error.strerror or error}; choose another --out") from error
        self.name = name or (folder.resolve().name if url else "comparison")
        place = url or (folder / "comparison.db").resolve()
        self._place = shown(place)
        self._storage = open_storage(place, heartbeat)
        self._exclusive = exclusive(place)
        for directory in (folder, folder / "checkpoints", folder / "weights"):
            sweep(directory)
        self._studies: dict[str, optuna.Study] = {}
        self._records: dict[str, dict[Key, Record]] = {}
        self._read: dict[str, float] = {}  # when each study was last read, in seconds of the monotonic clock
        self._claimed: dict[Job, int] = {}
        self._mark, self._marked = f"session:{uuid.uuid4()}", False
        self._maximize = False
        self._next_look = -math.inf  # at the other workers, in seconds of the monotonic clock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the storage; of an error of the disk or the database name the file and the remedy in one line."""
        with suppress(Exception):  # a database that fails may fail to be left, too
            self._storage.remove_session()
            self._storage.engine.dispose()
        if isinstance(error, OSError):
            raise LabError(
                f"{error.filename or self.folder}: {error.strerror or error}; see to it that {self.folder} is there, "
                "can be written and has room; finished runs are kept, and the same command goes on"
            ) from error
        if error is not None and is_of_database(error):
            cause = getattr(error.__cause__ or error, "orig", None) or error.__cause__ or error
            raise LabError(
                f"the database {self._place} fails ({reason(cause)}); see to it that it is there, "
                "whole and writable and its disk has room, or choose another --out; finished runs are kept in it"
            ) from error

    def configure(
        self,
        configuration: Mapping[str, Any],
        environment: Mapping[str, Any],
        spaces: Mapping[str, Mapping[str, Range]],
        request: Mapping[str, Any] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Set the comparison's configuration and return warnings; raise LabError for a comparison of something else.

        Configured numbers in ``GROWING`` may have grown, the others must be as they were; optimizers may be added or
        left out, each with its space and settings; the fingerprint may gain entries; a change of the environment, where
        this worker runs, only warns. The request, how the comparison was asked for, may be any.
        """
        self._maximize = bool(configuration["maximize"])
        with self._exclusive:
            study = self._study(self.name)
            attributes = study.user_attrs
            old = attributes.get("configuration", {})
            if old and old.get("layout") != configuration.get("layout"):
                raise LabError(
                    f"{self.folder} holds a comparison of another version of valleys, whose runs cannot be used here; "
                    "choose another --out, or --name in a shared storage"
                )
            differences = [
                f"{name.replace('_', ' ')} {old[name]} there, {value} now"
                for name, value in configuration.items()
                if name in old and (value < old[name] if name in GROWING else value != old[name])
            ]
            definitions = {f"space:{name}": plain_space(space) for name, space in spaces.items()}
            definitions |= {f"settings:{name}": dict(values) for name, values in (settings or {}).items()}
            for name, definition in definitions.items():
                kind, _, optimizer = name.partition(":")
                # An optimizer that is there without settings, which older versions did not know, has none.
                absent = {} if kind == "settings" and f"space:{optimizer}" in attributes else definition
                if attributes.get(name, absent) != definition:
                    what = "another search space" if kind == "space" else "other settings"
                    differences.append(f"{what} of {optimizer}")
            if differences:
                raise LabError(
                    f"{self.folder} holds a comparison with other settings ({'; '.join(differences)}); choose another "
                    "--out, or --name in a shared storage"
                )
            self.check_fingerprint(fingerprint or {})
            if any(name not in attributes.get("fingerprint", {}) for name in fingerprint or {}):
                study.set_user_attr("fingerprint", {**attributes.get("fingerprint", {}), **(fingerprint or {})})
            if old != dict(configuration):
                study.set_user_attr("configuration", dict(configuration))
            for name in sorted(
                definitions.keys() - attributes.keys()
            ):  # settings first: a space says that they are known
                if definitions[name] or name.startswith("space:"):
                    study.set_user_attr(name, definitions[name])
            study.set_user_attr(self._mark, time.time())
            self._marked = True
            if request is not None and attributes.get("request") != dict(request):
                study.set_user_attr("request", dict(request))
            plans = attributes.get("plans", [])
            if request is not None and (plan := [list(pair) for pair in request.get("planned", ())]) not in plans:
                study.set_user_attr("plans", [*plans, plan])
            environments = environments_of(attributes)
            mark = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:16]
            if f"environment:{mark}" not in attributes:
                study.set_user_attr(f"environment:{mark}", {"first": time.time(), "environment": dict(environment)})
        return environment_changes(environments[-1], environment) if environments else []

    def check_fingerprint(self, now: Mapping[str, Any]) -> None:
        """Raise LabError for a problem whose data, source, weights or loss have changed."""
        before = self._study(self.name).user_attrs.get("fingerprint", {})
        changed = changes(before, now)
        if changed:
            raise LabError(
                f"{self.folder} holds runs of another problem: {', '.join(changed)} changed since; put it back, or "
                "start anew with another --out, in a shared storage another --name"
            )

    def claim(self, jobs: Sequence[Job]) -> Job | None:
        """Claim for this worker the first run that nobody has finished or is at work on; None if there is none."""
        with self._exclusive:
            self._check_unchanged()
            claimed = None
            # To look after the other workers takes longer than to claim: now and then, and where nothing else is left.
            if time.monotonic() < self._next_look:
                claimed = next((job for job in jobs if self._take(job)), None)
            if claimed is None:
                for study in dict.fromkeys(self._of(job) for job in jobs):
                    self._give_up_on_the_dead(study)
                self._next_look = time.monotonic() + self.heartbeat
                claimed = next((job for job in jobs if self._take(job)), None)
            if claimed is None:
                self._read.clear()  # others have all of them: what they have finished is to be read again
            return claimed

    def complete(self, job: Job, record: Record) -> bool:
        """Hand in a claimed run's record; False if this worker was taken for dead and another one has the run now."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        trial = self._claimed.pop(job)
        with self._exclusive, suppress(UpdateFinishedTrialError):
            self._check_unchanged()
            self._storage.set_trial_user_attr(trial, "record", record.to_json())
            complete = self._storage.set_trial_state_values(trial, TrialState.COMPLETE, [self._value(record)])
            if complete:
                self._records.setdefault(self._of(job).study_name, {})[job.key] = record
            return complete
        return False

    def abandon(self, job: Job) -> None:
        """Let others have a run that this worker claimed and will not finish."""
        self._fail(self._claimed.pop(job))

    @contextmanager
    def at_work(self, job: Job) -> Iterator[None]:
        """Give signs of life while a claimed run goes on; if it raises, let others have it."""
        try:
            with beating(self._storage, self._claimed[job], self.heartbeat):
                yield
        except BaseException:
            self.abandon(job)
            raise

    def finished(self, optimizer: str, phase: Phase, age: float = 0.0) -> Mapping[Key, Record]:
        """Return the records of an optimizer's finished runs, in the order of their keys.

        This worker's are there at once, those of others after ``age`` seconds at most.
        """
        from optuna.trial import TrialState

        study = self._study(f"{self.name}/{optimizer}/{phase}")
        records = self._records.setdefault(study.study_name, {})
        if time.monotonic() - self._read.get(study.study_name, -math.inf) >= age:
            self._read[study.study_name] = time.monotonic()
            for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
                key = _key(trial)
                if key not in records:
                    records[key] = Record.from_json(trial.user_attrs["record"])
        return dict(sorted(records.items()))

    def results(self, spaces: Mapping[str, Mapping[str, Range]]) -> Results:
        """Return everything the store holds about these optimizers."""
        self._check_unchanged()
        attributes = self._study(self.name).user_attrs
        return Results(
            attributes["configuration"],
            environments_of(attributes),
            spaces,
            {name: self.finished(name, "tuning") for name in spaces},
            {name: self.finished(name, "final") for name in spaces},
            [tuple(pair) for pair in attributes.get("request", {}).get("planned", ())],
            len(attributes.get("plans", [])),
            attributes.get("request", {}),
            {name: measured_of(attributes, name) for name in spaces},
        )

    def description(self) -> tuple[Mapping[str, Any], list[str], Mapping[str, Any]]:
        """Return configuration, names of optimizers, and request; all empty in a new store."""
        attributes = self._study(self.name).user_attrs
        request = attributes.get("request", {})
        names = request.get("optimizers") or sorted(
            n.removeprefix("space:") for n in attributes if n.startswith("space:")
        )
        return attributes.get("configuration", {}), names, request

    def measured(self, optimizer: str, key: Key, measurements: Mapping[str, Any]) -> None:
        """Keep what was measured of a finished run; a later measurement takes its place."""
        name = f"{FLATNESS}{key.round}:{key.point}:{key.seed}:{optimizer}"
        self._study(self.name).set_user_attr(name, dict(measurements))

    def _check_unchanged(self) -> None:
        """Refuse to go on where the comparison has been replaced, say after its folder was deleted, by another one."""
        with suppress(KeyError):  # what is there now has fewer studies
            if not self._marked or self._mark in self._study(self.name).user_attrs:
                return
        raise LabError(
            f"{self.folder} no longer holds the comparison that this worker began with: it was deleted, or replaced by "
            "another one; give the command again, where another comparison goes on there with another --out or --name"
        )

    def _take(self, job: Job) -> bool:
        """Claim a run if nobody has."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        if not (live := self._live(job)):
            self._add(job)
            live = self._live(job)
        first, *others = live
        for other in others:
            if other.state == TrialState.WAITING:
                self._fail(other._trial_id)
        if first.state != TrialState.WAITING:
            return False
        # The sign of life comes first: without one, a worker that dies in between would hold the run for ever.
        self._storage.record_heartbeat(first._trial_id)
        try:
            if not self._storage.set_trial_state_values(first._trial_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:  # claimed by another, and finished already
            return False
        self._storage.set_trial_user_attr(first._trial_id, "worker", worker())
        self._claimed[job] = first._trial_id
        return True

    def _live(self, job: Job) -> list[optuna.trial.FrozenTrial]:
        """The run's trials that have not failed, the one that counts first."""
        from optuna.trial import TrialState

        states = [TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE]
        trials = self._of(job).get_trials(deepcopy=False, states=states)
        return sorted((trial for trial in trials if _key(trial) == job.key), key=lambda trial: trial.number)

    def _add(self, job: Job) -> None:
        from optuna.distributions import FloatDistribution
        from optuna.trial import TrialState, create_trial

        self._of(job).add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=dict(job.hyperparameters),
                distributions={
                    # For Optuna's own displays: it knows no logarithm of 1 - x, and no logarithmic range with a zero.
                    name: FloatDistribution(0.0 if r.zero else r.low, r.high, log=r.scale == "log" and not r.zero)
                    for name, r in job.space.items()
                },
                user_attrs=asdict(job.key),
            )
        )

    def _give_up_on_the_dead(self, study: optuna.Study) -> None:
        import optuna
        from optuna.trial import TrialState

        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not alive(trial.user_attrs.get("worker")):
                self._fail(trial._trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)

    def _fail(self, trial: int) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with suppress(UpdateFinishedTrialError):  # somebody else was faster
            self._storage.set_trial_state_values(trial, TrialState.FAIL)

    def _of(self, job: Job) -> optuna.Study:
        return self._study(f"{self.name}/{job.optimizer}/{job.phase}")

    def _study(self, name: str) -> optuna.Study:
        import optuna

        if name not in self._studies:
            level = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            try:
                self._studies[name] = optuna.create_study(
                    study_name=name,
                    storage=self._storage,
                    direction="maximize" if self._maximize else "minimize",
                    sampler=optuna.samplers.RandomSampler(seed=0),  # every trial is added: nothing is ever sampled
                    load_if_exists=True,
                )
            finally:
                optuna.logging.set_verbosity(level)
        return self._studies[name]

    def _value(self, record: Record) -> float:
        if record.diverged or record.validation is None or not math.isfinite(record.validation):
            return -math.inf if self._maximize else math.inf
        return record.validation


def _key(trial: optuna.trial.FrozenTrial) -> Key:
    return Key(trial.user_attrs["round"], trial.user_attrs["point"], trial.user_attrs["seed"])
