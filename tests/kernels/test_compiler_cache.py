"""The cache of compiled kernels: which folder it is, and that nothing is loaded from it but what was put there."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from valleys import doctor
from valleys.kernels.c import compiler as c_compiler

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


def child(source: Path, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(c_compiler.__file__), str(source)]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
    with pytest.raises(c_compiler.CompileError, match=r"no home directory .*set VALLEYS_CACHE_DIR"):
        c_compiler.cache_directory()
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


def test_a_kept_library_without_its_symbols_is_compiled_anew(load: Load, cache: Path, fake: Any) -> None:
    fake(f'if mkdir {cache.with_name("once")} 2> /dev/null; then exec cc "$@" -Danswer=other; fi; exec cc "$@"')
    load("other")
    (old,) = intact(cache)
    assert load("answer").answer() == 42
    (new,) = intact(cache)
    assert new != old


ELSEWHERE = {
    "no space left": "echo 'ld: final link failed: No space left on device' >&2; exit 1",
    "file too short": 'for last; do [ "$before" = -o ] && : > "$last"; before=$last; done; exit 0',
}


@pytest.mark.parametrize("reason", ELSEWHERE)
def test_where_a_cache_fails_a_temporary_folder_does(
    load: Load, cache: Path, temporary: Path, fake: Any, reason: str
) -> None:
    """A full disk, or one without permission to execute."""
    fake(f"""case "$*" in *{cache}/*) {ELSEWHERE[reason]};; esac; exec cc "$@" """)
    with pytest.warns(UserWarning, match=f"{cache}: {reason}") as record:
        assert load().answer() == load(flags=("-O1",)).answer() == 42
    assert len(record) == 1
    assert not any(path.is_dir() for path in cache.iterdir())
    assert not list(temporary.iterdir())


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
    with pytest.warns(UserWarning, match=r"below: not a directory.*; set VALLEYS_CACHE_DIR") as record:
        assert load().answer() == load(flags=("-O1",)).answer() == 42
    assert len(record) == 1


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
    libraries = intact(folder)
    if reason == "every user":
        folder.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(folder, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.warns(UserWarning, match=rf"{folder}: .*{reason}.*; set VALLEYS_CACHE_DIR") as record:
        assert load().answer() == load(flags=("-O1",)).answer() == 42
    assert len(record) == 1
    assert intact(folder) == libraries
