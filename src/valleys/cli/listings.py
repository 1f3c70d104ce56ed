"""``valleys tasks`` and ``valleys optimizers``."""

from __future__ import annotations

from typing import Annotated

import typer

from valleys.cli.app import app
from valleys.cli.console import plain_errors, print_table
from valleys.hyperparameters import LARGE_BATCH
from valleys.lab import tasks
from valleys.lab.optimizers import resolve as registry


@app.command("tasks")
def _tasks() -> None:
    """List the tasks.

    \b
    Examples:
      valleys tasks
    """
    with plain_errors():
        rows = [
            [name, entry.what, ", ".join(entry.presets), entry.data, entry.needs or "-"]
            for name, entry in tasks.entries().items()
        ]
        print_table(["task", "what it is", "presets", "data", "needs"], rows)


@app.command("optimizers")
def _optimizers(
    batch_size: Annotated[int, typer.Option(help="Of the comparison: the paper's rules depend on it.")] = LARGE_BATCH,
) -> None:
    """List the optimizers and what is tuned.

    \b
    Examples:
      valleys optimizers --batch-size 128
    """
    with plain_errors():
        rows = []
        for name in registry.names():
            space = registry.resolve(name, batch_size).space
            ranges = [f"{key} {r.low:g} to {r.high:g}{' (log)' * r.log}" for key, r in space.items()]
            rows.append([name, ", ".join(ranges)])
        print_table(["optimizer", "search space"], rows)
