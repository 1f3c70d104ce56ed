"""What the classification tasks share: the metric and the dealing of examples to splits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["accuracy", "deal"]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""The percentage of examples whose largest output is at their class.

    .. math:: 100 \cdot \frac{1}{N} \sum_i [\arg\max_c o_{ic} = t_i]

    Args:
        outputs: scores, shape (N, classes).
        targets: class of each example, shape (N,), integers.

    Returns:
        A scalar in [0, 100]; NaN if an output is not finite, since a broken network "predicts" the first class.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0])).item()
        50.0
    """
    correct = 100.0 * (outputs.argmax(1) == targets).float().mean()
    return torch.where(outputs.isfinite().all(), correct, math.nan)


def deal(labels: Tensor, piles: int, seed: int) -> list[Tensor]:
    """Deal examples to piles as one deals cards: shuffled, then class after class.

    Piles are equally large to within one example, and so is each class in all of them to within two.

    Args:
        labels: class of each example, shape (N,).
        piles: number of piles, at least 1.
        seed: seed of the shuffle.

    Returns:
        The examples' indices, sorted, by pile.

    Example:
        >>> [pile.tolist() for pile in deal(torch.tensor([0, 0, 1, 1]), 2, seed=0)]
        [[0, 3], [1, 2]]
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return [by_class[pile::piles].sort().values for pile in range(piles)]
