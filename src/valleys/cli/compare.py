"""``valleys compare``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app, configured
from valleys.cli.console import print_comparison, print_lines
from valleys.lab.comparison import compare, dry_run
from valleys.lab.config import ComparisonConfig


@app.command("compare")
@configured(ComparisonConfig)
def _compare(
    task: Annotated[str, typer.Argument(help="A task's name (`valleys tasks` lists them), or FILE.py:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder of the report and the finished runs.")],
    config: ComparisonConfig,
    dry: Annotated[bool, typer.Option("--dry-run", help="Check everything, estimate the cost, and leave.")] = False,
) -> None:
    """Compare optimizers in rounds of equal tuning and fresh seeds.

    In each round every optimizer is tuned by the same number of trials, at shared points, and its best values by
    validation are run on fresh seeds. Each planned pair (an adapted optimizer and its base, and --pairs) gets a
    verdict: which is better and by how much, or that there is no significant difference and which one would have been
    detected.

    Interrupted, or out of time? The same command goes on where it stopped. The same command in other shells, or on
    other machines with --storage, shares the work. --rounds, --trials and --seeds may grow later. Of several processes
    that share each batch, torchrun --local-ranks-filter 0 shows the output of the first alone.

    \b
    Files:
      report.html    the page: verdict, tables, curves, every trial, cost,
                     environment; needs no network
      report.md      the same as text
      report.json    every run and every number
      runs.csv       one row for each run, for spreadsheets and pandas
      curves.png     metric against steps, with intervals
      comparison.db  finished runs, unless --storage names another place
      checkpoints    of the runs under way
      weights        of the final models, with --keep-weights

    \b
    Examples:
      valleys compare digits --batch-size 1024 --optimizers lamb,alto --rounds 3 --trials 5 --out runs/digits
      valleys compare digits --batch-size 1024 --optimizers adamw,muon --pairs muon:adamw --out runs/muon --dry-run
      valleys compare my_task.py:task --batch-size 8192 --optimizers adamw,eadamw-tuned --trials 16 --out runs/mine
      valleys compare fashion-mnist --data FOLDER --out runs/fashion --storage postgresql://user@host/optuna
      torchrun --nproc-per-node 2 --local-ranks-filter 0 -m valleys compare digits --batch-size 1024 --out runs/two
    """
    if dry:
        print_lines(dry_run(task, config, out))
    else:
        print_comparison(compare(task, config, out=out, announce=partial(typer.echo, err=True)))
