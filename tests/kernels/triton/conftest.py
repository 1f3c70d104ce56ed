"""The Triton kernels as the interpreter runs them."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from triton_interpreter import interpreted


@pytest.fixture
def kernels() -> Iterator[ModuleType]:
    """The kernels as the interpreter runs them."""
    with interpreted() as module:
        yield module
