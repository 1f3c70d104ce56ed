"""Estimate of a comparison's cost before its first run, and its progress."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lab_fakes
from lab.comparisons import Call, run, watched
from valleys.lab import ComparisonConfig, LabError
from valleys.lab.comparison import dry_run
from valleys.lab.optimizers.spec import OptimizerSpec, Plan


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    return watched(monkeypatch)


def test_the_cost_is_announced_before_the_first_run_and_progress_after(tmp_path: Path, calls: list[Call]) -> None:
    lines: list[tuple[int, str]] = []
    run(tmp_path, announce=lambda line: lines.append((len(calls), line)))
    assert lines[0][0] == 0
    assert lines[0][1].startswith("2 optimizers x 2 rounds x (2 trials + 2 fresh seeds) = 16 runs of 4 steps\n")
    assert re.search(r"\d core-hours, .* a run, peak memory of a worker [\d.]+ GiB$", lines[0][1])
    numbers = [int(line.split()[0]) for _, line in lines[1:]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 8


def test_a_dry_run_says_the_cost_and_leaves_nothing(tmp_path: Path, calls: list[Call]) -> None:
    fixed = OptimizerSpec("fixed", lab_fakes.sgd, {})
    config = ComparisonConfig(optimizers=[lab_fakes.spec("sgd"), fixed], batch_size=16, rounds=3, trials=4, seeds=1)
    cost = dry_run(lab_fakes.task(), config, tmp_path / "out")
    assert cost.runs == 3 * (4 + 1 + 1)
    assert cost.steps == 4
    assert cost.total == pytest.approx(3 * (5 * cost.seconds["sgd"] + cost.seconds["fixed"]))
    assert "1 optimizer x 3 rounds x (4 trials + 1 fresh seed) + 1 untuned optimizer x 3 rounds x 1 fresh seed" in str(
        cost
    )
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_an_optimizer_that_cannot_train_the_task_is_refused_before_any_work(tmp_path: Path, calls: list[Call]) -> None:
    def broken(model: nn.Module, values: Mapping[str, float], plan: Plan) -> torch.optim.Optimizer:
        raise ValueError("no such thing")

    with pytest.raises(LabError, match=r"broken.*no such thing"):
        run(tmp_path / "out", optimizers=[lab_fakes.spec("sgd"), OptimizerSpec("broken", broken, {})])
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_memory_grows_with_the_activations_of_a_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the process itself holds grows while it imports, whatever the batch is.
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=1000))
    wide, examples = 5000, 4096
    model = lambda: nn.Sequential(nn.Linear(2, wide), nn.Tanh(), nn.Linear(wide, 1))  # noqa: E731
    task = replace(lab_fakes.task(examples=examples), build_model=model)
    peaks = []
    for micro_batch in (128, 1024, examples):
        config = ComparisonConfig(optimizers=["sgd"], batch_size=examples, micro_batch=micro_batch, device="cpu")
        peaks.append(dry_run(task, config, tmp_path).peak_bytes or 0)
    one = 4 * (wide + 2)  # bytes of an example's activations: of the hidden layer, and the inputs
    assert peaks[2] - peaks[1] == pytest.approx(one * (examples - 1024), rel=0.01)
    assert peaks[1] > peaks[0]
