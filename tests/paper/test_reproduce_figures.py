"""The figures, Table 1 and Appendix A, repeated for real where they are short."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lab_fakes
from paper.reproductions import Call, of, run
from valleys.lab import Record, Task, tasks
from valleys.lab.record import Evaluation
from valleys.paper.reproduce import reproduce
from valleys.paper.tables.model import Method
from valleys.paper.tables.numbers import find


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures with 60 steps instead of thousands."""
    load: Callable[..., Any] = tasks.load
    monkeypatch.setattr("valleys.lab.tasks.load", lambda *arguments: replace(load(*arguments), epochs=60))
    monkeypatch.setattr("valleys.lab.report.document.write", lambda *arguments: {})


def test_figure_8_really_walks(tmp_path: Path, short: None) -> None:
    reproduction = run(tmp_path, "figure-8", None, seeds=2)
    assert [(o.cell.row, o.cell.column) for o in reproduction.outcomes] == [
        ("f1", "ALTO"),
        ("f1", "Adam"),
        ("f1", "ALTO at alpha 0"),
        ("f2", "ALTO"),
        ("f2", "Adam"),
        ("f2", "ALTO at alpha 0"),
    ]
    for one in reproduction.outcomes:
        assert one.same
        assert [walk.seed for walk in one.walks] == [5000, 5001] == list(one.values)
        for walk in one.walks:
            assert walk.value == one.values[walk.seed]  # the walk is the comparison's own run
            assert walk.lowest <= walk.value
            assert len(walk.end) == 1
    assert of(reproduction, "Adam", "f1").walks[0].end[0] == pytest.approx(2.3, abs=0.3)
    assert "seed 5000: ends at (" in reproduction.paths["markdown"].read_text()


def test_a_walk_that_diverges_says_so(tmp_path: Path, short: None) -> None:
    spec = reproduce.__globals__["spec"](Method("far", "sgd", (("lr", 1e3),)))
    problem = tasks.load("fig8-f1", None, None)
    walk = reproduce.__globals__["walk"](problem, spec, 1000)
    assert walk.diverged
    assert walk.describe().startswith("seed 1000: diverged; lowest f = ")


def test_the_sine_is_shorter_in_smoke_and_its_ratio_is_of_epochs(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(task: Task, spec: Any, hyperparameters: Mapping[str, float], config: Any, **options: Any) -> Record:
        step = 5 if config.batch_size == 256 else 400
        curve = [Evaluation(step, 1.0, 0.1, 0.01), Evaluation(1000, 2.0, 0.1, 0.01)]
        return lab_fakes.record(
            optimizer=spec.name, hyperparameters={}, seed=options["seed"], steps=1000, curve=curve, test=0.01
        )

    small = replace(lab_fakes.task(examples=40000, maximize=False), target=0.02)
    monkeypatch.setattr("valleys.lab.tasks.load", lambda *arguments: small)
    monkeypatch.setattr("valleys.lab.run.trainer.train", early)
    reproduction = run(tmp_path, "appendix-a", None, seeds=1)
    assert (of(reproduction, "Adam", "256").mean, of(reproduction, "Adam", "32768").mean) == (
        40 * 5 / 1000,
        1500 * 400 / 1000,
    )
    assert of(reproduction, "Adam", "32768 / 256").difference == pytest.approx(600 / 0.2 - 100)
    assert not reproduction.outcomes[0].same
    text = reproduction.paths["markdown"].read_text()
    assert text.startswith("# Appendix A: ")
    assert "| 32768 / 256 | Adam | 100 | 3000 (1 seed) | +2900 " in text
    assert run(tmp_path, "appendix-a", "256", preset="paper", seeds=1).outcomes[0].mean == 60 * 5 / 1000


def test_the_trainer_s_own_runs_are_the_walks(short: None) -> None:
    from valleys.paper.tables.methods import spec

    method = next(one.method for one in find("figure-8").cells if one.column == "ALTO")
    assert method is not None
    problem = tasks.load("fig8-f1", None, None)
    record = lab_fakes.train_really(problem, spec(method), {}, batch_size=1, seed=1000, test=True)
    assert record.test == reproduce.__globals__["walk"](problem, spec(method), 1000).value


def test_table_1_comes_out_as_printed(tmp_path: Path) -> None:
    reproduction = run(tmp_path, "table-1", None)
    assert len(reproduction.outcomes) == 24
    *printed, _, _, _, _ = reproduction.outcomes
    assert all(one.difference == 0 for one in printed)
    assert [(one.cell.says, one.mean) for one in reproduction.outcomes[-4:]] == [
        (f"implied: {sign}", sign) for sign in (-1, 1, -1, 1)
    ]
    text = reproduction.paths["markdown"].read_text()
    assert "| -g\\_k | 1-2 | -1 | -1" in text or "| -g_k | 1-2 | -1 | -1" in text


def test_figure_3_measures_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valleys.lab.tasks.load", lambda *arguments: lab_fakes.points())
    reproduction = run(tmp_path, "figure-3", "LAMB, 16384: drift", seeds=2)
    assert [one.cell.column for one in reproduction.outcomes] == ["alpha -50", "alpha -5", "alpha 0", "alpha 5"]
    for one in reproduction.outcomes:
        assert list(one.values) == [5000, 5001]
        assert all(value > 0 for value in one.values.values())
    assert [(one.first, one.second) for one in reproduction.contrasts] == [
        ("alpha -50", "alpha 0"),
        ("alpha -5", "alpha 0"),
        ("alpha 5", "alpha 0"),
    ]
    assert all(one.paper is None and one.ours is not None and one.ours.pairs == 2 for one in reproduction.contrasts)
    flat = run(tmp_path, "figure-3", "LAMB, 16384: top", seeds=2)  # the same runs
    assert all(value > 0 for one in flat.outcomes for value in one.values.values())
    assert len(list((tmp_path).glob("*/weights/*.pt"))) == 8
    tested = run(tmp_path, "figure-3", "LAMB, 16384: test", seeds=2)
    assert all(one.mean is not None for one in tested.outcomes)


def test_figure_3_says_why_it_measured_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from valleys.lab import LabError

    def refuses(*_: Any, **__: Any) -> None:
        raise LabError("flatness is measured in one process")

    monkeypatch.setattr("valleys.lab.tasks.load", lambda *arguments: lab_fakes.points())
    monkeypatch.setitem(reproduce.__globals__, "landscape", refuses)
    reproduction = run(tmp_path, "figure-3", "AdamW, 128: drift", seeds=1)
    assert {one.blank for one in reproduction.outcomes} == {"flatness is measured in one process"}
