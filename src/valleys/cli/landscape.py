"""``valleys landscape``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app, configured
from valleys.cli.console import print_lines, print_table
from valleys.lab.flatness import text
from valleys.lab.landscape import LandscapeConfig, landscape
from valleys.lab.report.html import reading, tables


@app.command("landscape")
@configured(LandscapeConfig)
def _landscape(
    run: Annotated[Path, typer.Argument(help="Folder of a finished comparison.")],
    config: LandscapeConfig,
    task: Annotated[str | None, typer.Option(help="Its task, where it moved; a name or FILE.py:NAME.")] = None,
) -> None:
    """Measure how flat a comparison's minima are.

    Measures what `compare --keep-weights` kept; other runs are trained again from their seeds. Nothing is measured
    twice. The measurements are added to the comparison's report.

    With --draw the first finished run of each optimizer is drawn: the loss
    over the plane through three of the minima, the barriers between them, the
    Hessian's spectral density, and sharpness by radius.

    \b
    Files:
      report.html, .md, .json  of RUN, with the measurements added
      landscape.json           with --draw: all its numbers
      landscape-*.png          surface, barriers, spectra, sharpness

    \b
    Examples:
      valleys landscape runs/digits
      valleys landscape runs/digits --measures top_eigenvalue,drift
      valleys landscape runs/digits --draw
    """
    measured = landscape(run, config, task=task)
    document = json.loads(measured.paths["json"].read_text(encoding="utf-8"))
    for table in tables.flatness(document, reading.indices([document])):
        print_table(table)
    if measured.drawing is not None:
        print_table(tables.minima(measured.drawing))
        print_table(tables.barriers(measured.drawing))
        print_lines(text.drawn(measured.drawing), *measured.drawing["notes"])
    if measured.trained_again:
        print_lines(f"note: {measured.trained_again} runs had no weights left and were trained again (--keep-weights)")
    print_lines(*measured.flatness.notes, *measured.paths.values())
