"""Sources of a task's examples: tensors in memory, or a dataset that is read while training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from valleys.lab.errors import LabError, shortened

__all__ = ["Batch", "Reader", "Split", "Stream", "count"]

Batch: TypeAlias = Tensor | Mapping[str, Tensor]
"""One side of some examples, as a tensor whose first dimension counts them, or several such tensors by name."""


def moved(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device; what is there already is not copied."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def taken(batch: Batch, chosen: Tensor) -> Batch:
    """Return the chosen examples of a batch, in this order."""
    if isinstance(batch, Tensor):
        return batch[chosen]
    return {name: tensor[chosen] for name, tensor in batch.items()}


def count(batch: Batch) -> int:
    """Return the number of examples in a batch.

    Example:
        >>> count({"tokens": torch.zeros(3, 8), "mask": torch.zeros(3, 8)})
        3
    """
    return len(_tensors(batch)[0])


class Reader(Protocol):
    """Reader of a split's examples on one device."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def read(self, choices: Iterable[Tensor]) -> Iterator[tuple[Batch, Batch]]:
        """Inputs and targets of each choice of examples, one choice after the other."""


@dataclass(frozen=True)
class Split:
    """Examples of one split, in memory; they are moved to the device as a whole.

    Args:
        inputs: a tensor whose first dimension counts the examples, or a dictionary of such tensors.
        targets: the same for the targets.

    Raises:
        LabError: no tensors, or tensors that do not hold equally many examples.
    """

    inputs: Batch
    targets: Batch

    def __post_init__(self) -> None:
        for side in ("inputs", "targets"):
            batch = getattr(self, side)
            tensors = list(batch.values()) if isinstance(batch, Mapping) else [batch]
            if not tensors or not all(isinstance(tensor, Tensor) and tensor.dim() for tensor in tensors):
                raise LabError(
                    f"the {side} of a split must be a tensor, or a dictionary of some, with a dimension of "
                    f"examples, not {shortened(batch)}"
                )
        counts = {len(tensor) for tensor in (*_tensors(self.inputs), *_tensors(self.targets))}
        if len(counts) != 1:
            raise LabError(
                f"a split needs as many targets as inputs; its tensors hold {', '.join(map(str, sorted(counts)))} "
                "examples"
            )

    def __len__(self) -> int:
        return count(self.targets)

    def reader(self, device: torch.device) -> Reader:
        """Return the reader of these examples on a device."""
        return _InMemory(moved(self.inputs, device), moved(self.targets, device))


@dataclass(frozen=True)
class Stream:
    """Examples of one split that are too many for memory: read, decoded and moved batch by batch.

    Args:
        dataset: map-style; an item is a pair (input, target) as ``default_collate`` stacks them. It must give the same
            item every time: what is random belongs into the task's ``augment``, so that a run can be repeated.
        workers: processes that read ahead; 0: none.

    Raises:
        LabError: a dataset of another kind, or fewer than no worker.
    """

    dataset: Dataset[Any]
    workers: int = 0

    def __post_init__(self) -> None:
        if not (hasattr(self.dataset, "__len__") and hasattr(self.dataset, "__getitem__")):
            raise LabError(f"a stream needs a dataset with a length and items by number, not {shortened(self.dataset)}")
        if type(self.workers) is not int or self.workers < 0:
            raise LabError(f"workers of a stream must be a whole number of 0 or more, not {shortened(self.workers)}")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def reader(self, device: torch.device) -> Reader:
        """Return the reader of these examples on a device."""
        return _Streamed(self.dataset, self.workers, device)


@dataclass(frozen=True)
class _InMemory:
    inputs: Batch
    targets: Batch

    def __len__(self) -> int:
        return count(self.targets)

    def read(self, choices: Iterable[Tensor]) -> Iterator[tuple[Batch, Batch]]:
        """The examples of each choice, one choice after the other."""
        device = _tensors(self.targets)[0].device
        for indices in choices:
            positions = indices.to(device)
            yield taken(self.inputs, positions), taken(self.targets, positions)


@dataclass(frozen=True)
class _Streamed:
    dataset: Dataset[Any]
    workers: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def read(self, choices: Iterable[Tensor]) -> Iterator[tuple[Batch, Batch]]:
        """The examples of each choice, one choice after the other."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=(indices.tolist() for indices in choices),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # else the loader would draw a seed from the run's generator
        )
        try:
            for inputs, targets in loader:
                yield moved(inputs, self.device), moved(targets, self.device)
        except LabError as error:
            # A worker's error comes with its traceback as the text, whose last line is the message.
            raise LabError(str(error).rstrip().rsplit("LabError: ", 1)[-1]) from error


def _tensors(batch: Batch) -> list[Tensor]:
    return [batch] if isinstance(batch, Tensor) else list(batch.values())
