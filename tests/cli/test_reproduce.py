"""The command ``valleys reproduce``: its exit code, and what its help shows works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lab_fakes
from paper.reproductions import watched_calls
from valleys.cli.app import run


@pytest.fixture(autouse=True)
def _nothing_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    watched_calls(monkeypatch)


def test_the_example_of_the_help_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["reproduce", "table-3", "--data", ".", "--only", "CIFAR-10", "--columns", "ALTO,SGD", "--seeds", "1"]) == 0
    )
    text = capsys.readouterr().out
    assert "CIFAR-10, 16384  ALTO" in text
    assert "CIFAR-100" not in text
    assert (tmp_path / "reproduce" / "table-3" / "reproduce.json").is_file()


def test_a_table_of_blanks_has_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "table-9", "--only", "MRPC", "--preset", "tenth"]) == 3
    captured = capsys.readouterr()
    assert "blank (1): the task bert-mrpc has no preset tenth" in captured.out
    assert captured.err == "valleys: nothing of table-9 was reproduced: all 5 cells are blank\n"


def test_a_choice_without_a_cell_has_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "table-5c", "--only", "ms per step", "--columns", "Adam"]) == 3
    assert capsys.readouterr().err == "valleys: nothing of table-5c was reproduced: no cell was chosen\n"


def test_runs_that_all_diverge_have_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def diverge(task: Any, spec: Any, hyperparameters: Any, config: Any, **options: Any) -> Any:
        return lab_fakes.record(optimizer=spec.name, seed=options["seed"], diverged=True, validation=None, test=None)

    monkeypatch.setattr("valleys.lab.run.trainer.train", diverge)
    command = ["reproduce", "table-5a", "--only", "1K", "--seeds", "1"]
    assert run(command) == 3
    captured = capsys.readouterr()
    assert "all 1 runs diverged" in captured.out
    assert "all 2 cells are blank" in captured.err
    monkeypatch.undo()


def test_one_number_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valleys.paper.tables.methods.find_spec", lambda name: None)  # no AdaBelief
    command = ["reproduce", "table-3", "--only", "CIFAR-10, 128", "--seeds", "1"]
    assert run([*command, "--columns", "AdaBelief"]) == 3
    assert run([*command, "--columns", "AdaBelief,SGD"]) == 0
