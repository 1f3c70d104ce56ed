"""The gap between training and test data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from landscape.sharpness.losses import of_function
from valleys.landscape.objective import Objective
from valleys.landscape.sharpness.generalization import gap


def test_the_gap_is_per_example_whatever_the_reduction() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    train, test = (torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[4.0], [1.0]]))

    def objective(inputs: Tensor, reduction: str) -> Objective:
        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.mse_loss(outputs, targets, reduction=reduction)

        parts = [inputs[:2], inputs[2:]]
        return Objective(model, loss, [(part, 0 * part) for part in parts if len(part)], reduction=reduction)

    for reduction in ("mean", "sum"):
        result = gap(objective(train, reduction), objective(test, reduction))
        assert (result.train, result.test, result.value) == pytest.approx((14 / 3, 17 / 2, 17 / 2 - 14 / 3))
        metrics = {"mean": lambda outputs, _: outputs.mean(), "sum": lambda outputs, _: outputs.sum()}
        result = gap(objective(train, reduction), objective(test, reduction), metrics[reduction])
        assert (result.train, result.test) == pytest.approx((2.0, 2.5))


def test_a_gap_between_two_models_is_refused() -> None:
    first, second = (of_function(lambda theta: theta.sum(), value) for value in (1.0, 2.0))
    with pytest.raises(ValueError, match="one model"):
        gap(first, second)
