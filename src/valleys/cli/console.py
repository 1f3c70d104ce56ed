"""Tables and errors on a terminal, and in a file."""

from __future__ import annotations

import errno
import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from valleys.lab.errors import LabError
from valleys.lab.run.interruption import CODE

if TYPE_CHECKING:
    from rich.console import Console

    from valleys.lab.comparison import Comparison
    from valleys.lab.report.table import Table

_WIDE = 200  # columns of a table that goes to a file or a pipe: nothing is cut
_TEXT = 100  # columns of sentences and of a comparison's table


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a user's mistake into one line and exit code 2, Ctrl-C into one line and 130, SIGTERM into one and 143."""
    try:
        yield
    except LabError as error:
        typer.echo(f"valleys: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error
    except SystemExit as error:
        if error.code == CODE:
            typer.echo("valleys: asked to leave by a signal; the same command continues", err=True)
        raise
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
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDE)


def print_lines(*lines: object) -> None:
    """Print one line each, unwrapped."""
    from rich.markup import escape

    for line in lines:
        console().print(escape(str(line)), soft_wrap=True, highlight=False)


def print_text(text: str, indent: str = "") -> None:
    """Print a sentence in lines of whole words; all but the first line are indented further."""
    width = min(console().width, _TEXT)
    wrapper = textwrap.TextWrapper(width, indent, f"{indent}  ", break_long_words=False)
    print_lines(*wrapper.wrap(text))


def print_table(table: Table) -> None:
    """Print a table without lines."""
    console().print(table.to_rich())


def print_comparison(comparison: Comparison, brief: bool = False) -> None:
    """Print a comparison's table, verdicts, notes and files; of the files only the page if ``brief``."""
    from valleys.lab.report.html import reading, tables
    from valleys.lab.report.text import explained

    document = json.loads(comparison.paths["json"].read_text(encoding="utf-8"))
    table = tables.results(document, reading.indices([document]))
    titles = [title for title in table.titles if not title.startswith("validation")]
    title = f"{comparison.task} at batch {comparison.batch_size}"
    print_table(replace(table, caption=title).select(titles, min(console().width, _TEXT)))
    for verdict in comparison.verdicts:
        print_text(f"{verdict.sentence}.")
        for line in [] if brief else explained(verdict):
            print_text(f"{line}.", "  ")
    if brief:
        print_lines(comparison.paths["html"], "")
        return
    for note in comparison.warnings:
        print_text(f"note: {note}")
    print_lines(*comparison.paths.values())
