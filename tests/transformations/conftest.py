"""JAX is an extra, and the releases that valleys.optax needs want Python 3.11."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("jax") else ["test_*.py"]


def pytest_report_header() -> str:
    return "tests/transformations: left out, no JAX here" if collect_ignore_glob else ""
