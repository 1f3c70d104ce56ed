"""Schema of ``report.json``: its version, its text, and a reader that refuses what is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from valleys.lab.errors import LabError

__all__ = ["VERSION", "load", "schema"]

VERSION = 1
"""Of ``report.json``: it rises when a field goes, or changes its name, type or meaning; a new field leaves it."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``report.json``, which describes every field.

    Example:
        >>> schema()["properties"]["rounds"]["type"]
        'array'
    """
    text = files("valleys.lab.report").joinpath("schema.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def load(path: Path) -> Mapping[str, Any]:
    """Read the ``report.json`` of a finished comparison.

    Version, top-level fields and runs are checked; the rest is as ``valleys compare`` wrote it.

    Args:
        path: the file, or the comparison's folder.

    Returns:
        The document that ``to_json`` made.

    Raises:
        LabError: if the file cannot be read, is cut short or no report, is of another version, or has no finished run.
    """
    source = path / "report.json" if path.is_dir() else path
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(
            f"cannot read {source}: {error.strerror or error}; name folders of finished comparisons"
        ) from error
    except ValueError as error:
        raise LabError(f"{source} is no report, or half of one: {error}; {_REMEDY}") from error
    if not isinstance(document, dict) or "configuration" not in document:
        raise LabError(f"{source} is no report of a comparison; name folders of finished comparisons")
    if (version := document.get("schema")) != VERSION:
        raise LabError(f'{source} has "schema": {json.dumps(version)}, and {VERSION} is read here; {_REMEDY}')
    missing = [name for name in schema()["required"] if name not in document]
    if missing:
        raise LabError(f"{source} is half a report: it lacks {', '.join(missing)}; {_REMEDY}")
    if not any(entry["runs"] for entry in document["rounds"]):
        raise LabError(f"{source} has no finished run; let its `valleys compare` finish")
    return document


# The runs are in the store: nothing is trained again. A store of another version is refused, with a remedy of its own.
_REMEDY = "repeat its `valleys compare`, which writes the report anew from the finished runs"
