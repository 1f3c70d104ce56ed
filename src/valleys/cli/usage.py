"""What ``--help`` says beyond options, as a manual page does: notes, files, environment, exit codes, examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap
from typing import TypedDict

__all__ = ["CODES", "ENVIRONMENT", "USAGE", "Texts", "Usage", "epilog", "texts"]

CODES = {
    0: "done",
    1: "an error in valleys or in a task's own code, with its traceback; torchrun's for any failure of its processes",
    2: "a mistake in the request, in one line; nothing that was finished is lost",
    130: "interrupted",
}
"""Exit codes of every command."""

ENVIRONMENT = {
    "VALLEYS_CACHE_DIR": "where compiled C kernels are kept; default: XDG_CACHE_HOME or ~/.cache, folder valleys",
    "CC": "the compiler that makes them; default: cc, gcc or clang",
    "OMP_NUM_THREADS": "threads of a run on the CPU; 1 for each of several workers on one machine",
    "WANDB_MODE": "online sends what --log wandb keeps in the folder otherwise",
}
"""Variables that change what a command does."""


_WIDTH = 74
"""Of lists, so that they fit a terminal of 80 columns in click's indents."""


@dataclass(frozen=True)
class Usage:
    """The text around one command's options.

    Args:
        short: its line in the list of commands.
        examples: command lines.
        notes: paragraphs.
        files: what it writes, by name.
    """

    short: str
    examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()


_REPORT = (
    ("report.html", "the page: verdict, tables, curves, every trial, cost, environment; needs no network"),
    ("report.md", "the same as text"),
    ("report.json", "every run and every number"),
    ("curves.png", "metric against steps, with intervals"),
    ("comparison.db", "finished runs, unless --storage names another place"),
)

USAGE = {
    "compare": Usage(
        "Tune optimizers equally, run fresh seeds, say who won.",
        (
            "valleys compare digits --batch-size 1024 --optimizers lamb,alto --trials 4 --seeds 3 --out runs/digits",
            "valleys compare my_task.py:task --batch-size 8192 --optimizers adamw,eadamw-tuned --out runs/mine",
            "valleys compare fashion-mnist --data FOLDER --out runs/fashion --storage postgresql://user@host/optuna",
            "torchrun --nproc-per-node 2 -m valleys compare digits --batch-size 1024 --out runs/two",
        ),
        (
            "Tuning sees validation data alone, the verdict test data of fresh seeds alone. It may be that no "
            "difference was found; it then says which one so many seeds would have found.",
            "Interrupted, or out of time? The same command goes on where it stopped. The same command in other shells, "
            "or on other machines with --storage, shares the work. --trials and --seeds may grow later.",
        ),
        (
            *_REPORT,
            ("checkpoints", "of the runs under way"),
            ("weights", "of the final models, with --keep-weights"),
        ),
    ),
    "suggest": Usage(
        "Say what the paper's rule means for a batch size.",
        ("valleys suggest --batch-size 8192", "valleys suggest --batch-size 8192 --task my_task.py:task"),
        (
            "With --task it trains briefly and measures the gradient noise scale: far below it a larger batch still "
            "saves steps, far above it hardly any. The last line is the comparison that settles the matter.",
        ),
    ),
    "tasks": Usage("List the tasks.", ("valleys tasks",)),
    "optimizers": Usage("List the optimizers and what is tuned.", ("valleys optimizers --batch-size 128",)),
    "demo": Usage(
        "Compare four optimizers on digits and sine.",
        ("valleys demo --out runs/demo",),
        ("Data and sizes are fixed; a few minutes on two cores. The same command goes on where it stopped.",),
        tuple((f"TASK/{name}", text) for name, text in _REPORT),
    ),
    "report": Usage(
        "Put finished comparisons on one HTML page.",
        ("valleys report runs/digits runs/mine --out report.html",),
        ("Comparisons of one task at several batch sizes get a chart of the metric against the batch size.",),
    ),
    "doctor": Usage(
        "Say what is installed and which kernels work.",
        ("valleys doctor --no-compiled",),
        ("Works with torch alone. Each kernel makes a step, which is compared with that of plain torch.",),
    ),
    "landscape": Usage(
        "Measure how flat a comparison's minima are.",
        ("valleys landscape runs/digits", "valleys landscape runs/digits --measures top_eigenvalue,drift"),
        (
            "Measures what `compare --keep-weights` kept; other runs are trained again from their seeds. Nothing is "
            "measured twice.",
        ),
        (("report.html, .md, .json", "of RUN, with the measurements added"),),
    ),
    "trajectories": Usage(
        "Draw walks on test functions, with and without E.",
        ("valleys trajectories rosenbrock f1 --alpha -50 --out pictures",),
        (),
        (("FUNCTION.png", "a picture for each function"),),
    ),
    "playground": Usage(
        "Write a page on which to drag alpha, beta1, lr.",
        ("valleys playground --open",),
        ("The page holds all it needs and works without network and server.",),
    ),
    "reproduce": Usage(
        "Repeat a table or figure of the paper.",
        ("valleys reproduce table-3 --data FOLDER --only CIFAR-10", "valleys reproduce figure-8"),
        (
            "Hyperparameters are the paper's, not tuned. --preset smoke is a smaller problem of the same kind, whose "
            "numbers are no test of the paper's. What cannot run is left blank and says why.",
        ),
        (("reproduce.md, .json", "the table, as text and as numbers"), ("PROBLEM/report.html", "of each comparison")),
    ),
}
"""By command."""


class Texts(TypedDict):
    """Arguments of Typer's ``command``."""

    short_help: str
    epilog: str


def texts(command: str) -> Texts:
    """What to give Typer for a command beside its function.

    Args:
        command: its name.

    Returns:
        The keyword arguments.

    Example:
        >>> texts("tasks")["short_help"]
        'List the tasks.'
    """
    usage = USAGE[command]
    parts = [*usage.notes, *_listing("Files:", usage.files), _lines("Examples:", usage.examples)]
    return {"short_help": usage.short, "epilog": "\n\n".join(parts)}


def epilog() -> str:
    """The end of ``valleys --help``."""
    more = ("valleys COMMAND --help explains one command.", "valleys --install-completion completes them by tab.")
    parts = [*_listing("Environment:", ENVIRONMENT.items()), *_listing("Exit codes:", CODES.items())]
    return "\n\n".join([*parts, _lines("More:", more)])


def _listing(title: str, rows: Iterable[tuple[object, str]]) -> list[str]:
    named = [(str(name), text) for name, text in rows]
    width = max((len(name) for name, _ in named), default=0)
    lines: list[str] = []
    for name, text in named:
        lines += wrap(text, _WIDTH, initial_indent=f"{name:{width}}  ", subsequent_indent=" " * (width + 2))
    return [_lines(title, lines)] if lines else []


def _lines(title: str, lines: Iterable[str]) -> str:
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])  # click keeps these lines as they are
