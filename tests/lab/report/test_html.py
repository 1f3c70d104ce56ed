from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from lab.report.pages import HOSTILE, Reader, diverged, document, finals, run, trials, twelve, usual
from valleys.lab.errors import LabError
from valleys.lab.optimizers.spec import Range
from valleys.lab.report import html
from valleys.lab.report.html import across, figures, reading
from valleys.lab.statistics import Interval
from valleys.lab.statistics.formatting import format_interval

OLD = Path(__file__).parents[3] / "benchmarks/results/fashion-mnist-8192/report.json"


def plots_of(reader: Reader) -> list[dict[str, Any]]:
    """The figures of a page, as its script gets them."""
    texts = [json.loads(data) for tag, data in reader.texts if tag == "script" and data.startswith("{")]
    return [content for content in texts if "layout" in content]


def only(found: dict[str, Any]) -> Reader:
    return Reader(html.render([found]))


def interval(limits: dict[str, Any] | None) -> str:
    return format_interval(None if limits is None else Interval(**limits))


def sentences(found: dict[str, Any]) -> list[str]:
    return [f"{verdict['sentence']}." for verdict in found["verdicts"]]


def test_the_numbers_of_the_page_are_those_of_the_document() -> None:
    contents = usual()
    table = only(contents).table("Results on fresh seeds")
    assert [row[0] for row in table.rows] == [row["optimizer"] for row in contents["table"]] == ["alto", "lamb", "sgd"]
    for row in contents["table"]:
        name = row["optimizer"]
        assert table.column("test accuracy %")[name] == interval(row["test"])
        assert table.column("validation accuracy %")[name] == interval(row["validation"])
        assert table.column("target reached")[name] == f"{row['reached']} of 3"
        assert table.column("diverged trials")[name] == f"{row['diverged_trials']} of 12"
        assert table.column("rounds lost")[name] == f"{row['lost']} of 3"
    place = table.titles.index("test accuracy %")
    assert [row[place] for row in table.values] == [str(row["test"]["estimate"]) for row in contents["table"]]
    spaces = only(contents).table("Search space")
    assert [row[1:] for row in spaces.rows if row[0] == "alto"] == [
        ["lr", "0.0001 to 1 (log)", "0.01, 0.01, 0.01"],
        ["c", "-1 to 1 (linear)", "0.2, 0.2, 0.2"],
    ]


def test_the_verdicts_come_before_everything_else() -> None:
    contents = usual()
    spoken = ("h1", "h2", "h3", "p", "caption", "li", "td", "th", "text")
    texts = [text.strip() for tag, text in only(contents).texts if tag in spoken and text.strip()]
    expected = ["Without JavaScript there are no charts; verdicts and tables are complete.", "fake at batch 16"]
    for verdict in contents["verdicts"]:
        expected += [f"{verdict['sentence']}.", f"Statistics: {verdict['details']}.", f"Cost: {verdict['cost']}."]
    assert len(expected) == 8
    assert texts[:8] == expected
    short = copy.deepcopy(contents)
    short["verdicts"] = [{**contents["verdicts"][0], "details": "", "cost": ""}]
    assert not [text for _, text in only(short).texts if text.startswith(("Statistics:", "Cost:"))]
    short["verdicts"] = []
    assert ("p", "There is no pair of optimizers to compare.") in only(short).texts


def test_a_missed_target_is_infinite_and_one_that_nobody_tried_is_a_dash() -> None:
    contents = document(
        {"sgd": finals("sgd", 91.2, 85.0, 85.0), "nil": []}, {"sgd": trials("sgd", 92.0), "nil": trials("nil", None)}
    )
    reader = only(contents)
    main, times = reader.table("Results on fresh seeds"), reader.table("Time to the target")
    assert main.column("steps to target") == {"sgd": "∞", "nil": "∞"}
    assert times.column("steps of each round") == {"sgd": "20, ∞, ∞", "nil": "∞, ∞, ∞"}
    assert times.column("median seconds") == {"sgd": "∞", "nil": "∞"}
    place = main.titles.index("steps to target")
    assert [row[place] for row in main.values] == ["inf", "inf"]
    assert reader.table("Search space").rows[-1][-1] == "-, -, -"
    seeds = only(document({"sgd": finals("sgd", 91.2, 85.0)}, one_round=True)).table("Time to the target")
    assert seeds.column("steps of each seed") == {"sgd": "20, ∞"}
    part = document({"sgd": finals("sgd", 91.2, 85.0)}, rounds=3, trials=2)  # no round is complete
    assert only(part).table("Results on fresh seeds").column("steps to target") == {"sgd": "-"}


def test_every_trial_is_listed_also_the_bad_ones() -> None:
    table = only(usual()).table("Every tuning trial")
    assert len(table.rows) == 3 * 12
    statuses = [(row[0], row[1], row[2], row[-1]) for row in table.rows if row[-1] and row[1] == "2"]
    assert statuses == [
        ("sgd", "2", "1", "diverged"),
        ("sgd", "2", "3", "selected"),
        ("lamb", "2", "2", "diverged"),
        ("lamb", "2", "3", "selected"),
        ("alto", "2", "2", "selected"),
    ]
    assert [row[4] for row in table.rows[:4]] == ["-", "79", "85", "39"]
    assert [row[5] for row in table.rows[:4]] == ["-", "78", "84", "38"]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_the_results_have_a_dot_for_each_round_on_the_metrics_scale(scale: str) -> None:
    contents = document(
        {"sgd": [run("sgd", 91.0, test=value) for value in (1.0, 10.0, 100.0)]}, scale=scale, maximize=False
    )
    picture = figures.results(contents, {"sgd": 0})
    dots, mean = picture["data"]
    assert dots["x"] == pytest.approx([1.0, 10.0, 100.0])
    assert picture["layout"]["xaxis"]["type"] == scale
    assert mean["x"] == [pytest.approx(10.0 if scale == "log" else 37.0)]
    assert mean["x"][0] + mean["error_x"]["array"][0] == pytest.approx(contents["table"][0]["test"]["high"])
    assert mean["x"][0] - mean["error_x"]["arrayminus"][0] == pytest.approx(contents["table"][0]["test"]["low"])


def test_lost_rounds_are_counted_beside_their_optimizer() -> None:
    contents = usual()
    hovers = [trace["hovertemplate"] for trace in figures.results(contents, {"sgd": 0, "lamb": 1, "alto": 2})["data"]]
    assert any(hover.startswith("sgd: mean ") and "; 1 of 3 rounds lost" in hover for hover in hovers)
    seeds = document({"sgd": finals("sgd", 85.0, None)}, one_round=True)
    assert "; 1 of 2 seeds lost" in figures.results(seeds, {"sgd": 0})["data"][-1]["hovertemplate"]


def test_the_budget_curve_has_a_band_where_there_are_rounds() -> None:
    tuning = {"sgd": trials("sgd", 80.0, 81.0)}
    for rounds, bands in ((3, 1), (1, 0)):
        contents = document({"sgd": finals("sgd", *[91.0] * rounds)}, tuning)
        picture = figures.budget(contents, {"sgd": 0})
        assert picture is not None
        assert sum("fill" in trace for trace in picture["data"]) == bands


def test_superseded_runs_are_left_out_of_charts_and_tables() -> None:
    contents = usual()
    runs = contents["rounds"][1]["runs"]
    final = next(run_ for run_ in runs if (run_["optimizer"], run_["phase"]) == ("alto", "final"))
    before = html.render([contents])
    runs.append({**copy.deepcopy(final), "trial": 1, "selected": False, "step_seconds": 12.345, "curve": []})
    assert html.render([contents]) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(name: str) -> None:
    contents = document(
        {name: finals(name, 91.2, 92.0), "sgd": finals("sgd", 91.0, 92.5)},
        command=name,
        task=name,
        metric=name,
        schedule=name,
    )
    contents["notes"] = [name]
    text = html.render([contents, contents], title=name)
    reader = Reader(text)
    scripts = [entry for entry in reader.all_of("script") if entry.get("type") != "application/json"]
    assert scripts == [{}, {}]  # plotly.js and the page's own
    assert not reader.all_of("img")
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"<[^>]*\son\w+\s*=", re.sub(r'"[^"]*"', "", markup))
    content = json.dumps(plots_of(reader))
    assert "<script" not in content
    assert "<img" not in content
    assert ("code", name) in reader.texts
    assert ("title", name) in reader.texts
    assert name in reader.table("Results on fresh seeds").column("target reached")


def test_the_page_needs_no_network_and_allows_none() -> None:
    text = html.render([usual(), twelve()])
    reader = Reader(text)
    for _, attributes in reader.elements:
        assert not {"src", "srcset", "action", "onload", "xlink:href"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(entry["content"] for entry in reader.all_of("meta") if "http-equiv" in entry)
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    (sources,) = re.findall(r"script-src ([^;]*);", policy)
    codes = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in codes]
    assert sources == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert "fetch(" not in codes[-1]


def test_links_lead_to_what_is_there_and_tables_have_headings() -> None:
    reader = Reader(html.render([usual(), twelve()]))
    anchors = {attributes["id"] for tag, attributes in reader.elements if "id" in attributes and tag == "section"}
    links = [attributes["href"] for attributes in reader.all_of("a")]
    assert links == ["#comparison-1", "#comparison-2"]
    assert {f"#{anchor}" for anchor in anchors} == set(links)
    for table in reader.tables:
        assert table.caption
        assert {len(row) for row in table.rows} == {len(table.titles)}
    assert {"width=device-width, initial-scale=1"} <= {entry.get("content") for entry in reader.all_of("meta")}
    assert all(entry.get("role") == "img" or entry.get("aria-hidden") == "true" for entry in reader.all_of("svg"))


def test_several_comparisons_have_their_verdicts_first_and_share_charts_by_task() -> None:
    small, large = (
        document({"sgd": finals("sgd", a, a + 1.5), "alto": finals("alto", b, b + 1)}, task="one", batch_size=batch)
        for batch, a, b in ((1024, 92.0, 94.0), (128, 96.0, 97.5))
    )
    other = document({"sgd": finals("sgd", 91.5, 92.0), "alto": finals("alto", 80.0, 81.0)}, task="two")
    reader = Reader(html.render([small, large, other], title="all"))
    headings = [text for tag, text in reader.texts if tag == "h2"]
    assert headings == [
        "one: test metric against batch size",
        "All comparisons together",
        "one at batch 1024",
        "one at batch 128",
        "two at batch 16",
    ]
    spoken = [text for tag, text in reader.texts if tag == "p" and text.strip()]
    assert [text for text in spoken if not text.startswith(("Statistics", "Cost", "Without"))][:3] == [
        *sentences(small),
        *sentences(large),
        *sentences(other),
    ]
    table = reader.table("one: test accuracy %")
    assert table.titles == ["optimizer", "batch 128", "batch 1024"]
    assert table.column("batch 128")["alto"] == interval(large["table"][0]["test"])
    areas = reader.table("Area under the profile, up to a factor of 4")
    # alto is first on two of three and misses the third; sgd takes as many steps or twice as many on those two.
    assert dict(areas.rows)["alto"] == "0.667"


def test_an_optimizer_keeps_its_colour_from_comparison_to_comparison() -> None:
    one = document({"sgd": finals("sgd", 91.0, 92.0), "alto": finals("alto", 93.0, 94.0)})
    two = document({"alto": finals("alto", 93.0, 94.0), "lamb": finals("lamb", 91.0, 92.5)})
    assert reading.indices([one, two]) == {"sgd": 0, "alto": 1, "lamb": 2}
    assert across.profile([one, two], reading.indices([one, two])) is None
    assert across.ranked([one, two], reading.indices([one, two])) is None


def test_equal_headings_are_told_apart_by_what_differs() -> None:
    def setup(**settings: Any) -> dict[str, Any]:
        return {"configuration": {"task": "t", "batch_size": 8, **settings}}

    assert reading.labels([setup(epochs=1), setup(epochs=9), setup(epochs=9)]) == [
        "t at batch 8, epochs 1",
        "t at batch 8, epochs 9",
        "t at batch 8, epochs 9 (2)",
    ]
    assert reading.labels([setup(), setup(precision="bfloat16")])[1] == "t at batch 8, precision bfloat16"


def test_the_band_covers_the_steps_that_all_runs_evaluated() -> None:
    def curve(*values: float | None) -> dict[str, Any]:
        return {"curve": [{"step": k, "seconds": k * len(values), "validation": v} for k, v in enumerate(values, 1)]}

    linear, log = ({"configuration": {"scale": scale}} for scale in ("linear", "log"))
    runs = [curve(10.0, 20.0, None), curve(30.0, 25.0, 1.0), curve(20.0, 30.0)]
    band = reading.band(linear, runs)
    assert (band.steps, band.means, band.lows, band.highs) == ([1, 2], [20.0, 25.0], [10.0, 20.0], [30.0, 30.0])
    assert band.seconds == [pytest.approx(8 / 3), pytest.approx(16 / 3)]
    assert reading.band(linear, []) == reading.Band([], [], [], [], [])
    geometric = reading.band(log, runs)
    assert geometric.means == pytest.approx([6000.0 ** (1 / 3), 15000.0 ** (1 / 3)])
    assert (geometric.lows, geometric.highs) == (band.lows, band.highs)


@pytest.mark.parametrize(
    "found",
    [
        document({"sgd": finals("sgd", 91.0)}),
        document({"sgd": []}, {"sgd": trials("sgd", None, None)}),
        document({"sgd": finals("sgd", None, None)}),
        document({"sgd": finals("sgd", 50.0, 51.0)}, space={}),
        document({"sgd": [run("sgd", 91.0, curve=[], validation=None)], "alto": [diverged("alto")]}),
        document({"sgd": finals("sgd", 50.0, 51.0)}, rounds=3),
        document(
            {"sgd": finals("sgd", 50.0, 51.0)},
            space={"w": Range(1e-3, 1.0, zero=0.5), "m": Range(0.5, 0.9, "reverse-log")},
            tuning={"sgd": [run("sgd", 50.0, hyperparameters={"w": w, "m": 0.6}) for w in (0.0, 0.1)]},
        ),
        document({"sgd": [run("sgd", 91.0, test=0.0, validation=0.0)]}, scale="log", maximize=False),
        twelve(),
    ],
    ids=[
        "one round",
        "all trials diverged",
        "all runs diverged",
        "nothing to tune",
        "no evaluations",
        "incomplete",
        "zero",
        "no logarithm",
        "twelve",
    ],
)
def test_odd_comparisons_are_shown_too(found: dict[str, Any]) -> None:
    text = html.render([found])
    reader = Reader(text)
    assert reader.table("Results on fresh seeds").rows
    assert len(plots_of(reader)) >= 5
    for picture in plots_of(reader):
        assert go.Figure(data=picture["data"], layout=picture["layout"])  # Plotly knows every property
    assert not re.search(r"\bnan\b|\binf\b(?!\")", re.sub(r"<(style|script).*?</\1>", "", text, flags=re.DOTALL))
    assert len(text) < 6_000_000


@pytest.mark.skipif(not OLD.exists(), reason="the repository's results are not here")
def test_a_report_of_an_older_version_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"report\.json has .schema.: null, and 1 is read here") as caught:
        html.merge([OLD], tmp_path / "page.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_a_page_without_comparisons_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one comparison"):
        html.render([])


def test_writing_leaves_the_old_page_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    html.write([usual()], path)
    assert path.read_text(encoding="utf-8") == html.render([usual()])
    assert path.stat().st_mode & 0o444 == 0o444
    before = path.read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        html.write([twelve()], path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_folders_are_merged_and_mistakes_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(document({"sgd": finals("sgd", 91.0)}, task=name)))
    out = tmp_path / "page.html"
    assert html.merge([tmp_path / "one", tmp_path / "two" / "report.json"], out) == out
    assert out.read_text(encoding="utf-8").count('class="comparison"') == 2
    with pytest.raises(LabError, match=r"missing.report\.json: No such file|cannot read .*missing"):
        html.merge([tmp_path / "missing"], out)
    (tmp_path / "one" / "report.json").write_text("{")
    with pytest.raises(LabError, match=r"report\.json is no report"):
        html.merge([tmp_path / "one"], out)
    with pytest.raises(LabError, match="nothing to show"):
        html.merge([], out)
    with pytest.raises(LabError, match="cannot write"):
        html.merge([tmp_path / "two"], tmp_path / "nowhere" / "page.html")
