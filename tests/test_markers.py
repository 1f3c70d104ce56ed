"""The names by which tests are marked are names of tests, and ``make quick`` runs what is not marked."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from conftest import MARKS

ROOT = Path(__file__).parents[1]


@functools.cache
def texts() -> dict[str, str]:
    """Text of every Python file, by its path; of every folder, an empty one."""
    places = [place for folder in ("tests", "src") for place in (ROOT / folder).rglob("*")]
    return {
        place.as_posix(): place.read_text(encoding="utf-8") if place.suffix == ".py" else ""
        for place in places
        if place.suffix == ".py" or place.is_dir()
    }


@pytest.mark.parametrize("name", [name for mark, names in MARKS.items() if mark != "database" for name in names])
def test_a_name_is_that_of_a_test(name: str) -> None:
    path, _, function = name.partition("::")
    places = [place for place in texts() if path in place]
    assert places or (ROOT / path).is_dir()
    assert not function or any(f"def {function}" in texts()[place] for place in places)


def test_no_name_is_listed_twice() -> None:
    names = MARKS["slow"]
    assert [name for name in names if any(name != other and name.startswith(other) for other in names)] == []


def test_quick_leaves_out_all_marks_and_ignores_only_what_is_marked() -> None:
    (recipe,) = re.findall(r"^quick: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    (expression,) = re.findall(r"-m 'not \((.*)\)'", recipe)
    assert set(expression.split(" or ")) == {*MARKS, "gpu"}
    (folders,) = re.findall(r"addprefix --ignore=tests/,(.*)\)", recipe)
    marked = [name for names in MARKS.values() for name in names]
    assert all(f"tests/{folder}/" in marked for folder in folders.split())
