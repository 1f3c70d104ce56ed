"""Results of other commands about a comparison's runs: they lie beside the report, and its page shows them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ATTRIBUTION = "attribution.json"
"""File of ``valleys attribute``, in the comparison's folder."""

DRAWING = "landscape.json"
"""File of ``valleys landscape --draw``."""


def with_additions(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a report with its landscape and its attribution, where there are some of the same runs."""
    drawing, attribution = read(folder / DRAWING), read(folder / ATTRIBUTION)
    added: dict[str, Any] = {}
    if drawing is not None and is_current(drawing, document):
        added["landscape"] = drawing
    if attribution is not None and _rests_on(attribution, document):
        added["attribution"] = attribution
    return {**document, **added}


def read(path: Path) -> dict[str, Any] | None:
    """Return what a file says; None if there is none or, with a warning, if it is damaged: no report needs it."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and any(isinstance(content.get(name), list) for name in ("minima", "recipes")):
            return content
        problem = "it has no minima, or no recipes"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    warnings.warn(f"{path} is damaged and left out of the report ({problem}); its command makes it anew", stacklevel=2)
    return None


def is_current(drawing: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Return whether the runs that were drawn are still selected."""
    selected = {
        (run["optimizer"], entry["round"], run["trial"], run["seed"])
        for entry in document["rounds"]
        for run in entry["runs"]
        if run["phase"] == "final" and run["selected"]
    }
    return selected.issuperset(
        (entry["optimizer"], entry["round"], entry["trial"], entry["seed"]) for entry in drawing["minima"]
    )


def _rests_on(attribution: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Return whether the results that were shared out are those of the report."""
    outcomes = document["outcomes"]
    return all(
        recipe["name"] in outcomes and recipe["test"] == outcomes[recipe["name"]]["test"]
        for recipe in attribution["recipes"]
    )
