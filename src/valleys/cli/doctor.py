"""``valleys doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from valleys import doctor
from valleys.cli.app import app
from valleys.kernels.choice import FUSED


@app.command("doctor")
def _doctor(
    compiled: Annotated[bool, typer.Option(help="Try torch.compile's kernels too, which takes some seconds.")] = True,
) -> None:
    """Say what is installed and which kernels work.

    Works with torch alone. Each kernel makes a step, which is compared with that of plain torch.

    \b
    Examples:
      valleys doctor --no-compiled
    """
    for line in doctor.report(tuple(name for name in FUSED if compiled or name != "compiled")):
        typer.echo(line)
