"""The parts of the GPU benchmark: what passes as a right kernel, what a step moves, which runs the headline makes."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

import valleys

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its scripts can be imported, and the handler that they set does not stay."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def load(name: str) -> Any:
    return importlib.import_module(name)


# --- kernels ---------------------------------------------------------------------------------------------------------


def test_a_wrong_kernel_does_not_pass() -> None:
    kernels = load("gpu_kernels")
    right = {row.name: row for row in kernels.kernels("cpu")}
    shapes, exact = kernels.SMALL, kernels.PRECISIONS["float64"]

    def spoiled(change: Callable[[Any, Any], None], step_number: int) -> dict[str, Any]:
        def build(params: Any, state: Any) -> Any:
            optimizer = right["ALTO foreach"].build(params, state)
            step, numbers = optimizer.step, iter(range(kernels.STEPS))

            def wrong() -> None:
                step()
                if next(numbers) == step_number:
                    change(params[1].data, optimizer.state[params[1]]["exp_avg_sq"])

            optimizer.step = wrong  # type: ignore[method-assign]
            return optimizer

        entry: dict[str, Any] = kernels.compare(replace(right["ALTO foreach"], build=build), exact, "cpu", shapes)
        return entry

    def same(param: Tensor, state: Tensor) -> None:
        pass

    def off(param: Tensor, state: Tensor) -> None:
        param.mul_(1 + 1e-10)

    def state_off(param: Tensor, state: Tensor) -> None:
        state.mul_(1 + 1e-10)

    def not_a_number(param: Tensor, state: Tensor) -> None:
        param[0] = math.nan

    last = kernels.STEPS - 1  # after which a state reaches no parameter
    assert spoiled(same, last)["passed"]
    assert [spoiled(change, last)["passed"] for change in (off, state_off, not_a_number)] == [False] * 3
    assert not spoiled(off, 0)["passed"]
    assert math.isnan(spoiled(not_a_number, last)["max_error"])


def test_the_tests_are_counted_by_outcome() -> None:
    report = ElementTree.fromstring(
        '<testsuites><testsuite><testcase classname="a" name="one"/><testcase classname="a" name="two"/>'
        '<testcase classname="a" name="three"><failure message="assert 1 == 2">long\nE  assert 1 == 2</failure>'
        '</testcase><testcase classname="" name="b"><error message="collection failure">E  No module named x</error>'
        '</testcase><testcase classname="a" name="four"><skipped message="no device"/></testcase>'
        "</testsuite></testsuites>"
    )
    counted = load("gpu_kernels").counted(report)
    numbers = [counted[f"{name}"] for name in ("tests_passed", "tests_failed", "files_failed", "tests_skipped")]
    assert numbers == [2, 1, 1, 1]
    assert counted["passed"] is False
    assert counted["not_passed"] == {"a.three": "E  assert 1 == 2", ".b": "E  No module named x", "a.four": "no device"}


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [
        ("AdamW fused", torch.float32, 28),
        ("EAdamW fused", torch.float32, 36),
        ("adapt(AdamW foreach)", torch.float32, 36),
        ("Lamb c", torch.float32, 40),
        ("ALTO c", torch.float32, 48),
        # Parameter read and written, gradient read, two states of two bytes read and written.
        ("AdamW fused", torch.bfloat16, 4 + 2 + 8),
        # Three states in float32; the second pass reads parameter and moments.
        ("ALTO c", torch.bfloat16, 4 + 2 + 24 + 2 + 8),
    ],
)
def test_bytes_of_a_step_are_those_of_the_algorithm(name: str, dtype: torch.dtype, size: int) -> None:
    steps = load("gpu_steps")
    stage = load("stage").Stage([(8, 50), (50,), (3,)], copied=1 << 16, dtype=dtype)
    rows = {row.name: row for row in steps.contenders("cpu", graphed=False)}
    entry = steps._alone(rows[name], stage)
    assert entry["bytes_per_step"] == size * (400 + 50 + 3)


def test_a_graph_has_only_what_keeps_its_steps_on_the_device() -> None:
    rows = {row.name: row for row in load("gpu_steps").contenders("cuda", graphed=True)}
    assert len(rows) == 9
    assert "timm Lamb" not in rows
    for row in rows.values():
        assert row.build.args[1]["capturable"] is True


def test_replays_are_counted_and_timed_as_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a graph that is none: capturing runs nothing, and a replay is a step."""
    running, timing, rivals = load("running"), load("timing"), load("rivals")
    stage = load("stage").Stage([(8, 50), (50,)], copied=1 << 16)
    params = stage.params
    optimizers: list[Any] = []

    class Graph:
        def replay(self) -> None:
            optimizers[-1].step()

    @contextlib.contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        before = copy.deepcopy((optimizers[-1].state_dict(), [param.detach() for param in params]))
        yield
        optimizers[-1].load_state_dict(before[0])
        with torch.no_grad():
            torch._foreach_copy_(params, before[1])

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)

    def build(stage: Any) -> Any:
        optimizers.append(valleys.ALTO(stage.params, lr=0.01))
        return running.GraphRunning(optimizers[-1], stage)

    row = timing.interleave([rivals.Contender("graph", "valleys", 48, build)], stage, rounds=3)[0]
    assert row.failure is None
    assert len(row.seconds) == 3
    assert int(optimizers[-1].state[params[0]]["step"]) == running.GraphRunning.WARM_UP + 2 + 3


def test_launches_are_what_the_device_did() -> None:
    timing = load("timing")
    events = [
        {"cat": "kernel", "name": "alto_first"},
        {"cat": "kernel", "name": "alto_ratios"},
        {"cat": "kernel", "name": "alto_second"},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD"},
        {"cat": "gpu_memset", "name": "Memset"},
        {"cat": "gpu_user_annotation", "name": "Optimizer.step#ALTO.step"},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
        {"cat": "cpu_op", "name": "aten::add_"},
        {"name": "process_name", "ph": "M"},
    ]
    assert timing.launched(events) == 5


# --- headline --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """1,000 training images and 100 test images of noise."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records = generator.integers(0, 256, (200 if "data" in name else 100, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(len(records)) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return tmp_path


def test_the_arms_are_the_tables() -> None:
    from valleys.paper.tables import numbers

    arms = {cell.column: cell.method for cell in numbers.find("headline").cells}
    assert arms == load("gpu_headline").ARMS


@pytest.mark.parametrize(("stage", "preset"), [("tenth", "tenth"), ("full", "paper")])
def test_the_problem_is_the_reproductions(stage: str, preset: str, cifar10: Path) -> None:
    from valleys.paper import reproduce
    from valleys.paper.tables import numbers

    config = reproduce.ReproductionConfig(preset=preset, data_dir=cifar10, exclude_norms=True, clip=1.0)
    setting = numbers.find("headline").cells[0].setting
    assert setting is not None
    # So that the paper's preset trains on what it holds out, although these are fewer images than the paper's.
    experiment = reproduce._Experiment(config, replace(setting, examples=1000 if stage == "full" else 50_000), None)
    expected: Any = experiment.problem()
    problem = load("gpu_headline").problem(cifar10, stage)
    for name in ("epochs", "clip", "schedule", "drop_last", "name", "variant", "augment", "loss", "metric"):
        assert getattr(problem, name) == getattr(expected, name), name
    for split in ("train", "validation", "test"):
        for side in ("inputs", "targets"):
            assert torch.equal(getattr(getattr(problem, split), side), getattr(getattr(expected, split), side))


def test_batches_are_the_papers_share(monkeypatch: pytest.MonkeyPatch, cifar10: Path) -> None:
    headline = load("gpu_headline")
    monkeypatch.setattr(headline, "BATCH", 1 << 14)
    for stage, examples, batch, micro_batch in (("tenth", 900, 295, 74), ("full", 1000, 328, 82)):
        problem = headline.problem(cifar10, stage)
        sizes = len(problem.train), problem.batch_size, problem.micro_batch
        assert sizes == (examples, batch, micro_batch)
        assert problem.steps(problem.batch_size, problem.epochs) == 1200
    assert (round(headline.BATCH * 5_000 / headline.EXAMPLES), round(headline.BATCH * 1.0)) == (1638, 16384)


def test_a_summary_has_equally_many_runs_of_each_arm() -> None:
    headline = load("gpu_headline")
    tests: dict[int, list[float | None]] = {
        0: [80.0, 81.0, 82.0, 83.0],
        1: [80.5, None, 82.5, 84.5],
        2: [70.0, 70.0, 70.0],
    }
    entries: dict[str, dict[str, Any]] = {
        f"full, seed {number}, {arm}": {"test": value, "diverged": value is None}
        for number, values in tests.items()
        for arm, value in zip(headline.ARMS, values, strict=False)
    }
    entries["full, seed 2, ALTO"] = {"error": "out of time"}
    summary = headline.summary(entries, "full")
    assert summary["n"] == 2
    assert summary["arms"]["ALTO"]["values"] == [83.0, 84.5]
    assert summary["arms"]["without a, bias correction"]["n"] == 1
    assert summary["differences"]["ALTO - LAMB"]["values"] == [3.0, 4.0]
    assert summary["differences"]["ALTO - LAMB"]["standard_deviation"] == pytest.approx(0.5**0.5)


def test_encoded_images_become_the_binary_files(tmp_path: Path) -> None:
    """Without loss, since these are PNG; the training images in the order that every call gives them."""
    from PIL import Image

    from valleys.lab.tasks.data.cifar_files import CIFAR10, read_cifar

    generator = np.random.default_rng(1)
    arrays: dict[str, Any] = {}
    images: dict[str, Any] = {}
    for split, count in (("train", 12), ("test", 4)):
        images[split] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        pieces = []
        for image in images[split]:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            pieces.append(file.getvalue())
        arrays[f"blob_{split}"] = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        arrays[f"off_{split}"] = np.cumsum([0, *map(len, pieces)])
        arrays[f"y_{split}"] = np.arange(count, dtype=np.uint8) % 10
    np.savez(tmp_path / "images.npz", **arrays)
    headline = load("gpu_headline")
    assert headline.unpack(tmp_path / "images.npz", tmp_path) == 16
    train, labels, test, test_labels = read_cifar(CIFAR10, tmp_path)
    order = np.random.default_rng(0).permutation(12)
    assert torch.equal(train, torch.from_numpy(images["train"][order].transpose(0, 3, 1, 2).copy()))
    assert labels.tolist() == [int(i) % 10 for i in order]
    assert torch.equal(test, torch.from_numpy(images["test"].transpose(0, 3, 1, 2).copy()))
    assert test_labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("full", "rounds"), [(500.0, (4, 0)), (100.0, (2, 1))])
def test_rounds_are_begun_only_where_four_runs_fit(
    full: float, rounds: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth has half of the time; what the whole set cannot use goes back to it."""
    headline = load("gpu_headline")
    part = load("gpu_results").Results(tmp_path / "part.json", {}, time.time() + 1000.0, {})
    clock = {"now": time.time()}
    monkeypatch.setattr(headline.time, "time", lambda: clock["now"])
    costs = {"tenth": 50.0, "full": full}

    class Task(SimpleNamespace):
        def steps(self, batch_size: int, epochs: int) -> int:
            return 100

    def trained(task: Any, arm: Any, values: Any, config: Any, *, seed: int, test: bool = False) -> Any:
        whole = costs["tenth" if task.name == "tenth" else "full"] if test else 1.0
        clock["now"] += whole
        return SimpleNamespace(
            optimizer=arm.name, seed=seed, batch_size=1, steps=1, diverged=False, validation=1.0, test=50.0, curve=[],
            step_seconds=whole / 100 if test else costs[task.name] / 110, optimizer_seconds=0.0, state_bytes=1,
        )  # fmt: skip

    monkeypatch.setattr(headline, "train", trained)
    monkeypatch.setattr(headline, "replace", lambda task, **changes: Task(**{**vars(task), **changes}))
    monkeypatch.setattr(headline, "problem", lambda folder, stage, tiny: Task(name=stage, batch_size=1, epochs=1))
    monkeypatch.setattr(headline, "_config", lambda task, options: None)
    (tmp_path / "data").mkdir()
    options = SimpleNamespace(
        data=tmp_path / "data", data_name=None, dry_run=False, stages=["tenth", "full"], precision="float32"
    )
    headline.run(part, options)
    summaries = part.document["summary"]
    assert tuple(summaries[name]["n"] if name in summaries else 0 for name in ("tenth", "full")) == rounds
    assert f"four runs need about {4 * full:.0f} s" in part.document["stopped"]["full"]
    per_arm = {sum(name.endswith(f", {arm}") for name in part.entries) for arm in headline.ARMS}
    assert per_arm == {sum(rounds)}
