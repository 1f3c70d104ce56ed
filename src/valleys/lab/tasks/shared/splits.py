"""Splits: dealing examples out class by class, holding some out, and thinning them out evenly."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SEED", "deal", "hold_out", "spread", "spread_by_class"]

SEED = 20251027
"""Seed of every split that the tasks make."""


def deal(labels: Tensor, piles: int, seed: int = SEED) -> list[Tensor]:
    """Deal the indices of examples to piles as one deals cards: shuffled, then class after class, each pile sorted.

    Piles are equally large to within one example, and so is each class in all of them to within two.

    Example:
        >>> [pile.tolist() for pile in deal(torch.tensor([0, 0, 1, 1]), 2, seed=0)]
        [[0, 3], [1, 2]]
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return [by_class[pile::piles].sort().values for pile in range(piles)]


def hold_out(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of nine tenths of the examples, for training, and of every tenth, class by class."""
    validation, *rest = deal(labels, 10)
    return torch.cat(rest), validation


def spread(count: int, limit: int) -> Tensor:
    """Return the sorted indices of at most ``limit`` of ``count`` examples, evenly spread, the first among them.

    Example:
        >>> spread(10, 4).tolist(), spread(3, 4).tolist()
        ([0, 2, 5, 7], [0, 1, 2])
    """
    return torch.arange(count) if count <= limit else torch.arange(limit) * count // limit


def spread_by_class(labels: Tensor, limit: int) -> Tensor:
    """Return the sorted indices of at most ``limit`` examples, as evenly from all classes as they are there."""
    return labels.argsort(stable=True)[spread(len(labels), limit)].sort().values
