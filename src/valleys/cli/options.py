"""Options of a command from the fields of a configuration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from valleys.cli.console import plain_errors


def configured(cls: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a configuration, and the configuration as its argument ``config``.

    A field of several words is one text with commas on the command line; name, type, default and help text are the
    field's, see :func:`valleys.lab.settings.option`.

    Args:
        cls: a dataclass of such fields.

    Returns:
        The decorator.
    """
    hints = get_type_hints(cls)
    several = {entry.name for entry in fields(cls) if isinstance(entry.default, tuple)}
    options = []
    for entry in fields(cls):
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
            settings = {name: values.pop(name) for name in [entry.name for entry in fields(cls)]}
            settings |= {name: tuple(words(settings[name])) for name in several}
            with plain_errors():
                command(**values, config=cls(**settings))

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def words(text: str) -> list[str]:
    """Split a text at its commas."""
    return [word.strip() for word in text.split(",") if word.strip()]
