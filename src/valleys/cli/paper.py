"""``valleys reproduce`` and ``valleys claims``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app, configured
from valleys.cli.console import plain_errors, print_lines, print_table, print_text
from valleys.lab.report.table import Table
from valleys.paper import claims, render
from valleys.paper.reproduce import ReproductionConfig, reproduce
from valleys.paper.tables.numbers import find

_BLANK = 3  # exit code of a reproduction without a number of ours


@app.command("reproduce")
@configured(ReproductionConfig)
def _reproduce(
    config: ReproductionConfig,
    number: Annotated[str, typer.Argument(help="table-3, figure-8, ...; list, or nothing, lists them.")] = "list",
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: reproduce/NUMBER.")] = None,
) -> None:
    """Repeat a table or figure of the paper.

    Prints the paper's number, ours, the difference and its interval. Hyperparameters are the paper's, not tuned.
    --preset smoke is a smaller problem of the same kind, whose numbers are no test of the paper's. What cannot run is
    left blank and says why; if every cell is blank, the exit code is 3.

    \b
    Files:
      reproduce.md, .json  the table, as text and as numbers
      PROBLEM/report.html  of each comparison

    \b
    Examples:
      valleys reproduce table-3 --data FOLDER --only CIFAR-10
      valleys reproduce table-3 --data FOLDER --columns LAMB,ALTO
      valleys reproduce figure-8
    """
    if number == "list":
        print_table(render.listing())
        return
    folder = Path("reproduce") / find(number).number if out is None else out
    reproduction = reproduce(number, config, out=folder)
    for part in render.parts(reproduction):
        if isinstance(part, Table):
            print_table(part)
        else:
            print_lines(part)
    if all(outcome.mean is None for outcome in reproduction.outcomes):
        cells = f"all {len(reproduction.outcomes)} cells are blank" if reproduction.outcomes else "no cell was chosen"
        typer.echo(f"valleys: nothing of {reproduction.table.number} was reproduced: {cells}", err=True)
        raise typer.Exit(_BLANK)


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
    with plain_errors():
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
