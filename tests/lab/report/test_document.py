from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab_fakes import record
from valleys.lab.optimizers.spec import Range
from valleys.lab.record import Evaluation, Record
from valleys.lab.report import document as report
from valleys.lab.report import learning_curves
from valleys.lab.report.summary import cells, summarize
from valleys.lab.store.job import Key, Results

SPACE = {"lr": Range(1e-4, 1.0)}
NAN, INF = math.nan, math.inf


def results(final: Mapping[str, list[Record]], tuning: Mapping[str, list[Record]] | None = None) -> Results:
    trials = tuning or {name: [record(optimizer=name)] for name in final}
    return Results(
        configuration={
            "task": "fake",
            "metric": "accuracy %",
            "maximize": True,
            "target": 90.0,
            "schedule": "cosine",
            "data": [32, 8, 8],
            "batch_size": 16,
            "micro_batch": 16,
            "epochs": 2,
            "device": "cpu",
            "trials": 1,
            "seeds": 3,
        },
        environments=[{"python": "3", "torch": "2", "ranks": 1}],
        spaces=dict.fromkeys(final, SPACE),
        tuning={name: {Key(i, 0): entry for i, entry in enumerate(runs)} for name, runs in trials.items()},
        final={name: {Key(0, entry.seed): entry for entry in runs} for name, runs in final.items()},
    )


def finals(name: str, *tests: float, **changes: Any) -> list[Record]:
    return [
        record(optimizer=name, seed=1000 + i, test=value, validation=value + 1, **changes)
        for i, value in enumerate(tests)
    ]


def written(found: Results, folder: Path) -> tuple[str, dict[str, Any]]:
    paths = report.write(found, summarize(found), folder, "valleys compare fake")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document: dict[str, Any] = json.loads(paths["json"].read_text(), parse_constant=refuse)
    assert paths["curves"].read_bytes().startswith(b"\x89PNG")
    return paths["markdown"].read_text(), document


def table_rows(markdown: str) -> list[list[str]]:
    """Cells of the first table, split where Markdown splits them."""
    lines = [line for line in markdown.split("\n\n")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")] for line in lines]


def test_a_missed_target_counts_as_infinite() -> None:
    def row(steps: list[int | None]) -> Any:
        runs = [
            record(seed=i, steps_to_target=step, seconds_to_target=None if step is None else step / 10, test=1.0)
            for i, step in enumerate(steps)
        ]
        return summarize(results({"sgd": runs})).rows[0]

    assert (row([10, 30, None]).steps, row([10, 30, None]).seconds, row([10, 30, None]).reached) == (
        30,
        3.0,
        2,
    )
    assert row([10, None, None]).steps is None
    assert row([10, None]).steps is None
    assert row([10, 20]).steps == 15


def test_a_diverged_run_is_counted_and_kept_out_of_the_means() -> None:
    broken = record(seed=1009, diverged=True, validation=None, test=None, steps_to_target=None)
    row = summarize(results({"sgd": [*finals("sgd", 80.0, 82.0), broken]})).rows[0]
    assert row.diverged_runs == 1
    assert row.runs == 3
    assert row.test is not None
    assert row.test[0] == 81.0
    text = cells(row, "accuracy %")
    assert text["diverged: tuning, final"] == "0/1, 1/3"
    assert text["target reached"] == "2/3"


def test_cells_show_the_units_they_name() -> None:
    text = cells(summarize(results({"sgd": finals("sgd", 80.0, 82.0)})).rows[0], "accuracy %")
    assert text["step ms"] == "100.00"
    assert text["optimizer ms"] == "10.00"
    assert text["state"] == "2.00x, 0.00 MB"
    assert text["hyperparameters"] == "lr=0.1"
    assert text["test accuracy %"] == "81 ± 13"


def test_rows_come_best_first_and_the_markdown_says_who_won(tmp_path: Path) -> None:
    found = results({"sgd": finals("sgd", 80.0, 81.0, 82.0), "alto": finals("alto", 90.0, 91.0, 92.1)})
    markdown, document = written(found, tmp_path)
    assert [row[0] for row in table_rows(markdown)[2:]] == ["alto", "sgd"]
    assert "alto beats sgd (second) by 10.03 ± 0.14 test accuracy %" in markdown
    assert document["verdict"]["leader"] == "alto"
    assert document["final"]["alto"][2]["test"] == 92.1
    assert document["spaces"]["sgd"]["lr"] == {"low": 1e-4, "high": 1.0, "log": True}
    for part in (
        "valleys compare fake",
        "curves.png",
        "| batch size | 16 |",
        "| sgd | lr | 0.0001 | 1 | log | 0.1 |",
    ):
        assert part in markdown


def test_the_layout_of_the_batch_is_told_where_it_is_not_one_backward_pass_in_one_process(tmp_path: Path) -> None:
    found = results({"sgd": finals("sgd", 80.0, 81.0)})
    markdown, document = written(found, tmp_path)
    assert "global batch" not in markdown
    assert "ranks" not in markdown
    assert document["global_batch"] == [{"batch_size": 16, "per_rank": 16, "ranks": 1, "accumulation_steps": 1}]

    alone, shared = found.environments[0], {**found.environments[0], "ranks": 2}
    accumulated = {**found.configuration, "micro_batch": 5}
    sittings = replace(found, configuration=accumulated, environments=[shared, alone, {**shared, "torch": "3"}])
    markdown, document = written(sittings, tmp_path)
    notes = [line for line in markdown.splitlines() if "global batch" in line]
    assert notes == [
        "* Note: global batch 16: at most 5 per rank x 2 ranks x 2 accumulation steps.",
        "* Note: global batch 16: at most 5 per rank x 1 rank x 4 accumulation steps.",
    ]
    assert "|  | python | torch | ranks |" in markdown
    assert "| sitting 3 | 3 | 3 | 2 |" in markdown
    assert [entry["ranks"] for entry in document["global_batch"]] == [2, 1, 2]


def test_names_cannot_break_the_table(tmp_path: Path) -> None:
    name = "my|mod:`f`*<b>\n$x"
    markdown, document = written(results({name: finals(name, 80.0, 81.0)}), tmp_path)
    assert {len(row) for row in table_rows(markdown)} == {11}
    assert "my\\|mod:\\`f\\`\\*\\<b\\> $x" in markdown
    assert document["table"][0]["optimizer"] == name


def test_json_is_strict_where_runs_diverged(tmp_path: Path) -> None:
    broken = record(diverged=True, validation=None, curve=[Evaluation(1, 0.1, NAN, INF)], test=None)
    found = results({"sgd": [broken]}, {"sgd": [broken, record()]})
    _, document = written(found, tmp_path)
    assert document["trials"]["sgd"][0]["curve"][0]["validation"] is None
    assert document["trials"]["sgd"][0]["diverged"] is True


def test_a_comparison_in_which_everything_diverged_is_still_reported(tmp_path: Path) -> None:
    broken = record(diverged=True, validation=None, curve=[], test=None)
    markdown, document = written(results({"sgd": []}, {"sgd": [broken]}), tmp_path)
    assert "all trials diverged" in markdown
    assert "no optimizer finished a run" in markdown
    assert document["table"][0]["test"] is None


def test_the_band_covers_the_steps_that_all_runs_evaluated() -> None:
    runs = [
        record(curve=[Evaluation(1, 0, 0, 10.0), Evaluation(2, 0, 0, 20.0), Evaluation(3, 0, 0, NAN)]),
        record(curve=[Evaluation(1, 0, 0, 30.0), Evaluation(2, 0, 0, 25.0), Evaluation(3, 0, 0, 1.0)]),
        record(curve=[Evaluation(1, 0, 0, 20.0), Evaluation(2, 0, 0, 30.0)]),
    ]
    assert learning_curves.band(runs) == ([1, 2], [20.0, 25.0], [10.0, 20.0], [30.0, 30.0])
    assert learning_curves.band([]) == ([], [], [], [])


@pytest.mark.parametrize("metric", ["loss $x$", "accuracy %", "a_b^c"])
def test_the_picture_takes_any_metric_and_leaves_pyplot_alone(
    tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # which other tests' libraries import
    found = results({"$sgd": finals("$sgd", 80.0, 81.0)})
    configuration = {**found.configuration, "metric": metric}
    learning_curves.draw(configuration, summarize(found).records, ["$sgd"], tmp_path / "curves.png")
    assert "matplotlib.pyplot" not in sys.modules
