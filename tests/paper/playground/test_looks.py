"""The playground in headless Chromium: at every width, in the dark, read aloud, and without scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from chromium import Browser, Tab
from paper.playground.hands import at_rest, needs_chromium, wait


@needs_chromium
@pytest.mark.parametrize("width", [360, 390, 1024, 1920])
def test_nothing_sticks_out(browser: Browser, page: Path, width: int) -> None:
    tab = Tab(browser, page, width=width, height=800)
    at_rest(tab)
    tab.evaluate("document.getElementById('more').open = true; change({ alpha: 999 })")
    assert tab.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    out = """[...document.querySelectorAll("body *")].filter(e => e.checkVisibility())
        .filter(e => !e.closest(".plot, svg, .unseen"))
        .filter(e => (b => b.right > innerWidth + 0.5 || b.left < -0.5)(e.getBoundingClientRect()))
        .map(e => e.tagName + e.id)"""
    assert tab.evaluate(out) == []
    cut = """[...document.querySelectorAll("button, output, td, th, h1, h2")].filter(e => e.checkVisibility())
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.tagName + e.id)"""
    assert tab.evaluate(cut) == []
    if width < 600:  # fingers are wide
        small = """[...document.querySelectorAll("button, select, input, summary")].filter(e => e.checkVisibility())
            .filter(e => e.getBoundingClientRect().height < 30).map(e => e.tagName + e.id)"""
        assert tab.evaluate(small) == []
    canvases = tab.evaluate(
        "[...document.querySelectorAll('canvas')].map(c => c.width / c.clientWidth - c.height / c.clientHeight)"
    )
    assert max(map(abs, canvases)) < 0.02  # a ball is round
    tab.close()


CONTRAST = """(() => {
  const parts = (css) => { const c = new OffscreenCanvas(1, 1).getContext("2d"); c.fillStyle = css;
    c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3) };
  const light = (css) => parts(css).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== "rgba(0, 0, 0, 0)") return c } return "white" };
  const texts = [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && !e.closest("svg, noscript")
    && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  return texts.map(e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + e.id + e.textContent.slice(0, 20)] });
})()"""


@needs_chromium
def test_colours_follow_the_reader_and_can_be_read(browser: Browser, page: Path) -> None:
    colors = {}
    for dark in (False, True):
        tab = Tab(browser, page, dark=dark)
        at_rest(tab)
        tab.evaluate("change({ alpha: 999 }); document.getElementById('more').open = true")
        result = tab.evaluate(CONTRAST)
        assert len(result) > 40
        assert [entry for entry in result if entry[0] < 4.5] == []
        colors[dark] = tab.evaluate(
            "[getComputedStyle(document.body).backgroundColor, colours().adapted, colours().low, "
            "[...document.getElementById('ground').getContext('2d').getImageData(9, 9, 1, 1).data].join()]"
        )
        tab.close()
    assert all(a != b for a, b in zip(colors[False], colors[True], strict=True))


@needs_chromium
def test_a_change_of_scheme_redraws_the_map(browser: Browser, page: Path) -> None:
    tab = Tab(browser, page)
    at_rest(tab)
    pixel = "[...document.getElementById('ground').getContext('2d').getImageData(9, 9, 1, 1).data].join()"
    before = tab.evaluate(pixel)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    wait(tab, f"{pixel} !== {before!r}")
    tab.close()


@needs_chromium
def test_everything_has_a_name(shared: Tab) -> None:
    at_rest(shared)
    shared.evaluate("document.getElementById('more').open = true")
    shared.call("Accessibility.enable")
    nodes = shared.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "textbox", "combobox", "spinbutton", "image", "status")
    result = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    names = [node.get("name", {}).get("value", "").strip() for node in result if node["role"]["value"] != "status"]
    assert len(names) > 30
    assert all(names), [node for node in result if not node.get("name", {}).get("value")]
    sliders = [node["name"]["value"] for node in result if node["role"]["value"] == "slider"]
    assert {
        "Learning rate \N{GREEK SMALL LETTER ETA}",
        "Adaptor's strength \N{GREEK SMALL LETTER ALPHA}",
        "Step",
    } <= set(sliders)
    shared.call("Accessibility.disable")


@needs_chromium
def test_without_scripts_there_are_a_message_and_a_picture(browser: Browser, page: Path) -> None:
    tab = Tab(browser, page, scripts=False)
    query = "[...document.querySelectorAll('main, .presets, .left, .readouts, .controls, .about, .still svg, .notice')]"
    elements = tab.evaluate(f"{query}.filter(e => e.checkVisibility()).map(e => e.className.baseVal ?? e.className)")
    assert elements == ["notice", "", "", "card about"]
    width, height = tab.evaluate(
        "(b => [b.width, b.height])(document.querySelector('.still svg').getBoundingClientRect())"
    )
    assert width > 500
    assert height > 400
    assert tab.evaluate("document.querySelector('.still').textContent.includes('EAdam at alpha -160')")
    tab.close()


@needs_chromium
def test_the_policy_stops_what_the_page_did_not_bring(browser: Browser, page: Path, tmp_path: Path) -> None:
    added = '<script>document.title = "taken"</script><img src="https://example.org/x.png"></main>'
    changed = tmp_path / "changed.html"
    changed.write_text(page.read_text(encoding="utf-8").replace("</main>", added), encoding="utf-8")
    tab = Tab(browser, changed)
    assert tab.evaluate("document.title") == "Valleys: a playground"
    assert tab.evaluate("page.both !== null")
    assert len(tab.complaints()) >= 2
    tab.close()
