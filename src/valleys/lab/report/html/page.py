"""The page of one comparison or several."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from valleys.lab.atomic_write import write_whole
from valleys.lab.errors import LabError
from valleys.lab.report.html import figures, svg, tables
from valleys.lab.report.html.cells import Table
from valleys.lab.report.html.reading import indices, labels, optimizers, same_task, unit

__all__ = ["merge", "render", "write"]


@dataclass(frozen=True)
class Section:
    """One comparison on the page.

    Args:
        anchor: its place, for links.
        label: its heading.
        document: what the report says.
        legend: the optimizers and their numbers; those that lost rounds say so.
        results, curves, times, sensitivity, budget, step_times: the charts.
        flat: the top eigenvalues, if they were measured.
        main, target, tuning, spaces, cost, settings, environments: the tables.
        flatness: the tables of what was measured of the finished runs.
    """

    anchor: str
    label: str
    document: Mapping[str, Any]
    legend: Sequence[tuple[str, int]]
    results: Markup
    curves: tuple[Markup, Markup]
    times: tuple[Markup, Markup]
    sensitivity: Sequence[figures.Panel]
    budget: Markup
    step_times: Markup
    flat: Markup | None
    main: Table
    target: Table
    tuning: Table
    spaces: Table
    cost: Table
    settings: Table
    environments: Table
    flatness: tuple[Table, Table | None] | None


def render(documents: Sequence[Mapping[str, Any]], title: str | None = None) -> str:
    """Render the page as text.

    Args:
        documents: what ``report.to_json`` made, of one comparison or several.
        title: the page's; default: the comparison's, or their number.

    Returns:
        HTML that needs nothing else.

    Raises:
        ValueError: without a document.
    """
    from jinja2 import Environment, StrictUndefined

    if not documents:
        raise ValueError("a page needs at least one comparison")
    names = labels(documents)
    index = indices(documents)
    groups = same_task(documents)
    style, script = (_text(name) for name in ("style.css", "table.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(swatch=svg.swatch, unit=unit)
    profile = figures.profile(documents, index)
    return environment.from_string(_text("template.html.j2")).render(
        title=title or (names[0] if len(documents) == 1 else f"{len(documents)} comparisons"),
        # The file's own text, which a template would escape.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'",
        sections=[
            _section(number, document, label, index)
            for number, (document, label) in enumerate(zip(documents, names, strict=True), 1)
        ],
        legend_all=list(index.items()),
        across=[
            (
                documents[group[0]]["configuration"]["task"],
                figures.across(documents, group, index),
                tables.across(documents, group, index),
            )
            for group in groups
        ],
        profile=profile and profile[0],
        areas=profile and tables.areas(profile[1], index),
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
        LabError: if a folder has no report, what it has is none, or the file cannot be written.
    """
    documents = []
    for folder in folders:
        source = folder / "report.json" if folder.is_dir() else folder
        try:
            document = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise LabError(
                f"cannot read {source}: {error.strerror or error}; name folders of finished comparisons"
            ) from error
        except ValueError as error:
            raise LabError(f"{source} is no report: {error}") from error
        missing = sorted(_NEEDED - document.keys() if isinstance(document, dict) else _NEEDED)
        if missing:
            raise LabError(
                f"{source} is no report of this version of valleys: it lacks {', '.join(missing)}; compare anew"
            )
        documents.append(document)
    if not documents:
        raise LabError("there is nothing to show; name folders of finished comparisons")
    try:
        write(documents, out, title)
    except OSError as error:
        raise LabError(f"cannot write {out}: {error.strerror or error}") from error
    return out


_NEEDED = {"configuration", "table", "verdicts", "rounds", "outcomes", "budget", "spaces", "method", "lines"}


def _section(number: int, document: Mapping[str, Any], label: str, index: dict[str, int]) -> Section:
    return Section(
        f"comparison-{number}",
        label,
        document,
        [(_fate(document, name), index[name]) for name in optimizers(document)],
        figures.results(document, index),
        figures.curves(document, index),
        figures.target(document, index),
        figures.sensitivity(document, index),
        figures.budget(document, index),
        figures.step_times(document, index),
        figures.flatness(document, index),
        tables.results(document, index),
        tables.times(document, index),
        tables.tuning(document, index),
        tables.spaces(document, index),
        tables.cost(document, index),
        tables.settings(document),
        tables.environments(document),
        tables.flatness(document, index),
    )


def _fate(document: Mapping[str, Any], name: str) -> str:
    row = next(row for row in document["table"] if row["optimizer"] == name)
    return f"{name} ({row['lost']} of {row['units']} {unit(document)}s lost)" if row["lost"] else name


def _text(name: str) -> str:
    return files("valleys.lab.report.html").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the policy's name for a text: a browser runs what has this hash, and nothing else."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
