"""Files that several workers write at once."""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LITTER = (".report.*.????????", ".runs.csv.????????", ".attribution.*.????????", ".landscape*.????????", "*.new")
_OLD = 3600.0  # seconds


def sweep(folder: Path) -> None:
    """Delete what writers that were killed an hour ago or earlier left in a comparison's folder."""
    for path in [path for pattern in _LITTER for path in folder.glob(pattern)]:
        with suppress(OSError):  # somebody else was faster, or it is not ours
            if time.time() - path.stat().st_mtime > _OLD:
                path.unlink()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file. A reader sees the old file or the new one, never half of it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        # mkstemp lets only the owner read; a report is as readable as its neighbours.
        umask = os.umask(0)
        os.umask(umask)
        unfinished.chmod(0o666 & ~umask)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write strict JSON, whole or not at all."""
    write_whole(path, json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


def write_picture(path: Path, figure: Figure) -> None:
    """Write a figure of matplotlib's as PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())
