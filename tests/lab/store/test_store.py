from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from lab_fakes import record
from valleys.lab import LabError
from valleys.lab.config import LAYOUT
from valleys.lab.optimizers.spec import Range
from valleys.lab.record import Evaluation, Record
from valleys.lab.store.database import alive, worker
from valleys.lab.store.job import Job, Key
from valleys.lab.store.store import Store

SPACE = {"lr": Range(1e-4, 1.0)}
CONFIGURATION = {
    **{"layout": LAYOUT, "task": "fake", "maximize": True, "batch_size": 16, "epochs": None},
    **{"rounds": 2, "trials": 4, "seeds": 2},
}
HERE = {"torch": "1", "ranks": 1}


@contextmanager
def opened(folder: Path, **changes: Any) -> Iterator[Store]:
    with Store(folder) as store:
        store.configure({**CONFIGURATION, **changes}, HERE, {"sgd": SPACE})
        yield store


def never() -> Record:
    raise AssertionError("a finished run was repeated")


def job(point: int, seed: int = 0) -> Job:
    return Job("sgd", "tuning", Key(0, point, seed), {"lr": 0.1}, SPACE)


def run(store: Store, point: int, work: Callable[[], Record], seed: int = 0) -> Record:
    """The run's record: from the store if it is there, otherwise by doing the work."""
    needed = job(point, seed)
    if needed.key not in store.finished("sgd", "tuning"):
        assert store.claim([needed]) == needed
        with store.at_work(needed):
            count = work()
        assert store.complete(needed, count)
    return store.finished("sgd", "tuning")[needed.key]


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    url = f"sqlite:///{folder / 'comparison.db'}"
    storage = optuna.storages.RDBStorage(url)
    (name,) = [study.study_name for study in storage.get_all_studies() if study.study_name.endswith("/sgd/tuning")]
    result: list[optuna.trial.FrozenTrial] = optuna.load_study(study_name=name, storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return result


def test_other_workers_are_looked_after_once_in_a_while_and_where_no_run_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    look = Store._give_up_on_the_dead

    def counted(self: Store, study: optuna.Study) -> None:
        looks.append(study.study_name)
        look(self, study)

    monkeypatch.setattr(Store, "_give_up_on_the_dead", counted)
    jobs = [job(point) for point in range(3)]
    with opened(tmp_path) as store:
        assert [store.claim(jobs) for _ in jobs] == jobs
        assert len(looks) == 1
        assert store.claim(jobs) is None
        assert len(looks) == 2
        store.heartbeat = 0
        assert [store.claim(jobs) for _ in jobs] == [None] * 3
        assert len(looks) == 5


def test_runs_of_others_are_seen_at_once_or_after_the_age_that_is_given(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        assert not one.finished("sgd", "tuning")
        run(other, 0, record)
        assert not one.finished("sgd", "tuning", age=3600)
        assert list(one.finished("sgd", "tuning")) == [job(0).key]
        run(other, 1, record)
        assert one.claim([job(1)]) is None
        assert list(one.finished("sgd", "tuning", age=3600)) == [job(0).key, job(1).key]  # as all were taken
        assert one.claim([job(2)]) == job(2)
        assert one.complete(job(2), record())
        assert job(2).key in one.finished("sgd", "tuning", age=3600)  # its own


def test_a_finished_run_comes_back_unchanged_and_is_not_repeated(tmp_path: Path) -> None:
    original = record(curve=[Evaluation(1, 0.1, 0.1 + 0.2, 1 / 3)], hyperparameters={"lr": 0.1})
    with opened(tmp_path) as store:
        assert run(store, 0, lambda: original) == original
        assert run(store, 0, never) == original
    with opened(tmp_path) as store:
        assert run(store, 0, never) == original
        assert store.finished("sgd", "tuning") == {Key(0, 0, 0): original}
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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "other"}, "task fake there, other now"),
        ({"batch_size": 32}, "batch size 16 there, 32 now"),
        ({"epochs": 3}, "epochs None there, 3 now"),
        ({"rounds": 1}, "rounds 2 there, 1 now"),
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
    with opened(tmp_path):  # the refusal changed nothing
        pass


def test_another_layout_is_refused_in_one_line(tmp_path: Path) -> None:
    before = {name: value for name, value in CONFIGURATION.items() if name not in ("layout", "rounds")}
    with Store(tmp_path) as store:
        store.configure(before, HERE, {"sgd": SPACE})
    with pytest.raises(LabError, match=r"another version of valleys.*choose another --out") as caught, opened(tmp_path):
        pass
    assert "\n" not in str(caught.value)


def test_runs_of_several_rounds_are_kept_apart(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for round_ in (0, 1):
            again = Job("sgd", "tuning", Key(round_, 3, 7), {"lr": 0.1}, SPACE)
            assert store.claim([again]) == again
            assert store.complete(again, record(validation=float(round_)))
        assert [(key.round, run.validation) for key, run in store.finished("sgd", "tuning").items()] == [(0, 0), (1, 1)]


def test_a_zero_below_a_logarithmic_range_and_a_decay_rate_can_be_kept(tmp_path: Path) -> None:
    space = {"weight_decay": Range(1e-4, 0.1, zero=0.125), "momentum": Range(0.5, 0.99, "reverse-log")}
    point = Job("sgd", "tuning", Key(0, 0, 0), {"weight_decay": 0.0, "momentum": 0.9}, space)
    with Store(tmp_path) as store:
        store.configure(CONFIGURATION, HERE, {"sgd": space})
        assert store.claim([point]) == point
    (trial,) = trials(tmp_path)
    assert trial.params == point.hyperparameters


def test_other_lists_of_planned_pairs_are_counted(tmp_path: Path) -> None:
    spaces = {"sgd": SPACE, "lamb": SPACE}
    counts = []
    for pairs in ([("lamb", "sgd")], [("lamb", "sgd")], [("sgd", "lamb")], [("lamb", "sgd")]):
        with Store(tmp_path) as store:
            store.configure(CONFIGURATION, HERE, spaces, {"planned": pairs})
            results = store.results(spaces)
        assert results.planned == pairs
        counts.append(results.plans)
    assert counts == [1, 1, 2, 2]


def test_more_rounds_trials_and_seeds_extend(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with opened(tmp_path, rounds=3, trials=8, seeds=5):
        pass
    with pytest.raises(LabError, match="rounds 3 there, 2 now; trials 8 there, 4 now"), opened(tmp_path):
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


def test_one_storage_holds_several_comparisons_apart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for name, value in (("a", 1.0), ("b", 2.0)):
        with Store(tmp_path / name, url) as store:
            store.configure({**CONFIGURATION, "task": name}, HERE, {"sgd": SPACE})
            run(store, 0, lambda value=value: record(validation=value))  # type: ignore[misc]
    with Store(tmp_path / "a", url) as store:
        store.configure({**CONFIGURATION, "task": "a"}, HERE, {"sgd": SPACE})
        assert run(store, 0, never).validation == 1.0
    refused = pytest.raises(LabError, match=r"task b there, c now.*--name")
    # What joins workers is the name, wherever their folders are.
    with Store(tmp_path / "elsewhere", url, name="b") as store:
        store.configure({**CONFIGURATION, "task": "b"}, HERE, {"sgd": SPACE})
        assert run(store, 0, never).validation == 2.0
    with (
        Store(tmp_path / "elsewhere", url, name="b") as store,
        refused,
    ):
        store.configure({**CONFIGURATION, "task": "c"}, HERE, {"sgd": SPACE})
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


@pytest.mark.parametrize("change", [{"batch_size": 32}, {"task": "other"}, {}])
def test_a_worker_notices_that_its_comparison_was_replaced(change: dict[str, Any], tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.claim([job(0)]) == job(0)
        for path in tmp_path.iterdir():
            path.unlink()
        with opened(tmp_path, **change) as other:
            for attempt in (
                lambda: store.claim([job(1)]),
                lambda: store.complete(job(0), record()),
                lambda: store.results({"sgd": SPACE}),
            ):
                with pytest.raises(LabError, match="no longer holds the comparison that this worker began with"):
                    attempt()
            assert other.results({"sgd": SPACE}).tuning == {"sgd": {}}


@pytest.mark.parametrize("change", [{"rounds": 3}, {"trials": 8}, {"seeds": 5}])
def test_a_comparison_that_has_grown_is_the_same(change: dict[str, int], tmp_path: Path) -> None:
    with opened(tmp_path) as store, opened(tmp_path, **change):
        assert store.claim([job(0)]) == job(0)
        assert store.complete(job(0), record())


@pytest.mark.parametrize("names", [("x?1", "x?2"), ("x%41y", "xAy"), ("a#b", "a"), ("{0}", "0"), ("a b&c=d", "a b")])
def test_folders_with_signs_of_urls_are_apart(names: tuple[str, str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        with opened(tmp_path / name, batch_size=16 + number) as store:
            run(store, 0, lambda: record(validation=90.0))
            assert [one.validation for one in store.finished("sgd", "tuning").values()] == [90.0]
        assert (tmp_path / name / "comparison.db").is_file()
    with opened(tmp_path / names[0]) as store:
        assert len(store.finished("sgd", "tuning")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_changed_problem_is_refused_and_new_entries_are_kept(tmp_path: Path) -> None:
    def configure(store: Store, **entries: Any) -> None:
        store.configure(CONFIGURATION, HERE, {"sgd": SPACE}, fingerprint=entries)

    with Store(tmp_path) as store:
        configure(store)  # as older versions did
        configure(store, data=[1.0], a="1")
        configure(store, data=[1.0], b="2")
        with pytest.raises(LabError, match=r"runs of another problem: data, b changed since; .* start anew with"):
            configure(store, data=[2.0], b="3")
        with pytest.raises(LabError, match="a changed since"):
            configure(store, a="2")
        configure(store, data=[1.0], a="1", b="2")


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    other = {**worker(), "pid": child.pid}
    while (state := Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z":
        assert state in "RSD"
        time.sleep(0.01)
    assert not alive(other)
    child.wait()
    assert not alive(other)
    assert alive(worker())
