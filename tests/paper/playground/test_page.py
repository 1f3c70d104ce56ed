"""The playground in headless Chromium: what a person does with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from chromium import Browser, Tab
from lab.report.pages import Reader
from paper.playground.hands import MINUS, at_rest, drag, ends, needs_chromium, reload, say, text, wait
from valleys.paper import playground
from valleys.paper.playground import still


class PageReader(Reader):
    """A reader of this page, which has elements of one more empty kind."""

    EMPTY: Any = ("meta", "circle", "path", "input")


def test_the_page_is_one_file_and_well_formed(page: Path) -> None:
    source = page.read_text(encoding="utf-8")
    reader = PageReader(source)
    assert {name for name, _ in reader.elements} >= {"main", "noscript", "canvas", "svg", "table", "style", "script"}
    assert [attributes["href"] for attributes in reader.all_of("a")] == ["https://arxiv.org/abs/2510.27153"]
    assert not [
        1 for _, attributes in reader.elements for key in attributes if key in ("src", "style") or key.startswith("on")
    ]
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in reader.all_of("label"):
        assert attributes["for"] in ids
    assert not [word for word in ("eval(", "Function(", "@import", "url(", "fetch(") if word in source]


def test_write_says_where_and_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    assert playground.write(str(tmp_path / "a.html")) == tmp_path / "a.html"
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == playground.render()
    with pytest.raises(FileNotFoundError):
        playground.write(tmp_path / "absent" / "a.html")


@needs_chromium
def test_it_opens_with_a_valley_and_two_moving_walks(browser: Browser, page: Path) -> None:
    tab = Tab(browser, page)
    assert tab.evaluate("document.visibilityState") == "visible"
    wait(tab, "page.k > 0")
    first = tab.evaluate("page.k")
    wait(tab, f"page.k > {first}")
    assert tab.evaluate("page.playing")
    assert tab.evaluate("page.preset") == 0
    colours = """(id => { const c = document.getElementById(id), p = c.getContext("2d");
        const d = new Uint32Array(p.getImageData(0, 0, c.width, c.height).data.buffer); return new Set(d).size })"""
    assert tab.evaluate(f"{colours}('ground')") > 500  # a relief, not a plain ground
    assert tab.evaluate(f"{colours}('walks')") > 20
    assert tab.evaluate(f"{colours}('heights')") > 20
    assert tab.complaints() == []
    assert tab.requests() == [page.resolve().as_uri()]
    tab.close()


@needs_chromium
def test_the_first_preset_shows_the_paper_s_point(shared: Tab) -> None:
    at_rest(shared)
    plain, adapted = shared.evaluate("[page.both.plain, page.both.adapted].map(path => path.lengths.at(-1))")
    assert adapted > 5 * plain
    assert all(value < 1e-6 for value in shared.evaluate("Object.values(page.both).map(path => path.values.at(-1))"))
    assert text(shared, "adapted-length") == str(float(f"{adapted:.4g}"))
    assert text(shared, "plain-length") == str(float(f"{plain:.4g}"))


@needs_chromium
def test_the_picture_without_scripts_is_of_the_first_preset(shared: Tab) -> None:
    at_rest(shared)
    for result, alpha in zip(ends(shared), (0.0, shared.evaluate("page.settings.alpha")), strict=True):
        exact = still.walk(alpha)[-1]
        torch.testing.assert_close(torch.tensor(result, dtype=torch.float64), exact, rtol=1e-9, atol=1e-9)


@needs_chromium
@pytest.mark.parametrize(
    ("control", "value", "key"),
    [("lr", 700, "lr"), ("alpha", 700, "alpha"), ("b1", 300, "b1"), ("b2", 600, "b2"), ("b3", 200, "b3"),
     ("lam", 900, "lam"), ("noise", 500, "noise"), ("steps", 300, "steps")],
)  # fmt: skip
def test_sliders_change_the_walk(shared: Tab, control: str, value: int, key: str) -> None:
    at_rest(shared)
    before, setting = ends(shared), shared.evaluate(f"page.settings.{key}")
    say(shared, control, value)
    assert shared.evaluate(f"page.settings.{key}") != setting
    after = ends(shared)
    assert after[1] != before[1]
    assert (after[0] == before[0]) == (key in ("alpha", "b1"))  # which the plain optimizer does not have
    assert shared.evaluate("page.preset") is None
    assert shared.evaluate("page.k === page.settings.steps")  # still the whole walk
    text = shared.evaluate(f"document.getElementById('{control}-value').value.replace('\\u2212', '-')")
    assert float(text) == shared.evaluate(f"page.settings.{key}")
    # The slider stays where it was put: the scale and its inverse agree.
    assert abs(int(shared.evaluate(f"document.getElementById('{control}').value")) - value) <= 3


@needs_chromium
def test_numbers_can_be_typed_and_nonsense_is_refused(shared: Tab) -> None:
    at_rest(shared)
    for typed, value in (("0.0123", 0.0123), ("nonsense", 0.0123), ("", 0.0123), ("1e9", 10), ("0,5", 0.5)):
        say(shared, "lr-value", typed, "change")
        assert shared.evaluate("page.settings.lr") == value
        assert shared.evaluate("document.getElementById('lr-value').value") == str(value)
    say(shared, "alpha-value", f"{MINUS}12.5", "change")
    assert shared.evaluate("page.settings.alpha") == -12.5
    say(shared, "seed", "7.4", "change")
    assert shared.evaluate("page.settings.seed") == 7


@needs_chromium
def test_a_slider_moves_by_keyboard(shared: Tab) -> None:
    at_rest(shared)
    before = shared.evaluate("page.settings.lr")
    shared.evaluate("document.getElementById('lr').focus()")
    for _ in range(5):
        shared.press("ArrowRight", 39)
    assert shared.evaluate("page.settings.lr") > before


@needs_chromium
def test_the_paper_s_constraint_is_watched(shared: Tab) -> None:
    at_rest(shared)
    hidden = "document.getElementById('warning').hidden"
    assert shared.evaluate(hidden)
    assert f"{MINUS}0.8" in text(shared, "alpha-hint")
    assert "200" in text(shared, "b1-hint")
    for value in (0, 1000):  # the slider cannot leave what is allowed
        say(shared, "alpha", value)
        assert shared.evaluate(hidden)
    for b1, alpha, fine in (("0.9", "-9.99", True), ("0.9", "-10.1", False), ("0.5", "2", False), ("0.5", "1.9", True)):
        say(shared, "b1-value", b1, "change")
        say(shared, "alpha-value", alpha, "change")
        assert shared.evaluate(hidden) is fine
        assert (f"1/(1 {MINUS} β₁)" in text(shared, "warning")) is not fine


@needs_chromium
@pytest.mark.parametrize("number", range(6))
def test_presets_load(shared: Tab, number: int) -> None:
    at_rest(shared, 1)
    shared.evaluate(f"document.getElementById('presets').children[{number}].click(); pause()")
    assert shared.evaluate("page.k") < shared.evaluate("page.settings.steps")  # it begins at the start
    exact = shared.evaluate(f"PRESETS[{number}].settings")
    result = shared.evaluate("page.settings")
    assert {key: result[key] for key in exact} == exact
    assert result["f"] == exact.get("f", "rosenbrock")
    pressed = "[...document.querySelectorAll('#presets [aria-pressed=true]')].map(e => e.textContent)"
    assert shared.evaluate(pressed) == [shared.evaluate(f"PRESETS[{number}].name")]
    assert text(shared, "note") == shared.evaluate(f"PRESETS[{number}].note")
    assert shared.evaluate("document.getElementById('warning').hidden")


@needs_chromium
def test_every_function_and_optimizer_can_be_picked(shared: Tab) -> None:
    at_rest(shared)
    rules, names = shared.evaluate("[Object.keys(RULES), Object.keys(FUNCTIONS)]")
    for name in names:
        say(shared, "function", name, "change")
        assert shared.evaluate("page.settings.f") == name
        assert shared.evaluate("page.settings.start") == shared.evaluate(f"FUNCTIONS.{name}.start")
        x, y, width, height = shared.evaluate(
            "[...page.frame.at(page.settings.start), page.frame.width, page.frame.height]"
        )
        assert 0 < x < width
        assert 0 < y < height
    for rule in rules:
        say(shared, "rule", rule, "change")
        assert text(shared, "adapted-head") == shared.evaluate(f"RULES.{rule}.adapted")
        hidden = shared.evaluate("['b3', 'lam'].map(k => document.querySelector(`[data-knob=${k}]`).hidden)")
        assert hidden == [rule == "sgd"] * 2
        assert shared.evaluate("page.settings.lr") == shared.evaluate(f"FUNCTIONS[page.settings.f].rates.{rule}")
        # A person who only picks does not meet a walk that diverges at once.
        plain = f"walk({{ ...page.settings, f, start, lr: rates.{rule} }}, 0).diverged"
        fates = shared.evaluate(f"Object.entries(FUNCTIONS).map(([f, {{ start, rates }}]) => {plain})")
        assert fates == [None] * len(names)
    assert shared.complaints() == []


@needs_chromium
def test_divergence_is_said(shared: Tab) -> None:
    at_rest(shared, 1)
    say(shared, "rule", "sgd", "change")
    say(shared, "lr-value", "0.1", "change")
    steps = shared.evaluate("[page.both.adapted.diverged, page.both.plain.diverged]")
    assert text(shared, "fate") == f"ESGD diverged at step {steps[0]}. SGD diverged at step {steps[1]}."
    shared.evaluate("seek(1)")
    assert "diverged" not in text(shared, "fate")


@needs_chromium
def test_the_address_keeps_the_walk(browser: Browser, page: Path) -> None:
    tab = Tab(browser, page)
    for control, value in (("function", "beale"), ("rule", "lamb")):
        say(tab, control, value, "change")
    for control, value in (("lr-value", "0.0123"), ("alpha-value", "-3.75"), ("b1-value", "0.875"), ("seed", "42")):
        say(tab, control, value, "change")
    say(tab, "noise", 300)
    tab.evaluate("document.getElementById('start').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowUp' }))")
    wait(tab, "location.hash === encode(page.settings)")
    settings, walked, address = tab.evaluate("[page.settings, page.both, location.hash]")
    reload(tab, address)
    assert tab.evaluate("page.settings") == settings
    assert tab.evaluate("page.both") == walked
    assert tab.evaluate("page.preset") is None
    tab.evaluate("location.hash = '#f=f2&rule=adam&start=0.5'")  # a link that is followed on the open page
    wait(tab, "page.settings.f === 'f2'")
    assert tab.evaluate("page.settings.start") == [0.5]
    # The page's own address may be written between a link's and its event.
    tab.evaluate("location.hash = '#f=f1&rule=adam&start=2'; history.replaceState(null, '', encode(page.settings))")
    wait(tab, "page.settings.f === 'f1'")
    assert tab.complaints() == []
    tab.close()


@needs_chromium
@pytest.mark.parametrize(
    "address",
    ["", "#", "#nonsense", "#f=constructor&rule=__proto__", "#lr=NaN&alpha=&b1=Infinity&start=1", "#start=1e999,0",
     "#start=,", "#f=%00&<script>=1", "#steps=x&seed=--1"],
)  # fmt: skip
def test_an_address_without_sense_is_the_first_preset(shared: Tab, address: str) -> None:
    assert shared.evaluate(f"decode({address!r})") == shared.evaluate("PRESETS[0].settings")


@needs_chromium
def test_an_address_is_held_to_the_limits(shared: Tab) -> None:
    result = shared.evaluate("decode('#steps=1e9&lr=-1&b1=1&b3=1&seed=2.6&alpha=1e99&f=f1&start=3')")
    limits = shared.evaluate("LIMITS")
    for key, side in (("steps", 1), ("lr", 0), ("b1", 1), ("b3", 1), ("alpha", 1)):
        assert result[key] == limits[key][side]
    assert result["seed"] == 3
    assert result["start"] == [3]


@needs_chromium
@pytest.mark.parametrize("kind", ["mouse", "touch"])
@pytest.mark.parametrize("preset", [1, 2])
def test_the_start_can_be_dragged(browser: Browser, page: Path, kind: str, preset: int) -> None:
    tab = Tab(browser, page, width=390 if kind == "touch" else 1280, height=844)
    if kind == "touch":
        tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    at_rest(tab, preset)
    before = ends(tab)
    x, y = tab.evaluate("page.frame.at(page.settings.start)")
    exact = tab.evaluate(f"page.frame.place({x + 40}, {y + 30})")
    drag(tab, kind, [(x, y), (x + 20, y + 15), (x + 40, y + 30)])
    start = tab.evaluate("page.settings.start")
    assert start == pytest.approx(exact, rel=1e-3, abs=1e-3)
    assert tab.evaluate("page.span") is None
    assert ends(tab) != before
    label = tab.evaluate("document.getElementById('start').getAttribute('aria-label')")
    assert label.startswith("Start of both walks: ")
    assert str(float(f"{start[0]:.4g}")) in label.replace(MINUS, "-")
    assert tab.complaints() == []
    tab.close()


@needs_chromium
def test_a_click_sets_the_start_and_reset_takes_it_back(shared: Tab) -> None:
    at_rest(shared, 1)
    drag(shared, "mouse", [(300.0, 200.0)])
    assert shared.evaluate("page.frame.at(page.settings.start).map(Math.round)") == [300, 200]
    shared.evaluate("document.getElementById('restart').click()")
    assert shared.evaluate("page.settings.start") == [-1.2, 1]


@needs_chromium
def test_the_start_moves_by_arrow_keys(shared: Tab) -> None:
    at_rest(shared)
    shared.evaluate("document.getElementById('start').focus()")
    (x, y), size = shared.evaluate("[page.settings.start, page.frame.nudge]")
    for key, code in (("ArrowRight", 39), ("ArrowUp", 38), ("ArrowUp", 38)):
        shared.press(key, code)
    result = shared.evaluate("page.settings.start")
    assert result == pytest.approx([x + size, y + 2 * size], abs=2e-3)


@needs_chromium
def test_playback(shared: Tab) -> None:
    at_rest(shared)
    steps = shared.evaluate("page.settings.steps")
    for button, exact in (("rewind", 0), ("forward", 1), ("forward", 2), ("back", 1)):
        shared.evaluate(f"document.getElementById('{button}').click()")
        assert shared.evaluate("page.k") == exact
        assert text(shared, "step") == f"{exact} / {steps}"
        value = shared.evaluate(f"page.both.adapted.lengths[{exact}]")
        assert float(text(shared, "adapted-length").replace(MINUS, "-")) == pytest.approx(value, rel=1e-3)
    shared.evaluate("document.getElementById('rewind').click(); document.getElementById('back').click()")
    assert shared.evaluate("page.k") == 0
    shared.evaluate("document.getElementById('play').click()")
    wait(shared, "page.k > 3")
    label = "document.getElementById('play').getAttribute('aria-label')"
    assert shared.evaluate(label) == "Pause"
    shared.evaluate("document.getElementById('play').click()")
    step = shared.evaluate("page.k")
    time.sleep(0.2)
    assert shared.evaluate("page.k") == step
    assert shared.evaluate(label) == "Play"
    say(shared, "scrub", 250)
    assert shared.evaluate("page.k") == 250
    shared.evaluate("seek(page.settings.steps - 1); play()")
    wait(shared, "!page.playing")
    assert shared.evaluate("page.k") == steps
    shared.evaluate("play()")  # from the end it begins anew
    assert shared.evaluate("page.k") < steps
    shared.evaluate("pause()")


@needs_chromium
def test_who_prefers_no_motion_gets_none(browser: Browser, page: Path) -> None:
    tab = Tab(browser, page)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    reload(tab)
    assert tab.evaluate("[page.k === page.settings.steps, page.playing]") == [True, False]
    tab.evaluate("choose(1)")
    assert tab.evaluate("[page.k === page.settings.steps, page.playing]") == [True, False]
    tab.evaluate("seek(5); document.getElementById('play').click()")
    assert tab.evaluate("[page.k === page.settings.steps, page.playing]") == [True, False]
    tab.close()
