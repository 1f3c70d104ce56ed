"""The style sheet of the report has the colours, dashes and markers of the palette."""

from __future__ import annotations

import math
import re
from importlib.resources import files

from valleys import palette
from valleys.lab.report.html import marks, plots

STYLE = files("valleys.lab.report.html").joinpath("style.css").read_text(encoding="utf-8")


def test_the_style_sheet_has_the_colours() -> None:
    light = STYLE[: STYLE.index("@media")]
    colors = dict(re.findall(r"--c(\d): (#\w+)", light))
    long = {number: "#" + "".join(2 * digit for digit in color[1:]) for number, color in colors.items()}
    assert [long[number] if len(colors[number]) == 4 else colors[number] for number in sorted(colors)] == [
        color.lower() for color in palette.COLORS
    ]


def test_the_style_sheet_has_a_colour_in_the_dark_and_a_dash_for_each() -> None:
    dark = STYLE[STYLE.index("prefers-color-scheme: dark") :]
    assert len(set(re.findall(r"--c\d: (#\w+)", dark))) == len(palette.COLORS)
    assert len(set(re.findall(r"\.d\d \{ stroke-dasharray: ([\d. ]+);", STYLE))) == len(palette.DASHES) - 1, "and solid"


def test_the_report_draws_as_many_markers() -> None:
    shapes = {
        re.findall(r'class="mark" d="([^"]+)"', marks.swatch(index))[0] for index in range(2 * len(palette.MARKERS))
    }
    assert len(shapes) == len(palette.MARKERS) == len(plots.SYMBOLS)
    assert len(plots.DASHES) == len(palette.DASHES)


def test_the_playground_has_the_colours_of_the_report() -> None:
    sheet = files("valleys.paper.playground").joinpath("style.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(c0|c1): (#\w+)", part)) for part in STYLE.split("@media")[:2]]
    pairs = zip(re.findall(r"--adapted: (#\w+)", sheet), re.findall(r"--plain: (#\w+)", sheet), strict=True)
    assert [{"c0": adapted, "c1": plain} for adapted, plain in pairs] == schemes


def test_colours_and_dashes_pair_before_they_repeat() -> None:
    assert len(set(palette.COLORS)) == len(palette.COLORS)
    assert math.gcd(len(palette.COLORS), len(palette.DASHES)) == 1
