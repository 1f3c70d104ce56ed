"""Runs of the optimizers of ``pytorch_optimizer``: adapted, or fed gradients that E has changed explicitly."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_optimizer as po
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import valleys
from third_party.cases import EXCEPTIONS, NAMES, Case, case
from valleys.kernels import Needs
from valleys.kernels.choice import select
from valleys.reference import TwoBuffer, explore

ALPHA, BETA = -20.0, 0.97  # c = -0.6
STEPS, HALF = 20, 10
WORKING = tuple(name for name in NAMES if name not in EXCEPTIONS)

Feed = Callable[[nn.Module], None]


def seed(number: int) -> None:
    """For the optimizers that draw random numbers; every run draws the same ones at the same step."""
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)  # torch.manual_seed asks every device, for a millisecond


def model_for(case: Case, dtype: torch.dtype) -> nn.Module:
    torch.default_generator.manual_seed(0)
    if case.matrices:
        layers = [nn.Flatten(), nn.Linear(16, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False)]
    else:
        head = [nn.Linear(16, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)]
        layers = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), *head]
    return nn.Sequential(*layers).to(dtype)


def loss_at(model: nn.Module, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + number)
    images = torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (8,), generator=generator)
    return nn.functional.cross_entropy(model(images.to(next(model.parameters()).dtype)), labels)


def build(name: str, model: nn.Module) -> Optimizer:
    settings = case(name)
    params = list(model.parameters())
    first = model if settings.takes == "model" else settings.groups(params) if settings.groups else params
    seed(0)
    optimizer: Optimizer = po.load_optimizer(name)(first, **settings.options)
    return optimizer


def run_step(model: nn.Module, optimizer: Any, number: int, feed: str, change: Feed | None = None) -> None:
    """One step; ``change`` works on the gradients between backward and step, which takes closures apart."""
    seed(number)
    optimizer.zero_grad()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at(model, number)
        loss.backward()
        return loss

    if feed == "fused":
        optimizer.fused_backward(loss_at(model, number), 1e-2)
        return
    if feed == "closure" and change is None:
        optimizer.step(closure)
        return
    loss = loss_at(model, number)
    loss.backward(create_graph=feed == "graph")
    if change is not None:
        change(model)
    if feed == "twice":
        optimizer.step(closure)
    elif feed in ("closure", "loss"):
        optimizer.step(lambda: loss.item())
    else:
        optimizer.step()


def run(
    name: str,
    dtype: torch.dtype,
    *,
    alpha: float | None = None,
    change: Feed | None = None,
    steps: int = STEPS,
) -> tuple[nn.Module, Optimizer]:
    """Model and optimizer after ``steps``; adapted where ``alpha`` is given."""
    model = model_for(case(name), dtype)
    optimizer = build(name, model)
    if alpha is not None:
        valleys.adapt(optimizer, alpha, BETA)
    for number in range(steps):
        run_step(model, optimizer, number, case(name).feed, change)
    return model, optimizer


def two_buffers() -> Feed:
    """Puts the paper's g + alpha a into ``.grad``."""
    memories: dict[Tensor, TwoBuffer] = {}

    def change(model: nn.Module) -> None:
        for param in model.parameters():
            assert param.grad is not None
            zero = torch.zeros_like(param)
            memory = memories.get(param, TwoBuffer(zero, zero))
            param.grad, new = explore(param.grad, memory, ALPHA, BETA)
            memories[param] = TwoBuffer(*(buffer.detach() for buffer in new))

    return change


def one_buffer() -> Feed:
    """The same in exact arithmetic; in floating point with the very rounding of the kernel."""
    averages: dict[Tensor, Tensor] = {}

    def change(model: nn.Module) -> None:
        for param in model.parameters():
            assert param.grad is not None
            average = averages.setdefault(param, torch.zeros_like(param).detach())
            adapted = torch.empty_like(param.grad)
            kernel = select([param], Needs(param.dtype, param.dtype, param.dtype), None, None)
            kernel.explore_([param.grad], [average], [adapted], alpha=ALPHA, beta=BETA)
            param.grad = adapted

    return change


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def distance(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)


def assert_same_path(adapted: nn.Module, explicit: nn.Module) -> None:
    for param, expected in zip(adapted.parameters(), explicit.parameters(), strict=True):
        assert torch.isfinite(param).all()
        torch.testing.assert_close(param, expected, rtol=1e-9, atol=1e-12)
