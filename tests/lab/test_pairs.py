"""Pairs that are compared: planned beforehand, or all copies of an optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lab_fakes
from lab.comparisons import Call, run, watched
from valleys.lab import Range


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    return watched(monkeypatch)


def test_planned_pairs_are_adapted_optimizers_with_their_bases_and_those_asked_for(
    tmp_path: Path, calls: list[Call]
) -> None:
    adapted = replace(lab_fakes.spec("esgd"), base="sgd")
    specs = [lab_fakes.spec("sgd"), lab_fakes.spec("lamb"), adapted]
    comparison = run(tmp_path, optimizers=specs, pairs=("lamb:esgd", "esgd:sgd"))
    assert [(v.first, v.second) for v in comparison.verdicts] == [("esgd", "sgd"), ("lamb", "esgd")]
    assert all(v.confidence == pytest.approx(1 - 0.05 / 2) for v in comparison.verdicts)


@pytest.mark.parametrize(("trials", "noted"), [(8, True), (16, False)])
def test_many_hyperparameters_need_many_trials(tmp_path: Path, calls: list[Call], trials: int, noted: bool) -> None:
    space = {name: Range(1e-4, 1.0) for name in ("lr", "momentum", "weight_decay", "memory", "c")}
    specs = [lab_fakes.spec("sgd"), lab_fakes.spec("esgd-tuned", 1e-2, **space)]
    comparison = run(tmp_path, optimizers=specs, rounds=1, trials=trials, seeds=1)
    expected = f"esgd-tuned: {trials} trials are few for more than 4 hyperparameters; compare with 16 trials for all"
    assert (expected in comparison.warnings) is noted


def test_copies_are_compared_pair_by_pair_on_the_same_points_with_seeds_of_their_own(
    tmp_path: Path, calls: list[Call]
) -> None:
    comparison = run(tmp_path, optimizers=[lab_fakes.spec("sgd")], copies=3)
    assert [(v.first, v.second) for v in comparison.verdicts] == [
        ("sgd-1", "sgd-2"),
        ("sgd-1", "sgd-3"),
        ("sgd-2", "sgd-3"),
    ]
    assert all(v.units == 2 for v in comparison.verdicts)
    assert len({call["seed"] for call in calls}) == len(calls)
    numbers = [torch.rand(1, generator=torch.Generator().manual_seed(call["seed"])).item() for call in calls]
    assert len(set(numbers)) == len(calls)
    points = {
        name: [call["hyperparameters"] for call in calls if call["optimizer"] == name][:2]
        for name in ("sgd-1", "sgd-2")
    }
    assert points["sgd-1"] == points["sgd-2"]
