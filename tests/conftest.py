"""Fixtures and settings of every test."""

import signal

import hypothesis
import pytest
import torch

# A shell starts what is in its background with interruptions ignored, and a process passes that on to its children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes any example late, and a run that fails must fail again.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A model that a test makes has the same parameters in every run and in every order of the tests."""
    torch.manual_seed(0)


_JAX = ("valleys/optax/", "transformations/", "test_parity.py", "test_benchmarks.py", "docs/optax.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that use JAX last: it starts threads, and a process that has them must not fork, as some tests do."""
    items.sort(key=lambda item: any(part in item.nodeid for part in _JAX))
