"""The application: its help, options of commands from configurations, and the modules that add a command each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info

from valleys.cli.console import plain_errors
from valleys.lab.errors import UNPRINTABLE, LabError

COMMANDS = {
    "compare": "Compare optimizers in rounds of equal tuning and fresh seeds.",
    "attribute": "Find which part of a recipe makes the difference to another.",
    "suggest": "Suggest a learning rate, alpha and beta for a batch size.",
    "tasks": "List the tasks.",
    "optimizers": "List the optimizers and what is tuned, or explain one.",
    "demo": "Compare AdamW, LAMB and ALTO on digits and sine.",
    "report": "Put finished comparisons on one HTML page.",
    "doctor": "Say what is installed and which kernels work.",
    "landscape": "Measure how flat a comparison's minima are.",
    "trajectories": "Draw walks on test functions, with and without E.",
    "playground": "Write a page on which to drag alpha, beta1, lr.",
    "reproduce": "Repeat a table or figure of the paper.",
    "claims": "List the claims of the paper, and what was found of each.",
}
"""First line of each command's help: the commands are listed before their modules are imported."""

_LISTINGS = ("tasks", "optimizers", "claims")

PATHS = ("--out", "--data", "--recipes")
"""Options of a file or a folder."""


class _Commands(Mapping[str, Any]):
    """The commands by name; the module of one is imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        import_module(f"valleys.cli.{'listings' if name in _LISTINGS else name}")
        (command,) = (one for one in app.registered_commands if one.name == name)
        return get_command_from_info(command, pretty_exceptions_short=False, rich_markup_mode=None)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    """A group whose help and completion need no command's module."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command that has its summary alone."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def invoke(self, ctx: Any) -> Any:
        """Run a command; its errors are one line each."""
        with plain_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the whole command, with its name and arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else self.commands[name], rest


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
"""The ``valleys`` command."""


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
      VALLEYS_ISA        level of the C kernels that a wheel brings, such as
                         x86-64-v3; default: the processor's highest
      OMP_NUM_THREADS    threads of a run on the CPU; 1 for each of several
                         workers on one machine
      WANDB_MODE         online sends what --log wandb keeps in the folder

    \b
    Exit codes:
      0    done
      1    an error in valleys, with its traceback;
           torchrun's for any failure of its processes
      2    a mistake in the request, in a task's or an optimizer's own code,
           a full disk, in one line; finished runs are kept
      3    reproduce: every cell is blank
      130  interrupted
      143  asked to leave by SIGTERM or SIGUSR1; the run under way is kept

    \b
    More:
      valleys COMMAND --help explains one command.
      valleys --install-completion completes them by tab.
    """


def configured(cls: type, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a configuration, and the configuration as its argument ``config``.

    A field of several words is one text with commas on the command line; name, type, default and help text are the
    field's, see :func:`valleys.lab.settings.option`.

    Args:
        cls: a dataclass of such fields.
        without: fields that get no option and keep their defaults. Default: none.

    Returns:
        The decorator.
    """
    hints = get_type_hints(cls)
    entries = [entry for entry in fields(cls) if entry.name not in without]
    several = {entry.name for entry in entries if isinstance(entry.default, tuple)}
    options = []
    for entry in entries:
        flag = entry.metadata.get("flag") or f"--{entry.name.replace('_', '-')}"
        cli = typer.Option(flag, help=entry.metadata["text"])
        kind = str if entry.name in several else entry.metadata.get("cli", hints[entry.name])
        default = ",".join(entry.default) if entry.name in several else entry.default  # type: ignore[arg-type]
        options.append(
            inspect.Parameter(
                entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, cli]
            )
        )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.name != "config"
        ]
        parameters = [*own, *options]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            settings = {name: values.pop(name) for name in [entry.name for entry in entries]}
            settings |= {name: tuple(words(settings[name])) for name in several}
            command(**values, config=cls(**settings))

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def words(text: str) -> list[str]:
    """Split a text at its commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def run(arguments: list[str]) -> int:
    """Run the command line; return its exit code. A mistake in its words is one line, as any other."""
    try:
        with plain_errors():
            _check_words(arguments)
            return app(arguments, prog_name="valleys", standalone_mode=False) or 0
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # the parser's
            raise
        if not arguments:
            error.show()  # type: ignore[attr-defined]
        else:
            typer.echo(f"valleys: {' '.join(error.format_message().split())} (see: valleys --help)", err=True)
        return 2


def _check_words(arguments: list[str]) -> None:
    """Refuse an empty path, which would be the current folder, and characters that no file and no report can hold."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        if UNPRINTABLE.search(word):
            option = next((one.partition("=")[0] for one in (word, before) if one.startswith("--")), "an argument")
            raise LabError(f"{option} has characters that neither a file nor a report can hold; leave them out")
        flag = before if word == "" else word.removesuffix("=")
        if flag in PATHS and flag != word:
            raise LabError(f"{flag} must not be empty; name a path, such as . for this folder")
        if word == "" and not before.startswith("-"):
            raise LabError("an argument is empty; valleys --help explains the commands")
