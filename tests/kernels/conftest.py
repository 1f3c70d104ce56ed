"""Backends that were never looked up; a small C library, and its loader in an environment without settings."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from valleys.kernels import c, choice
from valleys.kernels.c import compiler as c_compiler

FLAGS = ["-shared", "-fPIC"]
Load = Callable[..., ctypes.CDLL]


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
    c_compiler._warn_once.cache_clear()

    def call(*symbols: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
        return c_compiler.load(source, [*FLAGS, *flags], symbols or ("answer",))

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


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No backend looked up and no kernel loaded yet."""
    for function in (choice.fused_backend, choice._warn_once, c._library):
        function.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for function in (choice.fused_backend, choice._warn_once, c._library):
        function.cache_clear()
