"""The application: its help, and the modules that add a command each."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
"""The ``valleys`` command."""

COMMANDS = (
    "compare",
    "suggest",
    "listings",
    "demo",
    "report",
    "doctor",
    "landscape",
    "trajectories",
    "playground",
    "reproduce",
)


def _show_version(show: bool) -> None:
    if show:
        typer.echo(version("valleys"))
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """ALTO, the E adaptor, and a lab that says whether they help on your task.

    \b
    Environment:
      VALLEYS_CACHE_DIR  where compiled C kernels are kept; default:
                         XDG_CACHE_HOME or ~/.cache, folder valleys
      CC                 the compiler that makes them; default: cc, gcc or clang
      OMP_NUM_THREADS    threads of a run on the CPU; 1 for each of several
                         workers on one machine
      WANDB_MODE         online sends what --log wandb keeps in the folder

    \b
    Exit codes:
      0    done
      1    an error in valleys or in a task's own code, with its traceback;
           torchrun's for any failure of its processes
      2    a mistake in the request, in one line; finished runs are kept
      130  interrupted

    \b
    More:
      valleys COMMAND --help explains one command.
      valleys --install-completion completes them by tab.
    """


for _name in COMMANDS:
    import_module(f"valleys.cli.{_name}")
