"""Checks that the readers share."""

from __future__ import annotations

from pathlib import Path

from valleys.lab.errors import LabError

__all__ = ["check_folder", "read_text"]


def check_folder(folder: Path, remedy: str) -> None:
    """Refuse a data folder that does not exist."""
    if not folder.is_dir():
        raise LabError(f"the data folder {str(folder)!r} does not exist; {remedy}")


def read_text(path: Path, remedy: str, encoding: str = "utf-8-sig") -> str:
    """Read a file in UTF-8."""
    try:
        return path.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path} cannot be read as UTF-8 text ({error}); {remedy}") from error
