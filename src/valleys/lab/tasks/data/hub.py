"""Data of Hugging Face's ``datasets``: saved in a folder, or from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valleys.lab.errors import LabError

__all__ = ["from_hub", "is_saved", "saved", "split_of"]

_INSTALL = "pip install 'valleys[text]'"


def is_saved(folder: Path) -> bool:
    """Whether ``datasets.DatasetDict.save_to_disk`` wrote this folder."""
    return (folder / "dataset_dict.json").is_file()


def saved(folder: Path) -> Mapping[str, Any]:
    """The splits that ``datasets.DatasetDict.save_to_disk`` wrote.

    Args:
        folder: where.

    Returns:
        Datasets by the splits' names.

    Raises:
        LabError: ``datasets`` is not installed, or the folder is damaged.
    """
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise LabError(
            f"the data folder {str(folder)!r} was saved by datasets, which is missing; {_INSTALL}"
        ) from error
    try:
        splits: Mapping[str, Any] = load_from_disk(folder)
    except Exception as error:  # a damaged file may raise whatever its reader does
        raise LabError(f"the data folder {str(folder)!r} does not load ({error}); save the dataset again") from error
    return splits


def from_hub(name: str, configuration: str | None, revision: str | None = None) -> Mapping[str, Any]:
    """A dataset from the hub, or from the local cache of ``datasets``.

    Args:
        name: its name on the hub.
        configuration: which of the datasets of that name.
        revision: branch or commit. Default: the main branch.

    Returns:
        Datasets by the splits' names.

    Raises:
        LabError: ``datasets`` is not installed, or the dataset cannot be had.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise LabError(f"no data folder was named and {name} on the hub needs datasets; {_INSTALL}") from error
    try:
        splits: Mapping[str, Any] = load_dataset(name, configuration, revision=revision)
    except Exception as error:  # offline, no such dataset, a damaged cache: the hub's clients share no exception
        raise LabError(
            f"no data folder was named and the hub's {name} cannot be had ({error}); name a folder of the data"
        ) from error
    return splits


def split_of(splits: Mapping[str, Any], part: str, where: str) -> Any:
    """One split.

    Args:
        splits: datasets by name.
        part: which.
        where: where they come from, for the message.

    Returns:
        The dataset.

    Raises:
        LabError: there is no such split.
    """
    if part not in splits:
        raise LabError(
            f"{where} has the splits {', '.join(splits)} and lacks {part}; save the dataset with all of them"
        )
    return splits[part]
