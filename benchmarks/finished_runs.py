"""Finished runs of a comparison, as they are committed: small, without what they say of the machine that made them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["PICTURE", "copy_runs", "finished", "hide", "is_tuning", "keep", "records", "restore"]

PICTURE = "![validation metric against steps](curves.png)\n\n"


def restore(results: Path, out: Path) -> None:
    """Copy the committed databases to where the runs go on, unless there are some."""
    for database in results.rglob("comparison.db"):
        target = out / database.relative_to(results)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(database, target)


def keep(out: Path, results: Path, hidden: Mapping[str, str], without: Iterable[str] = ()) -> None:
    """Keep the finished runs, and the reports as text: pictures and pages are made again from the numbers.

    Args:
        out: folder of the runs.
        results: where they are committed.
        hidden: folders of this machine, and what stands for them in the commands.
        without: names of files that are left out.
    """
    for path in sorted(out.rglob("*")):
        target = results / path.relative_to(out)
        if path.name in without or not path.is_file():
            continue
        if path.name == "comparison.db":
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_runs(path, target, hidden)
        elif path.suffix in (".md", ".json") or path.name == "waterfall.png":
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".png":
                shutil.copyfile(path, target)
                continue
            text = path.read_text(encoding="utf-8").replace(PICTURE, "")
            if path.suffix == ".json":
                text = json.dumps(json.loads(text), separators=(",", ":")) + "\n"
            target.write_text(hide(text, hidden), encoding="utf-8")


def hide(text: str, hidden: Mapping[str, str]) -> str:
    """Replace folders of this machine by what stands for them."""
    for place, word in hidden.items():
        text = text.replace(place, word)
    return text


def copy_runs(database: Path, target: Path, hidden: Mapping[str, str], *, curves: bool = True) -> None:
    """Copy a database, in which others may be writing, without what it says of this machine.

    Args:
        database: the comparison's.
        target: the copy.
        hidden: folders of this machine, and what stands for them.
        curves: whether to keep the curves; else the last point of each, and nothing of a run that is under way.
    """
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        for place, word in hidden.items():
            copy.execute("UPDATE study_user_attributes SET value_json = replace(value_json, ?, ?)", (place, word))
        copy.execute("DELETE FROM trial_user_attributes WHERE key = 'worker'")
        if not curves:
            last = "json_array(json_extract(value_json, '$.curve[#-1]'))"
            copy.execute(
                f"UPDATE trial_user_attributes SET value_json = json_set(value_json, '$.curve', json({last})) "
                "WHERE key = 'record' AND json_array_length(value_json, '$.curve') > 1"
            )
        copy.commit()
        copy.execute("VACUUM")


def records(database: Path) -> list[dict[str, Any]]:
    """Return the records of all finished runs, in the order in which the runs began."""
    query = "SELECT value_json FROM trial_user_attributes WHERE key = 'record' ORDER BY trial_id"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [json.loads(text) for (text,) in connection.execute(query)]


def is_tuning(record: Mapping[str, Any]) -> bool:
    """Return True for a tuning trial, which its seed tells from a final run on a fresh seed."""
    return int(record["seed"]) % 10_000 < 5_000


def finished(database: Path) -> dict[str, dict[int, float | None]]:
    """Return the test metric of every finished final run by optimizer and seed; None where it diverged."""
    tests: dict[str, dict[int, float | None]] = {}
    for record in records(database):
        if not is_tuning(record):
            tests.setdefault(record["optimizer"], {})[record["seed"]] = record["test"]
    return tests
