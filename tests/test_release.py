"""The step inside backward equals backward and step, and lets every gradient go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import valleys
from optimizer_cases import CASES

MAKE: dict[str, Any] = {
    **{name: lambda params, case=case: case.build(params) for name, case in CASES.items()},
    **{f"adapted {n}": lambda params, case=case: _adapted(case.build(params)) for n, case in CASES.items()},
    "ALTO in bfloat16": lambda params: valleys.ALTO(params, state_dtype=torch.bfloat16),
    "ALTO foreach": lambda params: valleys.ALTO(params, foreach=True),
}


def _adapted(optimizer: Any) -> Any:
    return optimizer if isinstance(optimizer, valleys.ALTO) else valleys.adapt(optimizer, -5.0, 0.9)


def model(matrices_only: bool) -> nn.Sequential:
    torch.manual_seed(0)
    bias = not matrices_only
    net = nn.Sequential(nn.Linear(7, 5, bias), nn.Tanh(), nn.Linear(5, 5, bias), nn.Tanh(), nn.Linear(5, 1, bias))
    return net.double()


@pytest.mark.parametrize("name", MAKE)
def test_the_same_bits(name: str) -> None:
    case = CASES.get(name.removeprefix("adapted "))
    results = []
    for release in (False, True):
        net = model(case is not None and case.matrices_only)
        optimizer = MAKE[name](list(net.parameters()))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        if release:
            valleys.release_gradients(optimizer)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(8, 7, dtype=torch.float64, generator=generator)).square().mean().backward()
            assert all((p.grad is None) == release for p in net.parameters())
            optimizer.step()
            scheduler.step()
        results.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_tied_weight_moves_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x @ self.weight) @ self.weight

    results = []
    for release in (False, True):
        net = Tied()
        optimizer = valleys.ALTO(net.parameters(), lr=0.1)
        if release:
            valleys.release_gradients(optimizer)
        for _ in range(3):
            net(torch.ones(2, 4, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert optimizer.state[net.weight]["step"] == 3
        results.append(net.weight.detach())
    assert torch.equal(*results)


def test_few_gradients_are_alive_at_a_time() -> None:
    net = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(20)])
    alive = []
    valleys.release_gradients(optimizer := valleys.ALTO(net.parameters()))
    optimizer.register_step_post_hook(lambda *_: alive.append(sum(p.grad is not None for p in net.parameters())))
    net(torch.ones(2, 8)).sum().backward()
    assert alive == [1] * 20


def test_remove() -> None:
    net = model(matrices_only=False)
    optimizer = valleys.Lamb(net.parameters())
    valleys.release_gradients(optimizer).remove()
    net(torch.ones(2, 7, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert not optimizer.state


def test_an_optimizer_that_is_gone() -> None:
    net = model(matrices_only=False)
    valleys.release_gradients(valleys.Lamb(net.parameters()))
    net(torch.ones(2, 7, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_refused() -> None:
    net = model(matrices_only=False)
    with pytest.raises(RuntimeError, match=r"max_grad_norm=1\.0 needs all gradients"):
        valleys.release_gradients(valleys.ALTO(net.parameters(), max_grad_norm=1.0))
    net(torch.ones(2, 7, dtype=torch.float64)).sum().backward()
    with pytest.raises(RuntimeError, match="zero_grad"):
        valleys.release_gradients(valleys.ALTO(net.parameters()))
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))]
    with pytest.raises(RuntimeError, match="several devices"):
        valleys.release_gradients(torch.optim.SGD(params))
