"""Many workers on one comparison: interrupted, killed, frozen, racing, and the result is that of one left in peace."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import lab_fakes
from lab.store import postgres
from valleys.lab import Comparison, compare
from valleys.lab.optimizers.spec import OptimizerSpec, Range
from valleys.lab.store.job import Job, Key
from valleys.lab.store.store import Store

SPACE = {"lr": Range(1e-4, 1.0)}
RUNS = 3 * 2 * (2 + 1)
ARGUMENTS: dict[str, Any] = {"batch_size": 16, "rounds": 2, "trials": 2, "seeds": 1, "progress": False}

PRELOADED = [
    "valleys.lab.comparison",
    "optuna",
    "alembic.command",
    "psycopg",
    "scipy.stats",
    "matplotlib.figure",
    "jinja2",
]
"""All that a comparison imports when it needs it: workers are forked from a server that has done so once."""


def join(out: Path, url: str, log: Path, seconds: float, slow_from: int, err: Path) -> None:
    """One worker, in a process of its own: its runs take so long, and from one of them on for ever."""
    sys.stderr = err.open("w", buffering=1)
    count = 0

    def train(problem: Any, spec: Any, hyperparameters: Any, config: Any, **options: Any) -> Any:
        nonlocal count
        with log.open("a") as file:
            file.write(json.dumps([os.getpid(), spec.name, hyperparameters["lr"], options["seed"]]) + "\n")
        time.sleep(60 if count == slow_from else seconds)
        count += 1
        return lab_fakes.train(problem, spec, hyperparameters, config, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.worker._PATIENCE", 0.2)
        patch.setattr("valleys.lab.store.rank_store.Store", partial(Store, heartbeat=1))
        patch.setattr("valleys.lab.run.trainer.train", train)
        compare(lab_fakes.task(), optimizers=specs(), out=out, storage=url, name="shared", **ARGUMENTS)


def specs() -> list[str | OptimizerSpec]:
    return [lab_fakes.spec("sgd"), lab_fakes.spec("adamw", 1e-3), lab_fakes.spec("alto", 3e-3)]


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, dict[str, Any]]:
    """The comparison that nobody disturbed, and its report."""
    out = tmp_path_factory.mktemp("peace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.run.trainer.train", lab_fakes.train)
        return compare(lab_fakes.task(), optimizers=specs(), out=out, **ARGUMENTS), json.loads(
            (out / "report.json").read_text()
        )


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of this test's own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    import psycopg

    url = request.getfixturevalue("database")
    name = f"test{abs(hash(request.node.name))}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{url.rpartition('/')[0]}/{name}"


class Workers:
    """Processes that join one comparison, each with a folder of its own, as on machines of their own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url, self.log = folder, url, folder / "log"
        self.started: list[Any] = []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, seconds: float = 0.05, slow_from: int = -1) -> Any:
        """One more; from its run number ``slow_from`` on it gets no further."""
        number = len(self.started)
        out, err = (self.folder / f"{name}{number}" for name in ("out", "err"))
        child = self.context.Process(target=join, args=(out, self.url, self.log, seconds, slow_from, err))
        child.start()
        self.started.append(child)
        return child

    def begun(self, child: Any, runs: int) -> None:
        """Wait until it is at its so-manieth run."""
        deadline = time.monotonic() + 90
        while sum(line[0] == child.pid for line in self.lines()) < runs:
            assert child.exitcode is None, self.error(child)
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def lines(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def error(self, child: Any) -> str:
        path = self.folder / f"err{self.started.index(child)}"
        return path.read_text() if path.exists() else ""

    def end(self, child: Any) -> dict[str, Any]:
        """Wait for its end; its report."""
        child.join(120)
        assert (child.exitcode, self.error(child)) == (0, "")
        out = self.folder / f"out{self.started.index(child)}"
        report: dict[str, Any] = json.loads((out / "report.json").read_text())
        return report


@pytest.fixture
def workers(tmp_path: Path, storage: str) -> Iterator[Workers]:
    group = Workers(tmp_path, storage)
    yield group
    for child in group.started:
        child.kill()
        child.join()


def same(report: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("rounds", "table", "verdicts", "budget", "spaces", "configuration"):
        assert report[key] == other[key], key


def states(url: str) -> tuple[Counter[tuple[str, Key]], Counter[str]]:
    """Count the complete trials of each run, and all trials by state."""
    storage = optuna.storages.RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))
    complete: Counter[tuple[str, Key]] = Counter()
    counts: Counter[str] = Counter()
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id):
            counts[trial.state.name] += 1
            if trial.state == TrialState.COMPLETE:
                key = Key(**{name: trial.user_attrs[name] for name in ("round", "point", "seed")})
                complete[study.study_name, key] += 1
    storage.remove_session()
    storage.engine.dispose()
    return complete, counts


def test_killed_and_interrupted_workers_leave_no_trace_in_the_result(
    workers: Workers, storage: str, peace: tuple[Comparison, dict[str, Any]]
) -> None:
    killed, interrupted = workers.start(slow_from=2), workers.start(slow_from=3)
    workers.begun(killed, 3)
    workers.begun(interrupted, 4)
    helpers = [workers.start(seconds=0.2), workers.start(seconds=0.2)]
    os.kill(killed.pid, signal.SIGKILL)
    os.kill(interrupted.pid, signal.SIGINT)
    for helper in helpers:
        same(workers.end(helper), peace[1])
    for child in (killed, interrupted):
        child.join(60)
        assert child.exitcode not in (None, 0)
    complete, counts = states(storage)
    assert len(complete) == RUNS
    assert set(complete.values()) == {1}, "nothing is counted twice"
    # Beside the two that were cut off, a trial may have failed that two workers added for the same run at once.
    assert set(counts) == {"COMPLETE", "FAIL"}
    assert len(workers.lines()) == RUNS + 2, "nothing that was finished is repeated, and nothing done twice"
    again = workers.start()
    same(workers.end(again), peace[1])
    assert len(workers.lines()) == RUNS + 2


def test_a_frozen_worker_is_replaced_and_its_late_result_dropped(
    workers: Workers, storage: str, peace: tuple[Comparison, dict[str, Any]]
) -> None:
    frozen = workers.start(seconds=1.0)
    workers.begun(frozen, 2)
    os.kill(frozen.pid, signal.SIGSTOP)
    same(workers.end(workers.start()), peace[1])
    _, counts = states(storage)
    assert counts == {"COMPLETE": RUNS, "FAIL": 1}
    os.kill(frozen.pid, signal.SIGCONT)
    same(workers.end(frozen), peace[1])
    complete, counts = states(storage)
    assert set(complete.values()) == {1}
    assert counts == {"COMPLETE": RUNS, "FAIL": 1}


def _jobs(count: int) -> list[Job]:
    return [Job("sgd", "tuning", Key(0, point, 0), {"lr": 0.1}, SPACE) for point in range(count)]


def test_racing_workers_never_get_the_same_run(tmp_path: Path, storage: str) -> None:
    """Threads with stores of their own: nearer to each other than processes ever are."""
    count, racers = 12, 4
    start = threading.Barrier(racers)

    def grab(number: int) -> list[int]:
        got = []
        with Store(tmp_path / str(number), storage, "race") as store:
            store.configure({"maximize": True}, {"racer": number}, {"sgd": SPACE})
            start.wait()
            while (job := store.claim(_jobs(count))) is not None:
                got.append(job.key.point)
                assert store.complete(job, lab_fakes.record(seed=0))
        return got

    with Store(tmp_path, storage, "race") as store:  # the tables are there before the race
        store.configure({"maximize": True}, {"racer": -1}, {"sgd": SPACE})
    with ThreadPoolExecutor(racers) as pool:
        points = [point for got in pool.map(grab, range(racers)) for point in got]
    assert sorted(points) == list(range(count))
    with Store(tmp_path, storage, "race") as store:
        store.configure({"maximize": True}, {"racer": -1}, {"sgd": SPACE})
        assert len(store.results({"sgd": SPACE}).environments) == racers + 1
        assert list(store.finished("sgd", "tuning")) == [Key(0, point, 0) for point in range(count)]


def test_a_silent_worker_of_another_machine_is_given_up_after_its_grace(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = _jobs(1)
    with Store(tmp_path / "a", storage, "one", heartbeat=1) as other, Store(tmp_path / "b", storage, "one", 1) as here:
        for store in (other, here):
            store.configure({"maximize": True}, {"torch": "1"}, {"sgd": SPACE})
        with monkeypatch.context() as patch:
            patch.setattr("valleys.lab.store.store.worker", lambda: {"host": "elsewhere", "pid": 1, "space": "x"})
            assert other.claim([job]) == job
        with other.at_work(job):
            time.sleep(5.5)
            assert here.claim([job]) is None, "it gives signs of life"
        deadline = time.monotonic() + 30
        while here.claim([job]) is None:  # silent now
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert not other.complete(job, lab_fakes.record(seed=0)), "too late"
        assert here.complete(job, lab_fakes.record(seed=0))
        assert here.claim([job]) is None


def test_a_password_in_the_url_is_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valleys.lab.run.trainer.train", lab_fakes.train)
    with postgres.server() as url:
        secret = url.replace("valleys@", "valleys:hunter2@")
        comparison = compare(lab_fakes.task(), optimizers=specs(), out=tmp_path / "out", storage=secret, **ARGUMENTS)
    assert comparison.paths
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes()
