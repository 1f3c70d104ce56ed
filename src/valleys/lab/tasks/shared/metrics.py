"""Metrics and losses that several tasks share: of classification, of language models and of taggers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from valleys.lab.problem.task import Split, Stream, Task

__all__ = ["IGNORED", "accuracy", "f1", "tag_loss", "token_loss"]

IGNORED = -100
"""The target where there is no tag, that is padding, and all but the first piece of a word."""


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Return the percentage of examples whose largest output is at their class.

    .. math:: 100 \cdot \frac{1}{N} \sum_i [\operatorname{argmax}_c o_{ic} = t_i]

    Outputs have the shape (N, classes). NaN if one is not finite, since a broken network "predicts" the first class.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0])).item()
        50.0
    """
    correct = 100.0 * (outputs.argmax(1) == targets).float().mean()
    return torch.where(outputs.isfinite().all(), correct, math.nan)


def classification(*, test: Split | Stream, **fields: Any) -> Task:
    """Make a task whose loss is the cross-entropy and whose metric is the accuracy, unless ``fields`` say otherwise."""
    defaults = {"loss": functional.cross_entropy, "metric": accuracy, "metric_name": "accuracy %", "maximize": True}
    return Task(test=test, **{**defaults, "resolution": 100 / len(test), **fields})


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return the mean negative log-likelihood of the next token, in nats.

    .. math:: -\frac{1}{NT} \sum_{n,t} \log \mathrm{softmax}(o_{nt})_{y_{nt}}

    Logits have the shape (N, T, vocabulary), targets (N, T) in any integers. All sequences are equally long, so the
    mean over tokens is the mean over sequences, whatever the micro-batches.

    Example:
        >>> token_loss(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.uint8)).exp().round()
        tensor(8.)
    """
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten().long())


def tag_loss(tokens_per_sentence: float) -> Callable[[Tensor, Tensor], Tensor]:
    r"""Return the loss of a tagger, for outputs of shape (N, T, tags) and targets of shape (N, T).

    .. math:: \frac{1}{N} \sum_n \frac{1}{c} \sum_{t \in \text{tagged}(n)} -\log \mathrm{softmax}(o_{nt})_{y_{nt}}

    The mean over a batch's tokens would weigh a sentence by the lengths of those that share its micro-batch. With a
    constant c (``tokens_per_sentence``) it is a mean over sentences, which micro-batches add up to exactly; and with
    the training sentences' mean length it is about as large.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        total = functional.cross_entropy(
            outputs.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / (tokens_per_sentence * len(targets))

    return loss


def entity_counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean true positives, false positives and false negatives of whole entities per sentence, shape (3,).

    Tags are numbered O = 0 and, for the k-th type from zero, B = 2 k + 1 and I = 2 k + 2. An entity is right if
    its first word, last word and type are. As in the task's own script, I without a fitting predecessor begins
    an entity.

    Outputs have the shape (N, T, tags), targets (N, T), ``IGNORED`` where there is no tag. NaN if an output is not
    finite.

    Example:
        >>> scores = torch.eye(3)[[1, 2, 0, 1]].unsqueeze(0)  # B I O B
        >>> entity_counts(scores, torch.tensor([[1, 2, 0, 0]]))
        tensor([1., 1., 0.])
    """
    tagged = targets != IGNORED
    order = tagged.logical_not().int().argsort(dim=1, stable=True)  # the tagged words first, with no gap between them
    predicted = (outputs.argmax(2) * tagged).gather(1, order)
    true = (targets * tagged).gather(1, order)
    start, kind, end = _entities(predicted)
    true_start, true_type, true_end = _entities(true)
    right = start & true_start & (kind == true_type) & (end == true_end)
    hits = right.sum()
    counts = torch.stack([hits, start.sum() - hits, true_start.sum() - hits]).float() / len(targets)
    return torch.where(outputs.isfinite().all(), counts, math.nan)


def f1(counts: Tensor) -> float:
    r"""Return the F1 score in percent of (mean) true positives, false positives and false negatives, shape (3,).

    .. math:: 100 \cdot \frac{2\,TP}{2\,TP + FP + FN}

    0 where there is no entity in either.

    Example:
        >>> f1(torch.tensor([1.0, 1.0, 0.0]))
        66.66...
    """
    hits, false, missed = counts.tolist()
    whole = 2 * hits + false + missed
    return 200 * hits / whole if whole else 0.0


def tagging(*, test: Split | Stream, **fields: Any) -> Task:
    """Make a task whose metric is the F1 of entities, of which a sentence has about one."""
    defaults = {"metric": entity_counts, "finish": f1, "metric_name": "entity F1 %", "maximize": True}
    return Task(test=test, **{**defaults, "resolution": 100 / len(test), **fields})


def _entities(tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the entities' starts, the type at each word (-1: none), and the last word of the entity at each word."""
    types = torch.where(tags > 0, (tags - 1) // 2, -1)
    before = functional.pad(types, (1, 0), value=-1)[:, :-1]
    starts = (types >= 0) & ((tags % 2 == 1) | (before != types))
    after_type = functional.pad(types, (0, 1), value=-1)[:, 1:]
    after_start = functional.pad(starts, (0, 1), value=False)[:, 1:]
    last = (types >= 0) & ((after_type < 0) | after_start)
    length = tags.shape[1]
    places = torch.where(last, torch.arange(length, device=tags.device), length)
    return starts, types, places.flip(1).cummin(1).values.flip(1)
