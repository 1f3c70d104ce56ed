"""OpenMP runtime of torch, for the C kernels: a process must not have a second one."""

from __future__ import annotations

import ctypes
import functools

import torch

_FUNCTIONS = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")


@functools.cache
def runtime() -> ctypes.Array[ctypes.c_void_p]:
    """Addresses for ``use_runtime`` of ``threads.h``; all 0 where torch has loaded no runtime with these functions.

    The loader looks a name up in a library and in those that it was linked with: torch's own, whatever its file is
    called, and not one that another package has brought. GNU's, LLVM's and Intel's runtime have all four.
    """
    try:
        library = ctypes.CDLL(torch._C.__file__)
        addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _FUNCTIONS]
    except (AttributeError, OSError):
        addresses = [None] * len(_FUNCTIONS)
    return (ctypes.c_void_p * len(_FUNCTIONS))(*addresses)
