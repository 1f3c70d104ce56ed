from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from lab.report.pages import HOSTILE
from valleys.lab.report.html import charts, scales, strips, svg
from valleys.lab.report.html.charts import Dots, Line
from valleys.lab.report.html.scales import Scale, decades, nice, number, scale, words
from valleys.lab.report.html.strips import Axis, Row, Trial

TITLES: dict[str, Any] = {"title": "t", "x_title": "x", "y_title": "y"}


def read(picture: str) -> ET.Element:
    return ET.fromstring(picture)


def of_class(root: ET.Element, kind: str) -> list[ET.Element]:
    return [entry for entry in root.iter() if kind in (entry.get("class") or "").split()]


def places(path: ET.Element) -> list[tuple[float, float]]:
    found = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.get("d") or "")
    return [(float(x), float(y)) for x, y in found]


def texts(root: ET.Element) -> list[str]:
    return [entry.text or "" for entry in root.iter("text")]


def inside(root: ET.Element) -> bool:
    """Whether every coordinate lies in the picture."""
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    points = [place for path in root.iter("path") for place in places(path)]
    points += [(float(e.get("cx") or 0), float(e.get("cy") or 0)) for e in root.iter("circle")]
    return all(0 <= x <= width and 0 <= y <= height for x, y in points)


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (80.1, 80.2), (-3, 7), (1e-7, 2e-7), (0, 6e4), (-1e300, 1e300), (5e-300, 7e-300), (99, 1e6)],
)
def test_ticks_are_few_round_and_inside(low: float, high: float, count: int) -> None:
    ticks = nice(low, high, count)
    assert 2 <= len(ticks) <= count + 1
    assert low <= ticks[0] <= ticks[-1] <= high
    assert list(ticks) == sorted(set(ticks))
    assert len(set(words(ticks))) == len(ticks)
    step = (ticks[1] / 2 - ticks[0] / 2) * 2
    assert f"{step:e}".rstrip("0123456789").startswith(("1.", "2.", "5."))


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize(
    ("low", "high"), [(1e-4, 1), (3e-4, 0.03), (1, 2.2), (10, 12), (1e-9, 1e9), (1e-300, 1e300), (0.9e-7, 6e-6)]
)
def test_logarithmic_ticks_are_few_and_inside(low: float, high: float, count: int) -> None:
    ticks = decades(low, high, count)
    assert 2 <= len(ticks) <= count + 2
    assert low <= ticks[0] < ticks[-1] <= high


def test_an_axis_keeps_proportions() -> None:
    assert Scale(10, 20, 0, 100, False, ())(12.5) == 25
    assert Scale(1, 100, 200, 0, True, ())(10) == pytest.approx(100)
    axis = scale([2.0, 4.0], 0, 1)
    assert [axis.low, axis.high] == pytest.approx([1.92, 4.08])


@pytest.mark.parametrize("values", [[5.0], [0.0], [1e-7, 1e-7], [-3.0, -3.0]])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_of_one_value_has_it_in_the_middle(values: list[float], log: bool) -> None:
    if log and values[0] <= 0:
        return
    axis = scale(values, 0, 10, log=log)
    assert axis(values[0]) == pytest.approx(5)
    assert axis.ticks


def test_the_largest_floats_have_a_place() -> None:
    axis = scale([-1.7e308, 1.7e308], 0, 10)
    assert 0 <= axis(-1.7e308) < axis(0) < axis(1.7e308) <= 10
    assert scale([1e-300, 1e300], 0, 10, log=True)(1.0) == pytest.approx(5, abs=0.1)


def test_numbers_in_tables() -> None:
    assert [number(value) for value in (None, math.nan, math.inf, -math.inf)] == ["-", "-", "∞", "-∞"]
    assert [number(value) for value in (0.0, 8.0, 16384.0, 1234.56, 1.23456e-9)] == [
        "0",
        "8",
        "16384",
        "1235",
        "1.235e-9",
    ]
    assert scales.words([0.1, 0.2, 0.30000000000000004]) == ["0.1", "0.2", "0.3"]


def test_a_line_goes_through_its_points_and_its_band_around_them() -> None:
    line = Line("a", 2, [0, 5, 10], [1, 3, 2], [0.5, 2, 2], [1.5, 4, 2])
    root = read(charts.lines([line], target=4.0, **TITLES))
    (drawn,) = of_class(root, "line")
    assert drawn.get("class") == "line d2"
    (x0, y0), (x1, y1), (x2, y2) = places(drawn)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0  # larger is higher
    assert y0 - y2 == pytest.approx((y0 - y1) / 2, abs=0.2)
    (band,) = of_class(root, "band")
    upper, lower = places(band)[:3], places(band)[3:][::-1]
    assert [x for x, _ in upper] == [x for x, _ in lower] == [x0, x1, x2]
    assert upper[1][1] < y1 < lower[1][1]
    assert upper[2] == lower[2] == (x2, y2)
    assert of_class(root, "target")
    assert {group.get("class") for group in root.iter("g")} == {"c2"}
    assert "a: 2 at 10" in (root.findtext("desc") or "")


def test_a_target_beyond_the_data_is_on_the_chart() -> None:
    root = read(charts.lines([Line("a", 0, [1, 2], [1, 2])], target=50.0, **TITLES))
    assert inside(root)
    (target,) = of_class(root, "target")
    assert places(target)[0][1] < min(y for _, y in places(of_class(root, "line")[0]))


def test_logarithmic_axes_make_equal_ratios_equally_long() -> None:
    root = read(charts.lines([Line("a", 0, [1, 10, 100], [1e-3, 1e-2, 1e-1])], log_x=True, log_y=True, **TITLES))
    (a, b, c) = places(of_class(root, "line")[0])
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2)
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2)


def test_stairs_hold_a_value_until_the_next() -> None:
    root = read(charts.lines([Line("a", 0, [1, 2, 3], [5, 7, 6])], stairs=True, **TITLES))
    path = places(of_class(root, "line")[0])
    assert len(path) == 6
    (x0, y0), corner, (x1, y1) = path[0], path[1], path[2]
    assert corner == (x1, y0)
    assert (x0, y0) != (x1, y1)


def test_nothing_to_show_is_said() -> None:
    root = read(charts.lines([Line("a", 0, [], [])], **TITLES))
    assert texts(root) == ["no run to show"]
    assert texts(read(charts.slots([Dots("a", 0, {})], ["1"], **TITLES))) == ["no run to show"]
    row = Row("nil", 0, [])
    assert "no finished run" in texts(read(strips.strip([row], title="t", x_title="x", lost="lost")))


def test_a_thinned_line_keeps_ends_spikes_and_the_widest_band() -> None:
    n = 5000
    ys = [math.sin(k / 100) for k in range(n)]
    ys[1234], ys[4321] = 9.0, -9.0
    lows, highs = [y - 1 for y in ys], [y + 1 for y in ys]
    lows[777], highs[888] = -20.0, 20.0
    thinned = charts.thin(Line("a", 0, range(n), ys, lows, highs))
    assert len(thinned.xs) <= 3 * charts._POINTS + 1
    assert list(thinned.xs) == sorted(set(thinned.xs))
    assert (thinned.xs[0], thinned.xs[-1]) == (0, n - 1)
    assert (max(thinned.ys), min(thinned.ys)) == (9.0, -9.0)
    assert (max(thinned.highs), min(thinned.lows)) == (20.0, -20.0)
    assert all(low <= y <= high for low, y, high in zip(thinned.lows, thinned.ys, thinned.highs, strict=True))


def test_a_strip_has_every_run_and_counts_the_lost() -> None:
    rows = [Row("a", 0, [1.0, 1.0, 3.0], 1.67, 0.5, 4.0), Row("b", 1, [2.0], 2.0, lost=2)]
    root = read(strips.strip(rows, title="t", x_title="x", lost="missed"))
    runs = [(float(e.get("cx") or 0), float(e.get("cy") or 0)) for e in of_class(root, "run")]
    assert len(runs) == len(set(runs)) == 4  # equal runs are piled up
    assert runs[0][0] == runs[1][0] < runs[3][0] < runs[2][0]
    assert len(of_class(root, "interval")) == 1
    assert len(of_class(root, "mark")) == 2
    assert {"a", "b", "missed", "2"} <= set(texts(root))
    assert inside(root)
    assert "missed" not in texts(read(strips.strip(rows[:1], title="t", x_title="x", lost="missed")))


def test_slots_stand_side_by_side_with_their_intervals() -> None:
    series = [Dots("a", 0, {0: (90.0, 89.0, 92.0), 1: (80.0, None, None)}), Dots("b", 1, {1: (85.0, 80.0, 89.0)})]
    root = read(charts.slots(series, ["128", "1024, epochs 9"], **TITLES))
    assert len(of_class(root, "interval")) == 2
    a0, a1 = (float(e.get("cx") or 0) for e in of_class(root, "mark") if e.tag == "circle")
    (b1,) = (places(e)[0][0] for e in of_class(root, "mark") if e.tag == "path")
    assert a0 < a1 < b1
    first = places(of_class(root, "interval")[0])
    mark = float(of_class(root, "mark")[0].get("cy") or 0)
    assert first[0][1] - mark == pytest.approx((mark - first[1][1]) / 2, abs=0.2)  # one below, two above
    assert {"128", "1024", "epochs 9"} <= set(texts(root))
    assert inside(root)


@pytest.mark.parametrize("maximize", [True, False])
def test_diverged_trials_lie_at_the_worse_edge(maximize: bool) -> None:
    tried = [Trial(1e-3, 80.0), Trial(1e-2, 90.0, chosen=True), Trial(1e-1, None)]
    root = read(
        strips.panel(
            "a",
            0,
            tried,
            Axis("lr", log=True),
            Axis("y", [80.0, 90.0]),
            maximize=maximize,
            target=85.0,
        )
    )
    marks = [(float(e.get("cx") or 0), float(e.get("cy") or 0)) for e in of_class(root, "mark")]
    (cross,) = of_class(root, "cross")
    ((x, y),) = places(cross)[:1]
    assert marks[0][0] < marks[1][0] < x + 4
    assert (y > max(v for _, v in marks)) if maximize else (y < min(v for _, v in marks))
    (ring,) = of_class(root, "ring")
    assert (float(ring.get("cx") or 0), float(ring.get("cy") or 0)) == marks[1]
    assert "div." in texts(root)
    assert inside(root)


def test_a_panel_without_a_finished_trial_or_a_range() -> None:
    axes = Axis("trial"), Axis("y")
    root = read(strips.panel("a", 0, [Trial(1, None)], *axes, maximize=True))
    assert len(of_class(root, "cross")) == 1
    assert read(strips.panel("a", 0, [], *axes, maximize=True)).tag == "svg"


def test_optimizers_are_told_apart_by_more_than_colour() -> None:
    looks = set()
    shapes = set()
    for index in range(12):
        root = read(svg.swatch(index))
        mark = of_class(root, "mark")[0]
        shapes.add(mark.get("d") or mark.tag)
        looks.add((root.get("class"), of_class(root, "line")[0].get("class"), mark.get("d")))
    assert len(looks) == 12
    assert len(shapes) == svg.MARKERS


@pytest.mark.parametrize("name", [name.replace("\x07", "") for name in HOSTILE])
def test_names_are_text(name: str) -> None:
    titles: dict[str, Any] = dict.fromkeys(TITLES, name)
    for picture in (
        charts.lines([Line(name, 0, [1], [1])], **titles),
        strips.strip([Row(name, 0, [1.0])], title=name, x_title=name, lost=name),
        charts.slots([Dots(name, 0, {0: (1.0, None, None)})], [name], **titles),
    ):
        root = read(picture)
        assert root.findtext("title") == name
        assert {entry.tag for entry in root.iter()} <= {"svg", "title", "desc", "g", "path", "text", "circle"}
