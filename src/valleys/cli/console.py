"""Tables and errors on a terminal, and in a file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from valleys.lab.compare import Comparison
from valleys.lab.errors import LabError
from valleys.lab.report.text import cells, explained

_WIDE = 200  # columns of a table that goes to a file or a pipe: nothing is cut
_REPORT_ONLY = "optimizer ms"  # a terminal has no room for it, nor for the validation metric


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a user's mistake into one line and exit code 2, Ctrl-C into one line and 130."""
    try:
        yield
    except LabError as error:
        typer.echo(f"valleys: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of the output is gone
            raise
        problem = f"{error.filename or 'a file'}: {error.strerror or error}"
        typer.echo(f"valleys: {problem}; see to it that it can be read or written, and its disk has room", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("valleys: interrupted; the same command continues", err=True)
        raise typer.Exit(130) from error


def console() -> Console:
    """Return a console that cuts nothing off where the output is no terminal."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDE)


def print_lines(*lines: object) -> None:
    """Print one line each, unwrapped."""
    for line in lines:
        console().print(escape(str(line)), soft_wrap=True, highlight=False)


def print_table(titles: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table without lines."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in titles:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison's table, verdicts, notes and files."""
    rows = [cells(row, comparison.metric) for row in comparison.rows]
    titles = [title for title in rows[0] if title != _REPORT_ONLY and not title.startswith("validation")]
    print_table(
        titles,
        [[row[title] for title in titles] for row in rows],
        f"{comparison.task} at batch {comparison.batch_size}",
    )
    for verdict in comparison.verdicts:
        print_lines(verdict.sentence, *(f"  {line}" for line in explained(verdict)))
    print_lines(*(f"note: {note}" for note in comparison.warnings), *comparison.paths.values())
