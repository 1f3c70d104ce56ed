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
    mistake = best_match(Draft202012Validator(_rules(document)).iter_errors(document))
    if document["rounds"] == [] or (mistake is None and not any(entry["runs"] for entry in document["rounds"])):
        raise LabError(f"{source} has no finished run; let its `valleys compare` finish")
    if mistake is not None:
        raise LabError(f"{source}: {mistake.json_path}: {mistake.message[:200]}; {_REMEDY}")
    return document


def _number(text: str) -> float:
    """Return a number; refuse those that JSON does not have, and those that no chart can show."""
    value = float(text)
    if not finite(value):
        raise ValueError(f"{text[:20]} is no finite number of at most {LARGEST:g}")
    return value if set(text) & set(".eE") else int(text)


def _rules(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with this report's own names of optimizers and measures."""
    rules = schema()
    parts, definitions = rules["properties"], rules["$defs"]
    names = list(document["spaces"]) if isinstance(document["spaces"], dict) else []
    for entry in definitions.values():
        for key in {"optimizer", "first", "second"} & entry.get("properties", {}).keys():
            entry["properties"][key] = {"enum": names}
    definitions["verdict"]["properties"]["better"] = {"enum": [*names, None]}
    parts["table"]["minItems"], parts["outcomes"]["required"] = len(names), names
    for part in ("outcomes", "budget", "lines"):
        parts[part]["propertyNames"] = {"enum": names}
    flatness = document["flatness"]
    if isinstance(flatness, dict) and isinstance(measures := flatness.get("measures"), dict):
        definitions["flat_row"]["properties"]["means"]["required"] = list(measures)
        definitions["contrast"]["properties"]["measure"] = {"enum": list(measures)}
        rows = [row.get("optimizer") for row in flatness.get("rows", []) if isinstance(row, dict)]
        definitions["flatness"]["properties"]["runs"]["required"] = [name for name in rows if name in names]
    return rules


# The runs are in the store: nothing is trained again. A store of another version is refused, with a remedy of its own.
_REMEDY = "repeat its `valleys compare`, which writes the report anew from the finished runs"
