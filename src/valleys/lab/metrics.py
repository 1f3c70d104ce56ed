"""Metrics that tasks share."""

from __future__ import annotations

from torch import Tensor

__all__ = ["accuracy_percent"]


def accuracy_percent(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of examples whose largest logit is the right one, in percent.

    Args:
        outputs: logits, (n, classes).
        targets: classes, (n,).

    Returns:
        0-dimensional tensor, 0 to 100.
    """
    return 100.0 * (outputs.argmax(dim=1) == targets).float().mean()
