"""Whatever stands behind an option ends in a result, or in one line on stderr and exit code 2; never in a traceback."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import lab_fakes
from valleys.cli import main
from valleys.cli.app import PATHS, app, run

GROUP: Any = typer.main.get_command(app)

SOUND = {
    "compare": ["digits", "--batch-size", "512", "--optimizers", "sgd", "--out", "out"],
    "attribute": ["digits", "--batch-size", "512", "--from", "lamb", "--to", "alto", "--out", "out"],
    "suggest": ["--batch-size", "512", "--task", "digits"],
    "tasks": [],
    "optimizers": ["sgd"],
    "demo": ["--out", "out"],
    "report": ["folder", "--out", "page.html"],
    "doctor": ["--no-compiled"],
    "landscape": ["folder"],
    "trajectories": ["rosenbrock", "--steps", "2", "--optimizers", "sgd", "--out", "out"],
    "playground": ["--out", "page.html"],
    "reproduce": ["table-1", "--only", "-g_k", "--out", "out"],
    "claims": ["theorem-2"],
}
"""A command line of each command that is in order; one of its words is then replaced."""

WORDS = st.one_of(
    st.text(st.characters(), max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["lr", "sgd", "alto", "digits", "a"]).flatmap(
        lambda word: st.sampled_from([f"{word}=", f"{word}=nan", f"{word}=1e999", f"{word}:{word}", f"{word},{word}"])
    ),
    st.sampled_from(
        ["", " ", "\x00", "a\nb", "\udcff", "9" * 400, "a" * 300, "file", "file/inside", "/proc/none", "tpu", "cuda"]
    ),
    st.sampled_from(
        ["sqlite:///none/here.db", "postgresql://h:abc/db", "mysql://h/db", "foo://x", "builtins:int", "sys:exit"]
    ),
)


class Began(BaseException):
    """A run would have begun: the words were accepted."""


def refuse_to_begin(*arguments: object, **options: object) -> None:
    raise Began


pytestmark = pytest.mark.usefixtures("nothing_runs")


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("valleys.lab.run.trainer.train", refuse_to_begin)
    monkeypatch.setattr("valleys.cli.trajectories.draw", refuse_to_begin)
    monkeypatch.setattr("valleys.paper.playground.write", refuse_to_begin)
    monkeypatch.setattr("valleys.doctor.report", lambda kernels: [])


def ended(words: list[str]) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr; the code is None where a run would have begun."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | None = run(words)
        except Began:
            code = None
    return code, out.getvalue(), err.getvalue()


def replaced(command: str) -> Iterator[tuple[list[str], int]]:
    """Words of a sound command line, and where another word belongs, for each option and argument."""
    for parameter in GROUP.commands[command].params:
        words, flag = list(SOUND[command]), parameter.opts[0]
        if not flag.startswith("-"):
            yield [command, *([*words[:0], "x", *words] if not words or words[0].startswith("-") else words)], 1
        elif not parameter.is_flag:
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
            yield [command, *words, flag, "x"], len(words) + 2


CASES = [case for command in GROUP.commands for case in replaced(command)]


def test_there_is_a_sound_line_of_every_command_and_a_case_for_every_option() -> None:
    assert SOUND.keys() == GROUP.commands.keys()
    flags = [p for c in GROUP.commands.values() for p in c.params if getattr(p, "is_flag", False)]
    assert len(CASES) == sum(len(command.params) for command in GROUP.commands.values()) - len(flags)
    assert len(CASES) > 80


def test_the_sound_lines_are_accepted() -> None:
    for command in ("compare", "attribute", "suggest", "demo", "trajectories", "playground"):
        assert ended([command, *SOUND[command]])[0] is None, command
    for command in ("tasks", "optimizers", "doctor"):
        assert ended([command, *SOUND[command]])[0] == 0, command


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(CASES), word=WORDS)
@example(case=(["optimizers", "sgd", "--batch-size", "x"], 3), word="0")
@example(case=(["optimizers", "sgd", "--values", "x"], 3), word="lr=nan")
def test_any_word_is_taken_or_refused_in_one_line(case: tuple[list[str], int], word: str) -> None:
    words, place = list(case[0]), case[1]
    words[place] = word
    code, _, err = ended(words)
    assert code in (0, 2, None), words
    if code == 2:
        assert err.startswith("valleys: "), words
        assert err.count("\n") == 1, (words, err)


def test_paths_are_all_known_and_none_may_be_empty() -> None:
    paths = {
        flag
        for command in GROUP.commands.values()
        for parameter in command.params
        for flag in parameter.opts
        if flag.startswith("--") and "Path" in str(command.callback.__annotations__[parameter.name])
    }
    assert paths == set(PATHS)
    for words, place in CASES:
        if words[place - 1] in PATHS:
            for arguments in ([*words[:place], ""], [*words[: place - 1], f"{words[place - 1]}="]):
                code, out, err = ended(arguments)
                assert (code, out) == (2, "")
                assert f"{words[place - 1]} must not be empty" in err


@pytest.mark.parametrize(
    ("command", "option", "value", "named"),
    [
        ("suggest", "--device", "tpu", "unknown device 'tpu'"),
        ("landscape", "--device", "tpu", "unknown device 'tpu'"),
        ("reproduce", "--device", "tpu", "unknown device 'tpu'"),
        ("compare", "--device", "tpu", "unknown device 'tpu'"),
        ("compare", "--name", "a\x00b", "has characters that neither a file nor a report can hold"),
        ("compare", "--out", "a\udcff", "has characters that neither a file nor a report can hold"),
        ("compare", "--storage", "", "storage must not be empty"),
        ("compare", "--epochs", "9" * 30, "epochs must be a whole number of at most"),
        ("compare", "--batch-size", "many", "Invalid value for '--batch-size'"),
        ("compare", "--out", "file", "file is no folder; choose another --out"),
        ("compare", "--out", "file/inside", "file is no folder; choose another --out"),
        ("landscape", "--grid", "99999", "grid 99999: choose 2 or more, at most 1000"),
    ],
)
def test_what_is_wrong_is_named(command: str, option: str, value: str, named: str) -> None:
    words = next(
        [*words[:place], value] for words, place in CASES if words[0] == command and words[place - 1] == option
    )
    code, out, err = ended(words)
    assert (code, out) == (2, "")
    assert named in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["compare", "dry-run"])
@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("postgresql://127.0.0.1:1/db?user=somebody&password=SECRET", "cannot open the storage postgresql"),
        ("postgresql://somebody:SECRET@127.0.0.1:1/db", "cannot open the storage postgresql"),
        ("mysql://somebody:SECRET@host/db", "install its driver"),
        ("postgresql://somebody:SECRET@host:port/db", "--storage is no database URL"),
        ("post\x07gresql://somebody:SECRET@host/db", "has characters"),
    ],
)
def test_a_password_is_never_shown(url: str, hint: str, mode: list[str], tmp_path: Path) -> None:
    code, out, err = ended(["compare", *SOUND["compare"], "--storage", url, *mode])
    if mode and "cannot open" in hint + hint.replace("install its driver", "cannot open"):
        assert code == 0  # a dry run opens no database
        hint = ""
    else:
        assert (code, err.count("\n")) == (2, 1)
        assert "valleys[postgresql]" not in err
    assert hint in err
    files = [file.read_bytes().decode(errors="replace") for file in tmp_path.rglob("*") if file.is_file()]
    assert "SECRET" not in "".join([out, err, *files])


def test_what_the_terminal_s_encoding_lacks_does_not_cost_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    monkeypatch.setattr("valleys.lab.optimizers.resolve.resolve", lab_fakes.resolve)
    monkeypatch.setattr("valleys.lab.run.trainer.train", lab_fakes.train)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    words = ["compare", "größe", "--optimizers", "sgd", "--batch-size", "16", "--rounds", "1", "--trials", "1"]
    monkeypatch.setattr(sys, "argv", ["valleys", *words, "--out", str(tmp_path / "mö")])
    with pytest.raises(SystemExit) as left:
        main()
    streams[0].flush()
    text = streams[0].buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert left.value.code == 0
    assert "gr\\xf6\\xdfe at batch 16" in text
