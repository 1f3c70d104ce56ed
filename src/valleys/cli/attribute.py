"""``valleys attribute``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app, configured
from valleys.cli.console import print_lines, print_table
from valleys.lab.attribution.attribute import attribute, dry_run_attribution
from valleys.lab.attribution.config import UNUSED, AttributionConfig
from valleys.lab.attribution.report import effects


@app.command("attribute")
@configured(AttributionConfig, without=UNUSED)
def _attribute(
    task: Annotated[str, typer.Argument(help="A task's name (`valleys tasks` lists them), or FILE.py:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder of the report and the finished runs.")],
    config: AttributionConfig,
    dry: Annotated[bool, typer.Option("--dry-run", help="Check everything, estimate the cost, and leave.")] = False,
) -> None:
    """Find which part of a recipe makes the difference to another.

    Recipes are lamb-paper, lamb, alto, alto-vanilla, alto-authors, adamw, and those of --recipes. The two differ in
    some switches: beta3, bias correction, layer adaptation, norms and biases, clipping, E. All recipes between them
    are compared in rounds, as by `valleys compare`, and the difference is shared out among the switches (Shapley
    values, with simultaneous intervals over rounds). Of more than 5 switches each is changed alone.

    What --set does not fix is tuned, in every round anew.

    \b
    Files:
      attribution.md    the sentence, the picture, effects, recipes, interactions
      attribution.json  every number
      waterfall.png     from the first recipe to the last, switch by switch
      report.html, ...  of the comparison of all these recipes

    \b
    Examples:
      valleys attribute digits --batch-size 1024 --from lamb-paper --to alto --trials 5 --out runs/parts
      valleys attribute digits --batch-size 1024 --from lamb --to alto --set lr=0.05,momentum=0.9 --out runs/fixed
      valleys attribute my_task.py:task --from alto --to mine --recipes mine.yaml --out runs/mine --dry-run
    """
    if dry:
        print_lines(dry_run_attribution(task, config, out))
        return
    result = attribute(task, config, out=out, announce=partial(typer.echo, err=True))
    print_table(effects(result))
    print_lines(f"{result.sentence}.", *result.paths.values(), *result.comparison.paths.values())
