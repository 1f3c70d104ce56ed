"""Compilation of a C source with the machine's compiler when first used, and a cache of the libraries on disk."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CompileError", "cache_directory", "load"]


class CompileError(RuntimeError):
    """No library: no compiler, a compiler that fails, or no place for its output."""


def cache_directory() -> Path:
    """The folder of compiled kernels: ``VALLEYS_CACHE_DIR``, else ``valleys`` in the user's cache directory.

    Returns:
        The folder, which need not exist.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VALLEYS_CACHE_DIR") or Path(base) / "valleys")


def load(source: Path, flags: Sequence[str], symbols: Sequence[str]) -> ctypes.CDLL:
    """Load a shared library, from the disk or compiled now.

    Args:
        source: C source file without includes of its own.
        flags: of the compiler; they must make a shared library.
        symbols: names of the functions that the library must have.

    Returns:
        The library.

    Raises:
        CompileError: no compiler, or it failed.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or [next(filter(shutil.which, ("cc", "gcc", "clang")), "")]
    if not shutil.which(compiler[0]):
        raise CompileError(f"no C compiler was found ({compiler[0] or 'cc, gcc, clang'}); install one or set CC")
    command = [*compiler, *flags]
    key = hashlib.sha256("\0".join([source.read_text(), *command, _processor()]).encode()).hexdigest()[:24]
    for directory in (cache_directory(), None):
        try:
            return _load(key, source, command, directory or Path(tempfile.mkdtemp(prefix="valleys-")))
        except OSError as error:
            # A home that cannot be written, or mounted without permission to execute.
            problem = error
    raise CompileError(f"the compiled kernels could not be kept or loaded: {problem}")


def _load(key: str, source: Path, command: list[str], directory: Path) -> ctypes.CDLL:
    target = directory / f"{key}.so"
    if not target.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Several processes may compile at once: each its own file, the last one stays.
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            output = Path(folder) / "kernels.so"
            done = subprocess.run(  # noqa: S603
                [*command, str(source), "-o", str(output), "-lm"], capture_output=True, text=True, check=False
            )
            if done.returncode:
                line = next((x for x in done.stderr.splitlines() if "error" in x), done.stderr[-200:])
                raise CompileError(f"{command[0]} could not compile the kernels: {line.strip()}")
            output.replace(target)
    return ctypes.CDLL(str(target))


@functools.cache
def _processor() -> str:
    """The processor's features, on which -march=native depends: a cache may be shared by machines of many kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(features)])
