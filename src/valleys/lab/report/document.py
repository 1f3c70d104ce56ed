"""The report of a comparison: Markdown and a page for people, JSON and CSV for programs, a picture for both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from valleys.lab.atomic_write import write_json, write_whole
from valleys.lab.flatness import pictures
from valleys.lab.flatness import text as flat
from valleys.lab.report import additions, html, learning_curves, runs, schema
from valleys.lab.report import text as words
from valleys.lab.report.html import reading, tables
from valleys.lab.report.summary import Summary, layouts
from valleys.lab.report.table import escape
from valleys.lab.store.job import Results


def write(
    results: Results, summary: Summary, folder: Path, command: str, lines: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Write ``report.md``, ``report.json``, ``runs.csv``, ``report.html`` and ``curves.png``.

    The command repeats the comparison; a line builds an optimizer, by its name, with the values that were selected
    last.
    """
    paths = {
        "markdown": folder / "report.md",
        "json": folder / "report.json",
        "csv": folder / "runs.csv",
        "html": folder / "report.html",
        "curves": folder / "curves.png",
    }
    document = to_json(results, summary, command, lines)
    page = additions.with_additions(document, folder)
    if "attribution" in page:
        document["attribution"] = page["attribution"]
    write_whole(paths["markdown"], to_markdown(document, summary, additions.read(folder / additions.DRAWING)))
    write_json(paths["json"], document)
    write_whole(paths["csv"], runs.to_csv(document))
    html.write([page], paths["html"])
    learning_curves.draw(document, paths["curves"])
    return paths


def to_json(results: Results, summary: Summary, command: str, lines: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return every number of the comparison as strict JSON: what is not finite is null."""
    document: dict[str, Any] = plain(
        {
            "schema": schema.VERSION,
            "command": command,
            "configuration": results.configuration,
            "environments": results.environments,
            "global_batch": [
                {
                    "batch_size": layout.batch_size,
                    "per_rank": layout.per_rank,
                    "ranks": layout.ranks,
                    "accumulation_steps": layout.accumulation_steps,
                }
                for layout in layouts(results)
            ],
            "spaces": {
                name: {key: asdict(ranges) for key, ranges in space.items()} for name, space in results.spaces.items()
            },
            "method": words.method(results),
            "table": [asdict(row) for row in summary.rows],
            "verdicts": [asdict(verdict) for verdict in summary.verdicts],
            "outcomes": {name: asdict(outcome) for name, outcome in summary.outcomes.items()},
            "budget": {name: [asdict(point) for point in points] for name, points in summary.budget.items()},
            "notes": summary.notes,
            "lines": lines or {},
            "flatness": _measured(results, summary),
            "rounds": _rounds(results, summary),
        }
    )
    return document


def to_markdown(document: Mapping[str, Any], summary: Summary, drawn: Mapping[str, Any] | None = None) -> str:
    """Return the report as Markdown; ``document`` is what ``to_json`` made of the summary, ``drawn`` the landscape."""
    configuration = document["configuration"]
    index = reading.indices([document])
    python = [f"optimizer = {line}  # {' '.join(name.split())}" for name, line in document["lines"].items()]
    parts = [
        f"# {escape(configuration['task'])} at batch {configuration['batch_size']}",
        tables.results(document, index).to_markdown(),
        *_verdicts(summary),
        *map(escape, document["method"]),
        _notes(document["notes"]),
        "![validation metric against steps](curves.png)",
        *_budget(document, index),
        "## Cost",
        tables.cost(document, index).to_markdown(),
        tables.COST,
        *_flatness(document, index),
        *_landscape(drawn, document),
        "## Configuration",
        tables.settings(document).to_markdown(),
        "## Search space",
        tables.spaces(document, index).to_markdown(),
        *_code("Python", "\n".join(python), "python"),
        "## Environment",
        tables.environments(document).to_markdown(),
        *_code("Command", document["command"]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def plain(value: Any) -> Any:
    """Return nested mappings and sequences as strict JSON: infinities and NaN become None.

    Example:
        >>> plain({"loss": (1.0, float("inf"))})
        {'loss': [1.0, None]}
    """
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def _measured(results: Results, summary: Summary) -> dict[str, Any] | None:
    """Return the flatness with every run that counts; None if nothing was measured."""
    if summary.flatness is None:
        return None
    return {
        "method": flat.method(summary.flatness),
        "ratios_method": flat.RATIOS,
        **asdict(summary.flatness),
        "runs": {
            row.optimizer: [
                {"round": key.round + 1, "seed": key.seed, **values}
                for key, values in results.flatness[row.optimizer].items()
                if any(key in selection.runs for selection in summary.selections[row.optimizer].values())
            ]
            for row in summary.flatness.rows
        },
    }


def _rounds(results: Results, summary: Summary) -> list[dict[str, Any]]:
    """Return every run, round by round; those of a selection that later trials changed are not selected."""
    phases = {"tuning": results.tuning, "final": results.final}
    return [
        {
            "round": number + 1,
            "complete": all(number in selections for selections in summary.selections.values()),
            "runs": [
                {
                    "phase": phase,
                    "trial": key.point + 1,
                    "selected": number in (choices := summary.selections[name]) and choices[number].point == key.point,
                    **record.to_json(),
                }
                for name in results.spaces
                for phase, runs in phases.items()
                for key, record in runs[name].items()
                if key.round == number
            ],
        }
        for number in range(results.configuration["rounds"])
    ]


def _verdicts(summary: Summary) -> list[str]:
    """Return a paragraph for each verdict: the sentence, then details and cost on lines of their own."""
    return [
        "  \n".join([f"**{escape(one.sentence)}.**", *(f"{escape(line)}." for line in words.explained(one))])
        for one in summary.verdicts
    ]


def _budget(document: Mapping[str, Any], index: dict[str, int]) -> list[str]:
    if not document["budget"]:
        return []
    metric = escape(document["configuration"]["metric"])
    return [
        "## Tuning budget",
        f"The test {metric} to expect of the best of so many trials by validation, over rounds and choices of the "
        "trials. A trial that diverged counts as the worst. Intervals are in report.json.",
        tables.budget(document, index).to_markdown(),
    ]


def _flatness(document: Mapping[str, Any], index: dict[str, int]) -> list[str]:
    """Return the flatness of the minima, if it was measured."""
    flatness = document["flatness"]
    if flatness is None:
        return []
    parts = ["## Flatness of the minima"]
    for table, explanation in zip(tables.flatness(document, index), ("method", "ratios_method"), strict=False):
        parts += [table.to_markdown(), escape(flatness[explanation])]
    return [*parts, _notes(flatness["notes"])]


def _landscape(drawn: Mapping[str, Any] | None, document: Mapping[str, Any]) -> list[str]:
    """Return the landscape between the minima, if it was drawn."""
    if drawn is None:
        return []
    title = "## The landscape between the minima"
    if not additions.is_current(drawn, document):
        return [title, _notes(["it was drawn of runs that are no longer selected; run `valleys landscape --draw`"])]
    images = {name: f"![{about}](landscape-{name}.png)" for name, (_, about) in pictures.PICTURES.items()}
    contents = {"surface": tables.minima(drawn), "barriers": tables.barriers(drawn)}
    parts = [title, escape(flat.drawn(drawn)), _notes(drawn["notes"])]
    for name, image in images.items():
        parts += [image, *([contents[name].to_markdown()] if name in contents else [])]
    return parts


def _notes(notes: Sequence[str]) -> str:
    return "\n".join(f"* Note: {escape(note)}." for note in notes)


def _code(title: str, text: str, language: str = "") -> list[str]:
    return [f"## {title}", f"```{language}\n{text.replace('`', chr(39))}\n```"] if text else []
