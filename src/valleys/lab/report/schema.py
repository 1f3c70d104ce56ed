"""Schema of ``report.json``: its version, its text, and a reader that refuses what is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from valleys.lab.errors import LARGEST, LabError, finite

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

    It is checked against the schema, and the optimizers that its parts name against each other.

    Args:
        path: the file, or the comparison's folder.

    Returns:
        The document that ``to_json`` made.

    Raises:
        LabError: if the file cannot be read, is cut short or no report, is of another version, has no finished run, or
            a value that the schema does not allow; the message names its place.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    source = path / "report.json" if path.is_dir() else path
    try:
        text = source.read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_number)
        json.dumps(document, ensure_ascii=False).encode()  # halves of characters cannot be written again
    except OSError as error:
        raise LabError(
            f"cannot read {source}: {error.strerror or error}; name folders of finished comparisons"
        ) from error
    except (ValueError, RecursionError) as error:
        raise LabError(f"{source} is no report, or half of one: {error}; {_REMEDY}") from error
    if not isinstance(document, dict) or "configuration" not in document:
        raise LabError(f"{source} is no report of a comparison; name folders of finished comparisons")
    if (version := document.get("schema")) != VERSION:
        raise LabError(f'{source} has "schema": {json.dumps(version)}, and {VERSION} is read here; {_REMEDY}')
    missing = [name for name in schema()["required"] if name not in document]
    if missing:
        raise LabError(f"{source} is half a report: it lacks {', '.join(missing)}; {_REMEDY}")
    if not any(entry.get("runs") for entry in _entries(document["rounds"])):
        raise LabError(f"{source} has no finished run; let its `valleys compare` finish")
    if (mistake := best_match(Draft202012Validator(schema()).iter_errors(document))) is not None:
        raise LabError(f"{source}: {mistake.json_path}: {mistake.message[:200]}; {_REMEDY}")
    _check_names(source, document)
    return document


def _entries(rounds: object) -> list[Any]:
    return [entry for entry in rounds if isinstance(entry, dict)] if isinstance(rounds, list) else []


def _number(text: str) -> float:
    """Return a number; refuse those that JSON does not have, and those that no chart can show."""
    value = float(text)
    if not finite(value):
        raise ValueError(f"{text[:20]} is no finite number of at most {LARGEST:g}")
    return value if set(text) & set(".eE") else int(text)


def _check_names(source: Path, document: Mapping[str, Any]) -> None:
    """Refuse a part of a report that speaks of an optimizer which another part does not have."""
    names, flat = (
        document["spaces"].keys(),
        document["flatness"] or {"rows": [], "contrasts": [], "measures": {}, "runs": {}},
    )
    runs = [run for entry in document["rounds"] for run in entry["runs"]]
    parts = {
        "table": [row["optimizer"] for row in document["table"]],
        "verdicts": [one[side] for one in document["verdicts"] for side in ("first", "second", "better") if one[side]],
        "rounds": [run["optimizer"] for run in runs],
        **{part: list(document[part]) for part in ("outcomes", "budget", "lines")},
        "flatness": [row["optimizer"] for row in flat["rows"]]
        + [one[side] for one in flat["contrasts"] for side in ("first", "second")],
    }
    for part, used in parts.items():
        if others := [name for name in used if name not in names]:
            raise LabError(f"{source}: $.{part} has the optimizer {others[0]!r}, and $.spaces has not; {_REMEDY}")
        if part in ("table", "outcomes") and (missing := [name for name in names if name not in used]):
            raise LabError(f"{source}: $.{part} lacks the optimizer {missing[0]!r} of $.spaces; {_REMEDY}")
    measures = {one["measure"] for one in flat["contrasts"]} <= flat["measures"].keys()
    if not measures or any(row["means"].keys() != flat["measures"].keys() for row in flat["rows"]):
        raise LabError(f"{source}: the measures of $.flatness are not those of its rows and contrasts; {_REMEDY}")
    if flat["runs"].keys() != {row["optimizer"] for row in flat["rows"]}:
        raise LabError(f"{source}: $.flatness.runs has other optimizers than $.flatness.rows; {_REMEDY}")
    if len(document["configuration"]["data"]) not in (0, 3):
        raise LabError(f"{source}: $.configuration.data must have three numbers, or none; {_REMEDY}")


# The runs are in the store: nothing is trained again. A store of another version is refused, with a remedy of its own.
_REMEDY = "repeat its `valleys compare`, which writes the report anew from the finished runs"
