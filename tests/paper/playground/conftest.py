"""The page and the browser that the tests of the playground share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import chromium
from chromium import Browser, Tab
from valleys.paper import playground


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return playground.write(tmp_path_factory.mktemp("playground") / "page.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.running(tmp_path_factory.mktemp("profile")) as process:
        yield process


@pytest.fixture(scope="module")
def shared(browser: Browser, page: Path) -> Tab:
    """One page for all tests that begin with a preset or an address of their own."""
    return Tab(browser, page, width=700, height=500)
