"""``schema.json`` describes every field of the reports that the lab writes; what is none of them is refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import lab_fakes
from lab import comparisons
from lab.problem.test_loop import loop
from valleys.cli import main
from valleys.lab import LabError, compare
from valleys.lab.landscape import landscape
from valleys.lab.optimizers.spec import Range
from valleys.lab.report.schema import VERSION, load, schema

ROOT = Path(__file__).parents[3]
COMMITTED = sorted((ROOT / "benchmarks" / "results" / "comparisons").glob("*/report.json"))
OLD = ROOT / "benchmarks" / "results" / "fashion-mnist-8192" / "report.json"

SCHEMA = schema()

Report = dict[str, Any]


def mistakes(report: Any) -> list[str]:
    """Return the places where a document is not as the schema says."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(report)]


def fake(out: Path, **changes: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        comparisons.watched(patch)
        return comparisons.run(out, **changes).paths["json"]


def measured(out: Path) -> Path:
    """A comparison with real training, measured afterwards."""
    task = lab_fakes.points()
    compare(task, optimizers=["lamb", "alto"], batch_size=8, rounds=2, trials=2, epochs=1, progress=False, out=out)
    return landscape(out, task=task, progress=False).paths["json"]


MADE: dict[str, Callable[[Path], Path]] = {
    "tuned": fake,
    "of one round": lambda out: fake(out, rounds=1, seeds=3),
    "of five rounds": lambda out: fake(out, rounds=5, seeds=1),
    "not tuned": lambda out: fake(out, optimizers=[lab_fakes.spec("sgd", lr=Range(1e-2, 1e-2))], rounds=1),
    "of one run": lambda out: fake(out, optimizers=[lab_fakes.spec("sgd")], rounds=1, trials=1, seeds=1),
    "diverged in every trial": lambda out: fake(
        out, optimizers=[lab_fakes.spec("wild", 1e-9), lab_fakes.spec("sgd")], pairs=("wild:sgd",), trials=4
    ),
    "of copies": lambda out: fake(out, optimizers=[lab_fakes.spec("sgd")], copies=3, rounds=3),
    "minimized": lambda out: fake(out, task=lab_fakes.task(maximize=False), rounds=3),
    "of a loop": lambda out: compare(
        loop(), optimizers=["sgd"], batch_size=1, rounds=1, trials=1, progress=False, out=out
    ).paths["json"],
    "with flatness": measured,
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("reports")
    documents = {name: make(folder / re.sub(r"\W", "-", name)) for name, make in MADE.items()}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in documents.items()}


@pytest.mark.parametrize("name", MADE)
def test_reports_are_as_the_schema_says(name: str, reports: dict[str, Report]) -> None:
    assert mistakes(reports[name]) == []


def test_the_reports_are_of_many_kinds(reports: dict[str, Report]) -> None:
    runs = [run for report in reports.values() for entry in report["rounds"] for run in entry["runs"]]
    assert {run["diverged"] for run in runs} == {run["selected"] for run in runs} == {True, False}
    assert {report["configuration"]["scale"] for report in reports.values()} == {"linear", "log"}
    assert any(not report["budget"] for report in reports.values())
    assert reports["with flatness"]["flatness"]["contrasts"]
    assert None in reports["diverged in every trial"]["table"][1]["hyperparameters"]
    assert any(verdict["effect"] for report in reports.values() for verdict in report["verdicts"])


@pytest.mark.skipif(not COMMITTED, reason="the repository's results are not here")
def test_committed_reports_are_as_the_schema_says_and_are_read(tmp_path: Path) -> None:
    for path in COMMITTED:
        document = load(path)
        assert mistakes(document) == []
        assert load(path.parent) == document


# --- the schema itself ----------------------------------------------------------------------------------------------


def subschemas(entry: Any, place: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas with properties of their own inside a schema."""
    if isinstance(entry, dict):
        if isinstance(entry.get("properties"), dict):
            yield place, entry
        for name, value in entry.items():
            yield from subschemas(value, f"{place}.{name}")
    elif isinstance(entry, list):
        for number, value in enumerate(entry):
            yield from subschemas(value, f"{place}[{number}]")


def test_the_schema_is_one_and_its_version_stands_everywhere() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"] == f"urn:valleys:report:{VERSION}"
    assert SCHEMA["properties"]["schema"]["const"] == VERSION
    assert f"version of the format: {VERSION} |" in (ROOT / "docs" / "lab-data.md").read_text()


def test_every_field_is_described_and_no_other_is_allowed() -> None:
    places = dict(subschemas(SCHEMA))
    assert len(places) > 15
    for place, entry in places.items():
        assert entry["additionalProperties"] is False, place
        assert set(entry["required"]) <= entry["properties"].keys(), place
        for name, field in entry["properties"].items():
            text = field.get("description", "")
            assert text.endswith("."), f"{place}.{name} has no description"
            types = field.get("type", [])
            may_be_null = "null" in types or {"type": "null"} in field.get("anyOf", [])
            # A reader of the schema learns what null means, unless the top of the schema has said it.
            assert not may_be_null or "null" in text or "number" in types, f"{place}.{name}: when is it null?"


def test_the_documentation_has_the_top_level_fields() -> None:
    page = (ROOT / "docs" / "lab-data.md").read_text().split("## report.json")[1].split("##")[0]
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(SCHEMA["properties"])


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of the objects in a document; of equal items of a list, the first stands for all."""
    if isinstance(value, dict):
        yield path
        for name, entry in value.items():
            yield from objects(entry, (*path, name))
    elif isinstance(value, list) and value:
        yield from objects(value[0], (*path, 0))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


NAMED = re.compile(
    r"spaces(\.\w+)?|outcomes(\.\w+\.\w+)?|budget|lines|flatness\.(measures|runs)|.*\.(means|hyperparameters(\.0)?)"
)
"""Objects whose keys are names of optimizers, units, measures or hyperparameters, of which there may be others."""


def place(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def test_a_field_more_or_less_is_refused_wherever_it_is(reports: dict[str, Report]) -> None:
    report = reports["with flatness"]
    fields = [path for path in objects(report) if not NAMED.fullmatch(place(path))]
    assert len(fields) > 20
    for path in fields:
        more = copy.deepcopy(report)
        at(more, path)["new_field"] = 1
        assert mistakes(more), path
        optional = {"trace", "drift"} & at(report, path).keys()  # of a run's flatness: what was asked for
        for name in () if optional else at(report, path):
            less = copy.deepcopy(report)
            del at(less, path)[name]
            assert mistakes(less), (*path, name)


def test_a_value_of_another_type_is_refused_wherever_it_is(reports: dict[str, Report]) -> None:
    report = reports["with flatness"]
    count = 0
    for path in objects(report):
        for name, value in at(report, path).items():
            changed = copy.deepcopy(report)
            at(changed, path)[name] = 7 if isinstance(value, (str, dict, list)) or value is None else "seven"
            if value is None and not mistakes(changed):
                continue  # a number that was missing
            count += 1
            assert mistakes(changed), (*path, name)
    assert count > 150


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("configuration", "scale"), "cubic"),
        (("configuration", "rounds"), 1.5),
        (("configuration", "target"), None),
        (("table", 0, "test", "confidence"), 95),
        (("verdicts", 0, "lost"), [0]),
        (("rounds", 0, "runs", 0, "phase"), "validation"),
        (("rounds", 0, "runs", 0, "trial"), 0),
        (("rounds", 0, "runs", 0, "step_seconds"), -1.0),
        (("rounds", 0, "runs", 0, "hyperparameters", "lr"), "0.1"),
        (("outcomes", "lamb", "test", "round 1"), 1.0),
    ],
)
def test_a_value_out_of_range_is_refused(path: tuple[Any, ...], value: Any, reports: dict[str, Report]) -> None:
    changed = copy.deepcopy(reports["with flatness"])
    at(changed, path[:-1])[path[-1]] = value
    assert mistakes(changed)


# --- the reader -----------------------------------------------------------------------------------------------------


def cut(report: Report) -> str:
    text = json.dumps(report)
    return text[: len(text) // 2]


DAMAGED: dict[str, tuple[Callable[[Report], str], str]] = {
    "cut short": (cut, r"is no report, or half of one: .*; repeat its `valleys compare`"),
    "empty": (lambda report: "", "is no report, or half of one"),
    "no object": (lambda report: "[1]", "is no report of a comparison; name folders of finished comparisons"),
    "something else": (lambda report: '{"name": "x"}', "is no report of a comparison"),
    "of a later version": (lambda report: json.dumps({**report, "schema": 2}), r'has "schema": 2, and 1 is read here'),
    "of an earlier version": (
        lambda report: json.dumps({name: value for name, value in report.items() if name != "schema"}),
        r'has "schema": null, and 1 is read here; repeat its `valleys compare`, which writes the report anew',
    ),
    "without two fields": (
        lambda report: json.dumps({name: value for name, value in report.items() if name not in ("table", "notes")}),
        "is half a report: it lacks table, notes; repeat",
    ),
    "without a run": (
        lambda report: json.dumps({**report, "rounds": [{**entry, "runs": []} for entry in report["rounds"]]}),
        "has no finished run; let its `valleys compare` finish",
    ),
    "without a round": (lambda report: json.dumps({**report, "rounds": []}), "has no finished run"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_report_is_refused_in_one_line_with_exit_code_2(
    name: str,
    reports: dict[str, Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damage, message = DAMAGED[name]
    for folder in ("sound", "damaged"):
        (tmp_path / folder).mkdir()
        text = damage(reports["tuned"]) if folder == "damaged" else json.dumps(reports["tuned"])
        (tmp_path / folder / "report.json").write_text(text, encoding="utf-8")
    page = tmp_path / "page.html"
    words = ["valleys", "report", str(tmp_path / "sound"), str(tmp_path / "damaged"), "--out", str(page)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capfd.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1)
    assert re.search(rf"^valleys: \S*damaged/report\.json {message}", err)
    assert not page.exists()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(LabError, match="is no report, or half of one"):
        load(tmp_path)


@pytest.mark.skipif(not OLD.exists(), reason="the repository's results are not here")
def test_a_report_of_the_former_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match='"schema": null'):
        load(OLD)


def test_a_report_in_which_every_run_diverged_is_read(reports: dict[str, Report], tmp_path: Path) -> None:
    path = fake(tmp_path / "out", optimizers=[lab_fakes.spec("wild", 1e-9)], rounds=1, trials=1)
    assert all(run["diverged"] for entry in load(path)["rounds"] for run in entry["runs"])
