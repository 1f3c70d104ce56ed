"""The generalisation gap: test minus train."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from valleys.landscape.evaluation import Metric, evaluate
from valleys.landscape.objective import Objective

__all__ = ["Gap", "gap"]


@dataclass(frozen=True)
class Gap:
    """The generalisation gap.

    Args:
        train: mean loss, or metric, per training example.
        test: per test example.
    """

    train: float
    test: float

    @property
    def value(self) -> float:
        """Test minus train, positive where a loss is higher on the test data, negative where an accuracy is lower."""
        return self.test - self.train


def gap(train: Objective, test: Objective, metric: Metric | None = None) -> Gap:
    """The generalisation gap: test minus train, per example.

    Args:
        train: the loss on training examples.
        test: the same loss, at the same parameters, on test examples.
        metric: ``(outputs, targets) -> number`` to compare in place of the loss; reduced over a batch as the loss is.

    Returns:
        Both numbers and their difference.

    Raises:
        ValueError: the parameters of the two differ.

    Example:
        >>> model = torch.nn.Identity()
        >>> parameters = [torch.zeros(1, requires_grad=True)]
        >>> train, test = (
        ...     Objective(model, torch.nn.functional.mse_loss, [(torch.full((2,), x), torch.zeros(2))],
        ...               parameters=parameters) for x in (1.0, 2.0)
        ... )
        >>> gap(train, test).value
        3.0

    Source: ours; the usual definition.
    """
    same = len(train.parameters) == len(test.parameters) and all(
        torch.equal(a, b) for a, b in zip(train.parameters, test.parameters, strict=True)
    )
    if not same:
        raise ValueError("test: its parameters differ from train's; build both objectives on one model")
    values = []
    for objective in (train, test):
        loss, measured = evaluate(objective, metric)
        total = loss if measured is None else measured
        values.append(total / objective.denominator if objective.reduction == "sum" else total)
    return Gap(*values)
