"""``valleys suggest``."""

from __future__ import annotations

from typing import Annotated

import typer

from valleys.cli.app import app, configured
from valleys.lab.progress import watch
from valleys.lab.recommend import BriefRunConfig, recommend


@app.command("suggest")
@configured(BriefRunConfig)
def _suggest(
    batch_size: Annotated[int, typer.Option(help="Examples per optimizer step, of all processes.")],
    config: BriefRunConfig,
    task: Annotated[str | None, typer.Option(help="Measure this task's noise scale; a name or FILE.py:NAME.")] = None,
) -> None:
    """Say what the paper's rule means for a batch size.

    With --task it trains briefly and measures the gradient noise scale: far below it a larger batch still saves steps,
    well above it almost none. The last line is the comparison that settles the matter.

    \b
    Examples:
      valleys suggest --batch-size 8192
      valleys suggest --batch-size 8192 --task my_task.py:task
    """
    with watch("measuring", 1) as show:
        advice = recommend(batch_size, task, config, progress=show("noise scale", 0))
    typer.echo(str(advice))
