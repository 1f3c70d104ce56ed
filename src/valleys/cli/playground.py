"""``valleys playground``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valleys.cli.app import app
from valleys.lab.errors import LabError
from valleys.paper import playground


@app.command("playground")
def _playground(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("playground.html"),
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Write a page on which to drag alpha, beta1, lr.

    It shows the walk beside the plain optimizer's. The page holds all it needs and works without network and server.

    \b
    Examples:
      valleys playground --open
    """
    try:
        path = playground.write(out)
    except OSError as error:
        raise LabError(f"cannot write {out}: {error.strerror or error}") from error
    typer.echo(path)
    if show:
        typer.launch(path.resolve().as_uri())
