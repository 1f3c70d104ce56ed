"""Hyperparameters that are not tuned, and settings of an optimizer, in a comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lab_fakes
from lab.comparisons import Call, run, watched
from valleys.lab import LabError
from valleys.lab.optimizers.spec import Range

FIXED: dict[str, Any] = {"lr": Range(0.02, 0.02, "linear"), "momentum": Range(0.0, 0.0, "linear")}
"""A search space of one point."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    return watched(monkeypatch)


def test_a_space_of_single_values_is_not_tuned(tmp_path: Path, calls: list[Call]) -> None:
    comparison = run(
        tmp_path, optimizers=[lab_fakes.spec("still", **FIXED), lab_fakes.spec("sgd")], pairs=("still:sgd",)
    )
    tuned = [call for call in calls if call["optimizer"] == "still"]
    assert len(tuned) == 2 * 2, "one run per round and fresh seed, no trial"
    assert [call["hyperparameters"] for call in tuned] == [{"lr": 0.02, "momentum": 0.0}] * 4
    assert len({call["seed"] for call in tuned}) == 4
    assert {call["seed"] for call in tuned} <= {call["seed"] for call in calls if call["optimizer"] == "sgd"}
    assert len(calls) == 4 + 8
    assert (comparison.trials["still"], len(comparison.trials["sgd"])) == ((), 4)
    assert [record.hyperparameters for record in comparison.records["still"]] == [{"lr": 0.02, "momentum": 0.0}] * 4
    assert comparison.selected["still"] == ({"lr": 0.02, "momentum": 0.0},) * 2
    row = next(row for row in comparison.rows if row.optimizer == "still")
    assert (row.units, row.trials, row.hyperparameters) == (2, 0, ({"lr": 0.02, "momentum": 0.0},) * 2)
    assert comparison.verdicts[0].units == 2
    assert not any("edge" in note and "still" in note for note in comparison.warnings)
    assert comparison.budget.keys() == {"sgd"}
    calls.clear()
    run(tmp_path, optimizers=[lab_fakes.spec("still", **FIXED), lab_fakes.spec("sgd")], pairs=("still:sgd",))
    assert calls == []


def test_values_that_are_not_tuned_are_in_the_report(tmp_path: Path, calls: list[Call]) -> None:
    comparison = run(tmp_path, optimizers=[lab_fakes.spec("still", **FIXED), lab_fakes.spec("steady", 1e-3, **FIXED)])
    assert "0.02" in comparison.paths["markdown"].read_text()
    assert "0.02" in comparison.paths["html"].read_text()
    document = json.loads(comparison.paths["json"].read_text())
    assert document["spaces"]["still"]["lr"] == {"low": 0.02, "high": 0.02, "scale": "linear", "zero": 0.0}
    values = [run["hyperparameters"] for entry in document["rounds"] for run in entry["runs"]]
    assert values == [{"lr": 0.02, "momentum": 0.0}] * 8


def test_other_settings_of_an_optimizer_are_refused(tmp_path: Path, calls: list[Call]) -> None:
    spec = lab_fakes.spec("sgd")
    run(tmp_path, optimizers=[replace(spec, settings={"E": [-5.0, 0.99], "clip": None}), lab_fakes.spec("adamw")])
    calls.clear()
    again = run(tmp_path, optimizers=[replace(spec, settings={"clip": None, "E": [-5.0, 0.99]})])
    assert again.rows[0].optimizer == "sgd"
    for settings in ({"E": [-5.0, 0.99], "clip": 1.0}, {"E": [-5.0, 0.99]}, {}):
        with pytest.raises(
            LabError, match=r"comparison with other settings \(other settings of sgd\); choose another --out"
        ):
            run(tmp_path, optimizers=[replace(spec, settings=settings)])
    with pytest.raises(LabError, match="other settings of adamw"):
        run(tmp_path, optimizers=[replace(lab_fakes.spec("adamw"), settings={"E": "off"})])
    assert calls == []
