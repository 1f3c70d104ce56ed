"""The page of one comparison or several."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from valleys.lab.atomic_write import write_whole
from valleys.lab.errors import LabError
from valleys.lab.report.additions import with_additions
from valleys.lab.report.html import across, figures, tables, terrain
from valleys.lab.report.html.marks import swatch
from valleys.lab.report.html.plots import INK, SOFT, Figure
from valleys.lab.report.html.reading import indices, labels, same_task, unit
from valleys.lab.report.schema import load
from valleys.lab.report.table import Table
from valleys.palette import COLORS

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["merge", "render", "write"]


@dataclass(frozen=True)
class Section:
    """One comparison on the page."""

    anchor: str  # for links
    label: str
    document: Mapping[str, Any]
    figures: Mapping[str, Figure | None]  # None where there is nothing to draw
    tables: Mapping[str, Table]
    flatness: Sequence[Table]  # of the finished runs


def render(documents: Sequence[Mapping[str, Any]], title: str | None = None) -> str:
    """Render the page as text.

    Args:
        documents: what ``report.to_json`` made, of one comparison or several; with an entry ``landscape``, what
            ``valleys landscape --draw`` measured, its figures are there, too.
        title: the page's; default: the comparison's, or their number.

    Returns:
        HTML that needs nothing else; plotly.js is in it, which makes 5 MB.

    Raises:
        ValueError: without a document.
    """
    from plotly.offline import get_plotlyjs

    if not documents:
        raise ValueError("a page needs at least one comparison")
    names = labels(documents)
    index = indices(documents)
    style, script, library = _text("style.css"), _text("page.js"), get_plotlyjs()
    profile, ranks = across.profile(documents, index), across.ranked(documents, index)
    return _template().render(
        title=title or (names[0] if len(documents) == 1 else f"{len(documents)} comparisons"),
        # The files' own texts, which a template would escape.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        library=Markup(library),  # noqa: S704
        colors=_colors(),
        # Plotly adds rules to a style sheet of its own.
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {_hash(library)} {_hash(script)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        sections=[
            _section(number, document, label, index)
            for number, (document, label) in enumerate(zip(documents, names, strict=True), 1)
        ],
        batch_sizes=[
            (
                documents[group[0]]["configuration"]["task"],
                across.against_batch_size(documents, group, index),
                tables.across(documents, group, index),
            )
            for group in same_task(documents)
        ],
        profile=profile and profile[0],
        areas=profile and tables.areas(profile[1], index),
        ranks=ranks and across.critical_difference(ranks, index),
    )


def write(documents: Sequence[Mapping[str, Any]], path: Path, title: str | None = None) -> None:
    """Write the page. A reader of the file sees the old page or the new one, never half of it.

    Args:
        documents: what ``report.to_json`` made, of one comparison or several.
        path: the file.
        title: the page's; default: the comparison's, or their number.
    """
    write_whole(path, render(documents, title))


def merge(folders: Sequence[Path], out: Path, title: str | None = None) -> Path:
    """Put the comparisons of several folders on one page.

    Args:
        folders: each with the ``report.json`` of a finished comparison.
        out: the file to write.
        title: the page's; default: the comparison's, or their number.

    Returns:
        The file.

    Raises:
        LabError: if a folder has no report that ``load`` reads, or the file cannot be written.
    """
    documents = [with_additions(load(path), path if path.is_dir() else path.parent) for path in folders]
    if not documents:
        raise LabError("there is nothing to show; name folders of finished comparisons")
    try:
        write(documents, out, title)
    except OSError as error:
        raise LabError(f"cannot write {out}: {error.strerror or error}") from error
    return out


@functools.cache
def _template() -> Template:
    """Return the page's template, which takes longer to compile than to fill."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(swatch=swatch, unit=unit, json=_json, cost=tables.COST)
    return environment.from_string(_text("template.html.j2"))


def _section(number: int, document: Mapping[str, Any], label: str, index: dict[str, int]) -> Section:
    charts = {
        "forest": figures.forest(document, index),
        "results": figures.results(document, index),
        "curves": figures.curves(document, index),
        "steps": figures.target(document, index, "steps"),
        "seconds": figures.target(document, index, "seconds"),
        "trials": figures.trial_figure(document, index),
        "budget": figures.budget(document, index),
        "step_times": figures.step_times(document, index),
        "flatness": figures.flatness(document, index),
        "waterfall": figures.waterfall(document["attribution"]) if document.get("attribution") else None,
    }
    contents = {
        "main": tables.results(document, index),
        "target": tables.times(document, index),
        "tuning": tables.tuning(document, index),
        "spaces": tables.spaces(document, index),
        "cost": tables.cost(document, index),
        "settings": tables.settings(document),
        "environments": tables.environments(document),
    }
    if document.get("landscape"):
        contents |= {"minima": tables.minima(document["landscape"]), "barriers": tables.barriers(document["landscape"])}
        charts |= terrain.figures(document["landscape"], index)
    return Section(f"comparison-{number}", label, document, charts, contents, tables.flatness(document, index))


def _json(value: Any) -> Markup:
    """Return a value as JSON that may stand in a script element: nothing in it ends one."""
    # Seven digits are as many as a reader may see, and a thousand evaluations add up.
    rounded = json.loads(json.dumps(value, allow_nan=False), parse_float=lambda digits: float(f"{float(digits):.7g}"))
    text = json.dumps(rounded, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _colors() -> dict[str, str]:
    """Return the style sheet's names of the colours that figures have, which differ in the dark."""
    variables = {color.lower(): f"--c{number}" for number, color in enumerate(COLORS)}
    return {**variables, INK: "--ink", SOFT: "--soft", "#dfe3e8": "--rule", "#ffffff": "--paper", "#f5f7f9": "--shade"}


def _text(name: str) -> str:
    return files("valleys.lab.report.html").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the policy's name for a text: a browser runs what has this hash, and nothing else."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
