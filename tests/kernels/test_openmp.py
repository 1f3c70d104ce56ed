"""Threads of the C kernels: as many as torch uses, of its runtime; without that one thread and the same result."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import valleys
from backends import problem, run
from valleys import doctor
from valleys.kernels import c
from valleys.kernels.c import openmp

SHAPES = [(4097,), (700, 101), *[(7,)] * 20]


@pytest.fixture
def fresh(fresh_choice: pytest.MonkeyPatch) -> Any:
    """No runtime looked up yet; small tensors are worked on by all threads."""
    runtime, threads = openmp.runtime, torch.get_num_threads()
    runtime.cache_clear()
    fresh_choice.setattr(c, "ALONE", 0)
    yield fresh_choice
    torch.set_num_threads(threads)
    runtime.cache_clear()


def result(threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    params, grads = problem(SHAPES, torch.float32)
    run(valleys.ALTO(params, layer_adaptation=True, fused="c", max_grad_norm=1.0), params, grads)
    run(valleys.adapt(torch.optim.SGD(params, 0.1)), params, grads)
    # Layers inside a parameter: the step in two halves.
    layers, their_grads = problem([(12, 700)], torch.float32)
    run(valleys.ALTO([{"params": layers, "blocks": valleys.blocks.stacked(4)}], fused="c"), layers, their_grads)
    return [param.detach() for param in params + layers]


def test_without_a_runtime_one_thread_computes_the_same(fresh: pytest.MonkeyPatch) -> None:
    expected = result(2)
    c._library.cache_clear()
    fresh.setattr(openmp, "runtime", lambda: (ctypes.c_void_p * 4)())
    assert all(map(torch.equal, result(2), expected))
    (line,) = [finding.text for finding in doctor.machine() if finding.subject == "C kernels"]
    assert line.endswith("; one thread, for torch has loaded no OpenMP runtime that they know")


def test_a_torch_without_the_functions_has_no_runtime(fresh: pytest.MonkeyPatch) -> None:
    assert all(openmp.runtime())
    for file in (ctypes.util.find_library("m"), "no-such-library.so"):
        openmp.runtime.cache_clear()
        fresh.setattr(torch._C, "__file__", file)
        assert not any(openmp.runtime())


def test_the_runtime_is_asked_for_as_many_threads_as_torch_uses(fresh: pytest.MonkeyPatch) -> None:
    teams = []
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    number = ctypes.CFUNCTYPE(ctypes.c_int)

    def parallel(function: Any, data: int, threads: int, flags: int) -> None:
        teams.append(threads)
        function(data)

    functions = [
        ctypes.CFUNCTYPE(None, body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(parallel),
        ctypes.CFUNCTYPE(None)(lambda: None),
        number(lambda: 0),
        number(lambda: 1),
    ]
    expected = result(1)
    fresh.setattr(
        openmp, "runtime", lambda: (ctypes.c_void_p * 4)(*(ctypes.cast(f, ctypes.c_void_p) for f in functions))
    )
    c._library.cache_clear()
    try:
        for threads in (1, 2, 3):
            teams.clear()
            assert all(map(torch.equal, result(threads), expected))
            # Three steps of square_sum, alto, explore, alto_first and alto_second.
            assert teams == ([] if threads == 1 else [threads] * 15)
    finally:
        c._library.cache_clear()


CHILD = """
import os, pathlib, sys, torch
def runtimes():
    names = {line.split()[-1] for line in open("/proc/self/maps")}
    return {name for name in names if any(part in name for part in ("libgomp", "libomp", "libiomp"))}
def threads():
    return len(os.listdir("/proc/self/task"))
before = runtimes()
import valleys
from valleys.kernels import c
torch.set_num_threads(1)
param = torch.nn.Parameter(torch.ones(1000, 1000))
param.grad = torch.ones(1000, 1000)
optimizer = valleys.ALTO([param], fused="c")
alone = threads()
torch.set_num_threads(3)
optimizer.step()
print(len(before), runtimes() == before, threads() - alone)
torch.set_num_threads(1)
if os.fork() == 0:
    optimizer.step()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux alone says what a process has loaded")
def test_a_step_in_three_threads_loads_no_second_runtime_and_its_process_forks() -> None:
    process = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True)
    assert process.stdout.split() == ["1", "True", "2", "7"]


def test_no_library_is_linked_with_a_runtime(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Torch's may have the same file name as the system's, and then hides that a library asks for that one."""
    fresh.setenv("VALLEYS_CACHE_DIR", str(tmp_path))
    result(1)
    libraries = [path.read_bytes() for path in tmp_path.glob("*.so")]
    assert libraries
    assert not [library for library in libraries if b"gomp" in library or b"libomp" in library]


def test_no_source_asks_the_compiler_for_threads() -> None:
    """Without -fopenmp it passes over such a pragma, and the work would be one thread's."""
    for path in Path(c.__file__).parent.glob("*.[ch]"):
        assert not re.search(r"#pragma omp (?!simd)", path.read_text(encoding="utf-8")), path
