"""The library of C kernels: compiled once, verified before it is loaded; one error for all that can go wrong."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from valleys import doctor
from valleys.kernels import compiler

FLAGS = ["-shared", "-fPIC"]
Load = Callable[..., ctypes.CDLL]

# Without valleys itself, whose import brings torch.
CHILD = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("compiler", sys.argv[1])
compiler = importlib.util.module_from_spec(spec)
sys.modules["compiler"] = compiler
spec.loader.exec_module(compiler)
print(compiler.load(pathlib.Path(sys.argv[2]), ["-shared", "-fPIC"], ["answer"]).answer())
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.c"
    # A file of this size that is cut in half still loads, and kills at the first access behind its end.
    path.write_text("static char data[1 << 20] = {1}; char *pages = data; int answer(void) { return 41 + *pages; }\n")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    path = tmp_path / "temporary"
    path.mkdir()
    return path


@pytest.fixture
def load(source: Path, cache: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """The loader, in an environment without a user's settings."""
    for name in ("CC", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VALLEYS_CACHE_DIR", str(cache))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    compiler._warn_once.cache_clear()

    def call(*symbols: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
        return compiler.load(source, [*FLAGS, *flags], symbols or ("answer",))

    return call


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a shell script the compiler."""

    def make(text: str) -> Path:
        path = tmp_path / "fake-cc"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return make


def child(source: Path, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(compiler.__file__), str(source)]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def failure(load: Load, *symbols: str) -> str:
    """The error's one line."""
    with pytest.raises(compiler.CompileError) as caught:
        load(*symbols)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert any(word in message for word in ("set CC", "unset CC", "set VALLEYS_CACHE_DIR", "fused=False")), "no remedy"
    return message


def intact(cache: Path) -> list[Path]:
    """The libraries of the cache, which holds nothing else."""
    paths = sorted(cache.iterdir())
    for path in paths:
        assert path.suffix == ".so"
        assert path.stem.split("-")[1] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return paths


def test_a_library_is_compiled_once_and_named_after_its_bytes(load: Load, cache: Path, fake: Any) -> None:
    log = cache.with_name("log")
    fake(f'echo x >> {log}; exec cc "$@"')
    assert load().answer() == load().answer() == 42
    assert len(log.read_text().splitlines()) == len(intact(cache)) == 1
    assert load(flags=("-O1",)).answer() == 42
    assert len(log.read_text().splitlines()) == len(intact(cache)) == 2
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@pytest.fixture
def homeless(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a passwd entry, as in ``docker run --user``."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(RuntimeError):
        Path.home()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_a_temporary_folder_serves(load: Load, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VALLEYS_CACHE_DIR")
    assert load().answer() == 42
    assert not list(temporary.iterdir())
    with pytest.raises(compiler.CompileError, match=r"no home directory .*set VALLEYS_CACHE_DIR"):
        compiler.cache_directory()
    lines = {finding.subject: finding for finding in doctor.machine()}
    assert "no home directory" in lines["compiled C kernels"].text


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("variable", ["VALLEYS_CACHE_DIR", "XDG_CACHE_HOME"])
def test_a_configured_folder_needs_no_home(
    load: Load, cache: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VALLEYS_CACHE_DIR")
    monkeypatch.setenv(variable, str(cache))
    assert load().answer() == 42
    assert intact(cache if variable == "VALLEYS_CACHE_DIR" else cache / "valleys")


def test_a_relative_folder_is_a_folder(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name without a slash would be looked for among the system's libraries."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("VALLEYS_CACHE_DIR", ".")
    assert load().answer() == load().answer() == 42
    assert len(intact(here)) == 1


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


def test_a_kept_library_without_its_symbols_is_compiled_anew(load: Load, cache: Path, fake: Any) -> None:
    fake(f'if mkdir {cache.with_name("once")} 2> /dev/null; then exec cc "$@" -Danswer=other; fi; exec cc "$@"')
    load("other")
    (old,) = intact(cache)
    assert load("answer").answer() == 42
    (new,) = intact(cache)
    assert new != old


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
        monkeypatch.setattr(compiler, "TIME_LIMIT", 2)
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


FULL = "echo 'ld: final link failed: No space left on device' >&2; exit 1"


def test_a_full_cache_is_replaced_by_a_temporary_folder(load: Load, cache: Path, temporary: Path, fake: Any) -> None:
    fake(f"""case "$*" in *{cache}/*) {FULL};; esac; exec cc "$@" """)
    with pytest.warns(UserWarning, match="no space left"):
        assert load().answer() == 42
    assert not list(cache.iterdir())
    assert not list(temporary.iterdir())


def test_no_space_anywhere(load: Load, fake: Any) -> None:
    fake(FULL)
    message = failure(load)
    assert message.count("no space left") == 2
    assert "set VALLEYS_CACHE_DIR" in message


def test_no_space_for_what_we_write(load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="no space left"):
        assert load().answer() == 42
    assert not list(cache.iterdir())


def test_a_library_cut_short_does_not_kill_the_process(load: Load, source: Path, cache: Path) -> None:
    """It would map, and every access behind its end be a SIGBUS, in this process and all later ones."""
    assert child(source).communicate()[0] == "42\n"
    (path,) = cache.glob("*.so")
    os.truncate(path, path.stat().st_size // 2)
    process = child(source)
    assert process.communicate()[0] == "42\n", f"exit status {process.returncode}"
    assert len(intact(cache)) == 1


def test_a_library_with_other_bytes_is_replaced(load: Load, source: Path, cache: Path) -> None:
    load()
    (path,) = cache.glob("*.so")
    # The answer's 41 in the code, or whatever the bytes mean on this processor.
    wrong = path.read_bytes().replace(b"\x29", b"\x2a")
    path.unlink()  # this process has loaded it
    path.write_bytes(wrong)
    path.with_name(f"{path.stem.split('-')[0]}-{'0' * 16}.so").write_bytes(b"")
    process = child(source)
    assert process.communicate()[0] == "42\n", f"exit status {process.returncode}"
    assert intact(cache) == [path]


def test_a_library_is_on_the_disk_before_it_has_its_name(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure there is all of it or nothing."""
    events = []
    sync, replace = os.fsync, Path.replace

    def spy_sync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        events.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    load()
    assert events == ["file", "name", "folder"]


def test_processes_that_compile_at_once(load: Load, source: Path, cache: Path, fake: Any) -> None:
    fake('sleep 0.3; exec cc "$@"')
    children = [child(source) for _ in range(4)]
    assert [process.communicate()[0] for process in children] == ["42\n"] * 4
    assert intact(cache)


def test_no_temporary_folder_outlives_the_process(load: Load, source: Path, tmp_path: Path, temporary: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    output, errors = child(source, VALLEYS_CACHE_DIR=str(blocked / "below")).communicate()
    assert output == "42\n", errors
    assert not list(temporary.iterdir())


def test_a_default_cache_that_cannot_be_written_is_no_news(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("VALLEYS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load().answer() == 42


def test_a_configured_cache_that_cannot_be_used_is_told_once(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("VALLEYS_CACHE_DIR", str(blocked / "below"))
    with pytest.warns(UserWarning, match=r"below: not a directory.*; set VALLEYS_CACHE_DIR") as caught:
        assert load().answer() == load(flags=("-O1",)).answer() == 42
    assert len(caught) == 1


@pytest.mark.parametrize(("default", "reason"), [(False, "another user"), (True, "another user"), (True, "every user")])
def test_a_cache_that_others_could_fill_is_not_used(
    load: Load, cache: Path, default: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "valleys"
    folder.mkdir(mode=0o700, parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    if default:
        monkeypatch.delenv("VALLEYS_CACHE_DIR")
    else:
        monkeypatch.setenv("VALLEYS_CACHE_DIR", str(folder))
    load()
    kept = intact(folder)
    if reason == "every user":
        folder.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(folder, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.warns(UserWarning, match=rf"{folder}: .*{reason}.*; set VALLEYS_CACHE_DIR") as caught:
        assert load().answer() == load(flags=("-O1",)).answer() == 42
    assert len(caught) == 1
    assert intact(folder) == kept


def test_the_temporary_folder_fails_too(load: Load, cache: Path, temporary: Path, fake: Any) -> None:
    fake('for last; do [ "$before" = -o ] && echo no library > "$last"; before=$last; done')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = failure(load)
    assert "neither" in message
    assert not list(cache.iterdir())
    assert not list(temporary.iterdir())


def test_a_compiler_that_does_not_start_or_makes_nothing(load: Load, fake: Any) -> None:
    path = fake("exit 0")
    assert "made no library" in failure(load)
    fake("exit 3")
    assert "exit status 3" in failure(load)
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
        monkeypatch.setattr(compiler, "_compiler", lambda: ["cc", "-DX=\0"])
    else:

        def broken(*_: Any, **__: Any) -> None:
            raise subprocess.SubprocessError("Exception occurred in preexec_fn.")

        monkeypatch.setattr(subprocess, "Popen", broken)
    failure(load)
