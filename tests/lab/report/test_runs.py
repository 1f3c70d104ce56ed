"""``runs.csv``: one row for each run, as ``report.json`` has it; pandas reads it with the right types."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

import lab_fakes
from lab import comparisons
from lab.report.pages import diverged, finals, read, results, run, trials
from valleys.lab import Comparison
from valleys.lab.atomic_write import write_whole
from valleys.lab.optimizers.spec import Range
from valleys.lab.report import document, runs
from valleys.lab.report.summary import summarize

ROOT = Path(__file__).parents[3]

Report = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Report]:
    """Two optimizers with hyperparameters of their own, one of which diverges in some trials."""
    out = tmp_path_factory.mktemp("made")
    momentum = {"lr": Range(1e-4, 1.0), "momentum": Range(0.5, 0.9, "linear")}
    specs = [lab_fakes.spec("sgd", 1e-3), lab_fakes.spec("adamw", 1e-3, **momentum)]
    with pytest.MonkeyPatch.context() as patch:
        comparisons.watched(patch)
        comparison = comparisons.run(out, optimizers=specs, rounds=3, trials=4, seeds=1)
    return comparison, json.loads(comparison.paths["json"].read_text())


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def flat(report: Report) -> list[dict[str, Any]]:
    """The runs of ``report.json`` by the names of the columns."""
    task = {name: report["configuration"][name] for name in ("task", "variant")}
    return [
        {
            **{name: value for name, value in one.items() if name not in ("curve", "hyperparameters")},
            **{f"hyperparameters.{name}": value for name, value in one["hyperparameters"].items()},
            "round": entry["round"],
            **task,
        }
        for entry in report["rounds"]
        for one in entry["runs"]
    ]


def test_every_run_is_a_row_with_all_its_digits(made: tuple[Comparison, Report]) -> None:
    comparison, report = made
    assert comparison.paths["csv"].name == "runs.csv"
    table = rows(comparison.paths["csv"].read_bytes().decode())
    expected = flat(report)
    assert len(table) == len(expected) == 3 * 2 * (4 + 1)
    assert any(one["diverged"] for one in expected)
    for row, one in zip(table, expected, strict=True):
        assert one.keys() - row.keys() == set()
        for name, cell in row.items():
            value = one.get(name)
            assert cell == ("" if value is None else str(value)), name
            assert not isinstance(value, float) or float(cell) == value


def test_the_header_has_the_columns_of_the_documentation_and_one_for_each_hyperparameter(
    made: tuple[Comparison, Report],
) -> None:
    header = made[0].paths["csv"].read_text().splitlines()[0].split(",")
    assert header == [*runs.COLUMNS, "hyperparameters.lr", "hyperparameters.momentum"]
    page = (ROOT / "docs" / "lab-data.md").read_text().split("## report.json")[0]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)] == header[: len(runs.COLUMNS) + 1]


def test_pandas_reads_what_it_makes_of_the_json_itself(made: tuple[Comparison, Report]) -> None:
    comparison, report = made
    read_table = pandas.read_csv(comparison.paths["csv"])
    entries = [{**one, "round": entry["round"]} for entry in report["rounds"] for one in entry["runs"]]
    expected = pandas.json_normalize(entries).drop(columns="curve").astype({"ended": float})  # unknown here
    for name in ("task", "variant"):
        expected[name] = report["configuration"][name] or math.nan
    pandas.testing.assert_frame_equal(read_table, expected[read_table.columns], check_dtype=False)


def test_pandas_reads_the_right_types(made: tuple[Comparison, Report]) -> None:
    path = made[0].paths["csv"]
    types = {name: kind.kind for name, kind in pandas.read_csv(path).dtypes.items()}
    kinds = {
        "b": ("selected", "diverged"),
        "i": ("batch_size", "round", "trial", "seed", "steps", "examples", "state_bytes", "parameter_bytes"),
        "f": ("validation", "test", "steps_to_target", "seconds_to_target", "step_seconds", "optimizer_seconds"),
    }
    assert {name: types[name] for names in kinds.values() for name in names} == {
        name: kind for kind, names in kinds.items() for name in names
    }
    assert types["hyperparameters.lr"] == types["hyperparameters.momentum"] == "f"
    whole = pandas.read_csv(path, dtype={"steps_to_target": "Int64"})["steps_to_target"]
    assert whole.isna().any()
    assert whole.dropna().isin(lab_fakes.STEPS).all()


@pytest.mark.parametrize(
    "name", ['my_module:A, "B"', "two\nlines", "two\r\nlines", "bare\rreturn", "nan", "1e3", "größer"]
)
def test_names_survive(name: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    contents = results({name: finals(name, 80.0, None)}, task=f"task of {name}", variant=name)
    write_whole(path, runs.to_csv(read(contents)))
    for row in rows(path.read_bytes().decode()):
        assert (row["task"], row["variant"], row["optimizer"]) == (f"task of {name}", name, name)
    table = pandas.read_csv(path, dtype={"optimizer": str}, keep_default_na=False, na_values=[""])
    assert set(table["optimizer"]) == {name}
    assert table["test"].isna().sum() == 1


def test_a_hyperparameter_may_have_the_name_of_a_column() -> None:
    values = {"seed": 0.5, "lr": 0.1}
    (trial, final) = rows(runs.to_csv(read(results({"a": [run("a", 1.0, hyperparameters=values)]}))))
    assert (trial["hyperparameters.seed"], final["hyperparameters.seed"]) == ("", "0.5")
    assert final["seed"] == "5000"


def test_a_missing_number_is_an_empty_cell() -> None:
    broken = replace(diverged("a"), validation=math.nan, test=-math.inf)
    for row in rows(runs.to_csv(read(results({"a": [broken]}, {"a": [broken]})))):
        empty = {name for name, cell in row.items() if cell == ""}
        assert empty == {"variant", "validation", "test", "steps_to_target", "seconds_to_target", "ended"}
        assert row["diverged"] == "True"


def test_a_reader_sees_the_old_table_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = results({"a": finals("a", 80.0)})
    path = document.write(contents, summarize(contents), tmp_path, "")["csv"]
    before, original = path.read_bytes(), Path.replace

    def refuse(source: Path, target: Path) -> Path:
        if target == path:
            raise OSError("disk full")
        return original(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    later = results({"a": finals("a", 81.0, 82.0)})
    with pytest.raises(OSError, match="disk full"):
        document.write(later, summarize(later), tmp_path, "")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_the_example_prints_the_mean_test_metric_of_each_optimizer_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = results(
        {"sgd": finals("sgd", 80.0, None, 82.0), "alto": finals("alto", 90.0, 91.0, 92.0), "wild": []},
        {"sgd": trials("sgd", 70.0, 71.0), "alto": trials("alto", None, 70.0), "wild": trials("wild", None, None)},
    )
    paths = document.write(contents, summarize(contents), tmp_path, "")
    monkeypatch.setattr("sys.argv", ["read_runs.py", str(paths["csv"])])
    runpy.run_path(str(ROOT / "examples" / "read_runs.py"), run_name="__main__")
    titles, _, *lines = capsys.readouterr().out.splitlines()
    assert titles.split() == ["round", "1", "2", "3"]
    outcomes = json.loads(paths["json"].read_text())["outcomes"]
    assert len(outcomes) == 3
    printed = {
        name: [None if cell == "NaN" else float(cell) for cell in cells] for name, *cells in map(str.split, lines)
    }
    assert printed == {name: list(outcome["test"].values()) for name, outcome in outcomes.items()}
