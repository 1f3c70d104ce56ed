from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lab.report.pages import diverged, finals, read, results, run, trials
from valleys.lab.record import Evaluation
from valleys.lab.report import document as report
from valleys.lab.report import learning_curves
from valleys.lab.report.html import tables
from valleys.lab.report.summary import summarize
from valleys.lab.report.table import escape
from valleys.lab.report.text import method
from valleys.lab.store.job import Key, Results

NAN, INF = math.nan, math.inf
COMMAND = "valleys compare fake"


def written(contents: Results, folder: Path, **lines: str) -> tuple[str, dict[str, Any]]:
    paths = report.write(contents, summarize(contents), folder, COMMAND, lines)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document: dict[str, Any] = json.loads(paths["json"].read_text(), parse_constant=refuse)
    assert paths["curves"].read_bytes().startswith(b"\x89PNG")
    return paths["markdown"].read_text(), document


def table_rows(markdown: str) -> list[list[str]]:
    """Cells of the first table, split where Markdown splits them."""
    lines = [line for line in markdown.split("\n\n")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")] for line in lines]


def pair() -> Results:
    """Two optimizers over three rounds, each with one diverged trial a round; the pair is planned."""
    return results(
        {"sgd": finals("sgd", 80.0, 81.0, 82.0), "alto": finals("alto", 90.0, 91.0, 92.1)},
        {"sgd": trials("sgd", 80.0, None), "alto": trials("alto", None, 90.0)},
        changes={"planned": [("alto", "sgd")]},
    )


def test_the_tables_show_the_units_they_name() -> None:
    document = read(results({"sgd": finals("sgd", 80.0, None, 83.0)}, {"sgd": trials("sgd", 80.0, None)}))
    contents = [tables.results(document, {"sgd": 0}), tables.cost(document, {"sgd": 0})]
    assert [dict(zip(table.titles, (cell.text for cell in table.rows[0]), strict=True)) for table in contents] == [
        {
            "optimizer": "sgd",
            "test accuracy %": "79.5 (60.4 to 98.6)",
            "validation accuracy %": "80.5 (61.4 to 99.6)",
            "target reached": "0 of 3",
            "steps to target": "∞",
            "seconds to target": "∞",
            "rounds lost": "1 of 3",
            "diverged trials": "3 of 6",
        },
        {"optimizer": "sgd", "step ms": "100", "optimizer ms": "10", "state MB": "0.0024", "state / parameters": "2"},
    ]


def test_every_run_is_in_the_document_with_its_round() -> None:
    contents = pair()
    stray = run("alto", 12.0, seed=15000, hyperparameters={"lr": 0.5, "c": 0.0})
    alto = {**contents.final["alto"], Key(1, 0, 15000): stray}  # of a selection that a later trial changed
    document = read(replace(contents, final={**contents.final, "alto": alto}))
    runs = [(entry["round"], one) for entry in document["rounds"] for one in entry["runs"]]
    assert len(runs) == 2 * 3 * (2 + 1) + 1
    assert all(entry["complete"] for entry in document["rounds"])
    of = {(number, one["optimizer"], one["phase"], one["trial"]): one for number, one in runs}
    assert len(of) == len(runs)
    for phase, before in (("tuning", contents.tuning), ("final", {**contents.final, "alto": alto})):
        for name, records in before.items():
            for key, record in records.items():
                one = of[key.round + 1, name, phase, key.point + 1]
                expected = report.plain(asdict(record))
                assert {field: one[field] for field in expected} == expected
                assert one["selected"] == (key.point == {"sgd": 0, "alto": 1}[name])
                assert one["seed"] == key.seed


def test_flatness_is_of_the_runs_that_count() -> None:
    contents = pair()
    measured = {
        name: {key: {"trace": 1.0 + key.round, "examples": 8, "note": ""} for key in runs}
        for name, runs in contents.final.items()
    }
    measured["alto"][Key(1, 0, 15000)] = {"trace": 99.0, "examples": 8, "note": ""}  # of a superseded run
    flatness = read(replace(contents, flatness=measured))["flatness"]
    assert [(one["round"], one["seed"]) for one in flatness["runs"]["alto"]] == [(1, 5000), (2, 15000), (3, 25000)]
    assert [one["trace"] for one in flatness["runs"]["alto"]] == [1.0, 2.0, 3.0]
    assert [row["means"]["trace"]["estimate"] for row in flatness["rows"]] == [2.0, 2.0]
    (contrast,) = flatness["contrasts"]
    assert (contrast["first"], contrast["second"], contrast["units"]) == ("alto", "sgd", 3)
    seeds = results({"sgd": finals("sgd", 80.0, 81.0)}, one_round=True)
    both = {"sgd": {key: {"trace": 1.0, "examples": 8, "note": ""} for key in seeds.final["sgd"]}}
    assert read(replace(seeds, flatness=both))["flatness"]["rows"][0]["units"] == 2


def test_an_incomplete_round_is_shown_and_counts_for_nothing() -> None:
    contents = pair()
    part = {key: record for key, record in contents.final["alto"].items() if key.round < 2}
    document = read(replace(contents, final={**contents.final, "alto": part}))
    last = document["rounds"][-1]
    assert [entry["complete"] for entry in document["rounds"]] == [True, True, False]
    assert len(last["runs"]) == 2 * 2 + 1
    assert not any(one["selected"] for one in last["runs"])
    assert document["outcomes"]["sgd"]["test"] == {"1": 78.0, "2": 79.0}


def test_the_document_has_table_verdicts_and_budget_as_the_summary_has_them() -> None:
    contents = pair()
    document, summary = read(contents, sgd="SGD()"), summarize(contents)
    plain = report.plain
    assert document["verdicts"] == plain([asdict(verdict) for verdict in summary.verdicts])
    assert document["table"] == plain([asdict(row) for row in summary.rows])
    assert document["budget"] == plain({n: [asdict(point) for point in c] for n, c in summary.budget.items()})
    assert document["spaces"]["sgd"]["lr"] == {"low": 1e-4, "high": 1.0, "scale": "log", "zero": 0.0}
    assert document["lines"] == {"sgd": "SGD()"}
    assert document["configuration"] == contents.configuration
    assert (document["notes"], document["command"]) == ([], COMMAND)
    assert document["flatness"] is None


def test_the_markdown_has_the_table_and_a_paragraph_for_each_verdict(tmp_path: Path) -> None:
    contents = pair()
    markdown, document = written(contents, tmp_path, alto="valleys.ALTO(model.parameters(), lr=0.01)")
    assert [row[0] for row in table_rows(markdown)[2:]] == ["alto", "sgd"]
    (verdict,) = document["verdicts"]
    assert verdict["better"] == "alto"
    paragraph = markdown.split("\n\n")[2].split("  \n")
    assert paragraph == [
        f"**{escape(verdict['sentence'])}.**",
        f"Statistics: {escape(verdict['details'])}.",
        f"Cost: {escape(verdict['cost'])}.",
    ]
    for part in (
        COMMAND,
        "curves.png",
        "| batch size | 16 |",
        "| sgd | lr | 0.0001 to 1 (log) | 0.1, 0.1, 0.1 |",
        "```python\noptimizer = valleys.ALTO(model.parameters(), lr=0.01)  # alto\n```",
        "| optimizer | 1 trial | 2 trials |",
        *map(escape, document["method"]),
    ):
        assert part in markdown
    assert "layout" not in markdown


def test_the_budget_table_has_powers_of_two_and_all_trials() -> None:
    tuning = trials("sgd", 80.0, 81.0, 82.0, 83.0, 84.0, 85.0)
    document = read(results({"sgd": finals("sgd", 90.0, 91.0)}, {"sgd": tuning}))
    table = tables.budget(document, {"sgd": 0})
    means = [document["budget"]["sgd"][k - 1]["mean"] for k in (1, 2, 4, 6)]
    assert table.titles == ["optimizer", "1 trial", "2 trials", "4 trials", "6 trials"]
    assert [cell.value for cell in table.rows[0]] == [None, *means]
    assert [cell.text for cell in table.rows[0]] == ["sgd", "80.5", *(f"{mean:.4g}" for mean in means[1:3]), "83"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["tuned by 2 trials", "run on 1 fresh seed", "There are 3 rounds", "means over rounds", "is 95 %"]),
        ({"planned": [("alto", "sgd")] * 2}, ["The 2 planned pairs share", "97.50% (Bonferroni)"]),
        ({"planned": ()}, ["the two best by validation", "a confidence of 95 %"]),
    ],
)
def test_the_method_is_told_in_words(changes: dict[str, Any], parts: list[str]) -> None:
    text = " ".join(method(replace(pair(), **changes)))
    for part in parts:
        assert part.replace("is 95 %", "confidence of 95 %") in text


def test_the_method_of_one_round_and_of_fixed_values_and_of_a_logarithmic_scale() -> None:
    runs = {"sgd": finals("sgd", 80.0, 81.0)}
    one = " ".join(method(results(runs, one_round=True)))
    assert "the verdicts speak of these tuned values, not of the optimizers" in one
    assert "means over fresh seeds" in one
    assert (
        "Nothing was tuned: each optimizer was run on 2 fresh seeds"
        in method(results(runs, space={}, one_round=True))[0]
    )
    assert "geometric means over rounds" in method(results(runs, scale="log", maximize=False))[1]
    assert "Nothing was tuned: in each of 2 rounds" in method(results(runs, space={}))[0]
    assert "a seed the same for all" in method(results(runs))[0]
    assert (
        "a seed of its own, since copies are compared" in method(results(runs, changes={"request": {"copies": 2}}))[0]
    )


def test_one_optimizer_alone_has_no_pair_to_speak_of() -> None:
    assert "pair" not in " ".join(method(results({"sgd": finals("sgd", 80.0, 81.0)})))


def test_the_layout_of_the_batch_is_told_where_it_is_not_one_backward_pass_in_one_process(tmp_path: Path) -> None:
    contents = pair()
    markdown, document = written(contents, tmp_path)
    assert "global batch" not in markdown
    assert "ranks" not in markdown
    assert document["global_batch"] == [{"batch_size": 16, "per_rank": 16, "ranks": 1, "accumulation_steps": 1}]

    alone, shared = contents.environments[0], {**contents.environments[0], "ranks": 2}
    accumulated = {**contents.configuration, "micro_batch": 5}
    sessions = replace(contents, configuration=accumulated, environments=[shared, alone, {**shared, "torch": "3"}])
    markdown, document = written(sessions, tmp_path)
    notes = [line for line in markdown.splitlines() if "global batch" in line]
    assert notes == [
        "* Note: global batch 16: at most 5 per rank x 2 ranks x 2 accumulation steps.",
        "* Note: global batch 16: at most 5 per rank x 1 rank x 4 accumulation steps.",
    ]
    assert "|  | session 1 | session 2 | session 3 |" in markdown
    assert "| torch | 2.6 | 2.6 | 3 |\n" in markdown
    assert "| ranks | 2 | 1 | 2 |\n" in markdown
    assert [entry["ranks"] for entry in document["global_batch"]] == [2, 1, 2]


def test_names_cannot_break_the_table(tmp_path: Path) -> None:
    name = "my|mod:`f`*<b>\n$x"
    markdown, document = written(results({name: finals(name, 80.0, 81.0)}), tmp_path, **{name: "f()"})
    assert {len(row) for row in table_rows(markdown)} == {8}
    assert "my\\|mod:\\`f\\`\\*\\<b\\> $x" in markdown
    assert document["table"][0]["optimizer"] == name
    assert "```python\noptimizer = f()  # my|mod:'f'*<b> $x\n```" in markdown


def test_json_is_strict_where_runs_diverged(tmp_path: Path) -> None:
    broken = replace(diverged("sgd"), curve=[Evaluation(1, 0.1, NAN, INF)])
    _, document = written(results({"sgd": [broken, run("sgd", 90.0)]}, {"sgd": [broken, run("sgd", 90.0)]}), tmp_path)
    first = document["rounds"][0]["runs"][0]
    assert first["curve"][0]["validation"] is None
    assert first["diverged"] is True
    assert document["outcomes"]["sgd"]["test"] == {"1": None, "2": 88.0}


def test_a_comparison_in_which_everything_diverged_is_still_reported(tmp_path: Path) -> None:
    markdown, document = written(
        results({"sgd": [], "alto": []}, {name: trials(name, None) for name in ("sgd", "alto")}), tmp_path
    )
    assert document["verdicts"] == []
    assert table_rows(markdown)[2][1:] == ["-", "-", "0 of 1", "∞", "∞", "1 of 1", "1 of 1"]
    assert document["table"][0]["test"] is None


@pytest.mark.parametrize("metric", ["loss $x$", "accuracy %", "a_b^c"])
def test_the_picture_takes_any_metric_and_leaves_pyplot_alone(
    tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # which other tests' libraries import
    learning_curves.draw(read(results({"$sgd": finals("$sgd", 80.0, 81.0)}, metric=metric)), tmp_path / "curves.png")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize(("scale", "expected"), [("linear", "linear"), ("log", "log")])
def test_the_pictures_axis_is_of_the_tasks_scale(
    tmp_path: Path, scale: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    contents = results({"sgd": finals("sgd", 80.0, None, 81.0)}, scale=scale, maximize=False)
    learning_curves.draw(read(contents), tmp_path / "curves.png")
    (axes,) = figures[0].axes
    assert axes.get_yscale() == expected
    assert axes.get_title() == "fake at batch 16: mean and range of 2 runs"
    assert [line.get_label() for line in axes.lines] == ["sgd (1 of 3 lost)", "target"]


@pytest.mark.parametrize("changed", [False, True])
def test_an_attribution_of_the_same_results_stays_when_the_report_is_written_anew(
    changed: bool, tmp_path: Path
) -> None:
    _, document = written(pair(), tmp_path)
    assert "attribution" not in document
    tests = {name: dict(outcome["test"]) for name, outcome in document["outcomes"].items()}
    tests["sgd"]["2"] += changed
    attribution = {"start": None, "switches": [], "sentence": "From sgd to alto", "recipes": [
        {"name": name, "test": test} for name, test in tests.items()
    ]}  # fmt: skip
    (tmp_path / "attribution.json").write_text(json.dumps(attribution))
    _, document = written(pair(), tmp_path)
    assert document.get("attribution") == (None if changed else attribution)


@pytest.mark.parametrize("content", ['{"minima": [', "[]", '{"minima": 3}', "\x00", "[" * 100_000])
@pytest.mark.parametrize("name", ["attribution.json", "landscape.json"])
def test_a_damaged_addition_is_left_out_with_a_warning(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.warns(UserWarning, match=f"{name} is damaged and left out of the report"):
        markdown, document = written(pair(), tmp_path)
    assert "attribution" not in document
    assert "landscape between" not in markdown
