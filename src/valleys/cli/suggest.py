"""``valleys suggest``."""

from __future__ import annotations

from typing import Annotated

import typer

from valleys.cli.app import app, configured
from valleys.lab.errors import LabError
from valleys.lab.progress import watch
from valleys.lab.suggestions.brief_run import BriefRunConfig, recommend
from valleys.lab.suggestions.learning_rate import starting_rate


@app.command("suggest")
@configured(BriefRunConfig)
def _suggest(
    batch_size: Annotated[int, typer.Option(help="Examples per optimizer step, of all processes.")],
    config: BriefRunConfig,
    base: Annotated[str | None, typer.Option("--from", help="Optimizer that ALTO replaces: adam, adamw, lamb.")] = None,
    base_lr: Annotated[float | None, typer.Option("--lr", help="Its learning rate; with --from.")] = None,
    total_steps: Annotated[
        int | None, typer.Option("--steps", help="Optimizer steps of the whole run; with --from.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Measure this task's noise scale; a name or FILE.py:NAME.")] = None,
) -> None:
    """Suggest a learning rate, alpha and beta for a batch size.

    With --from it gives ALTO's first learning rate and the range to search for a run of so many steps. Alpha and beta
    are by the paper's rule. With --task it trains briefly and measures the gradient noise scale: far below it a larger
    batch still saves steps, well above it almost none. The last line is the comparison that settles the matter.

    \b
    Examples:
      valleys suggest --batch-size 8192
      valleys suggest --from adamw --lr 3e-4 --steps 1200 --batch-size 8192
      valleys suggest --batch-size 8192 --task my_task.py:task
    """
    if base is not None:
        if base_lr is None or total_steps is None:
            raise LabError("--from needs --lr, the rate of that optimizer, and --steps, the steps of the whole run")
        typer.echo(str(starting_rate(base, base_lr, total_steps, batch_size)))
        if task is None:
            return
    elif base_lr is not None or total_steps is not None:
        raise LabError("--lr and --steps are for --from; those of the brief run are --brief-lr and --brief-steps")
    with watch("measuring", 1) as show:
        advice = recommend(batch_size, task, config, progress=show("noise scale", 0))
    typer.echo(str(advice))
