"""A small training loop that the recorder's tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import valleys

__all__ = ["OPTIMIZERS", "Seen", "backward", "batch", "network", "train"]

Make = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "Lamb": lambda p: valleys.Lamb(p, lr=0.01),
    "ALTO": lambda p: valleys.ALTO(p, lr=0.01),
    "ALTO foreach": lambda p: valleys.ALTO(p, lr=0.01, fused=False, foreach=True),
    "adapt(SGD)": lambda p: valleys.adapt(torch.optim.SGD(p, lr=0.05, momentum=0.9), alpha=-50.0),
    "adapt(AdamW)": lambda p: valleys.adapt(torch.optim.AdamW(p, lr=0.01), alpha=-50.0),
    "adapt(AdamW fused)": lambda p: valleys.adapt(torch.optim.AdamW(p, lr=0.01, fused=True), alpha=-50.0),
    "adapt in place": lambda p: valleys.adapt(torch.optim.SGD(p, lr=0.05), alpha=-50.0, inplace=True),
}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(32, 6, generator=generator)
    return inputs, inputs[:, :3].sin() + 0.1 * torch.randn(32, 3, generator=generator)


def backward(model: nn.Module, step: int) -> Tensor:
    inputs, targets = batch(step)
    model.zero_grad()
    first = next(model.parameters())
    loss = nn.functional.mse_loss(model(inputs.to(first)), targets.to(first))
    loss.backward()
    return loss


Seen = list[list[Tensor]]


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> tuple[Seen, Seen]:
    """Positions and gradients in float64, a list per step: position j and gradient j belong together."""
    positions, gradients = [], []
    for step in steps:
        backward(model, step)
        positions.append([p.detach().double().clone() for p in model.parameters()])
        gradients.append([p.grad.double().clone() for p in model.parameters() if p.grad is not None])
        optimizer.step()
    return positions, gradients
