"""``valleys report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app
from valleys.cli.console import print_lines
from valleys.lab.report import html


@app.command("report")
def _report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished comparisons.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="The page's title.")] = None,
) -> None:
    """Put finished comparisons on one HTML page.

    Verdicts first, then charts and tables. Comparisons of one task at several batch sizes get a chart of the metric
    against the batch size; optimizers that all comparisons share get performance profiles and mean ranks.

    \b
    Examples:
      valleys report runs/digits runs/mine --out report.html
    """
    print_lines(html.merge(folders, out, title))
