"""Losses of known sharpness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from valleys.landscape.objective import Objective

NORMS = ("l2", "linf")


class Point(nn.Module):
    """Parameters alone; the output is them."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.theta


def of_function(function: Callable[[Tensor], Tensor], *start: float) -> Objective:
    return Objective(Point(*start), lambda theta, _: function(theta), [(torch.zeros(1), torch.zeros(1))])


def quadratic(*start: float) -> tuple[Objective, Tensor]:
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(len(start), len(start), generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    return of_function(lambda theta: theta @ hessian @ theta / 2, *start), hessian


def network(bias: bool = True) -> tuple[nn.Sequential, Callable[[], Objective]]:
    model = nn.Sequential(
        nn.Linear(4, 6, bias=bias), nn.ReLU(), nn.Linear(6, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3, bias=bias)
    ).double()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (30,), generator=generator)
    batches = [(inputs[:20], targets[:20]), (inputs[20:], targets[20:])]
    return model, lambda: Objective(model, nn.functional.cross_entropy, batches)


def rescale_units(model: nn.Sequential) -> None:
    factors = torch.tensor([0.2, 3.0, 1.0, 7.0, 0.5, 2.0], dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.mul_(factors[:, None])  # type: ignore[operator]
        model[0].bias.mul_(factors)  # type: ignore[operator]
        model[2].weight.div_(factors)  # type: ignore[operator]


def rescale_layer(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].weight.mul_(5)  # type: ignore[operator]
        model[2].bias.mul_(5)  # type: ignore[operator]
        model[4].weight.div_(5)  # type: ignore[operator]
