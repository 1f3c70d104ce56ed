"""The figures of the page: their numbers are those of the report, and Plotly knows every property."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
import pytest

from lab.report.pages import document, finals, run, usual
from valleys.lab.optimizers.spec import Range
from valleys.lab.report.html import across, figures, plots, reading

INDEX = {"sgd": 0, "lamb": 1, "alto": 2}


def valid(picture: plots.Figure | None) -> plots.Figure:
    assert picture is not None
    go.Figure(data=picture["data"], layout=picture["layout"])
    for control in picture["controls"]:
        for choice in control["choices"]:
            assert all(len(values) == len(picture["data"]) for values in choice["data"].values())
    return picture


def test_the_forest_has_the_verdicts_differences_and_intervals() -> None:
    content = usual()
    picture = valid(figures.forest(content, INDEX))
    assert len(picture["data"]) == len(content["verdicts"]) == 2
    for trace, verdict in zip(picture["data"], content["verdicts"], strict=True):
        assert trace["x"] == [verdict["difference"]]
        assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(verdict["high"])
        assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(verdict["low"])
        assert trace["hovertemplate"].startswith(plots.text(verdict["sentence"]))
    (line,) = picture["layout"]["shapes"]
    assert line["x0"] == line["x1"] == 0.0
    log = document(
        {"sgd": finals("sgd", 40.0, 50.0), "alto": finals("alto", 20.0, 24.0)},
        changes={"planned": [("alto", "sgd")]},
        scale="log",
        maximize=False,
    )
    picture = valid(figures.forest(log, INDEX))
    assert picture["layout"]["xaxis"]["type"] == "log"
    assert picture["layout"]["shapes"][0]["x0"] == 1.0
    assert figures.forest({**content, "verdicts": []}, INDEX) is None


def test_curves_have_means_bands_and_both_axes() -> None:
    content = usual()
    picture = valid(figures.curves(content, INDEX))
    assert len(picture["data"]) == 2 * 3
    band, line = picture["data"][2:4]
    assert band["legendgroup"] == line["legendgroup"] == "1"
    area = reading.band(content, reading.sound(reading.finals(content, "lamb")))
    assert (line["x"], line["y"]) == (area.steps, area.means)
    assert (min(band["y"]), max(band["y"])) == (min(area.lows), max(area.highs))
    steps, seconds = picture["controls"][0]["choices"]
    assert steps["data"]["x"][3] == area.steps
    assert seconds["data"]["x"][3] == area.seconds
    assert [choice["label"] for choice in picture["controls"][1]["choices"]] == ["linear", "log"]


def test_what_missed_the_target_is_counted_in_its_row() -> None:
    picture = valid(figures.target(usual(), INDEX, "steps"))
    assert picture["layout"]["yaxis"]["ticktext"] == ["alto", "lamb (1 missed)", "sgd (3 missed)"]


def test_a_trial_of_value_zero_has_a_place_on_a_logarithmic_axis() -> None:
    content = document(
        {"sgd": finals("sgd", 50.0, 51.0)},
        space={"w": Range(1e-3, 1.0, zero=0.5), "m": Range(0.5, 0.9, "reverse-log")},
        tuning={"sgd": [run("sgd", 50.0, hyperparameters={"w": w, "m": 0.6}) for w in (0.0, 0.1)]},
    )
    picture = valid(figures.trial_figure(content, INDEX))
    assert picture["layout"]["xaxis"]["type"] == "log"
    assert sorted({x for trace in picture["data"] for x in trace["x"]}) == [5e-4, 0.1]
    assert any("w=0, m=0.6" in text for trace in picture["data"] for text in trace["text"])
    assert [choice["label"] for choice in picture["controls"][0]["choices"]] == ["w", "m"]
    assert figures.trial_figure(document({"sgd": finals("sgd", 50.0, 51.0)}, space={}), INDEX) is None


def attribution(scale: str = "linear", **changes: Any) -> dict[str, Any]:
    effects = [("beta3", 3.0, True), ("E", -1.0, False)]
    return {
        "first": "lamb-paper",
        "last": "alto",
        "start": 80.0 if scale == "linear" else math.log(2.0),
        "scale": scale,
        "metric": {"name": "accuracy %", "maximize": True},
        "switches": [
            {"name": name, "mean": mean, "half_width": 0.5, "significant": certain} for name, mean, certain in effects
        ],
        **changes,
    }


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_the_waterfall_goes_from_the_first_recipe_to_the_last(scale: str) -> None:
    content = attribution(scale)
    picture = valid(figures.waterfall(content))
    bars = [trace for trace in picture["data"] if trace["type"] == "bar"]
    apply = math.exp if scale == "log" else lambda value: value
    ends = [(bar["base"][0], bar["base"][0] + bar["x"][0]) for bar in bars]
    start = content["start"]
    assert ends == [
        (pytest.approx(apply(start)), pytest.approx(apply(start + 3))),
        (pytest.approx(apply(start + 3)), pytest.approx(apply(start + 2))),
    ]
    assert [bar["marker"]["opacity"] for bar in bars] == [1.0, 0.35]
    assert len({bar["marker"]["color"] for bar in bars}) == 2  # better and worse
    assert figures.waterfall(attribution(start=None)) is None


def test_comparisons_of_one_task_have_a_line_over_the_batch_size() -> None:
    documents = [
        document({"sgd": finals("sgd", a, a + 1.5), "alto": finals("alto", b, b + 1)}, batch_size=batch)
        for batch, a, b in ((128, 96.0, 97.5), (1024, 92.0, 94.0))
    ]
    picture = valid(across.against_batch_size(documents, [0, 1], {"sgd": 0, "alto": 1}))
    assert [trace["x"] for trace in picture["data"]] == [[128, 1024]] * 2
    tests = {row["optimizer"]: row["test"] for row in documents[1]["table"]}
    assert picture["data"][1]["y"][1] == tests["alto"]["estimate"]
    assert picture["data"][1]["error_y"]["array"][1] == tests["alto"]["high"] - tests["alto"]["estimate"]


def test_ranks_put_a_lost_round_behind_and_share_equal_places() -> None:
    one = document(
        {"sgd": finals("sgd", 99.0, None), "lamb": finals("lamb", 91.0, 92.0), "alto": finals("alto", 91.0, 92.0)}
    )
    result = across.ranked([one, one], INDEX)
    assert result is not None
    assert result.ranks == {"lamb": 1.5, "alto": 1.5, "sgd": 3.0}
    valid(across.critical_difference(result, INDEX))
    both = across.profile([one, one], INDEX)
    assert both is not None
    valid(both[0])
    assert across.ranked([one], INDEX) is None
