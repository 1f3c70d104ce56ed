"""A reader's actions on the playground, by headless Chromium."""

from __future__ import annotations

import time
from typing import Any

import pytest

import chromium
from chromium import Tab

needs_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="there is no Chromium")

MINUS = "\N{MINUS SIGN}"


def at_rest(tab: Tab, preset: int = 0) -> Tab:
    """The page with the whole walk of a preset."""
    tab.call("Page.bringToFront")  # a page behind another is not drawn
    tab.evaluate(f"choose({preset}); pause(); seek(page.settings.steps)")
    return tab


def wait(tab: Tab, condition: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not tab.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def reload(tab: Tab, address: str = "") -> None:
    tab.evaluate(f"history.replaceState(null, '', {address!r} || location.pathname); window.old = true")
    tab.page.reload()
    wait(tab, "typeof old === 'undefined' && document.readyState === 'complete' && page.both !== null")


def say(tab: Tab, control: str, value: Any, event: str = "input") -> None:
    """Set a control as a hand would."""
    tab.evaluate(
        f"(e => {{ e.value = {value!r}; e.dispatchEvent(new Event({event!r}, {{ bubbles: true }})) }})"
        f"(document.getElementById({control!r}))"
    )


def text(tab: Tab, name: str) -> str:
    return str(tab.evaluate(f"document.getElementById({name!r}).textContent")).strip()


def ends(tab: Tab) -> Any:
    return tab.evaluate("[page.both.plain, page.both.adapted].map(path => path.points.at(-1))")


def drag(tab: Tab, kind: str, spots: list[tuple[float, float]]) -> None:
    """Press at the first spot, move over the others, and let go; in pixels of the plot."""
    tab.evaluate("document.getElementById('plot').scrollIntoView()")
    left, top = tab.evaluate("(b => [b.left, b.top])(document.getElementById('walks').getBoundingClientRect())")
    places = [(left + x, top + y) for x, y in spots]
    names = (
        ("mousePressed", "mouseMoved", "mouseReleased") if kind == "mouse" else ("touchStart", "touchMove", "touchEnd")
    )
    for name, (x, y) in [(names[0], places[0]), *((names[1], place) for place in places), (names[2], places[-1])]:
        if kind == "mouse":
            tab.call("Input.dispatchMouseEvent", type=name, x=x, y=y, button="left", buttons=1, clickCount=1)
        else:
            touches = [] if name == "touchEnd" else [{"x": x, "y": y}]
            tab.call("Input.dispatchTouchEvent", type=name, touchPoints=touches)
