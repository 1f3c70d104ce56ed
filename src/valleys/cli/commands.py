"""The commands of ``valleys``: each parses, calls the lab, and shows what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from valleys import doctor
from valleys.cli.usage import epilog, texts
from valleys.kernels.choice import FUSED
from valleys.lab import demo, tasks
from valleys.lab.compare import Comparison, compare
from valleys.lab.errors import LabError
from valleys.lab.flatness import text
from valleys.lab.flatness.measure import EXAMPLES, MEASURES
from valleys.lab.landscape import landscape
from valleys.lab.optimizers import resolve as registry
from valleys.lab.optimizers.resolve import LARGE
from valleys.lab.problem.schedules import KINDS
from valleys.lab.progress import watch
from valleys.lab.recommend import STEPS, recommend
from valleys.lab.report import html
from valleys.lab.report.summary import cells
from valleys.paper import playground, render
from valleys.paper.reproduce import PRESETS, reproduce
from valleys.paper.tables.numbers import find
from valleys.paper.walks.functions import FUNCTIONS
from valleys.paper.walks.plots import draw

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="ALTO, the E adaptor, and a lab that says whether they help on your task.",
    epilog=epilog(),
)
"""The ``valleys`` command."""

WIDE = 200
"""Columns of a table that goes to a file or a pipe: wide enough that nothing is cut."""

LEFT_TO_THE_REPORT = ("hyperparameters", "optimizer ms")
"""Columns that a terminal has no room for; the validation metric is another."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("valleys"))
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    """ALTO, the E adaptor, and a lab that says whether they help on your task."""


@app.command("compare", **texts("compare"))
def _compare(
    task: Annotated[str, typer.Argument(help="A task's name (`valleys tasks` lists them), or FILE.py:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder of the report and the finished runs.")],
    batch_size: Annotated[int | None, typer.Option(help="Examples per optimizer step, of all processes.")] = None,
    optimizers: Annotated[str, typer.Option(help="Names or module:callable, by commas.")] = "sgd,adamw,lamb,alto",
    trials: Annotated[int, typer.Option(help="Tuning trials per optimizer.")] = 8,
    seeds: Annotated[int, typer.Option(help="Fresh seeds per optimizer.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Length of a run; default: the task's own.")] = None,
    preset: Annotated[str | None, typer.Option(help="paper or smoke, for tasks that have them.")] = None,
    schedule: Annotated[str | None, typer.Option(help=f"Learning rate: {', '.join(KINDS)}.")] = None,
    precision: Annotated[str, typer.Option(help="Of forward passes: float32, or bfloat16 by autocast.")] = "float32",
    micro_batch: Annotated[int | None, typer.Option(help="Examples per backward pass of one process.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None,
    storage: Annotated[str | None, typer.Option(help="Optuna storage URL; default: SQLite in --out.")] = None,
    name: Annotated[str | None, typer.Option(help="The comparison's name in --storage; default: --out's.")] = None,
    log: Annotated[str, typer.Option(help="Follow the runs by tensorboard, mlflow, wandb; by commas.")] = "",
    keep_weights: Annotated[bool, typer.Option("--keep-weights", help="Keep the final models in --out.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Tune each optimizer equally, run the chosen values on fresh seeds, say who won."""
    with _plain_errors():
        comparison = compare(
            task,
            _words(optimizers),
            batch_size=batch_size,
            trials=trials,
            seeds=seeds,
            epochs=epochs,
            preset=preset,
            schedule=schedule,
            precision=precision,
            micro_batch=micro_batch,
            out=out,
            data_dir=data,
            storage=storage,
            name=name,
            log=_words(log),
            keep_weights=keep_weights,
            device=device,
        )
        _show(comparison)


@app.command("suggest", **texts("suggest"))
def _suggest(
    batch_size: Annotated[int, typer.Option(help="Examples per optimizer step, of all processes.")],
    task: Annotated[str | None, typer.Option(help="Measure this task's noise scale; a name or FILE.py:NAME.")] = None,
    optimizer: Annotated[str, typer.Option(help="Of the brief run that measures.")] = "adamw",
    lr: Annotated[float | None, typer.Option(help="Its learning rate; default: the middle of the tuned range.")] = None,
    steps: Annotated[int, typer.Option(help="Its optimizer steps.")] = STEPS,
    preset: Annotated[str | None, typer.Option(help="paper or smoke, for tasks that have them.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Say what the paper's rule, and a task's gradient noise scale, mean for a batch size."""
    with _plain_errors(), watch("measuring", 1) as show:
        advice = recommend(
            batch_size,
            task,
            data_dir=data,
            preset=preset,
            optimizer=optimizer,
            lr=lr,
            steps=steps,
            device=device,
            progress=show("noise scale", 0),
        )
    typer.echo(str(advice))


@app.command("tasks", **texts("tasks"))
def _tasks() -> None:
    """List the tasks."""
    with _plain_errors():
        table = _table("task", "what it is", "presets", "data", "needs")
        for name, entry in tasks.entries().items():
            table.add_row(*map(escape, (name, entry.what, ", ".join(entry.presets), entry.data, entry.needs or "-")))
        _console().print(table)


@app.command("optimizers", **texts("optimizers"))
def _optimizers(
    batch_size: Annotated[int, typer.Option(help="Of the comparison: the paper's rules depend on it.")] = LARGE,
) -> None:
    """List the optimizers and the spaces they are tuned in."""
    with _plain_errors():
        table = _table("optimizer", "search space")
        for name in registry.names():
            space = registry.resolve(name, batch_size).space
            ranges = [f"{key} {r.low:g} to {r.high:g}{' (log)' * r.log}" for key, r in space.items()]
            table.add_row(escape(name), escape(", ".join(ranges)))
        _console().print(table)


@app.command("demo", **texts("demo"))
def _demo(out: Annotated[Path, typer.Option(help="Folder of the reports.")]) -> None:
    """Compare SGD, AdamW, LAMB and ALTO at large batch on digits and sine; a few minutes on two cores."""
    with _plain_errors():
        for comparison in demo.run(out):
            _show(comparison)


@app.command("report", **texts("report"))
def _report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished comparisons.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="The page's title.")] = None,
) -> None:
    """Put finished comparisons on one HTML page: verdicts first, then tables and charts."""
    with _plain_errors():
        _console().print(escape(str(html.merge(folders, out, title))), soft_wrap=True, highlight=False)


@app.command("doctor", **texts("doctor"))
def _doctor(
    compiled: Annotated[bool, typer.Option(help="Try torch.compile's kernels too, which takes some seconds.")] = True,
) -> None:
    """Say what is installed, which kernels work here, and why the others do not."""
    for line in doctor.report(tuple(name for name in FUSED if compiled or name != "compiled")):
        typer.echo(line)


@app.command("landscape", **texts("landscape"))
def _landscape(
    run: Annotated[Path, typer.Argument(help="Folder of a finished comparison.")],
    task: Annotated[str | None, typer.Option(help="Its task, where it moved; a name or FILE.py:NAME.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data; default: where it lay.")] = None,
    examples: Annotated[int, typer.Option(help="Training examples of the loss that is measured.")] = EXAMPLES,
    measures: Annotated[str, typer.Option(help=f"By commas, of {', '.join(MEASURES)}; default: all.")] = "",
    storage: Annotated[str | None, typer.Option(help="The comparison's Optuna storage URL, if it had one.")] = None,
    name: Annotated[str | None, typer.Option(help="The comparison's name in --storage; default: RUN's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure how flat the minima are that a comparison's runs found; add it to the comparison's report."""
    with _plain_errors():
        found = landscape(
            run,
            task=task,
            data_dir=data,
            examples=examples,
            measures=_words(measures) or None,
            storage=storage,
            name=name,
            device=device,
        )
        console = _console()
        console.print(_filled(text.main(found.flatness), f"{found.task} at batch {found.batch_size}: flatness"))
        if found.flatness.contrasts:
            console.print(_filled(text.ratios(found.flatness)))
        if found.trained_again:
            note = f"note: {found.trained_again} runs had no weights left and were trained again (--keep-weights)"
            console.print(note, soft_wrap=True, highlight=False)
        for said in (*found.flatness.notes, *map(str, found.paths.values())):
            console.print(escape(said), soft_wrap=True, highlight=False)


@app.command("trajectories", **texts("trajectories"))
def _trajectories(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    functions: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(FUNCTIONS)}; default: all.", show_default=False)
    ] = None,
    optimizers: Annotated[str, typer.Option(help="By commas, of sgd, adam, lamb; default: all.")] = "",
    lr: Annotated[float | None, typer.Option(help="Of all; default: a good one for each.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength of E; default: -50, or the paper's.")] = None,
    beta1: Annotated[float | None, typer.Option(help="Memory of E; default: 0.99.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of each walk; default: the function's.")] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation of the gradient's noise.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    control: Annotated[bool, typer.Option(help="Show the plain optimizer with as long a memory, too.")] = True,
) -> None:
    """Draw SGD, Adam and LAMB beside ESGD, EAdam and ALTO on test functions: who goes on along a valley."""
    with _plain_errors():
        try:
            found = draw(
                functions or None,
                optimizers=_words(optimizers) or None,
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
        titles, *rows = found.table()
        console = _console()
        console.print(_filled((titles, rows)))
        for path in found.pictures:
            console.print(escape(str(path)), soft_wrap=True, highlight=False)


@app.command("playground", **texts("playground"))
def _playground(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("playground.html"),
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Write a web page on which to drag alpha, beta1 and lr, and to watch the walk beside the plain optimizer's."""
    with _plain_errors():
        try:
            path = playground.write(out)
        except OSError as error:
            raise LabError(f"cannot write {out}: {error.strerror or error}") from error
    typer.echo(path)
    if show:
        typer.launch(path.resolve().as_uri())


@app.command("reproduce", **texts("reproduce"))
def _reproduce(
    number: Annotated[str, typer.Argument(help="table-3, figure-8, ...; list, or nothing, lists them.")] = "list",
    preset: Annotated[str, typer.Option(help="smoke (a smaller problem) or paper.")] = PRESETS[0],
    only: Annotated[str | None, typer.Option(help="A row, or an unambiguous beginning of its label.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each optimizer on each problem.")] = 3,
    data: Annotated[Path | None, typer.Option(help="Folder of the data.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: reproduce/NUMBER.")] = None,
    storage: Annotated[str | None, typer.Option(help="Optuna storage URL; default: SQLite in --out.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Repeat a table or figure of the paper: its number, ours, the difference and its interval."""
    with _plain_errors():
        found = None
        if number != "list":
            found = reproduce(
                number,
                preset=preset,
                only=only,
                seeds=seeds,
                data_dir=data,
                out=Path("reproduce") / find(number).number if out is None else out,
                storage=storage,
                device=device,
            )
        console = _console()
        for part in render.parts(found):
            console.print(part, soft_wrap=isinstance(part, Text))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's mistake is one line and exit code 2; Ctrl-C is one line and 130."""
    try:
        yield
    except LabError as error:
        typer.echo(f"valleys: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("valleys: interrupted; the same command continues", err=True)
        raise typer.Exit(130) from error


def _show(comparison: Comparison) -> None:
    console = _console()
    rows = [cells(row, comparison.metric) for row in comparison.rows]
    titles = [title for title in rows[0] if title not in LEFT_TO_THE_REPORT and not title.startswith("validation")]
    table = _table(*titles, title=f"{comparison.task} at batch {comparison.batch_size}")
    for row in rows:
        table.add_row(*(escape(row[title]) for title in titles))
    console.print(table)
    for sentence in (comparison.verdict.sentence, *(question.sentence for question in comparison.planned)):
        console.print(escape(sentence), soft_wrap=True, highlight=False)
    for note in comparison.warnings:
        console.print(escape(f"note: {note}"), soft_wrap=True, highlight=False)
    for path in comparison.paths.values():
        console.print(escape(str(path)), soft_wrap=True, highlight=False)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def _filled(content: tuple[list[str], list[list[str]]], title: str | None = None) -> Table:
    titles, rows = content
    table = _table(*titles, title=title)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _table(*titles: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in titles:
        table.add_column(heading, overflow="fold")
    return table
