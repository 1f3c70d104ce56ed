"""Folders and texts, as all readers list and read them."""

from __future__ import annotations

import os
from pathlib import Path

from valleys.lab.errors import LabError


def check_folder(folder: Path, remedy: str) -> None:
    """Refuse a data folder that does not exist."""
    if not folder.is_dir():
        raise LabError(f"the data folder {str(folder)!r} does not exist; {remedy}")


def list_names(folder: Path, *endings: str) -> list[str]:
    """Return the names in a folder, sorted, with one of these endings in upper or lower case; of no folder: none.

    Hidden names are left out: macOS puts a file ``._x.txt``, which holds no text, beside ``x.txt``.
    """
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LabError(f"cannot list the folder {folder}: {error.strerror or error}; make it readable") from error
    return sorted(name for name in names if not name.startswith(".") and name.lower().endswith(endings or ""))


def read_text(path: Path, remedy: str) -> str:
    r"""Read a file in UTF-8, with a byte order mark or without; ``\r\n`` is read as ``\n``.

    An empty file is refused, and NUL: text in UTF-16 and blocks that a disk lost are valid UTF-8 full of it.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path} cannot be read as UTF-8 text ({error}); {remedy}") from error
    if (place := text.find("\0")) >= 0:
        number = text.count("\n", 0, place) + 1
        raise LabError(f"{path}, line {number}: a NUL, as in UTF-16 or in a damaged file, is no text; {remedy}")
    if not text.strip():
        raise LabError(f"{path} is empty; {remedy}")
    return text


def read_lines(path: Path, remedy: str) -> list[str]:
    r"""Read the lines of a file in UTF-8, each ended by ``\n`` or ``\r\n`` and by nothing else.

    ``str.splitlines`` would also end a line at U+2028 and six other characters.
    """
    lines = read_text(path, remedy).split("\n")
    for number, line in enumerate(lines, start=1):
        if "\r" in line or "\ufeff" in line:
            raise LabError(f"{path}, line {number}: a carriage return alone, or a second byte order mark; {remedy}")
    return lines
