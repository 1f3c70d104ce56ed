"""The GPU benchmark without a GPU: its dry run, what a kill leaves, and what it counts."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import valleys

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"

# What the machine with the GPU lacks, or may lack.
BLOCKED = """
import importlib.machinery
import importlib.metadata

NAMES = {"optuna", "typer", "rich", "plotly", "pytorch_optimizer", "jsonschema", "yaml", "timm"}
NAMES |= {"sklearn", "hypothesis", "pandas", "jax", "optax", "transformers", "accelerate", "lightning"}
find_spec, version = importlib.machinery.PathFinder.find_spec, importlib.metadata.version

def without(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in NAMES else find_spec(name, path, target)

def uninstalled(name):
    if name == "valleys":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.machinery.PathFinder.find_spec = classmethod(without)
importlib.metadata.version = uninstalled
"""


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def load(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine without the packages of the lab, the tests and the rivals."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKED)
    # Compiling takes longer than all the rest; so that kernel's measurement is an error.
    return {**os.environ, "PYTHONPATH": str(folder), "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def documents(folder: Path) -> dict[str, Any]:
    """All result files, which must be whole."""
    paths = sorted(folder.iterdir())
    assert len(paths) <= 8
    read = {path.stem: json.loads(path.read_text("utf-8")) for path in paths if path.name != ".unfinished"}
    assert all(name.startswith("dry-run-") for name in read)
    return {name.removeprefix("dry-run-"): document for name, document in read.items()}


@pytest.mark.timeout(600)  # on a busy machine
def test_the_dry_run_walks_through_everything(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--dry-run", "--minutes", "8", "--out", str(out)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    read = documents(out)
    assert list(read) == ["headline", "kernels", "run", "steps"]
    for document in read.values():
        assert document["dry_run"] is True
        assert document["status"] == "finished"
        assert "GPU" not in document["environment"]
        assert "torch " in document["environment"]["versions"]
        assert str(tmp_path) not in json.dumps(document)
        for name, entry in document.get("measurements", {}).items():
            assert entry["dry_run"] is True
            assert entry["on"] == "dry run on a CPU: says nothing about any GPU"
            assert ("error" in entry) == ("timm" in name or "compiled" in name), (name, entry)
    assert {part["status"] for part in read["run"]["parts"].values()} == {"finished"}
    kernels = read["kernels"]["measurements"]
    tests, _ = kernels.pop("tests marked gpu"), kernels.pop("ALTO compiled, float32")
    assert len(kernels) == 4 * 10 + 3
    assert all(entry["passed"] and entry["n"] and entry["spread"] for entry in kernels.values())
    # One file imports what is blocked.
    assert (tests["tests_failed"], tests["files_failed"], tests["passed"]) == (0, 1, None)
    assert tests["tests_skipped"] >= 10
    steps = read["steps"]["measurements"]
    assert len(steps) == 2 * 10
    assert steps["tiny, float32, eager, timm Lamb"]["error"] == "ModuleNotFoundError: No module named 'timm'"
    for name, entry in steps.items():
        if "error" not in entry:
            assert entry["n"] >= 2
            assert ("ratio" in entry) == ("AdamW fused" not in name or "EAdamW" in name)
            assert entry["share_of_copy"]["median"] > 0
    headline = read["headline"]
    assert headline["data"] == "noise"
    for stage in ("tenth", "full"):
        assert headline["summary"][stage]["n"] == 1
        assert len(headline["summary"][stage]["arms"]) == 4
    seeds = {entry["seed"] for name, entry in headline["measurements"].items() if ", seed" in name}
    assert seeds == {5000}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_the_middle_leaves_what_is_finished(
    number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--dry-run", "--minutes", "8", "--out", str(out), "--parts", "kernels"]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    path = out / "dry-run-kernels.json"
    try:
        until = time.monotonic() + 200
        while not (path.exists() and len(json.loads(path.read_text("utf-8"))["measurements"]) >= 3):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        code = process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    read = documents(out)
    measured = [entry for entry in read["kernels"]["measurements"].values() if "error" not in entry]
    assert len(measured) >= 3
    expected = "running" if number == signal.SIGKILL else "stopped by SIGTERM"
    assert (read["kernels"]["status"], read["run"]["status"]) == (expected, expected)
    assert code == (-9 if number == signal.SIGKILL else 143)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("gpu").main(["--out", str(tmp_path / "out")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_an_earlier_call_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dry-run-steps.json").write_text("{}")
    assert load("gpu").main(["--dry-run", "--out", str(tmp_path)]) == 2
    assert "dry-run-steps.json of an earlier call" in capsys.readouterr().err
    assert (tmp_path / "dry-run-steps.json").read_text() == "{}"


def test_what_training_needs_imports_without_the_lab_s_packages(environment: dict[str, str]) -> None:
    code = "import valleys.lab.run.trainer, valleys.lab.tasks.cifar, valleys.paper.tables.methods, valleys.alto"
    environment = {
        **environment,
        "PYTHONPATH": f"{environment['PYTHONPATH']}{os.pathsep}{Path(valleys.__file__).parents[1]}",
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


# --- one measurement -------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Any]:
    def make(seconds: float = 100.0) -> Any:
        return load("gpu_results").Results(tmp_path / "part.json", {"part": "x"}, time.time() + seconds, {"on": "here"})

    return make


def on_disk(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "part.json").read_text("utf-8"))


def test_a_failure_is_an_entry_and_the_rest_goes_on(results: Callable[..., Any], tmp_path: Path) -> None:
    part = results()

    def fails() -> dict[str, Any]:
        raise MemoryError("not enough at /some/place/of/this")

    part.measure("first", fails)
    assert on_disk(tmp_path)["measurements"]["first"]["error"] == "MemoryError: not enough at"
    part.measure("second", lambda: {"value": math.nan, "values": [math.inf, 1.0]})
    entry = on_disk(tmp_path)["measurements"]["second"]
    assert (entry["value"], entry["values"], entry["on"]) == ("nan", ["inf", 1.0], "here")
    assert not (tmp_path / ".unfinished").exists()


def test_time_ends_a_measurement_and_those_after_it(results: Callable[..., Any], tmp_path: Path) -> None:
    part = results(0.3)

    def endless() -> dict[str, Any]:
        while True:
            with contextlib.suppress(Exception):  # as a library may do
                time.sleep(0.01)

    start = time.monotonic()
    assert "out of time" in part.measure("long", endless)["error"]
    assert time.monotonic() - start < 10
    assert part.measure("late", lambda: {"value": 1}) is None
    assert on_disk(tmp_path)["not_started"] == ["late"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_process_goes_on_behind_the_measurement_that_killed_it(results: Callable[..., Any], tmp_path: Path) -> None:
    part = results()
    part.measure("first", lambda: {"value": 1})
    part.document["under_way"] = "second"  # as it is while the measurement runs
    part.write()
    part = results()
    assert "died" in on_disk(tmp_path)["measurements"]["second"]["error"]
    assert part.measure("first", lambda: {"value": 2})["value"] == 1
    assert "died" in part.measure("second", lambda: {"value": 2})["error"]
    assert part.measure("third", lambda: {"value": 3})["value"] == 3


def test_a_broken_context_ends_the_process(results: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    part = results()

    def fails() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    part.measure("harmless", fails)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    part.measure("harmless, too", fails)
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(SystemExit) as error:
        part.measure("harmful", fails)
    assert error.value.code == load("gpu_results").RESTART
    assert "illegal" in part.entries["harmful"]["error"]


PART = """
import json, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
found = json.loads(path.read_text())["measurements"] if path.exists() else {}
if len(found) == 2 and "endless" in sys.argv:
    time.sleep(1000)
if len(found) < 3 and "useless" not in sys.argv:
    path.write_text(json.dumps({"measurements": {**found, str(len(found)): {}}}))
    sys.exit(75)
sys.exit(1 if "useless" in sys.argv else 0)
"""


@pytest.mark.parametrize(
    ("word", "status", "starts"),
    [("", "finished", 4), ("useless", "died with exit code 1", 1), ("endless", "killed: it overran its time", 3)],
)
def test_a_part_is_started_again_as_long_as_it_gets_further(
    word: str, status: str, starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, script = load("gpu"), tmp_path / "script.py"
    script.write_text(PART)
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    options = SimpleNamespace(out=tmp_path, dry_run=True)
    seconds = 3.0 if word == "endless" else 60.0
    ended = gpu._part(options, [str(tmp_path / "dry-run-steps.json"), word], "steps", time.time() + seconds)
    assert (ended["status"], ended["starts"]) == (status, starts)
