"""The trained weights of a comparison's runs, one file each."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn


def path(folder: Path, stem: str) -> Path:
    """Return the file of a run's weights, which need not exist."""
    return folder / "weights" / f"{stem}.pt"


def save(model: nn.Module, path: Path) -> None:
    """Write a model's ``state_dict``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}.new")
    torch.save(model.state_dict(), new)
    new.replace(path)


def load(path: Path, device: torch.device) -> dict[str, Tensor] | None:
    """Read a ``state_dict``; None if there is no file."""
    if not path.exists():
        return None
    state: dict[str, Tensor] = torch.load(path, map_location=device, weights_only=True)
    return state
