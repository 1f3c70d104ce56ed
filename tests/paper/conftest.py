"""Reproductions without training."""

from __future__ import annotations

import pytest

from paper.reproductions import Call, run, watched_calls
from valleys.paper.results import Reproduction


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every run asked for, in order; nothing is loaded, trained or drawn."""
    return watched_calls(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """A row of Table 3, smaller than the paper's."""
    with pytest.MonkeyPatch.context() as patch:
        watched_calls(patch)
        return run(tmp_path_factory.mktemp("whole"))
