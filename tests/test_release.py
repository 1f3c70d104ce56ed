"""The step inside backward equals backward and step, and lets every gradient go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import valleys
from optimizer_cases import CASES
from valleys.release import _check_ranks

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
    with pytest.raises(RuntimeError, match="skip_nonfinite=True leaves a group"):
        valleys.release_gradients(valleys.Lamb(model(matrices_only=False).parameters(), skip_nonfinite=True))


@pytest.mark.parametrize("option", [{"max_grad_norm": 1.0}, {"skip_nonfinite": True}], ids=str)
def test_an_option_that_changes_later_is_refused_too(option: dict[str, Any]) -> None:
    net = model(matrices_only=False)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = valleys.ALTO(net.parameters())
    valleys.release_gradients(optimizer)
    optimizer.param_groups[0].update(option)
    with pytest.raises(RuntimeError, match=next(iter(option))):
        net(torch.ones(2, 7, dtype=torch.float64)).sum().backward()
    assert all(map(torch.equal, before, net.parameters()))


def test_a_frozen_parameter_stays_and_is_refused_once_it_has_a_gradient() -> None:
    """Every later parameter's step would move it again."""
    net = model(matrices_only=False)
    last = list(net.parameters())[-1].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    valleys.release_gradients(optimizer)
    net(torch.ones(2, 7, dtype=torch.float64)).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    last.requires_grad_(True)
    before = last.detach().clone()
    with pytest.raises(RuntimeError, match=r"shape \(1,\) has a gradient.* zero_grad"):
        net(torch.ones(2, 7, dtype=torch.float64)).sum().backward()
    assert torch.equal(last, before)


@pytest.mark.parametrize("build", [valleys.ALTO, valleys.EAdamW, torch.optim.AdamW])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_scaler_is_noticed_at_its_first_step(build: Any, unscale: bool) -> None:
    """torch finds that there are no gradients, or leaves that to an optimizer that unscales by itself."""
    net = model(matrices_only=False)
    valleys.release_gradients(optimizer := build(net.parameters()))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(net(torch.ones(2, 7, dtype=torch.float64)).sum()).backward()
    if unscale:
        scaler.unscale_(optimizer)
    error, text = (RuntimeError, "GradScaler") if build is valleys.ALTO else (AssertionError, "No inf checks")
    with pytest.raises(error, match=text):
        scaler.step(optimizer)


def test_a_hook_may_step_another_optimizer() -> None:
    """Of which it must not take the layers for those of the parameter that moves."""
    blocks: dict[str, Any] = {"blocks": valleys.blocks.stacked(2), "lr": 0.1}
    weights = [nn.Parameter(torch.arange(1.0, 9.0).reshape(4, 2)) for _ in range(2)]
    optimizers = [valleys.Lamb([weight], **blocks) for weight in weights]
    moving = nn.Parameter(torch.ones(2, 2))
    released = valleys.Lamb([moving])
    valleys.release_gradients(released)
    released.register_step_post_hook(lambda *_: optimizers[0].step())
    for weight in weights:
        weight.grad = torch.arange(8.0).reshape(4, 2)
    moving.sum().backward()
    optimizers[1].step()
    assert torch.equal(*weights)


def test_offloaded_shards_need_a_torch_that_waits_for_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = SimpleNamespace(
        placements=(), shape=(3, 2), device=torch.device("cpu"), device_mesh=SimpleNamespace(device_type="cuda")
    )
    monkeypatch.setattr("valleys.release._TORCH", (2, 13))
    _check_ranks(shards)
    monkeypatch.setattr("valleys.release._TORCH", (2, 12))
    with pytest.raises(RuntimeError, match=r"shape \(3, 2\) is offloaded to the cpu.* 2\.13 or newer"):
        _check_ranks(shards)
    shards.device_mesh.device_type = "cpu"
    _check_ranks(shards)
