"""The evidence: its runs hold to the plan, and its page says what the committed numbers say."""

from __future__ import annotations

import importlib
import json
import lzma
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lab_fakes import points
from valleys.lab import compare

ROOT = Path(__file__).parents[1]
PLAN_OF_TWO = {"rounds": 3, "confirmation": 3, "level": 0.05}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_problems_are_those_of_the_plan(load: Any) -> None:
    plan, problems = load("evidence.run").PLAN, load("evidence.problems").PROBLEMS
    assert {name: {"batch_size": p.batch_size, "updates": p.updates} for name, p in problems.items()} == plan[
        "problems"
    ]
    for comparison in plan["comparisons"].values():
        pairs = [pair.split(":") for pair in comparison["pairs"]]
        assert all(name in comparison["optimizers"] for pair in pairs for name in pair)


def test_the_committed_runs_hold_to_the_plan(load: Any) -> None:
    plan, results = load("evidence.run").PLAN, load("evidence.report").RESULTS
    names = [f"{problem}-{kind}" for kind in plan["comparisons"] for problem in plan["problems"]]
    for path in results.glob("*/numbers.json"):
        assert path.parent.name in names
        problem, _, kind = path.parent.name.rpartition("-")
        document = json.loads(path.read_text())
        comparison, configuration = plan["comparisons"][kind], document["configuration"]
        assert sorted(document["test"]) == sorted(comparison["optimizers"])
        assert configuration["trials"] == comparison["trials"]
        assert configuration["batch_size"] == plan["problems"][problem]["batch_size"]
        assert configuration["seeds"] == plan["seeds"]
        assert configuration["rounds"] in (plan["rounds"], plan["rounds"] + plan["confirmation"])
        per_round = len(comparison["optimizers"]) * (comparison["trials"] + plan["seeds"])
        assert document["runs"] == configuration["rounds"] * per_round
    if any(results.glob("*/numbers.json")):
        assert (results / "README.md").read_text() == load("evidence.report").overview(plan)


def numbers_of(test: dict[str, list[float | None]]) -> dict[str, Any]:
    about = {"metric": "accuracy %", "maximize": True, "scale": "linear", "resolution": 0.01}
    return {"configuration": about, "test": test}


def test_fresh_rounds_alone_confirm(load: Any) -> None:
    report = load("evidence.report")
    better: list[float | None] = [91.0, 92.1, 93.0]
    same: list[float | None] = [90.0, 91.0, 92.0]
    wins = numbers_of({"alto": better + better, "lamb": same + same})
    (verdict,) = report.planned(wins, ["alto:lamb"], PLAN_OF_TWO)
    assert verdict.better == "alto"
    assert verdict.units == 3
    fresh = report.confirmations(wins, ["alto:lamb"], PLAN_OF_TWO)["alto:lamb"]
    assert (fresh.better, fresh.units) == ("alto", 3)
    luck = numbers_of({"alto": [*better, 90.1, 90.8, 92.1], "lamb": same + same})
    assert report.planned(luck, ["alto:lamb"], PLAN_OF_TWO)[0].better == "alto"
    assert report.confirmations(luck, ["alto:lamb"], PLAN_OF_TWO)["alto:lamb"].better is None
    none = numbers_of({"alto": [90.1, 90.8, 92.1, *better], "lamb": same + same})
    assert report.confirmations(none, ["alto:lamb"], PLAN_OF_TWO) == {}
    early = numbers_of({"alto": better, "lamb": same})
    assert report.confirmations(early, ["alto:lamb"], PLAN_OF_TWO) == {}


def test_the_summary_counts_e_s_pairs(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = load("evidence.report")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    pairs = ["alto:lamb", "eadamw:adamw", "nadam:adamw"]
    plan = {**PLAN_OF_TWO, "problems": {"one": {}, "two": {}}, "comparisons": {"rule": {"pairs": pairs}}}
    base: list[float | None] = [80.0, 81.0, 82.0]
    higher: list[float | None] = [90.0, 91.1, 92.0]
    near: list[float | None] = [80.5, 80.8, 82.4]
    tests = {
        "one": {"lamb": base, "alto": higher, "adamw": higher, "eadamw": base, "nadam": base},
        "two": {"lamb": base, "alto": near, "adamw": base, "eadamw": base, "nadam": higher},
    }
    for name, test in tests.items():
        (tmp_path / f"{name}-rule").mkdir()
        (tmp_path / f"{name}-rule" / "numbers.json").write_text(json.dumps(numbers_of(test)))
    numbers = numbers_of(tests["two"])
    sizes = [v.detectable for v in report.planned(numbers, pairs, plan) if v.first != "nadam"]
    assert report.summary("rule", plan) == (
        "On 2 of 2 problems E was significantly better than its base in 1 of 4 pairs and worse in 1; in the others "
        f"differences above {min(sizes):.2g} to {max(sizes):.2g} points of test accuracy, depending on the pair, would "
        "have been detected"
    )


def test_the_summary_says_what_fresh_rounds_confirm(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = load("evidence.report")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    plan = {**PLAN_OF_TWO, "problems": {"one": {}, "two": {}}, "comparisons": {"tuned": {"pairs": ["alto:lamb"]}}}
    base: list[float | None] = [80.0, 81.0, 82.0]
    higher: list[float | None] = [90.0, 91.1, 92.0]
    near: list[float | None] = [80.5, 80.8, 82.4]
    for name, fresh in (("one", higher), ("two", near)):
        (tmp_path / f"{name}-tuned").mkdir()
        test = {"lamb": base + base, "alto": higher + fresh}
        (tmp_path / f"{name}-tuned" / "numbers.json").write_text(json.dumps(numbers_of(test)))
    assert report.summary("tuned", plan) == (
        "On 2 of 2 problems E was significantly better than its base in 2 of 2 pairs, of which fresh rounds confirm 1, "
        "and worse in 0"
    )


@pytest.mark.parametrize("maximize", [True, False])
def test_each_pair_is_drawn_on_the_side_of_the_better(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, maximize: bool
) -> None:
    """Right is better: a larger difference of accuracies, a smaller ratio of losses on a reversed axis."""
    report = load("evidence.report")
    plan = {**PLAN_OF_TWO, "problems": {"one": {}, "two": {}}, "comparisons": {"rule": {"pairs": ["alto:lamb"]}}}
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    better, worse = ([91.0, 92.1, 93.0], [90.0, 91.0, 92.0])[:: 1 if maximize else -1]
    numbers = numbers_of({"alto": [*better], "lamb": [*worse]})
    numbers["configuration"] |= {"maximize": maximize, "scale": "linear" if maximize else "log"}
    (tmp_path / "one-rule").mkdir()
    (tmp_path / "one-rule" / "numbers.json").write_text(json.dumps(numbers))
    figures: list[Any] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: figures.append(figure))
    report.draw(plan, tmp_path / "pairs.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one: alto against lamb"]
    interval, point, none = (axes.transData.transform((line.get_xdata()[0], 0))[0] for line in axes.lines)
    assert none < interval < point if maximize else none < point < interval
    (tmp_path / "one-rule" / "numbers.json").unlink()
    report.draw(plan, tmp_path / "pairs.png")
    assert len(figures) == 1, "there is nothing to draw"


def test_kept_runs_go_on_to_the_same_report(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, report = load("evidence.run"), load("evidence.report")
    settings: dict[str, Any] = {"batch_size": 8, "epochs": 2, "trials": 2, "rounds": 2, "device": "cpu"}
    first = compare(points(), optimizers=("lamb", "alto"), out=tmp_path / "runs" / "points-rule", **settings)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    run.keep(tmp_path / "runs" / "points-rule", {str(tmp_path): "FOLDER"})
    folder = tmp_path / "results" / "points-rule"
    database = lzma.decompress((folder / "comparison.db.xz").read_bytes())
    assert str(tmp_path).encode() not in database + (folder / "report.md").read_bytes()
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["runs"] == 12
    for name, outcome in first.outcomes.items():
        assert numbers["test"][name] == pytest.approx(list(outcome.test.values()))

    run.restore(folder / "comparison.db.xz", tmp_path / "again")
    with closing(sqlite3.connect(tmp_path / "again" / "comparison.db")) as connection:
        attributes = connection.execute("SELECT key, value_json FROM trial_user_attributes").fetchall()
    assert not [key for key, _ in attributes if key == "worker"]
    assert [len(json.loads(value)["curve"]) for key, value in attributes if key == "record"] == [1] * 12
    lines: list[str] = []
    again = compare(points(), optimizers=("lamb", "alto"), out=tmp_path / "again", announce=lines.append, **settings)
    assert lines == [], "all runs were there"
    assert [verdict.sentence for verdict in again.verdicts] == [verdict.sentence for verdict in first.verdicts]
    assert again.selected == first.selected


@pytest.mark.parametrize("page", ["README.md", "docs/faq.md", "docs/when-e-matters.md"])
def test_pages_quote_the_summary(load: Any, page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    for kind in load("evidence.run").PLAN["comparisons"]:
        assert f'"{load("evidence.report").summary(kind, load("evidence.run").PLAN)}."' in text
