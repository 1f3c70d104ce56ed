"""The page in headless Chromium, as readers have it: hover, zoom, with and without scripts, on a phone, in the dark."""

from __future__ import annotations

import copy
import time
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
CURVES = "[...document.querySelectorAll('.plot')].find(p => p.figure.controls.some(c => c.name === 'vertical axis'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.running(tmp_path_factory.mktemp("profile")) as process:
        yield process


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "one.html"
    html.write([usual()], path)
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: an ordinary comparison at three batch sizes and one of odd names."""
    path = tmp_path_factory.mktemp("pages") / "page.html"
    large = document({"sgd": finals("sgd", 91.0, 92.5), "alto": finals("alto", 95.0, 96.5)}, batch_size=1024)
    longer = copy.deepcopy(large)
    longer["configuration"]["epochs"] = 20
    html.write([usual(), large, longer, twelve()], path)
    return path


def wait(tab: Tab, condition: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not tab.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def drawn(tab: Tab) -> None:
    """Scroll through the page until every chart is drawn."""
    tab.evaluate("document.querySelectorAll('.plot').forEach(p => p.drawn || draw(p))")
    wait(tab, "[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))")


def names(tab: Tab, caption: str) -> Any:
    return tab.evaluate(f"[...({COLUMN % caption}).tBodies[0].rows].map(r => r.cells[0].textContent)")


def overflow(tab: Tab) -> Any:
    """Return the elements that stick out of the page, those inside a scrolling container or a chart left out."""
    return tab.evaluate(
        """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, .plot")
        && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + e.className)"""
    )


def test_tables_sort_by_pointer_and_keyboard(browser: Browser, several: Path) -> None:
    tab = Tab(browser, several)
    caption = "Results on fresh seeds"
    headings = tab.evaluate(f"[...({COLUMN % caption}).tHead.rows[0].cells].map(c => c.textContent)")
    assert names(tab, caption) == ["alto", "lamb", "sgd"]
    place = headings.index("steps to target")
    heading = f"({COLUMN % caption}).tHead.rows[0].cells[{place}]"
    tab.evaluate(f"{heading}.firstElementChild.click()")
    assert names(tab, caption) == ["alto", "lamb", "sgd"]
    assert tab.evaluate(f"{heading}.getAttribute('aria-sort')") == "ascending"
    tab.evaluate(f"{heading}.firstElementChild.click()")
    assert names(tab, caption) == ["sgd", "lamb", "alto"]  # infinity is the largest
    assert tab.evaluate(f"{heading}.getAttribute('aria-sort')") == "descending"
    first = f"({COLUMN % caption}).tHead.rows[0].cells[0]"
    tab.evaluate(f"{first}.firstElementChild.focus()")
    tab.press("Enter")
    assert names(tab, caption) == ["alto", "lamb", "sgd"]
    tab.press(" ")
    assert names(tab, caption) == ["sgd", "lamb", "alto"]
    assert tab.evaluate(f"[...({COLUMN % caption}).querySelectorAll('[aria-sort]')].length") == 1
    drawn(tab)
    assert tab.complaints() == []
    assert tab.requests() == [several.resolve().as_uri()]  # no network
    tab.close()


def test_the_first_chart_is_there_soon_and_the_others_when_they_are_near(browser: Browser, one: Path) -> None:
    tab = Tab(browser, one, height=600)
    wait(tab, "document.querySelector('.plot svg.main-svg') !== null")
    # In the page's own clock, whatever the machine: drawing takes less than reading the page, with plotly.js in it.
    reading, drawing = tab.evaluate(
        "(([page]) => [page.domInteractive - page.responseEnd, performance.now() - page.domInteractive])"
        "(performance.getEntriesByType('navigation'))"
    )
    assert drawing < reading
    count = "[...document.querySelectorAll('.plot')].filter(p => p.drawn).length"
    before, charts = tab.evaluate(count), tab.evaluate("document.querySelectorAll('.plot').length")
    assert 0 < before < charts / 2
    tab.evaluate("[...document.querySelectorAll('.plot')].at(-1).scrollIntoView()")
    wait(tab, "[...document.querySelectorAll('.plot')].at(-1).querySelector('svg.main-svg') !== null")
    tab.close()


def test_curves_show_numbers_hide_zoom_and_change_their_axes(browser: Browser, one: Path) -> None:
    tab = Tab(browser, one, height=1000)
    drawn(tab)
    tab.evaluate(f"({CURVES}).scrollIntoView({{block: 'center'}})")
    box = tab.evaluate(
        f"(b => [b.left, b.top, b.width, b.height])(({CURVES}).querySelector('.nsewdrag').getBoundingClientRect())"
    )
    left, top, width, height = box
    # Hover: Plotly shows the value of the nearest mark.
    spot = tab.evaluate(
        f"(b => [b.left + b.width / 2, b.top + b.height / 2])"
        f"([...({CURVES}).querySelectorAll('.scatterlayer .point')].at(-1).getBoundingClientRect())"
    )
    tab.page.mouse.move(*spot)
    wait(tab, f"({CURVES}).querySelector('.hoverlayer .hovertext') !== null")
    assert " at " in tab.evaluate(f"({CURVES}).querySelector('.hoverlayer').textContent")
    # Hide: a click into the legend takes the optimizer's line and its band away.
    visible = f"({CURVES}).data.map(t => t.visible ?? true)"
    assert tab.evaluate(visible) == [True] * 6
    entry = tab.evaluate(
        f"(b => [b.left + b.width / 2, b.top + b.height / 2])"
        f"(({CURVES}).querySelector('.legend .traces .legendtoggle').getBoundingClientRect())"
    )
    tab.page.mouse.click(*entry)
    wait(tab, f"({visible}).includes('legendonly')")
    assert tab.evaluate(visible)[:2] == ["legendonly", "legendonly"]
    # Zoom by a drag.
    ranged = f"({CURVES})._fullLayout.xaxis.range"
    before = tab.evaluate(ranged)
    tab.page.mouse.move(left + width * 0.3, top + height * 0.3)
    tab.page.mouse.down()
    tab.page.mouse.move(left + width * 0.6, top + height * 0.7, steps=5)
    tab.page.mouse.up()
    wait(tab, f"{ranged}[0] > {before[0]}")
    # Axes.
    tab.page.get_by_role("button", name="seconds", exact=True).first.click()
    wait(tab, f"({CURVES})._fullLayout.xaxis.title.text === 'training seconds'")
    assert max(tab.evaluate(f"({CURVES}).data[1].x")) == 2.0
    tab.page.get_by_role("button", name="log", exact=True).first.click()
    wait(tab, f"({CURVES})._fullLayout.yaxis.type === 'log'")
    pressed = tab.evaluate("[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.textContent)")
    assert {"seconds", "log"} <= set(pressed)
    assert tab.complaints() == []
    tab.close()


def test_trials_are_drawn_by_any_hyperparameter(browser: Browser, one: Path) -> None:
    tab = Tab(browser, one)
    drawn(tab)
    trials = (
        "[...document.querySelectorAll('.plot')].find(p => p.figure.controls.some(c => c.name === 'hyperparameter'))"
    )
    assert tab.evaluate(f"({trials})._fullLayout.xaxis.type") == "log"
    tab.page.get_by_role("group", name="hyperparameter").get_by_role("button", name="c", exact=True).click()
    wait(tab, f"({trials})._fullLayout.xaxis.title.text === 'c'")
    assert tab.evaluate(f"({trials})._fullLayout.xaxis.type") == "linear"
    assert tab.evaluate(f"({trials}).data.flatMap(t => t.marker.symbol).includes('x')")  # a diverged one
    tab.close()


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_tables_and_not_the_page(browser: Browser, several: Path, dark: bool) -> None:
    tab = Tab(browser, several, width=390, height=740, dark=dark)
    drawn(tab)
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    assert overflow(tab) == []
    assert tab.evaluate("[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)")
    assert tab.evaluate("Math.max(...[...document.querySelectorAll('.plot .main-svg')].map(s => s.clientWidth))") <= 390
    assert tab.complaints() == []
    tab.close()


def test_colours_follow_the_reader_also_after_a_switch(browser: Browser, one: Path) -> None:
    tab = Tab(browser, one)
    drawn(tab)
    colors = (
        f"[getComputedStyle(document.body).backgroundColor, ({CURVES}).data[1].line.color, "
        f"({CURVES})._fullLayout.font.color, getComputedStyle(document.querySelector('.c0 .mark')).fill]"
    )
    light = tab.evaluate(colors)
    assert light == ["rgb(255, 255, 255)", "#0072b2", "#1b1f24", "rgb(0, 114, 178)"]
    tab.evaluate(f"Plotly.restyle({CURVES}, {{visible: 'legendonly'}}, [3])")
    tab.page.emulate_media(color_scheme="dark")
    wait(tab, f"({CURVES})._fullLayout.font.color !== '#1b1f24'")
    dark = tab.evaluate(colors)
    assert dark == ["rgb(20, 23, 27)", "#3d9be0", "#e6e9ed", "rgb(61, 155, 224)"]
    tab.close()


def test_paper_shows_everything_in_light_colours(browser: Browser, one: Path) -> None:
    tab = Tab(browser, one, width=720, dark=True)
    folded = "document.querySelector('details table').checkVisibility()"
    assert tab.evaluate(folded) is False
    path = one.with_suffix(".pdf")
    tab.page.pdf(path=path)  # fires beforeprint, as Ctrl-P does
    assert path.stat().st_size > 50_000
    tab.page.emulate_media(media="print")
    assert tab.evaluate(folded) is True
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate(f"({COLUMN % 'Results on fresh seeds'}).getBoundingClientRect().right") <= 720
    assert tab.evaluate("[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))")
    assert tab.evaluate("getComputedStyle(document.querySelector('.control')).display") == "none"
    tab.close()


def test_without_scripts_verdicts_and_tables_are_there(browser: Browser, several: Path) -> None:
    tab = Tab(browser, several, scripts=False)
    counts = "['button', 'table', 'svg.main-svg', '.verdict'].map(kind => document.querySelectorAll(kind).length)"
    buttons, tables, charts, verdicts = tab.evaluate(counts)
    assert (buttons, charts) == (0, 0)
    assert tables > 4 * 7
    assert verdicts >= 4
    assert "Without JavaScript there are no charts" in tab.page.locator("noscript").inner_html()
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
    drawn(tab)
    texts = tab.evaluate("[...document.querySelectorAll('.who')].map(e => e.textContent)")
    assert "<script>alert(1)</script>" in texts
    assert '"><img src=x onerror=alert(1)>' in texts
    assert tab.evaluate("document.images.length") == 0
    labels = tab.evaluate("[...document.querySelectorAll('.plot .ytick text')].map(e => e.textContent)")
    assert "<script>alert(1)</scrip…" in labels
    assert tab.complaints() == []
    tab.close()
