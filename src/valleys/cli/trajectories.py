"""``valleys trajectories``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app, words
from valleys.cli.console import print_lines, print_table
from valleys.lab.errors import LabError
from valleys.lab.report.table import Table
from valleys.paper.walks.functions import FUNCTIONS
from valleys.paper.walks.plots import draw


@app.command("trajectories")
def _trajectories(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    functions: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(FUNCTIONS)}; default: all.", show_default=False)
    ] = None,
    optimizers: Annotated[str, typer.Option(help="By commas, of sgd, adam, lamb; default: all.")] = "",
    lr: Annotated[float | None, typer.Option(help="Of all; default: a good one for each.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength of E; default: -50, or the paper's.")] = None,
    beta1: Annotated[float | None, typer.Option(help="Memory of E; default: 0.99.")] = None,
    steps: Annotated[int | None, typer.Option(max=10**6, help="Of each walk; default: the function's.")] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation of the gradient's noise.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    control: Annotated[bool, typer.Option(help="Show the plain optimizer with as long a memory, too.")] = True,
) -> None:
    """Draw walks on test functions, with and without E.

    SGD, Adam and LAMB beside ESGD, EAdam and ALTO: which goes on along a valley?

    \b
    Files:
      FUNCTION.png  a picture for each function

    \b
    Examples:
      valleys trajectories rosenbrock f1 --alpha -50 --out pictures
    """
    try:
        report = draw(
            functions or None,
            optimizers=words(optimizers) or None,
            lr=lr,
            alpha=alpha,
            beta1=beta1,
            steps=steps,
            noise=noise,
            seed=seed,
            control=control,
            out=out,
        )
    except (ValueError, OSError) as error:
        raise LabError(str(error)) from error
    titles, *rows = report.table()
    print_table(Table.of_text(titles, rows))
    print_lines(*report.pictures)
