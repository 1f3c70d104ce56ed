"""``valleys tasks``, ``valleys optimizers`` and ``valleys claims``; none of them imports torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated

import typer

from valleys.cli.app import app
from valleys.cli.console import print_lines, print_table, print_text
from valleys.hyperparameters import LARGE_BATCH
from valleys.lab import tasks
from valleys.lab.errors import LabError, finite, unknown
from valleys.lab.optimizers import resolve as registry
from valleys.lab.optimizers.entry import modules
from valleys.lab.optimizers.spaces import MEANING
from valleys.lab.optimizers.spec import Plan, Range
from valleys.lab.report.table import Table


@app.command("tasks")
def _tasks() -> None:
    """List the tasks.

    \b
    Examples:
      valleys tasks
    """
    rows = [
        [name, entry.what, ", ".join(entry.presets), entry.data, entry.needs or "-"]
        for name, entry in tasks.entries().items()
    ]
    print_table(Table.of_text(["task", "what it is", "presets", "data", "needs"], rows))


@app.command("optimizers")
def _optimizers(
    name: Annotated[str | None, typer.Argument(help="Explain this one; default: list all.")] = None,
    batch_size: Annotated[int, typer.Option(help="Of the comparison: the paper's rules depend on it.")] = LARGE_BATCH,
    values: Annotated[
        str, typer.Option(help="For the Python line: lr=0.01,... Default: the middle of the space.")
    ] = "",
    steps: Annotated[int, typer.Option(min=1, help="For the Python line: optimizer steps of a run.")] = 1000,
) -> None:
    """List the optimizers and what is tuned, or explain one.

    \b
    Examples:
      valleys optimizers --batch-size 128
      valleys optimizers muon --values lr=0.002,weight_decay=0.1
    """
    if batch_size < 1:
        raise LabError(f"batch size {batch_size}: choose 1 or more")
    if name is None:
        specs = [registry.resolve(label, batch_size) for label in registry.names()]
        rows = [[spec.name, ", ".join(f"{key} {r}" for key, r in spec.space.items())] for spec in specs]
        print_table(Table.of_text(["optimizer", "search space"], rows))
        return
    spec = registry.resolve(name, batch_size)
    point = _point(values, spec.space)
    about = [f"{spec.name}: {spec.about}"] if spec.about else []
    base = [f"base, which it adapts by E: {spec.base}"] if spec.base else []
    print_lines(*about, *base, *([f"source: {spec.source}"] if spec.source else []), "")
    rows = [[key, f"{r.low:g} to {r.high:g}", r.shape, MEANING.get(key, "-")] for key, r in spec.space.items()]
    print_table(Table.of_text(["tuned", "range", "scale", "what it is"], rows))
    if spec.line is not None:
        line = spec.line(point, Plan(batch_size, steps))
        print_lines("", f"import {', '.join(modules(line))}", f"optimizer = {line}")


@app.command("claims")
def _claims(
    name: Annotated[str | None, typer.Argument(help="Explain this one; default: list all.")] = None,
    status: Annotated[str | None, typer.Option(help="Only those: confirmed, not-found, refuted or not-run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/claims.md.")] = False,
) -> None:
    """List the claims of the paper, and what was found of each.

    \b
    Examples:
      valleys claims --status not-found
      valleys claims theorem-2
      valleys claims --json
    """
    from valleys.paper import claims

    selection = claims.select(name, status)
    if as_markdown:
        print_lines(claims.to_markdown(selection).rstrip())
    elif as_json:
        typer.echo(json.dumps([claims.to_json(claim) for claim in selection], indent=1, ensure_ascii=False))
    elif name is not None and selection:
        for line in claims.details(selection[0]):
            print_text(line)
    else:
        print_table(claims.listing(selection))
        print_lines("", f"{claims.count(selection)}; valleys claims NAME explains one")


def _point(text: str, space: Mapping[str, Range]) -> dict[str, float]:
    """Return the values of ``name=number,...`` and, for what is not named, the middle of the range."""
    point = {name: float(f"{ranges.middle:.3g}") for name, ranges in space.items()}
    for word in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in word.partition("="))
        if name not in point:
            raise unknown("hyperparameter", name, list(point) or ["none"])
        try:
            point[name] = float(value)
        except ValueError:
            point[name] = math.nan
        if not finite(point[name]):
            raise LabError(f"values: {name}={value!r} is no number; write {name}=0.01")
    return point
