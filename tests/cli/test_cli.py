from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import lab_fakes
from valleys.cli import main
from valleys.cli.console import print_text
from valleys.lab import demo, tasks
from valleys.lab.optimizers import resolve
from valleys.lab.record import Record

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def valleys(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, with the fake task, optimizers and trainer."""
    monkeypatch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    monkeypatch.setattr("valleys.lab.optimizers.resolve.resolve", lab_fakes.resolve)
    monkeypatch.setattr("valleys.lab.run.trainer.train", lab_fakes.train)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["valleys", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capfd.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_compare_prints_table_verdict_and_paths_and_the_cost_on_stderr(valleys: Run, tmp_path: Path) -> None:
    code, out, err = valleys(
        "compare",
        "fake",
        "--optimizers",
        "sgd, adamw",
        "--batch-size",
        16,
        "--rounds",
        3,
        "--trials",
        4,
        "--out",
        tmp_path,
    )
    assert code == 0
    assert "2 optimizers x 3 rounds x (4 trials + 1 fresh seed) = 30 runs of " in err
    assert "of 30 runs, about " in err
    assert "fake at batch 16" in out
    assert "No difference between sgd and adamw: equal test accuracy in all 3 rounds" in out
    names = ("report.md", "report.json", "runs.csv", "report.html", "curves.png")
    assert out.splitlines()[-len(names) :] == [str(tmp_path / name) for name in names]
    files = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} | {"checkpoints", "weights"}
    listed = valleys("compare", "--help")[1].split("Files:")[1].split("Examples:")[0]
    assert files == set(re.findall(r"^    ([a-z.]+)  ", listed, flags=re.MULTILINE))


def test_a_name_with_markup_is_printed_as_it_is(valleys: Run, tmp_path: Path) -> None:
    _, out, _ = valleys(
        "compare",
        "fake",
        "--optimizers",
        "a[red]",
        "--batch-size",
        16,
        "--trials",
        1,
        "--seeds",
        1,
        "--out",
        tmp_path,
    )
    assert re.search(r"^a\[red\] ", out, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--trials", "0"], "trials"),
        (["--optimizers", "sgd,sgd"], "sgd"),
        (["--optimizers", ","], "at least one"),
        (["--batch-size", "99999"], "99999"),
        (["--out", "{file}/out"], "cannot write"),
        (["--storage", "nonsense"], "--storage"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    valleys: Run, tmp_path: Path, arguments: list[str], named: str
) -> None:
    (tmp_path / "file").write_text("")
    words = [argument.format(file=tmp_path / "file") for argument in arguments]
    code, out, err = valleys("compare", "fake", "--batch-size", 16, "--out", tmp_path / "out", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("valleys: ")
    assert named in err


def test_usage_errors_exit_with_2(valleys: Run) -> None:
    code, _, err = valleys("compare", "fake")
    assert code == 2
    assert "--out" in err
    assert valleys("nonsense")[0] == 2


def test_unknown_names_are_refused_by_the_real_registries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for task, optimizer in (("no-such-task", "sgd"), ("sine", "no-such-optimizer")):
        words = [
            "valleys",
            "compare",
            task,
            "--optimizers",
            optimizer,
            "--batch-size",
            "16",
            "--out",
            str(tmp_path),
        ]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as left:
            main()
        captured = capfd.readouterr()
        assert left.value.code == 2
        assert "no-such" in captured.err
        assert len(captured.err.splitlines()) == 1


def test_an_interruption_says_how_to_go_on(valleys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Record:
        raise KeyboardInterrupt

    monkeypatch.setattr("valleys.lab.run.trainer.train", interrupted)
    code, _, err = valleys("compare", "fake", "--batch-size", 16, "--out", tmp_path)
    assert (code, err.splitlines()[-1]) == (130, "valleys: interrupted; the same command continues")


def test_version(valleys: Run) -> None:
    assert valleys("--version") == (0, f"{version('valleys')}\n", "")


def test_tasks_are_listed_with_descriptions(valleys: Run) -> None:
    code, out, _ = valleys("tasks")
    assert code == 0
    for name in tasks.names():
        assert name in out


def test_optimizers_are_listed_with_their_spaces(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["valleys", "optimizers"])
    with pytest.raises(SystemExit) as left:
        main()
    out = capfd.readouterr().out
    assert not left.value.code
    for name in resolve.names():
        (line,) = [line for line in out.splitlines() if line.split()[0] == name]
        assert all(key in line for key in resolve.resolve(name).space)


def test_demo_shows_both_comparisons_and_reuses_them(
    valleys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {task: dataclasses.replace(config, trials=1, seeds=2) for task, config in demo.STAGES.items()}
    monkeypatch.setattr("valleys.lab.demo.STAGES", small)
    code, out, err = valleys("demo", "--out", tmp_path)
    assert code == 0
    assert "3 optimizers x 5 rounds x (1 trial + 2 fresh seeds) = 45 runs" in err
    assert "2 optimizers x 5 rounds x (1 trial + 2 fresh seeds) = 30 runs" in err
    assert max(map(len, out.splitlines())) <= 100, "of which the paths of this test are no part"
    digits, sine, rest = out.split("\n\n")
    assert rest == ""
    for text, task, optimizers in ((digits, "digits", 3), (sine, "sine", 2)):
        title, _, *lines, page = text.splitlines()
        report = tmp_path / task / "report.html"
        (verdict,) = json.loads(report.with_suffix(".json").read_text())["verdicts"]
        assert (title.split()[0], page) == (task, str(report))
        assert " ".join("\n".join(lines[optimizers:]).split()) == f"{verdict['sentence']}."

    def never(*_: Any, **__: Any) -> Record:
        raise AssertionError("a finished run was repeated")

    monkeypatch.setattr("valleys.lab.run.trainer.train", never)
    assert valleys("demo", "--out", tmp_path)[:2] == (0, out)


def test_trajectories_are_drawn_and_put_into_numbers(valleys: Run, tmp_path: Path) -> None:
    code, out, err = valleys("trajectories", "f2", "--optimizers", "lamb", "--steps", "20", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [["f2", "LAMB"], ["f2", "ALTO"], ["f2", "LAMB,"]]
    assert (tmp_path / "f2.png").stat().st_size > 5000
    code, _, err = valleys("trajectories", "f3", "--out", tmp_path)
    assert code == 2
    assert err.startswith("valleys: function 'f3': choose of")


def test_the_playground_is_one_page(valleys: Run, tmp_path: Path) -> None:
    code, out, _ = valleys("playground", "--out", tmp_path / "page.html")
    assert (code, out.strip()) == (0, str(tmp_path / "page.html"))
    assert "<html" in (tmp_path / "page.html").read_text()
    code, _, err = valleys("playground", "--out", tmp_path / "nowhere" / "page.html")
    assert code == 2
    assert err.startswith("valleys: cannot write")


def test_without_its_extra_the_command_names_it(valleys: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "valleys.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)  # what importing an absent module looks like
    assert valleys("tasks") == (2, "", "valleys: the lab needs typer: pip install 'valleys[lab]'\n")


SLOW = """
import time, lab_fakes
from valleys.lab import tasks
from valleys.lab.optimizers import resolve
from valleys.lab.run import trainer
def train(*arguments, **options):
    open(STARTED, "w").close()
    time.sleep(60)
tasks.load = lab_fakes.load
resolve.resolve = lab_fakes.resolve
trainer.train = train
from valleys.cli import main
from valleys.cli.console import print_text
main()
"""


def test_a_real_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    words = ["compare", "fake", "--batch-size", "16", "--out", str(tmp_path / "out")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(lab_fakes.__file__).parent), *sys.path]),
    }
    started = tmp_path / "started"
    script = SLOW.replace("STARTED", repr(str(started)))
    child = subprocess.Popen([sys.executable, "-c", script, *words], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not started.exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130
    assert err.splitlines()[-1] == "valleys: interrupted; the same command continues"


def test_sentences_are_broken_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["short", "x" * 130, "no-break", *(f"word-{k}" for k in range(40))]
    print_text(" ".join(words), "  ")
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines).split() == words
    assert [len(line) > 100 for line in lines] == [False, True, *[False] * (len(lines) - 2)]
    assert {line[: len(line) - len(line.lstrip())] for line in lines[1:]} == {" " * 4}
