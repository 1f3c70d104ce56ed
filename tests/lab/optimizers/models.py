"""A small model with weights, a norm and biases, and steps on it, for the tests of the optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from valleys.lab.optimizers.resolve import resolve
from valleys.lab.optimizers.spec import OptimizerSpec, Plan

PLAN = Plan(batch_size=1024, steps=400)


def make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)


def middle(spec: OptimizerSpec) -> dict[str, float]:
    """The middle of the space, but for c, where that would be no E at all."""
    return {name: 0.4 if name == "c" else ranges.middle for name, ranges in spec.space.items()}


def advance(spec: OptimizerSpec, optimizer: Optimizer, model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Make one step as the training loop does; return the loss before it."""

    def gradient() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = (model(inputs) - targets).square().mean()
        loss.backward()
        return loss

    loss = gradient()
    if spec.closure:
        optimizer.step(gradient)  # type: ignore[arg-type]
    else:
        optimizer.step()
    return loss.item()


def trained(
    name: str | OptimizerSpec,
    values: Mapping[str, float],
    steps: int = 12,
    dtype: torch.dtype = torch.float32,
    optimizer: Any = None,
) -> dict[str, Tensor]:
    """Parameters after some steps on random examples."""
    spec = resolve(name) if isinstance(name, str) else name
    model = make_model(dtype)
    built_optimizer = spec.build(model, values, PLAN) if optimizer is None else optimizer(model)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        # Gradients must change sign, or sign-based steps would not show their memory.
        inputs, targets = (torch.randn(8, n, generator=generator, dtype=dtype) for n in (4, 1))
        advance(spec, built_optimizer, model, inputs, targets)
    return {key: value.detach().clone() for key, value in model.named_parameters()}
