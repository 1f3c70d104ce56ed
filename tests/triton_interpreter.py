"""The Triton kernels as Triton's interpreter runs them on the CPU.

Whether a kernel is interpreted is decided when it is decorated, and others in this process may have imported triton and
the kernels already. So ``interpreted`` loads its own copy of the kernels while TRITON_INTERPRET is set, and for its
length has triton's library functions (tl.sum and the like, kernels too) interpreted.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest

from valleys.kernels import choice
from valleys.kernels import triton as backend

__all__ = ["BLOCK", "interpreted"]

BLOCK = 64


@contextlib.contextmanager
def interpreted(block: int = BLOCK) -> Iterator[ModuleType]:
    """The kernels as the interpreter runs them, in small blocks, in place of the compiled ones.

    Each block takes as long whatever its size: where blocks are not what is tested, take larger ones.
    """
    import triton

    with contextlib.suppress(ImportError):
        # Imported by triton at the first launch, and not with the library patched.
        importlib.import_module("triton.experimental.gluon")
    with pytest.MonkeyPatch.context() as context:
        context.setenv("TRITON_INTERPRET", "1")
        for library in (triton.language, triton.language.standard):
            for name, value in list(vars(library).items()):
                if isinstance(value, triton.JITFunction):
                    context.setattr(library, name, triton.jit(value.fn))
        module = _copy()
        _look_up_builtins_once(context)
        context.delenv("TRITON_INTERPRET")
        context.setattr(backend, "_kernel_module", lambda: module)
        context.setattr(backend, "BLOCK", block)
        context.setattr(backend, "QUANTIZED_BLOCK", 512)
        context.setattr(backend, "CHUNK", 4)
        choice.fused_backend.cache_clear()
        # The interpreter computes with NumPy, which warns where a GPU just returns an infinity or NaN.
        with numpy.errstate(all="ignore"):
            yield module
    choice.fused_backend.cache_clear()


def _look_up_builtins_once(context: pytest.MonkeyPatch) -> None:
    """The interpreter searches triton.language for them at every call of every function, for half of its time."""
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    names: dict[Any, list[str]] = {}

    def builtins(package: Any) -> list[tuple[str, Any]]:
        # The first look comes before the interpreter puts functions of its own in their places.
        if package not in names:
            names[package] = [name for name, member in inspect.getmembers(package) if is_builtin(member)]
        members = [(name, getattr(package, name)) for name in names[package]]
        return members if members and is_builtin(members[0][1]) else []  # else all are in their places

    context.setattr(interpreter, "inspect", SimpleNamespace(**{**vars(inspect), "getmembers": builtins}))


def _copy() -> ModuleType:
    """New copies of the kernels and of the device functions that they import."""
    with pytest.MonkeyPatch.context() as context:
        for name in (f"valleys.kernels.triton.{part}" for part in ("_device", "_quantized", "_kernels")):
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            context.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
    return module
