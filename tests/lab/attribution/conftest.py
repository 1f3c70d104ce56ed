from __future__ import annotations

from pathlib import Path

import pytest

from lab.attribution.responses import OWN, Call, Whole, known, responding, run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return an attribution to four switches, and the runs that it asked for; no test may change it."""
    with pytest.MonkeyPatch.context() as patch:
        calls = responding(patch, known)
        return run(tmp_path_factory.mktemp("whole")), calls


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    return responding(monkeypatch, known)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    return file
