"""SIGTERM and SIGUSR1: the run is kept and given back, the process leaves with 143, and the result is the same."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from valleys.lab.run.interruption import Interrupted, interruptible, polled, requested

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from valleys.lab import Split, Task, compare

calls = 0

def loss(outputs, targets):
    global calls
    calls += 1
    if calls == 100:
        (Path(sys.argv[1]) / "under-way").touch()
    return nn.functional.mse_loss(outputs, targets)

x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
parts = [Split(x[a:b], x[a:b].sum(1, keepdim=True).sin()) for a, b in ((0, 400), (400, 450), (450, 500))]
task = Task(
    name="toy", train=parts[0], validation=parts[1], test=parts[2], loss=loss, metric=nn.functional.mse_loss,
    build_model=lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1)),
    metric_name="mse", maximize=False, target=0.1, epochs=8,
)
compare(task, out=sys.argv[1], optimizers=["adamw"], batch_size=10, rounds=1, trials=2, progress=False)
"""
"""Three runs of 320 steps; a file appears soon before the 100th step of a process."""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)])


def results(folder: Path) -> list[Any]:
    """Everything about the runs but their times."""
    document = json.loads((folder / "report.json").read_text())
    return [
        {key: value for key, value in run.items() if "second" not in key and key not in ("curve", "ended")}
        | {"curve": [(point["step"], point["train_loss"], point["validation"]) for point in run["curve"]]}
        for entry in document["rounds"]
        for run in entry["runs"]
    ]


def test_signals_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that two of them interrupt one after the other; it ends here, where all is imported, as one in peace."""
    folder = tmp_path / "interrupted"
    for count, number in enumerate((signal.SIGTERM, signal.SIGUSR1), 1):
        child = start(folder)
        while not (folder / "under-way").exists():
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
        assert child.wait(60) == 143
        states = _states(folder / "comparison.db")
        assert (states["RUNNING"], states["COMPLETE"], states["FAIL"]) == (0, 0, count)
        (checkpoint,) = (folder / "checkpoints").iterdir()
        assert checkpoint.suffix == ".pt"
        (folder / "under-way").unlink()
    undisturbed = tmp_path / "undisturbed"
    for place in (folder, undisturbed):
        monkeypatch.setattr("sys.argv", ["script", str(place)])
        exec(SCRIPT, {"__name__": "script"})
    assert list((folder / "checkpoints").iterdir()) == []
    assert results(folder) == results(undisturbed)


def _states(database: Path) -> Counter[str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return Counter(state for (state,) in connection.execute("SELECT state FROM trials"))


@pytest.fixture
def default_action() -> Iterator[None]:
    """SIGTERM as a process finds it: another test may have left a handler."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("default_action")
def test_work_that_polls_is_asked_and_other_work_is_left_at_once() -> None:
    def work() -> None:
        with interruptible():
            with polled():
                signal.raise_signal(signal.SIGTERM)
                assert requested()
            with pytest.raises(Interrupted):
                signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(SystemExit) as left:
        work()
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with interruptible():
        assert not requested()


def test_the_program_s_own_handlers_stay() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with interruptible():
            signal.raise_signal(signal.SIGTERM)
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("default_action")
def test_a_thread_sets_no_handler() -> None:
    errors: list[BaseException] = []

    def body() -> None:
        try:
            with interruptible():
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert errors == []
