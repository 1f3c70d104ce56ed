"""Failures of a compiler: each is one error of one line, with the remedy, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from valleys.kernels.c import compiler as c_compiler

Load = Callable[..., ctypes.CDLL]


def failure(load: Load, *symbols: str) -> str:
    """The error's one line."""
    with pytest.raises(c_compiler.CompileError) as error:
        load(*symbols)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert any(word in message for word in ("set CC", "unset CC", "set VALLEYS_CACHE_DIR", "check CC")), "no remedy"
    return message


def test_cc_with_an_unclosed_quote(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", 'gcc "-O1')
    message = failure(load)
    assert "CC=" in message
    assert 'gcc "-O1' in message
    assert "quot" in message
    assert "unset CC" in message


def test_messages_that_are_not_utf_8(load: Load, fake: Any) -> None:
    fake(r"printf 'd\351faut\nerror: \377\376 inattendu\n' >&2; exit 1")
    assert "error: \ufffd\ufffd inattendu" in failure(load)
    fake(r"""printf 'note: \377\n' >&2; exec cc "$@" """)
    assert load().answer() == 42


def test_a_library_without_its_symbols(load: Load, cache: Path) -> None:
    assert "absent" in failure(load, "answer", "absent")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_compiler_is_stopped_with_its_children(
    load: Load, fake: Any, cache: Path, temporary: Path, interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = cache.with_name("pids")
    # As a compiler's driver does: the child inherits the pipe, and has files of its own.
    fake(f"trap '' TERM INT; mktemp > {pids}; sleep 60 & echo $$ $! > {pids}; wait")
    if interrupted:

        def wait(*_: Any, **__: Any) -> None:
            while not pids.exists() or len(pids.read_text().split()) < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt

        monkeypatch.setattr(subprocess.Popen, "communicate", wait)
        with pytest.raises(KeyboardInterrupt):
            load()
    else:
        monkeypatch.setattr(c_compiler, "TIME_LIMIT", 2)
        assert "after 2 s" in failure(load)
    first, second = map(int, pids.read_text().split())
    deadline = time.monotonic() + 10
    while running(first) or running(second):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not list(cache.iterdir())
    assert not list(temporary.iterdir())


def running(pid: int) -> bool:
    """A zombie, which a container without an init process may keep, does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_space_anywhere(load: Load, fake: Any) -> None:
    fake("echo 'ld: final link failed: No space left on device' >&2; exit 1")
    message = failure(load)
    assert message.count("no space left") == 2
    assert "set VALLEYS_CACHE_DIR" in message


def test_the_temporary_folder_fails_too(load: Load, cache: Path, temporary: Path, fake: Any) -> None:
    fake('for last; do [ "$before" = -o ] && echo no library > "$last"; before=$last; done')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = failure(load)
    assert "neither" in message
    assert [path.suffix for path in cache.iterdir()] == [".so"]  # it may load on another machine
    assert not list(temporary.iterdir())


def test_a_compiler_that_does_not_work(load: Load, fake: Any) -> None:
    path = fake("exit 0")
    assert "made no library" in failure(load)
    fake("exit 3")
    assert "exit status 3" in failure(load)
    fake("echo 'ld: cannot find -lgomp'; echo 'collect2: error: ld returned 1 exit status'; exit 1")
    assert "-lgomp" in failure(load)
    path.write_bytes(b"\x7fELF no program")
    assert "cannot be started" in failure(load)


@pytest.mark.parametrize("problem", ["no source", "source is no text", "null byte", "subprocess"])
def test_whatever_goes_wrong_is_a_compile_error(
    load: Load, source: Path, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if problem == "no source":
        source.unlink()
    elif problem == "source is no text":
        source.write_bytes(b"\xff\xfe")
    elif problem == "null byte":
        monkeypatch.setattr(c_compiler, "command", lambda: ["cc", "-DX=\0"])
    else:

        def broken(*_: Any, **__: Any) -> None:
            raise subprocess.SubprocessError("Exception occurred in preexec_fn.")

        monkeypatch.setattr(subprocess, "Popen", broken)
    failure(load)
