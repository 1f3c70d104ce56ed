"""The C kernels under AddressSanitizer and UBSan: no access beside a tensor, no undefined behaviour."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sanitized.py")
Child = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Child:
    """Runs a part of the script in a process whose allocator is AddressSanitizer's, from its start on."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    libraries = [_library(name) for name in ("libasan.so", "libstdc++.so.6")]
    if None in libraries:
        pytest.skip("gcc has no AddressSanitizer: libasan or libstdc++ is missing")
    folder = tmp_path_factory.mktemp("sanitizers")
    compiler = folder / "cc"
    # Behind the kernels' -O3: the sanitizers check what the source says, and it takes a quarter of the time.
    flags = "-g -O0 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    compiler.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec gcc "$@" {flags}\n')
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "CC": str(compiler),
        "VALLEYS_CACHE_DIR": str(folder / "cache"),
        "LD_PRELOAD": ":".join(map(str, libraries)),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Python's own allocator would put small records next to each other.
        "PYTHONMALLOC": "malloc",
        "OMP_NUM_THREADS": "1",
    }

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, errors="replace", check=False
        )

    probe = run("-c", "print(1)")
    if probe.stdout != "1\n":
        pytest.skip(f"Python does not run under AddressSanitizer here: {probe.stderr[-300:]}")
    return lambda part: run(str(SCRIPT), part)


def _library(name: str) -> Path | None:
    command = ["gcc", f"-print-file-name={name}"]
    path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return path.resolve() if path.is_absolute() and path.exists() else None


def test_steps_of_every_type_size_and_layout_are_clean(child: Child) -> None:
    process = child("steps")
    assert process.returncode == 0, process.stderr
    last = process.stdout.splitlines()[-1]
    assert last.startswith("sanitizers: ")
    assert last.endswith(" steps clean")
    assert int(last.split()[1]) >= 100
    assert "Sanitizer" not in process.stderr
    assert "runtime error" not in process.stderr


@pytest.mark.parametrize(
    ("part", "report"),
    [("overrun", "heap-buffer-overflow"), ("misaligned", "load of misaligned address")],
)
def test_the_sanitizers_see_an_error(child: Child, part: str, report: str) -> None:
    """One element more than there is, or between two elements: else the test above could not fail."""
    process = child(part)
    assert process.returncode != 0
    assert report in process.stderr
    assert "square_sum" in process.stderr
