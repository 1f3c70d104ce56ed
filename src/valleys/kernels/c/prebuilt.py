"""Kernels that a wheel brings: a library for each instruction-set level, of which the processor's highest is loaded."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path
from types import SimpleNamespace

from valleys.kernels.c.compiler import CompileError
from valleys.kernels.c.sources import Variant, levels_of

_FOLDER = Path(__file__).with_name("prebuilt")


def load(variant: Variant) -> SimpleNamespace | None:
    """Return the functions of a variant by their plain names; None where they must be compiled.

    Raises:
        CompileError: ``VALLEYS_ISA`` names a level that is not there or that the processor lacks.
    """
    try:
        level = _level()
        library = None if level is None else _open(level)
    except OSError:  # such as a folder mounted noexec; ``status`` says so
        return None
    if library is None or not hasattr(library, variant.symbols[0] + variant.suffix):
        return None
    return SimpleNamespace(**{name: getattr(library, name + variant.suffix) for name in variant.symbols})


def status() -> str:
    """A line for a report: which kernels are used, and why."""
    try:
        level = _level()
        if level is None:
            return "compiled when first used: this installation brings none"
        _open(level)
    except OSError as error:
        return f"compiled when first used: those of this installation cannot be loaded ({error})"
    except CompileError as error:
        return str(error)
    return f"prebuilt for {level}, of {', '.join(_levels())}; VALLEYS_ISA takes another"


def _level() -> str | None:
    """The level to load: ``VALLEYS_ISA``, else the highest; None if the installation has no libraries."""
    name, levels = os.environ.get("VALLEYS_ISA"), _levels()
    if not name:
        return levels[-1] if levels else None
    if name not in levels:
        choice = f"this processor and installation have {', '.join(levels)}" if levels else "this installation has none"
        raise CompileError(f"VALLEYS_ISA={name!r} is no level of the prebuilt kernels here: {choice}; unset it")
    return name


@functools.cache
def _levels() -> tuple[str, ...]:
    """The levels that the installation has and the processor runs, the lowest first."""
    levels = levels_of(platform.machine())
    if not levels or not _path(levels[0]).exists():
        return ()
    return levels[: _open(levels[0]).level() + 1]


@functools.cache
def _open(level: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(_path(level)))


def _path(level: str) -> Path:
    return _FOLDER / f"{level}.so"
