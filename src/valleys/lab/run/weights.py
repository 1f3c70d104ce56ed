"""The trained weights of a comparison's runs, one file each."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from valleys.lab.errors import LabError, reason


def path(folder: Path, stem: str) -> Path:
    """Return the file of a run's weights, which need not exist."""
    return folder / "weights" / f"{stem}.pt"


def save(model: nn.Module, path: Path) -> None:
    """Write a model's ``state_dict``, whole or not at all."""
    save_whole(model.state_dict(), path)


def save_whole(state: Mapping[str, Any], path: Path) -> None:
    """Write a file of tensors, whole or not at all, or raise OSError; torch has no such exception for a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two workers may write at once where one took the other for dead: each has a file of its own until it is whole.
    new = path.with_suffix(f".{os.getpid()}.new")
    try:
        torch.save(dict(state), new)
        new.replace(path)
    except RuntimeError as error:
        raise OSError(errno.EIO, f"cannot be written ({reason(error)})", str(path)) from error
    finally:
        new.unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> dict[str, Tensor] | None:
    """Read a ``state_dict``; None if there is no file, LabError if it is damaged."""
    if not path.exists():
        return None
    try:
        state: dict[str, Tensor] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise LabError(f"the weights {path} are damaged; delete the file, and the run is trained again") from error
    return state
