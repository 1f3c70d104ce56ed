"""The report of a comparison: Markdown and a page for people, JSON for programs, a picture for both."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from valleys.lab.atomic_write import write_whole
from valleys.lab.flatness import text as flat
from valleys.lab.report import html, learning_curves
from valleys.lab.report.summary import Summary, cells, layouts
from valleys.lab.statistics import format_mean
from valleys.lab.statistics.planned_pairs import LEVEL
from valleys.lab.store.job import Key, Results


def write(results: Results, summary: Summary, folder: Path, command: str) -> dict[str, Path]:
    """Write ``report.md``, ``report.json``, ``report.html`` and ``curves.png``."""
    paths = {
        "markdown": folder / "report.md",
        "json": folder / "report.json",
        "html": folder / "report.html",
        "curves": folder / "curves.png",
    }
    write_whole(paths["markdown"], to_markdown(results, summary, command))
    document = to_json(results, summary, command)
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    write_whole(paths["json"], text + "\n")
    html.write([document], paths["html"])
    learning_curves.draw(
        results.configuration, summary.records, [row.optimizer for row in summary.rows], paths["curves"]
    )
    return paths


def to_json(results: Results, summary: Summary, command: str) -> dict[str, Any]:
    """Return every number of the comparison as strict JSON: what is not finite is null."""
    document: dict[str, Any] = plain(
        {
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
                name: {key: {"low": r.low, "high": r.high, "log": r.log} for key, r in space.items()}
                for name, space in results.spaces.items()
            },
            "table": [asdict(row) for row in summary.rows],
            "verdict": asdict(summary.verdict),
            "planned": [asdict(question) for question in summary.planned],
            "notes": summary.notes,
            "flatness": flat.document(summary.flatness, results, summary.chosen),
            "chosen_trials": summary.chosen,
            "trials": {name: _listed(runs) for name, runs in results.tuning.items()},
            "final": {
                name: [{**run, "superseded": run["point"] != summary.chosen[name]} for run in _listed(runs)]
                for name, runs in results.final.items()
            },
        }
    )
    return document


def to_markdown(results: Results, summary: Summary, command: str) -> str:
    """Return the report as Markdown."""
    configuration = results.configuration
    name, batch = escape(configuration["task"]), configuration["batch_size"]
    rows = [cells(row, configuration["metric"]) for row in summary.rows]
    goal = "at least" if configuration["maximize"] else "at most"
    lines = [
        f"# {name} at batch {batch}",
        "",
        *_table(list(rows[0]), [list(row.values()) for row in rows]),
        "",
        f"**{escape(summary.verdict.sentence)}.**",
        "",
        *_planned(summary),
        f"The target is a validation {escape(configuration['metric'])} of {goal} "
        f"{configuration['target']:g}. Steps and seconds to it are medians over the fresh seeds; a run that "
        "misses it counts as infinite ('-'). Metrics are means with 95 % intervals of Student's t over the "
        "fresh seeds that did not diverge. The p values are of paired t tests, two-sided, with Holm's "
        "correction over all pairs of optimizers; a difference counts below 0.05. The step time contains "
        "forward and backward pass, the optimizer's time only its own step. The state's memory is a multiple "
        "of the parameters' bytes.",
        "",
        *[f"* Note: {escape(note)}." for note in summary.notes],
        *[""] * bool(summary.notes),
        "![validation metric against steps](curves.png)",
        "",
        *_rivals(summary),
        *_flatness(summary),
        "## Configuration",
        "",
        *_table(["setting", "value"], _settings(results, summary)),
        "",
        "## Search space",
        "",
        f"Each optimizer had {configuration['trials']} trials, the first points of one scrambled Sobol "
        "sequence, and was chosen by its final validation metric. Every trial is in report.json.",
        "",
        *_table(["optimizer", "hyperparameter", "low", "high", "scale", "chosen"], _space(results, summary)),
        "",
        "## Environment",
        "",
        *_environments(results),
        "",
        "```",
        command.replace("`", "'"),
        "```",
        "",
    ]
    return "\n".join(lines)


def escape(text: str) -> str:
    r"""Escape Markdown's own characters; the result is one line, for tables too.

    Example:
        >>> print(escape("a|b"))
        a\|b
    """
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", " ".join(text.split()))


def plain(value: Any) -> Any:
    """Return nested mappings and sequences as strict JSON: infinities and NaN become None.

    Example:
        >>> plain({"loss": (1.0, float("inf"))})
        {'loss': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listed(runs: Mapping[Key, Any]) -> list[dict[str, Any]]:
    return [{"point": key.point, **record.to_json()} for key, record in runs.items()]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(map(escape, titles)), ["---"] * len(titles), *(list(map(escape, row)) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _planned(summary: Summary) -> list[str]:
    """Return the planned pairs as Markdown."""
    if not summary.planned:
        return []
    level = f"{LEVEL:g}/{len(summary.planned)}" if len(summary.planned) > 1 else f"{LEVEL:g}"
    return [
        f"Does E help? Each adapted optimizer against its base, pairs that were fixed beforehand, at level {level}:",
        "",
        *[f"* {escape(question.sentence)}." for question in summary.planned],
        "",
    ]


def _rivals(summary: Summary) -> list[str]:
    """The leader against each other optimizer, where the sentence names only the second."""
    measured = [(rival, rival.difference) for rival in summary.verdict.rivals if rival.difference is not None]
    if not measured:
        return []
    rows = [
        [
            rival.name,
            format_mean(difference.mean, difference.half_width),
            str(difference.pairs),
            "-" if difference.p is None else f"{difference.p:.3g}",
            "-" if rival.p is None else f"{rival.p:.3g}",
            "yes" if rival.beaten else "no",
        ]
        for rival, difference in measured
    ]
    titles = ["against", "better by", "paired seeds", "p", "p (Holm)", "established"]
    return [f"## {escape(str(summary.verdict.leader))} against the others", "", *_table(titles, rows), ""]


def _flatness(summary: Summary) -> list[str]:
    """Return the flatness of the minima as Markdown, if it was measured."""
    if summary.flatness is None:
        return []
    return [
        "## Flatness of the minima",
        "",
        *(_table(*flat.main(summary.flatness))),
        "",
        escape(flat.METHOD.format(examples=" and ".join(map(str, summary.flatness.examples)))),
        "",
        *([*_table(*flat.ratios(summary.flatness)), "", escape(flat.RATIOS), ""] * bool(summary.flatness.contrasts)),
        *[f"* Note: {escape(note)}." for note in summary.flatness.notes],
        *[""] * bool(summary.flatness.notes),
    ]


def _settings(results: Results, summary: Summary) -> list[list[str]]:
    configuration = dict(results.configuration)
    sizes = configuration.pop("data")
    steps = sorted({record.steps for runs in summary.records.values() for record in runs if not record.diverged})
    settings = {
        **configuration,
        "examples": "{} train, {} validation, {} test".format(*sizes) if sizes else "made by the task's own loop",
        "steps": ", ".join(map(str, steps)) or "-",
    }
    return [
        [name.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value)]
        for name, value in settings.items()
        if name != "maximize"
    ]


def _space(results: Results, summary: Summary) -> list[list[str]]:
    rows = []
    for optimizer, space in results.spaces.items():
        chosen = summary.selected[optimizer]
        for name, ranges in space.items():
            value = "-" if chosen is None else f"{chosen[name]:.4g}"
            scale = "log" if ranges.log else "linear"
            rows.append([optimizer, name, f"{ranges.low:g}", f"{ranges.high:g}", scale, value])
    return rows


def _environments(results: Results) -> list[str]:
    seen = results.environments
    alone = all(environment["ranks"] == 1 for environment in seen)
    names = [name for name in seen[-1] if not (alone and name == "ranks")]
    rows = [
        [f"sitting {number}", *(str(environment.get(name, "-")) for name in names)]
        for number, environment in enumerate(seen, 1)
    ]
    return _table(["", *names], rows)
