"""The page in headless Chromium, as readers have it: with and without scripts, on a phone, in the dark."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chromium
from chromium import Browser, Tab
from lab.report.pages import document, finals, twelve, usual
from valleys.lab.report import html

pytestmark = pytest.mark.skipif(chromium.BINARY is None, reason="there is no Chromium")

COLUMN = """[...document.querySelectorAll("table")].find(t => t.caption.textContent === %r)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.running(tmp_path_factory.mktemp("profile")) as process:
        yield process


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: an ordinary comparison at three batch sizes and one of odd names."""
    path = tmp_path_factory.mktemp("pages") / "page.html"
    large = document({"sgd": finals("sgd", 91.0, 92.5), "alto": finals("alto", 95.0, 96.5)}, batch_size=1024)
    longer = copy.deepcopy(large)
    longer["configuration"]["epochs"] = 20
    html.write([usual(), large, longer, twelve()], path)
    return path


def names(tab: Tab, caption: str) -> Any:
    return tab.evaluate(f"[...({COLUMN % caption}).tBodies[0].rows].map(r => r.cells[0].textContent)")


def overflow(tab: Tab) -> Any:
    """What sticks out of the page, those inside a scrolling container left out."""
    return tab.evaluate(
        """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg")
        && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + e.className)"""
    )


def test_tables_sort_by_pointer_and_keyboard(browser: Browser, several: Path) -> None:
    tab = Tab(browser, several)
    caption = "Results on fresh seeds"
    headings = tab.evaluate(f"[...({COLUMN % caption}).tHead.rows[0].cells].map(c => c.textContent)")
    assert names(tab, caption) == ["alto", "lamb", "sgd"]
    place = headings.index("median steps to it")
    heading = f"({COLUMN % caption}).tHead.rows[0].cells[{place}]"
    tab.evaluate(f"{heading}.firstElementChild.click()")
    assert names(tab, caption) == ["alto", "lamb", "sgd"]
    assert tab.evaluate(f"{heading}.getAttribute('aria-sort')") == "ascending"
    tab.evaluate(f"{heading}.firstElementChild.click()")
    assert names(tab, caption) == ["sgd", "lamb", "alto"]  # infinity is the largest
    assert tab.evaluate(f"{heading}.getAttribute('aria-sort')") == "descending"
    first = f"({COLUMN % caption}).tHead.rows[0].cells[0]"
    tab.evaluate(f"{first}.firstElementChild.focus()")
    tab.press("Enter", 13, "\r")
    assert names(tab, caption) == ["alto", "lamb", "sgd"]
    tab.press(" ", 32, " ")
    assert names(tab, caption) == ["sgd", "lamb", "alto"]
    assert tab.evaluate(f"[...({COLUMN % caption}).querySelectorAll('[aria-sort]')].length") == 1
    trials = "Every tuning trial"
    place = tab.evaluate(
        f"[...({COLUMN % trials}).tHead.rows[0].cells].findIndex(c => c.textContent.startsWith('val'))"
    )
    values = f"[...({COLUMN % trials}).tBodies[0].rows].map(r => r.cells[{place}].textContent)"
    for ends in ([39, 39, 39], [95, 95, 95]):
        tab.evaluate(f"({COLUMN % trials}).tHead.rows[0].cells[{place}].firstElementChild.click()")
        found = tab.evaluate(values)
        assert found[:3] == list(map(str, ends))
        assert found[-6:] == ["-"] * 6  # what has no value is last, both ways
    assert tab.complaints() == []
    assert tab.requests() == [several.resolve().as_uri()]
    tab.close()


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_tables_and_not_the_page(browser: Browser, several: Path, dark: bool) -> None:
    tab = Tab(browser, several, width=360, height=740, dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    assert overflow(tab) == []
    assert tab.evaluate("[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)")
    smallest = (
        "Math.min(...[...document.querySelectorAll('svg.chart text')].map(t => t.getBoundingClientRect().height))"
    )
    assert tab.evaluate(smallest) > 10
    assert tab.complaints() == []
    tab.close()


def test_labels_stay_in_their_charts(browser: Browser, several: Path) -> None:
    for width in (360, 1280):
        tab = Tab(browser, several, width=width)
        cut = tab.evaluate(
            """[...document.querySelectorAll("svg.chart text")].filter(t => {
                const inner = t.getBoundingClientRect(), outer = t.closest("svg").getBoundingClientRect();
                return inner.left < outer.left - 1 || inner.bottom > outer.bottom + 1 || inner.top < outer.top - 1
                    || (inner.right > outer.right + 1 && !t.classList.contains("title"));
            }).map(t => t.textContent)"""
        )
        assert cut == []
        tab.close()


def test_colours_follow_the_reader(browser: Browser, several: Path) -> None:
    seen = {}
    for dark in (False, True):
        tab = Tab(browser, several, dark=dark)
        seen[dark] = tab.evaluate(
            """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                getComputedStyle(document.querySelector(".c6 .line") ?? document.querySelector(".c6 .mark")).fill,
                getComputedStyle(document.querySelector(".c0 .mark")).fill]"""
        )
        tab.close()
    assert seen[False][0] == "rgb(255, 255, 255)"
    assert seen[True][0] == "rgb(20, 23, 27)"
    assert seen[False][3] == "rgb(0, 114, 178)"
    assert all(a != b for a, b in zip(seen[False][:2], seen[True][:2], strict=True))


def test_paper_shows_what_is_folded_in_light_colours(browser: Browser, several: Path) -> None:
    tab = Tab(browser, several, width=720, dark=True)
    folded = "document.querySelector('details table').checkVisibility()"
    assert tab.evaluate(folded) is False
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.evaluate(folded) is True
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate(f"({COLUMN % 'Results on fresh seeds'}).getBoundingClientRect().right") <= 720
    tab.close()


def test_without_scripts_everything_but_sorting_is_there(browser: Browser, several: Path) -> None:
    tab = Tab(browser, several, scripts=False)
    counts = "['button', 'table', 'svg.chart'].map(kind => document.querySelectorAll(kind).length)"
    buttons, tables, charts = tab.evaluate(counts)
    assert buttons == 0
    assert tables > 4 * 7
    assert charts > 4 * 7
    assert names(tab, "Results on fresh seeds") == ["alto", "lamb", "sgd"]
    tab.close()


def test_the_policy_stops_what_the_page_did_not_bring(browser: Browser, several: Path, tmp_path: Path) -> None:
    text = several.read_text(encoding="utf-8")
    added = '<script>document.title = "taken"</script><img src="https://example.org/x.png"></main>'
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace("</main>", added), encoding="utf-8")
    tab = Tab(browser, changed)
    assert tab.evaluate("document.title") == "4 comparisons"
    assert tab.evaluate("document.querySelectorAll('th button').length") > 10
    assert len(tab.complaints()) >= 2
    tab.close()


def test_names_are_shown_as_they_are(browser: Browser, several: Path) -> None:
    tab = Tab(browser, several)
    shown = tab.evaluate("[...document.querySelectorAll('.who')].map(e => e.textContent)")
    assert "<script>alert(1)</script>" in shown
    assert '"><img src=x onerror=alert(1)>' in shown
    assert tab.evaluate("document.images.length") == 0
    tab.close()
