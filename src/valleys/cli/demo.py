"""``valleys demo``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app
from valleys.cli.console import print_comparison
from valleys.lab import demo


@app.command("demo")
def _demo(out: Annotated[Path, typer.Option(help="Folder of the reports.")]) -> None:
    """Compare AdamW, LAMB and ALTO on digits and sine.

    At large batch. Data and sizes are fixed; a few minutes on two cores. The same command goes on where it stopped.

    \b
    Files:
      TASK/report.html    the page of each comparison
      TASK/report.md      the same as text
      TASK/report.json    every run and every number
      TASK/runs.csv       one row for each run, for spreadsheets and pandas
      TASK/curves.png     metric against steps, with intervals
      TASK/comparison.db  finished runs

    \b
    Examples:
      valleys demo --out runs/demo
    """
    for comparison in demo.run(out, announce=partial(typer.echo, err=True)):
        print_comparison(comparison, brief=True)
