"""The training loop of a test function: one vector, whose value is the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from valleys.lab.problem.loop import Running
from valleys.paper.walks.functions import Function
from valleys.paper.walks.walk import SPREAD

_EVALUATIONS = 20


def descend(function: Function, running: Running) -> None:
    """Walk down a test function by a run's optimizer; the loss is the mean of its values since the last evaluation."""
    model = _Walker(function).to(running.device)
    optimizer = running.optimizer(model)
    due = {math.ceil(running.epochs * (part + 1) / _EVALUATIONS) for part in range(_EVALUATIONS)}
    values: list[Tensor] = []
    for step in range(1, running.epochs + 1):
        optimizer.zero_grad()
        value = model()
        value.backward()
        optimizer.step()
        values.append(value.detach())
        if step in due:
            with running.evaluation(), torch.no_grad():
                running.evaluated(torch.stack(values).mean().item(), model().item())
            values.clear()
    if running.test:
        running.tested(running.curve[-1].validation)


class _Walker(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        start = torch.tensor(function.start, dtype=torch.float64)
        self.f = function.f
        self.point = nn.Parameter(start + SPREAD * start.norm() * torch.randn_like(start))

    def forward(self) -> Tensor:
        value: Tensor = self.f(self.point)
        return value
