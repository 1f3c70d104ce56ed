"""``valleys compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app
from valleys.cli.console import print_comparison
from valleys.cli.options import configured
from valleys.lab.compare import compare
from valleys.lab.config import ComparisonConfig


@app.command("compare")
@configured(ComparisonConfig)
def _compare(
    task: Annotated[str, typer.Argument(help="A task's name (`valleys tasks` lists them), or FILE.py:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder of the report and the finished runs.")],
    config: ComparisonConfig,
) -> None:
    """Tune optimizers equally, run fresh seeds, say who won.

    Tuning sees validation data alone, the verdict test data of fresh seeds alone. It may be that no difference was
    found; it then says which one so many seeds would have found.

    Interrupted, or out of time? The same command goes on where it stopped. The same command in other shells, or on
    other machines with --storage, shares the work. --trials and --seeds may grow later. Of several processes that share
    each batch, torchrun --local-ranks-filter 0 shows the output of the first alone.

    \b
    Files:
      report.html    the page: verdict, tables, curves, every trial, cost,
                     environment; needs no network
      report.md      the same as text
      report.json    every run and every number
      curves.png     metric against steps, with intervals
      comparison.db  finished runs, unless --storage names another place
      checkpoints    of the runs under way
      weights        of the final models, with --keep-weights

    \b
    Examples:
      valleys compare digits --batch-size 1024 --optimizers lamb,alto --trials 4 --seeds 3 --out runs/digits
      valleys compare my_task.py:task --batch-size 8192 --optimizers adamw,eadamw-tuned --out runs/mine
      valleys compare fashion-mnist --data FOLDER --out runs/fashion --storage postgresql://user@host/optuna
      torchrun --nproc-per-node 2 --local-ranks-filter 0 -m valleys compare digits --batch-size 1024 --out runs/two
    """
    print_comparison(compare(task, config, out=out))
