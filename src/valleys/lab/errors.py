"""The one exception for a user's mistake, checks that raise it, and the line of the user's code that is to blame."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import sysconfig
import textwrap
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["LabError"]

LARGEST = 1e100
"""Largest magnitude of a number: the squares of larger ones are not finite."""

_LARGEST_WHOLE = 2**31 - 1
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, ends of lines, and halves of characters, which no file can hold."""
_WORDS: Mapping[Any, str] = {
    bool: "True or False",
    int: f"a whole number of at most {_LARGEST_WHOLE}",
    float: f"a finite number of at most {LARGEST:g}",
    str: "text without control characters",
    type(None): "None",
    Callable: "a function",
    Mapping: "a dictionary",
    Sequence: "a list",
}
_LIBRARIES = Path(__file__).resolve().parents[1], Path(sysconfig.get_path("stdlib")).resolve()
_TRACEBACK = "Traceback (most recent call last)"


class LabError(Exception):
    """Bad input: the command line prints its text as one line and exits with code 2.

    The text names the argument, its value, what is allowed, and the remedy. Line breaks in it, such as those of another
    library's message, become spaces.
    """

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.split("\n")))


def unknown(kind: str, name: str, choices: Sequence[str], remedy: str = "") -> LabError:
    """Return the error for a name that is none of the choices; the remedy, what else is allowed, ends the message.

    Example:
        >>> print(unknown("task", "sin", ["digits", "sine"]))
        unknown task 'sin'; did you mean sine? Choices: digits, sine
    """
    near = difflib.get_close_matches(name.lower(), choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return LabError(f"unknown {kind} {name!r}{hint} Choices: {', '.join(choices)}{remedy}")


def finite(value: float) -> bool:
    """Return True for a number with which statistics can be computed: at most ``LARGEST``, no NaN."""
    return abs(value) <= LARGEST


def typed(instance: Any, of: str = "") -> None:
    """Raise LabError for fields of a dataclass that are not of their declared types; ``of`` begins the message.

    A bool is no number, a number is finite, and a text has no control characters; one that is empty must be the
    default. Private fields are left out; so is the value of a field with the metadata ``secret``.
    """
    cls: Any = type(instance)
    for entry in dataclasses.fields(instance):
        value, kinds = getattr(instance, entry.name), _kinds(cls)[entry.name]
        if entry.name.startswith("_") or value is entry.default:
            continue
        if not any(_fits(value, kind) for kind in kinds):
            words = [_words(kind) for kind in kinds]
            text = "this" if entry.metadata.get("secret") else shortened(value)
            raise LabError(f"{of}{entry.name} must be {' or '.join(words)}, not {text}")
        if isinstance(value, str) and not value.strip() and value != entry.default:
            raise LabError(f"{of}{entry.name} must not be empty")


@functools.cache
def _kinds(cls: Any) -> dict[str, tuple[Any, ...]]:
    """Return the types that each field may have."""
    unions = Union, types.UnionType
    return {n: get_args(hint) if get_origin(hint) in unions else (hint,) for n, hint in get_type_hints(cls).items()}


def _words(kind: Any) -> str:
    origin = get_origin(kind) or kind
    return " or ".join(map(repr, get_args(kind))) if origin is Literal else _WORDS.get(origin, f"a {origin.__name__}")


def _fits(value: Any, kind: Any) -> bool:
    origin, of = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType, Mapping, Sequence):
        if origin is Mapping:
            return isinstance(value, Mapping) and all(_fits(k, of[0]) and _fits(v, of[1]) for k, v in value.items())
        if origin is Sequence:
            return isinstance(value, (list, tuple)) and all(_fits(one, of[0]) for one in value)
        return any(_fits(value, one) for one in of)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in of)
    if origin in (int, float):
        number = isinstance(value, int if origin is int else (int, float)) and not isinstance(value, bool)
        return number and abs(value) <= (_LARGEST_WHOLE if origin is int else LARGEST)
    if origin in (str, Path):
        return isinstance(value, origin) and not UNPRINTABLE.search(str(value))
    return origin is Any or (callable(value) if origin is Callable else isinstance(value, origin))


def shortened(value: object) -> str:
    """Return a value as Python writes it, in one line of at most 80 characters; of other objects the class alone."""
    if value is not None and not isinstance(value, (str, bool, int, float, list, tuple)):
        return f"a {type(value).__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def reason(error: BaseException) -> str:
    """Return an exception's class and text in one line; of a DataLoader's worker, those of its own exception."""
    text = _text(error)
    if _TRACEBACK in text:
        return text.strip().splitlines()[-1]
    return textwrap.shorten(f"{type(error).__name__}: {text}", 500).rstrip(":")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's exception may have an error of its own
        return "its text cannot be shown"


@contextmanager
def pointing(file: Path | None = None, own: str = "") -> Iterator[None]:
    """Turn an exception that came through a user's code, such as this file, into a LabError that names file and line.

    A user's code is what lies neither in this package nor in Python's library nor in an installed package. The
    exception of ``sys.exit`` is one of them. Where no line of a user's code raised the exception, such as torch's about
    what it returned, ``own`` is named as its origin or, without one, it stays as it is.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        line, is_lab_error = place(error, file), isinstance(error, LabError)
        if line is None and (is_lab_error or not own or isinstance(error, (OSError, ImportError))):
            raise
        if is_lab_error and type(error) is not LabError:  # one that all ranks know of
            raise
        raise LabError(f"{line or own}: {error if is_lab_error else reason(error)}") from error


def place(error: BaseException, file: Path | None = None) -> str | None:
    """Return file and last line of a user's code that an exception came through."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and (name := error.filename or file) is not None:
        lines.append((str(name), error.lineno or 1))  # Python names no line, or no file, for what it cannot decode
    elif _TRACEBACK in (text := _text(error)):
        lines += [(name, int(line)) for name, line in re.findall(r'File "(.+?)", line (\d+)', text)]
    for name, line in reversed(lines):
        path = Path(name).resolve()
        if file is not None and path == file.resolve():
            return f"{file}, line {line}"
        library = any(path.is_relative_to(folder) for folder in _LIBRARIES)
        if path.is_file() and not library and not {"site-packages", "dist-packages"} & set(path.parts):
            return f"{os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}, line {line}"
    return None
