"""What the language-modelling tasks share: the loss over all tokens of all sequences, and thinned-out splits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["spread", "token_loss"]


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    r"""The mean negative log-likelihood of the next token, in nats.

    .. math:: -\frac{1}{NT} \sum_{n,t} \log \mathrm{softmax}(o_{nt})_{y_{nt}}

    All sequences are equally long, so the mean over tokens is the mean over sequences, whatever the micro-batches.

    Args:
        logits: shape (N, T, vocabulary).
        targets: the next tokens, shape (N, T), any integers.

    Returns:
        A scalar.

    Example:
        >>> token_loss(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.uint8)).exp().round()
        tensor(8.)
    """
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten().long())


def spread(count: int, limit: int) -> Tensor:
    """At most ``limit`` of ``count`` examples, evenly spread, the first among them.

    Args:
        count: how many there are.
        limit: how many are wanted, at least 1.

    Returns:
        Their numbers, sorted.

    Example:
        >>> spread(10, 4).tolist(), spread(3, 4).tolist()
        ([0, 2, 5, 7], [0, 1, 2])
    """
    return torch.arange(count) if count <= limit else torch.arange(limit) * count // limit
