"""Trackers: what TensorBoard's own reader finds in the file, and what MLflow and W&B are asked to do."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lab_fakes import record
from valleys.lab.errors import LabError
from valleys.lab.record import Evaluation
from valleys.lab.run import trackers
from valleys.lab.run.trackers import run_name, tracker

FIRST, SECOND = Evaluation(10, 1.0, 0.5, 80.0), Evaluation(20, 2.0, 0.25, 91.0)
SEEN = [{"loss/train": 0.5, "metric/validation": 80.0, "time/seconds": 1.0}]
SEEN += [{"loss/train": 0.25, "metric/validation": 91.0, "time/seconds": 2.0}]
OUTCOME = {
    "final/validation": 91.0,
    "final/test": 90.0,
    "final/steps_to_target": 20.0,
    "final/seconds_to_target": 2.0,
    "final/step_seconds": 0.1,
    "final/optimizer_seconds": 0.01,
    "final/diverged": 0.0,
}
MADE = {"lr": 0.1, "optimizer": "sgd"}
RUN = "torch.optim:SGD-final-0-1000"


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def follow(names: Sequence[str], folder: Path, name: str = RUN) -> None:
    with tracker(names, folder, name, MADE) as observe:
        observe(FIRST)
        observe(SECOND)
        observe(record(test=90.0))


def curves(folder: Path) -> Any:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def points(accumulator: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 6)) for event in accumulator.Scalars(tag)]


def test_tensorboard_holds_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    follow(["tensorboard"], tmp_path)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    metrics = curves(folder)
    assert points(metrics, "loss/train") == [(10, 0.5), (20, 0.25)]
    assert points(metrics, "metric/validation") == [(10, 80.0), (20, 91.0)]
    assert points(metrics, "time/seconds") == [(10, 1.0), (20, 2.0)]
    assert {tag: points(metrics, tag) for tag in OUTCOME} == {tag: [(20, value)] for tag, value in OUTCOME.items()}
    text = metrics.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text.strip("`")) == MADE


def test_tensorboard_shows_a_run_that_was_cut_off_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with tracker(["tensorboard"], tmp_path, "a", MADE) as observe:
        observe(FIRST)
        observe(Evaluation(20, 9.0, 9.0, 9.0))
    with tracker(["tensorboard"], tmp_path, "a", MADE) as observe:  # a run that goes on from a checkpoint at step 15
        observe(SECOND)
    assert points(curves(tmp_path / "tensorboard" / "a"), "loss/train") == [(10, 0.5), (20, 0.25)]


def test_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    runs = [run_name(*run) for run in (("a:b", "final", 0, 1), ("a_b", "final", 0, 1), ("a/b", "tuning", 0, 1))]
    for run in runs:
        follow(["tensorboard"], tmp_path, run)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3


class FakeClient:
    """MLflow 3.17's client, as far as it is used, with its signatures."""

    def __init__(self, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        self.uri, self.experiments = tracking_uri, {"old": "7"}
        self.calls: list[Any] = []
        self.fail = False
        clients.append(self)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: dict[str, Any] | None = None
    ) -> str:
        self.calls.append(("experiment", name, artifact_location))
        return "1"

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Any:
        self.calls.append(("run", experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Any] = (),
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        synchronous: bool | None = None,
    ) -> None:
        if self.fail:
            raise OSError("no route to host")
        assert run_id == "r1"
        assert all(isinstance(metric.timestamp, int) and metric.timestamp > 1e12 for metric in metrics)
        if params:
            self.calls.append(("params", {param.key: param.value for param in params}))
        else:
            self.calls.append(({metric.step for metric in metrics}, {metric.key: metric.value for metric in metrics}))

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        self.calls.append(("end", run_id, status))


clients: list[FakeClient] = []


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("mlflow")

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    def param(key: str, value: str) -> Any:
        assert isinstance(value, str)
        return SimpleNamespace(key=key, value=value)

    module.__dict__.update(
        MlflowClient=FakeClient,
        entities=SimpleNamespace(Metric=metric, Param=param),
        is_tracking_uri_set=lambda: False,
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    clients.clear()
    yield module
    clients.clear()


def test_mlflow_gets_the_run_in_a_local_file(mlflow: ModuleType, tmp_path: Path) -> None:
    follow(["mlflow"], tmp_path / "out")
    (client,) = clients
    assert client.uri == f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}"
    assert (tmp_path / "out").is_dir()
    assert client.calls == [
        ("experiment", "valleys", (tmp_path / "out" / "mlflow").as_uri()),
        ("run", "1", RUN),
        ("params", {"lr": "0.1", "optimizer": "sgd"}),
        ({10}, SEEN[0]),
        ({20}, SEEN[1]),
        ({20}, OUTCOME),
        ("end", "r1", "FINISHED"),
    ]


def test_mlflow_goes_where_the_user_says(mlflow: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.__dict__["is_tracking_uri_set"] = lambda: True
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "old")
    follow(["mlflow"], tmp_path / "out")
    (client,) = clients
    assert client.uri is None
    assert client.calls[0] == ("run", "7", RUN)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_is_marked_as_failed(mlflow: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tracker(["mlflow"], tmp_path, RUN, MADE):
        raise KeyboardInterrupt
    assert clients[0].calls[-1] == ("end", "r1", "FAILED")


def test_a_tracker_that_fails_does_not_cost_the_run(mlflow: ModuleType, tmp_path: Path) -> None:
    with tracker(["mlflow"], tmp_path, RUN, MADE) as observe:
        clients[0].fail = True
        with pytest.warns(RuntimeWarning, match=f"mlflow stopped logging {RUN}: no route to host"):
            observe(FIRST)
        observe(SECOND)  # said once
    assert ("end", "r1", "FINISHED") not in clients[0].calls


def test_a_tracker_that_cannot_begin_is_an_error(
    mlflow: ModuleType, wandb: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeClient, "create_run", lambda *_, **__: 1 / 0)
    with (
        pytest.raises(LabError, match=r"mlflow cannot begin to log .*division by zero"),
        tracker(["wandb", "mlflow"], tmp_path, RUN, MADE),
    ):
        pass
    assert wandb[-1] == ("finish", 1)  # what has begun is ended


Calls = list[Any]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """W&B 0.31, as far as it is used, with its signatures."""
    calls: Calls = []

    def log(data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        calls.append((step, data))

    def finish(exit_code: int | None = None) -> None:
        calls.append(("finish", exit_code))

    def init(
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,  # noqa: A002 - its name
        id: str | None = None,  # noqa: A002
        name: str | None = None,
        config: dict[str, Any] | None = None,
        mode: str | None = None,
        reinit: bool | str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Any:
        calls.append((project, dir, name, config, mode, reinit, settings))
        return SimpleNamespace(
            log=log, finish=finish, summary=SimpleNamespace(update=lambda d: calls.append(("end", d)))
        )

    module = ModuleType("wandb")
    module.__dict__["init"] = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_gets_the_run_and_sends_nothing(wandb: Calls, tmp_path: Path) -> None:
    follow(["wandb"], tmp_path / "out")
    settings = {"console": "off", "silent": True}
    assert (tmp_path / "out").is_dir()  # without it W&B would write elsewhere
    assert wandb == [
        ("valleys", str(tmp_path / "out"), RUN, MADE, "offline", "create_new", settings),
        (10, SEEN[0]),
        (20, SEEN[1]),
        ("end", OUTCOME),
        ("finish", 0),
    ]


def test_wandb_sends_if_the_user_asks(wandb: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    follow(["wandb"], tmp_path)
    assert (wandb[0][0], wandb[0][4], wandb[0][6]["silent"]) == ("mine", "online", False)


def test_a_run_that_diverged_has_no_metric(wandb: Calls, tmp_path: Path) -> None:
    with tracker(["wandb"], tmp_path, RUN, MADE) as observe:
        observe(record(diverged=True, validation=None, steps_to_target=None, seconds_to_target=None))
    assert wandb[1] == ("end", {"final/step_seconds": 0.1, "final/optimizer_seconds": 0.01, "final/diverged": 1.0})


def test_several_trackers_see_the_same(mlflow: ModuleType, wandb: Calls, tmp_path: Path) -> None:
    follow(["mlflow", "wandb"], tmp_path)
    assert [call[1] for call in clients[0].calls[3:6]] == [SEEN[0], SEEN[1], OUTCOME]
    assert [call[1] for call in wandb[1:4]] == [SEEN[0], SEEN[1], OUTCOME]


def test_no_tracker_does_nothing(tmp_path: Path) -> None:
    follow([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["tensorbord"], "unknown tracker 'tensorbord'; did you mean tensorboard"),
        (["comet"], "Choices: tensorboard, mlflow, wandb"),
        (["wandb", "wandb"], "named 2 times"),
    ],
)
def test_names_that_are_none(wandb: Calls, names: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=said):
        trackers.check(names)
    with pytest.raises(LabError, match=said), tracker(names, tmp_path, RUN, MADE):
        pass


@pytest.mark.parametrize("name", trackers.NAMES)
def test_a_package_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.import_module

    def without(module: str) -> ModuleType:
        if module.split(".")[-1] == name:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return whole(module)

    monkeypatch.setattr(trackers, "import_module", without)
    with pytest.raises(LabError, match=f"pip install {name}"):
        trackers.check([name])
