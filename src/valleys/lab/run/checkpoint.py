"""A run's state on disk, so that a killed run goes on where it was instead of from the beginning."""

from __future__ import annotations

import time
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from valleys.lab.run.weights import save_whole


@dataclass
class Checkpoint:
    """The one file of a run, rewritten every now and then and removed at its end."""

    path: Path  # its folder is made when it is first written
    every: float = 60.0  # seconds between two writes
    _written: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Return whether it is time to write again."""
        return time.monotonic() - self._written >= self.every

    def save(self, of: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write the file, whole or not at all; ``of`` distinguishes this run from others."""
        save_whole({"of": dict(of), **state}, self.path)
        self._written = time.monotonic()

    def load(self, of: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the state to the CPU; None if there is no file, it is another run's, or, with a warning, damaged."""
        if not self.path.exists():
            return None
        try:
            # torch.load believes the file's numbers, and wrong ones may end the process: compare its checksums first.
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            return state if state.pop("of", None) == dict(of) else None
        except Exception as error:  # a damaged file raises almost any of them
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"the checkpoint {self.path} is damaged ({type(error).__name__}: {reason}): its run begins anew",
                stacklevel=2,
            )
            return None

    def remove(self) -> None:
        """Delete the file if it is there."""
        self.path.unlink(missing_ok=True)
