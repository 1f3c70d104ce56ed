"""Fixtures and settings of every test."""

import gc
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest
import torch

# A shell starts what is in its background with interruptions ignored, and a process passes that on to its children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Databases wait for the disk at every commit: in memory, where there is room and compiled kernels may be loaded from
# it, the lab's tests take half the time.
_MEMORY = Path("/dev/shm")
if (
    "TMPDIR" not in os.environ
    and os.access(_MEMORY, os.W_OK)
    and shutil.disk_usage(_MEMORY).free > 4e9
    and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
):
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

# A busy machine makes any example late, and a run that fails must fail again.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A model that a test makes has the same parameters in every run and in every order of the tests."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed asks every device, which takes a millisecond


_JAX = ("valleys/optax/", "transformations/", "test_parity.py", "test_benchmarks.py", "docs/optax.md")

MARKS = {
    "browser": (
        "report/test_html_browser.py",
        "playground/test_page.py",
        "playground/test_looks.py",
        "playground/test_rules.py",
    ),
    "multiprocess": (
        "tests/distributed/",
        "lab/run/test_ranks.py",
        "lab/run/test_closure.py::test_several_ranks",
        "lab/run/test_interruption.py",
        "lab/store/test_workers.py",
        "integrations/test_accelerate.py",
        "integrations/test_fsdp2.py",
        "tests/test_after_momentum.py::test_shards",
        "tests/test_resume_process.py",
        "tests/test_trust_ratios.py::test_sharded",
        "transformations/test_sharded.py",
    ),
    "database": ("postgresql", "test_a_password_in_the_url"),
    "slow": tuple(Path(__file__).with_name("slow_tests.txt").read_text(encoding="utf-8").split()),
}
"""Markers, and what is in the names of their tests; in ``slow_tests.txt``: half a second or more, or very many."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests and sort their files: the slow ones first, so that all workers end together; those that use JAX last.

    JAX starts threads, and a process that has them must not fork, as some tests do.
    """
    patterns = {mark: re.compile("|".join(map(re.escape, names))) for mark, names in MARKS.items()}
    for item in items:
        for mark, pattern in patterns.items():
            if pattern.search(item.nodeid):
                item.add_marker(mark)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (any(part in item.nodeid for part in _JAX), item.path not in slow))


def _shorten_collections() -> None:
    """Leave what there is out of every later garbage collection: modules and caches, far more than a test makes."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    _shorten_collections()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        _shorten_collections()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # for what is to be destroyed when the process ends
