"""Muon and AdamW in one optimizer: who gets which parameter, and that two optimizers would make the same steps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

import lab_fakes
from valleys.lab import tasks
from valleys.lab.errors import LabError
from valleys.lab.optimizers.muon import MuonAdamW
from valleys.lab.optimizers.resolve import resolve


class Tiny(nn.Module):
    """With every kind of parameter, and a head that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)
        self.inner = nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.ones(1, 6))
        self.head = nn.Linear(6, 7)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = self.norm(x + self.conv(x.mT).mT)
        out: Tensor = self.head(torch.tanh(self.inner(x)) * self.gain)
        return out


def make() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    return {name for name, p in model.named_parameters() if any(p is other for other in group["params"])}


def run(model: nn.Module, optimizers: list[Any], steps: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    schedulers = [LambdaLR(optimizer, lambda step: 1 / (1 + step)) for optimizer in optimizers]
    for _ in range(steps):
        tokens = torch.randint(0, 7, (4, 5), generator=generator)
        model.zero_grad()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten()).backward()
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_matrices_go_to_muon_and_all_else_to_adamw() -> None:
    model = make()
    muon, *others = MuonAdamW(model, weight_decay=0.2).param_groups
    # A row vector of two dimensions cannot be told from a matrix.
    assert names(model, muon) == {"inner.weight", "gain"}
    decays = {name: group["weight_decay"] for group in others for name in names(model, group)}
    assert decays == {
        "table.weight": 0.2,
        "conv.weight": 0.2,
        **dict.fromkeys(("conv.bias", "norm.weight", "norm.bias", "inner.bias", "head.bias"), 0.0),
    }
    assert muon["weight_decay"] == 0.2


def test_the_steps_are_those_of_the_two_by_themselves_under_one_schedule() -> None:
    one, two = make(), make()
    whole = MuonAdamW(one, lr=0.02, momentum=0.9, weight_decay=0.2)
    matrices = [two.inner.weight, two.gain]
    others = [p for p in two.parameters() if not any(p is matrix for matrix in matrices)]
    muon = Muon(matrices, 0.02, weight_decay=0.2, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    decayed, plain = [two.table.weight, two.conv.weight], [p for p in others if p.ndim == 1]
    adamw = AdamW(
        [{"params": decayed, "weight_decay": 0.2}, {"params": plain, "weight_decay": 0.0}], 0.02, betas=(0.9, 0.95)
    )
    expected = run(two, [muon, adamw])
    for name, value in run(one, [whole]).items():
        assert torch.equal(value, expected[name]), name


def test_a_loaded_state_goes_on_as_if_nothing_had_happened() -> None:
    one = make()
    optimizer = MuonAdamW(one, lr=0.02)
    run(one, [optimizer], 3)
    two = make()
    two.load_state_dict(one.state_dict())
    other = MuonAdamW(two, lr=0.5)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    assert {group["lr"] for group in other.param_groups} == {group["lr"] for group in optimizer.param_groups}
    expected, resumed = run(one, [optimizer]), run(two, [other])
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    assert len(other.state) == len(list(two.parameters()))


def test_hooks_and_the_closure_are_called_once() -> None:
    model, calls = nn.Linear(2, 2), []
    optimizer = MuonAdamW(model)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        calls.append("closure")
        assert torch.is_grad_enabled()
        model(torch.ones(1, 2)).sum().backward()
        return 3.0

    assert optimizer.step(closure) == 3.0
    assert calls == ["before", "closure", "after"]
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("model", [nn.Embedding(3, 2), nn.LayerNorm(4), nn.Conv2d(1, 2, 3)])
def test_a_model_without_a_matrix_is_refused(model: nn.Module) -> None:
    with pytest.raises(LabError, match=f"muon: {type(model).__name__} has no weight of two dimensions.*use adamw"):
        MuonAdamW(model)


def test_muon_trains_digits() -> None:
    values = {"lr": 5e-3, "momentum": 0.95, "weight_decay": 0.01}
    record = lab_fakes.train_really(tasks.load("digits"), resolve("muon"), values, batch_size=64, epochs=6)
    assert record.validation is not None
    assert record.validation > 90
