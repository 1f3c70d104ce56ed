"""Bytes of memory that this process has in use, and the peak during a call."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["check", "in_use", "transient"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def in_use(device: str = "cpu") -> int:
    """Resident memory, with nothing freed but unreturned; on CUDA the bytes of live tensors.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    # Memory that glibc kept for later would hide as much of the next peak.
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def transient(action: Callable[[], object], device: str = "cpu") -> int:
    """The peak during a call, above what was in use before.

    Args:
        action: what to call.
        device: ``cpu`` or ``cuda``.

    Raises:
        OSError: not on Linux, or the kernel does not let a process reset its high-water mark.
    """
    before = in_use(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _RESET.write_text("5", encoding="ascii")
    action()
    return _status("VmHWM") - before


def check(size: int = 1 << 28) -> dict[str, float]:
    """Measures allocations whose size is known.

    Args:
        size: bytes of each.

    Returns:
        Measured by allocated bytes: a tensor that torch frees at once, and memory of C's malloc.

    Raises:
        RuntimeError: one of them is off by more than 2% and 1 MB.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]

    def touch() -> None:
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)

    sizes = {}
    for name, action in {"torch": lambda: torch.ones(size // 4).sum(), "malloc": touch}.items():
        measured = transient(action)
        if abs(measured - size) > 0.02 * size + 1e6:
            raise RuntimeError(f"{size} bytes by {name} were measured as {measured}")
        sizes[name] = measured / size
    return sizes


def _status(key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {key}")
    return int(match[1]) * 1024
