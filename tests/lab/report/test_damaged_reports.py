"""A report in which anything is missing, mistyped or of another kind is refused in one line, or is shown."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.report.test_schema import MADE
from valleys.lab import LabError
from valleys.lab.report.html import merge
from valleys.lab.report.schema import load

Place = tuple[Any, ...]

VALUES: list[Any] = [None, "x", "", 0, -1, 1, 1e99, 1e-300, 0.5, True, [], {}, [1], {"a": 1}, "sgd", 10**15, "log"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    names = ("tuned", "not tuned", "diverged in every trial", "with flatness")
    paths = [MADE[name](tmp_path_factory.mktemp("made") / "out") for name in names]
    return [json.loads(path.read_text()) for path in paths]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*place, key)
        yield from places(entry, (*place, key))


def damage(document: Any, draw: Any) -> None:
    """Replace, drop or repeat one entry; each kind of entry is as likely as any other."""
    kinds: dict[Place, list[Place]] = defaultdict(list)
    for place in places(document):
        kinds[tuple(key if isinstance(key, str) else 0 for key in place)].append(place)
    *path, last = draw(st.sampled_from(draw(st.sampled_from(list(kinds.values())))))
    parent = document
    for key in path:
        parent = parent[key]
    how = draw(st.sampled_from(["same kind", "same kind", "any kind", "drop", "repeat", "add"]))
    if how == "drop":
        del parent[last]
    elif how == "repeat" and isinstance(parent, list):
        parent.append(parent[last])
    elif how == "add" and isinstance(parent, dict):
        parent["more"] = draw(st.sampled_from(VALUES))
    else:
        same = [value for value in VALUES if type(value) is type(parent[last])]
        parent[last] = draw(st.sampled_from(same if same and how == "same kind" else VALUES))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_report_is_shown_or_refused_in_one_line(
    data: st.DataObject, reports: list[dict[str, Any]], tmp_path: Path
) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(range(len(reports))).map(reports.__getitem__)))
    for _ in range(data.draw(st.integers(1, 3))):
        damage(document, data.draw)
    (tmp_path / "report.json").write_text(json.dumps(document))
    try:
        merge([tmp_path], tmp_path / "page.html")
    except LabError as error:
        message = str(error)
    else:
        message = f"{tmp_path / 'report.json'}"
    assert message.startswith(str(tmp_path / "report.json"))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"rounds": 3', '"rounds": NaN', "is no report, or half of one: NaN is no finite number"),
        ('"rounds": 3', '"rounds": 1e999', "1e999 is no finite number of at most 1e"),
        ('"rounds": 3', f'"rounds": {"9" * 400}', "is no finite number"),
        ('"rounds": 3', '"rounds": "3"', "$.configuration.rounds: '3' is not of type 'integer'; repeat its `valleys"),
        ('"command": "', '"command": "\\ud800', "is no report, or half of one"),
        ('"schema": 1', '"schema": 1, "x": ' + "[" * 100_000, "is no report, or half of one"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, named: str, reports: list[dict[str, Any]], tmp_path: Path) -> None:
    text = json.dumps({**reports[0], "configuration": {**reports[0]["configuration"], "rounds": 3}})
    assert old in text
    (tmp_path / "report.json").write_text(text.replace(old, new, 1))
    with pytest.raises(LabError) as caught:
        load(tmp_path)
    assert named in str(caught.value)


@pytest.mark.parametrize("part", ["table", "outcomes", "verdicts", "budget", "rounds", "lines"])
def test_an_optimizer_that_one_part_alone_names_is_refused(
    part: str, reports: list[dict[str, Any]], tmp_path: Path
) -> None:
    name = next(iter(reports[0]["spaces"]))
    text = json.dumps(reports[0][part] or {name: "x"}).replace(f'"{name}"', '"another"')
    (tmp_path / "report.json").write_text(json.dumps({**reports[0], part: json.loads(text)}))
    with pytest.raises(LabError, match=rf"\$\.{part}.*another|\$\.{part}: '{name}' is a required"):
        load(tmp_path)
