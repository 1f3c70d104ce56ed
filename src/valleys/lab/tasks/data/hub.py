"""Data of Hugging Face's ``datasets``: saved in a folder, or from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from valleys.lab.errors import LabError

_INSTALL = "pip install 'valleys[text]'"


def is_saved(folder: Path) -> bool:
    """Return true for a folder that ``datasets.DatasetDict.save_to_disk`` wrote."""
    return (folder / "dataset_dict.json").is_file()


def dataset(
    folder: Path | None, hub: str, parts: Sequence[str], configuration: str | None = None, revision: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Load splits of a dataset by name, and say for messages where they are from.

    The folder is what ``save_to_disk`` wrote; None: from the hub, or from the local cache of ``datasets``. The
    configuration is one of the hub's datasets of that name, the revision a branch or commit.

    Raises:
        LabError: ``datasets`` is not installed, the folder is damaged, the dataset cannot be had, or it lacks a split.
    """
    where = f"the hub's {hub}" if folder is None else str(folder)
    splits = _from_hub(hub, configuration, revision) if folder is None else _saved(folder)
    for part in parts:
        if part not in splits:
            raise LabError(
                f"{where} has the splits {', '.join(splits)} and lacks {part}; save the dataset with all of them"
            )
    return where, {part: splits[part] for part in parts}


def rows(split: Any, where: str) -> Iterator[Any]:
    """Iterate over the rows of a split, which only this reads."""
    try:
        split.data.validate(full=True)  # Arrow itself crashes on offsets beyond the file
        yield from split
    except Exception as error:  # a damaged file may raise whatever its reader does
        raise LabError(f"{where} cannot be read ({error}); save the dataset again") from error


def _saved(folder: Path) -> Mapping[str, Any]:
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


def _from_hub(name: str, configuration: str | None, revision: str | None) -> Mapping[str, Any]:
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
