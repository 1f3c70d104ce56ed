"""A run's state on disk, so that a killed run goes on where it was instead of from the beginning."""

from __future__ import annotations

import pickle
import time
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
        """Read the state to the CPU; None if there is no file, or it is damaged or another run's."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return state if state.pop("of", None) == dict(of) else None

    def remove(self) -> None:
        """Delete the file if it is there."""
        self.path.unlink(missing_ok=True)
