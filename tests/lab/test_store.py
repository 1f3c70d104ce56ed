from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

import lab_fakes
from lab_fakes import record
from valleys.lab import Comparison, LabError, compare
from valleys.lab.optimizers import OptimizerSpec, Range
from valleys.lab.record import Evaluation, Record
from valleys.lab.store import Key, Store

SPACE = {"lr": Range(1e-4, 1.0)}
CONFIGURATION = {"task": "fake", "maximize": True, "batch_size": 16, "epochs": None, "trials": 4, "seeds": 2}
HERE = {"torch": "1", "ranks": 1}


@contextmanager
def opened(folder: Path, **changes: Any) -> Iterator[Store]:
    with Store(folder) as store:
        store.configure({**CONFIGURATION, **changes}, HERE, {"sgd": SPACE})
        yield store


def never() -> Record:
    raise AssertionError("a finished run was repeated")


def run(store: Store, point: int, work: Callable[[], Record], seed: int = 0) -> Record:
    return store.run("sgd", "tuning", Key(point, seed), {"lr": 0.1}, SPACE, work)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    url = f"sqlite:///{folder / 'comparison.db'}"
    storage = optuna.storages.RDBStorage(url)
    (name,) = [study.study_name for study in storage.get_all_studies() if study.study_name.endswith("/sgd/tuning")]
    found: list[optuna.trial.FrozenTrial] = optuna.load_study(study_name=name, storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return found


def test_a_finished_run_comes_back_unchanged_and_is_not_repeated(tmp_path: Path) -> None:
    original = record(curve=[Evaluation(1, 0.1, 0.1 + 0.2, 1 / 3)], hyperparameters={"lr": 0.1})
    with opened(tmp_path) as store:
        assert run(store, 0, lambda: original) == original
        assert run(store, 0, never) == original
    with opened(tmp_path) as store:
        assert run(store, 0, never) == original
        assert store.finished("sgd", "tuning") == {Key(0, 0): original}
        assert store.finished("sgd", "final") == {}


def test_optuna_holds_parameters_value_and_record(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        run(store, 0, lambda: record(validation=91.0))
    (trial,) = trials(tmp_path)
    assert trial.params == {"lr": 0.1}
    assert trial.distributions["lr"] == optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)
    assert trial.value == 91.0
    assert Record.from_json(trial.user_attrs["record"]) == record(validation=91.0)


@pytest.mark.parametrize(("maximize", "worst"), [(True, -float("inf")), (False, float("inf"))])
def test_a_diverged_run_costs_one_trial(tmp_path: Path, maximize: bool, worst: float) -> None:
    broken = record(diverged=True, validation=None, curve=[Evaluation(1, 0.1, float("nan"), float("inf"))])
    with opened(tmp_path, maximize=maximize) as store:
        run(store, 0, lambda: broken)
        run(store, 1, record)
        assert run(store, 0, never).diverged
    assert [trial.value for trial in trials(tmp_path)] == [worst, 91.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_is_failed_and_run_again(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> Record:
        raise error

    with opened(tmp_path) as store, pytest.raises(error):
        run(store, 0, interrupted)
    with opened(tmp_path) as store:
        assert run(store, 0, record) == record()
    assert [trial.state.name for trial in trials(tmp_path)] == ["FAIL", "COMPLETE"]


def test_what_a_killed_process_leaves_is_failed(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        study, _ = store._study("sgd", "tuning")
        study.enqueue_trial({"lr": 0.1}, user_attrs={"point": 0, "seed": 0})
        study.enqueue_trial({"lr": 0.2}, user_attrs={"point": 1, "seed": 0})
        study.ask()
    with opened(tmp_path) as store:
        assert store.finished("sgd", "tuning") == {}
        run(store, 1, record)
    assert [trial.state.name for trial in trials(tmp_path)] == ["FAIL", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "other"}, "task fake there, other now"),
        ({"batch_size": 32}, "batch size 16 there, 32 now"),
        ({"epochs": 3}, "epochs None there, 3 now"),
        ({"trials": 3}, "trials 4 there, 3 now"),
        ({"seeds": 1}, "seeds 2 there, 1 now"),
    ],
)
def test_another_configuration_is_refused_with_the_difference_and_the_remedy(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(LabError, match=f"{named}.*--out"), opened(tmp_path, **changes):
        pass
    with opened(tmp_path):  # the refusal changed nothing, and let go of the lock
        pass


def test_more_trials_and_seeds_extend(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with opened(tmp_path, trials=8, seeds=5):
        pass
    with pytest.raises(LabError, match="trials 8 there, 4 now"), opened(tmp_path):
        pass


def test_another_search_space_is_refused_and_another_optimizer_is_not(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    wider = {"lr": Range(1e-5, 1.0)}
    with Store(tmp_path) as store:
        assert store.configure(CONFIGURATION, HERE, {"adamw": wider}) == []
    with Store(tmp_path) as store, pytest.raises(LabError, match="another search space of sgd"):
        store.configure(CONFIGURATION, HERE, {"sgd": wider})


def test_another_environment_only_warns(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with Store(tmp_path) as store:
        (warning,) = store.configure(CONFIGURATION, {**HERE, "torch": "2"}, {"sgd": SPACE})
        assert "torch 1 then, 2 now" in warning
        assert store.results({"sgd": SPACE}).environments == [HERE, {**HERE, "torch": "2"}]


def test_an_environment_from_before_there_were_ranks_had_one(tmp_path: Path) -> None:
    old = {"torch": "1"}
    with Store(tmp_path) as store:
        store.configure(CONFIGURATION, old, {"sgd": SPACE})
        assert store.configure(CONFIGURATION, {**old, "ranks": 1}, {"sgd": SPACE}) == []
        assert store.results({"sgd": SPACE}).environments == [{"torch": "1", "ranks": 1}]
        (warning,) = store.configure(CONFIGURATION, {**old, "ranks": 2}, {"sgd": SPACE})
        assert warning.endswith("ranks 1 then, 2 now")


def test_a_second_store_on_the_folder_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(LabError, match="in use by another process"):
        Store(tmp_path)
    with opened(tmp_path):
        pass


def test_one_storage_holds_several_comparisons_apart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for name, value in (("a", 1.0), ("b", 2.0)):
        with Store(tmp_path / name, url) as store:
            store.configure({**CONFIGURATION, "task": name}, HERE, {"sgd": SPACE})
            run(store, 0, lambda value=value: record(validation=value))  # type: ignore[misc]
    with Store(tmp_path / "a", url) as store:
        store.configure({**CONFIGURATION, "task": "a"}, HERE, {"sgd": SPACE})
        assert run(store, 0, never).validation == 1.0
    assert not (tmp_path / "a" / "comparison.db").exists()


def test_unusable_folders_and_storages_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"cannot write in .*--out"):
        Store(tmp_path / "file" / "out")
    with pytest.raises(LabError, match="--storage is no database URL"):
        Store(tmp_path, "nonsense")
    with pytest.raises(LabError, match="cannot open the storage") as caught:
        Store(tmp_path, "nosuchdatabase://user:secret@host/name")
    assert "secret" not in str(caught.value)
    (tmp_path / "comparison.db").write_text("this is no database, whatever its name says " * 100)
    with pytest.raises(LabError, match=r"cannot open the storage .*not a database"):
        Store(tmp_path)


def test_opening_the_store_leaves_optunas_logging_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    with opened(tmp_path) as store:
        run(store, 0, record)
    assert optuna.logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")


CHILD = """
import sys, time
import lab_fakes
from valleys.lab import compare, trainer

def train(*arguments, **options):
    with open(sys.argv[2], "a") as log:
        log.write("start\\n")
        log.flush()
        if open(sys.argv[2]).read().count("start") > int(sys.argv[3]):
            time.sleep(60)
    return lab_fakes.train(*arguments, **options)

trainer.train = train
compare(lab_fakes.task(), [lab_fakes.spec("sgd"), lab_fakes.spec("adamw", 1e-3)],
        batch_size=16, trials=4, seeds=2, out=sys.argv[1], progress=False)
"""


ARGUMENTS: dict[str, Any] = {"batch_size": 16, "trials": 4, "seeds": 2, "progress": False}


def fakes() -> list[str | OptimizerSpec]:
    return [lab_fakes.spec("sgd"), lab_fakes.spec("adamw", 1e-3)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, dict[str, Any]]:
    out = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.trainer.train", lab_fakes.train)
        return compare(lab_fakes.task(), fakes(), out=out, **ARGUMENTS), json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("finished", [3, 10], ids=["in tuning", "on fresh seeds"])
def test_kill_9_in_mid_run_then_the_same_call_ends_as_if_nothing_had_happened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: tuple[Comparison, dict[str, Any]],
    finished: int,
) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    path = os.pathsep.join([str(Path(lab_fakes.__file__).parent), *sys.path])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, out, log, str(finished)], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        deadline = time.monotonic() + 120
        while not log.exists() or log.read_text().count("start") <= finished:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(LabError, match="in use by another process"):
            compare(lab_fakes.task(), fakes(), out=out, **ARGUMENTS)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()

    made: list[int] = []

    def counted(*positional: Any, **options: Any) -> Record:
        made.append(options["seed"])
        return lab_fakes.train(*positional, **options)

    monkeypatch.setattr("valleys.lab.trainer.train", counted)
    resumed = compare(lab_fakes.task(), fakes(), out=out, **ARGUMENTS)
    whole, report = uninterrupted
    assert len(made) == 2 * 4 + 2 * 2 - finished
    assert resumed.selected == whole.selected
    assert resumed.verdict == whole.verdict
    assert resumed.rows == whole.rows
    again = json.loads((out / "report.json").read_text())
    assert (again["trials"], again["final"]) == (report["trials"], report["final"])
