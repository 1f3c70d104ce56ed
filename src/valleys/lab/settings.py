"""Settings as fields of frozen dataclasses: name, type, default and help text stand in one place."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any, TypeVar

Config = TypeVar("Config", bound=type)


def option(default: Any, text: str, **metadata: Any) -> Any:
    """Declare a field of a dataclass as an option: command line, identity of a run and report read it from there.

    The metadata: ``identity=True``: two comparisons that differ in it are not the same one; ``growing=True``: the same
    comparison may be asked for again with a larger value; ``shown=True``: a report's command names it always; ``flag``:
    its option on the command line, unless that is its name; ``cli``: its type there.
    """
    return field(default=default, metadata={"text": text, **metadata})


def documented(cls: Config) -> Config:
    """Add the settings' help texts to the docstring of their dataclass."""
    lines = [f"        {entry.name}: {entry.metadata['text']} Default: {entry.default!r}." for entry in fields(cls)]
    head, _, tail = (cls.__doc__ or "").partition("\n    Raises:")
    cls.__doc__ = head + "\n    Args:\n" + "\n".join(lines) + "\n" + ("\n    Raises:" + tail) * bool(tail)
    return cls
