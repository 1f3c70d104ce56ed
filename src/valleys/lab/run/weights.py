"""The trained weights of a comparison's runs, one file each."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from valleys.lab.store.job import Job

__all__ = ["load", "path", "save"]


def path(folder: Path, job: Job) -> Path:
    """Where a run's weights are.

    Args:
        folder: the comparison's.
        job: the run.

    Returns:
        The file, which need not be there.
    """
    return folder / "weights" / f"{job.stem}.pt"


def save(model: nn.Module, path: Path) -> None:
    """Write a model's ``state_dict``, whole or not at all.

    Args:
        model: the trained model.
        path: the file; its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}.new")
    torch.save(model.state_dict(), new)
    new.replace(path)


def load(path: Path, device: torch.device) -> dict[str, Tensor] | None:
    """Read a ``state_dict``.

    Args:
        path: the file.
        device: where to.

    Returns:
        The tensors; None if there is no file.
    """
    if not path.exists():
        return None
    state: dict[str, Tensor] = torch.load(path, map_location=device, weights_only=True)
    return state
