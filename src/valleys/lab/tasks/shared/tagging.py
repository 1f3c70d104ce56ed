"""What the tagging tasks share: a loss that adds up over micro-batches, and the entity-level F1 score."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["IGNORED", "entity_counts", "f1", "tag_loss"]

IGNORED = -100
"""The target where there is no tag: padding, and all but the first piece of a word."""


def tag_loss(tokens_per_sentence: float) -> Callable[[Tensor, Tensor], Tensor]:
    r"""The loss of a tagger.

    .. math:: \frac{1}{N} \sum_n \frac{1}{c} \sum_{t \in \text{tagged}(n)} -\log \mathrm{softmax}(o_{nt})_{y_{nt}}

    The mean over a batch's tokens would weigh a sentence by the lengths of those that share its micro-batch. With a
    constant c it is a mean over sentences, which micro-batches add up to exactly; and with the training sentences'
    mean length it is about as large.

    Args:
        tokens_per_sentence: c, above 0.

    Returns:
        ``(outputs, targets) -> scalar``, for shapes (N, T, tags) and (N, T).
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        total = functional.cross_entropy(
            outputs.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / (tokens_per_sentence * len(targets))

    return loss


def entity_counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """True positives, false positives and false negatives of whole entities, per sentence.

    Tags are numbered O = 0 and, for the k-th type from zero, B = 2 k + 1 and I = 2 k + 2. An entity counts as found if
    its first word, last word and type are right. As in the task's own script, I without a fitting predecessor begins
    an entity.

    Args:
        outputs: scores, shape (N, T, tags).
        targets: shape (N, T); ``IGNORED`` where there is no tag.

    Returns:
        The three mean counts, shape (3,); NaN if an output is not finite.

    Example:
        >>> scores = torch.eye(3)[[1, 2, 0, 1]].unsqueeze(0)  # B I O B
        >>> entity_counts(scores, torch.tensor([[1, 2, 0, 0]]))
        tensor([1., 1., 0.])
    """
    tagged = targets != IGNORED
    order = tagged.logical_not().int().argsort(dim=1, stable=True)  # the tagged words first, with no gap between them
    found = (outputs.argmax(2) * tagged).gather(1, order)
    true = (targets * tagged).gather(1, order)
    found_start, found_type, found_end = _entities(found)
    true_start, true_type, true_end = _entities(true)
    right = found_start & true_start & (found_type == true_type) & (found_end == true_end)
    hits = right.sum()
    counts = torch.stack([hits, found_start.sum() - hits, true_start.sum() - hits]).float() / len(targets)
    return torch.where(outputs.isfinite().all(), counts, math.nan)


def f1(counts: Tensor) -> float:
    r"""The F1 score.

    .. math:: 100 \cdot \frac{2\,TP}{2\,TP + FP + FN}

    Args:
        counts: true positives, false positives, false negatives, or their means, shape (3,).

    Returns:
        A percentage; 0 where there is nothing to find and nothing found.

    Example:
        >>> f1(torch.tensor([1.0, 1.0, 0.0]))
        66.66...
    """
    hits, false, missed = counts.tolist()
    whole = 2 * hits + false + missed
    return 200 * hits / whole if whole else 0.0


def _entities(tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where entities begin, the type at each word (-1: none), and the last word of the entity at each word."""
    types = torch.where(tags > 0, (tags - 1) // 2, -1)
    before = functional.pad(types, (1, 0), value=-1)[:, :-1]
    starts = (types >= 0) & ((tags % 2 == 1) | (before != types))
    after_type = functional.pad(types, (0, 1), value=-1)[:, 1:]
    after_start = functional.pad(starts, (0, 1), value=False)[:, 1:]
    last = (types >= 0) & ((after_type < 0) | after_start)
    length = tags.shape[1]
    places = torch.where(last, torch.arange(length, device=tags.device), length)
    return starts, types, places.flip(1).cummin(1).values.flip(1)
