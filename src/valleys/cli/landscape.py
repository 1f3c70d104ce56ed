"""``valleys landscape``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app
from valleys.cli.console import print_lines, print_table
from valleys.cli.options import configured
from valleys.lab.flatness import text
from valleys.lab.landscape import LandscapeConfig, landscape


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

    \b
    Files:
      report.html, .md, .json  of RUN, with the measurements added

    \b
    Examples:
      valleys landscape runs/digits
      valleys landscape runs/digits --measures top_eigenvalue,drift
    """
    measured = landscape(run, config, task=task)
    print_table(*text.main(measured.flatness), title=f"{measured.task} at batch {measured.batch_size}: flatness")
    if measured.flatness.contrasts:
        print_table(*text.ratios(measured.flatness))
    if measured.trained_again:
        print_lines(f"note: {measured.trained_again} runs had no weights left and were trained again (--keep-weights)")
    print_lines(*measured.flatness.notes, *measured.paths.values())
