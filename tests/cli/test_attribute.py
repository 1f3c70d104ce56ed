"""The command ``valleys attribute``: what it prints, and one line with exit code 2 for a mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import lab_fakes
from lab.attribution.responses import Call, luck, responding
from valleys.cli import main

Run = Callable[..., tuple[int, str, str]]

SET = "lr=0.02, momentum=0.9,weight_decay=1e-4"
OWN = "recipes: {mine: {like: lamb, clip: 1.0}, wrong: {like: lamb, clip: none}}"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    monkeypatch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    return responding(monkeypatch, lambda settings, seed: 80 + luck(seed) + 2 * (settings["beta3"] == 0.99))


@pytest.fixture
def valleys(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], calls: list[Call]) -> Run:
    """Run the command on the fake task."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        words = ["valleys", "attribute", "fake", "--batch-size", "16", "--rounds", "2", *map(str, arguments)]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as left:
            main()
        captured = capfd.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_it_prints_effects_sentence_and_files(valleys: Run, calls: list[Call], tmp_path: Path) -> None:
    code, out, err = valleys("--from", "lamb-paper", "--to", "lamb", "--set", SET, "--out", tmp_path)
    assert code == 0, err
    assert len(calls) == 2 * 2
    assert {tuple(call["values"].items()) for call in calls} == {
        (("lr", 0.02), ("momentum", 0.9), ("weight_decay", 1e-4))
    }
    assert "2 untuned optimizers x 2 rounds x 1 fresh seed = 4 runs of " in err
    lines = out.splitlines()
    assert lines[0].split() == ["switch", "from", "to", "effect", "(interval)"]
    assert lines[1].split()[:4] == ["beta3", "0.999", "0.99", "+2.00"]
    assert lines[1].rstrip().endswith("significant")
    assert lines[3].startswith("From lamb-paper to lamb the test accuracy changes by +2.00 points ")
    assert lines[3].endswith(".")
    report = ["report.md", "report.json", "runs.csv", "report.html", "curves.png"]
    names = ["attribution.md", "attribution.json", "waterfall.png", *report]
    assert lines[4:] == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).exists() for name in names)


def test_a_file_of_recipes(valleys: Run, calls: list[Call], tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("recipes: {mine: {like: lamb, clip: 1.0}}")
    code, out, err = valleys(
        "--from", "lamb", "--to", "mine", "--recipes", file, "--trials", 1, "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert len(calls) == 2 * 2 * 2
    assert "no significant effect of clip (0, 0 to 0)" in out


def test_a_dry_run_estimates_and_writes_nothing(valleys: Run, calls: list[Call], tmp_path: Path) -> None:
    options = [
        "--from",
        "lamb-paper",
        "--to",
        "alto-authors",
        "--trials",
        "3",
        "--out",
        str(tmp_path / "out"),
        "--dry-run",
    ]
    code, out, err = valleys(*options)
    assert code == 0, err
    assert "16 optimizers x 2 rounds x (3 trials + 1 fresh seed) = 128 runs of " in out
    code, out, err = valleys(*options, "--set", SET)
    assert "16 untuned optimizers x 2 rounds x 1 fresh seed = 32 runs of " in out
    assert calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "lr"], "--set 'lr': write name=number, such as lr=0.05"),
        (["--set", "lr=big"], "--set 'lr=big': write name=number, such as lr=0.05"),
        (["--set", "=1"], "--set '=1': write name=number, such as lr=0.05"),
        (["--set", "lr=0.1,lr=0.2"], "--set names lr twice"),
        (["--set", "lr=nan"], "the fixed lr must be a finite number, not nan"),
        (["--set", "rate=0.1"], "unknown hyperparameter of lamb-paper 'rate'. Choices: lr, momentum, weight_decay"),
        (["--set", "momentum=1.5"], "lamb-paper cannot train fake: ValueError: "),
        (["--to", "lamd"], "unknown recipe 'lamd'; did you mean lamb?"),
        (["--to", "lamb-paper"], "lamb-paper and lamb-paper are the same recipe; name two that differ"),
        (["--recipes", "none.yaml"], "the recipes 'none.yaml' cannot be read"),
        (["--recipes", "own.yaml"], "recipe 'wrong': clip must be a number above 0, or null, not 'none'"),
        (["--recipes", "broken.yaml"], "broken.yaml: while parsing"),
        (["--rounds", "0"], "rounds must be a number from 1 to 5000, not 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["attribute", "dry-run"])
def test_a_mistake_is_one_line_and_exit_code_2(
    valleys: Run,
    calls: list[Call],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
    mode: list[str],
) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "broken.yaml").write_text("recipes: {")
    monkeypatch.chdir(tmp_path)
    code, out, err = valleys("--from", "lamb-paper", "--to", "lamb", "--out", "out", *options, *mode)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("valleys: ")
    assert message in err
    assert calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--optimizers", "--pairs", "--copies"])
def test_what_an_attribution_sets_itself_is_no_option(valleys: Run, tmp_path: Path, option: str) -> None:
    code, _, err = valleys("--from", "lamb-paper", "--to", "lamb", "--out", tmp_path / "out", option, "2")
    assert code == 2
    assert option in err
    assert not (tmp_path / "out").exists()
