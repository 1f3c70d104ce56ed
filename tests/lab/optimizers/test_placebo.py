"""The placebo: with E off, an adapted optimizer makes its base's steps, bit for bit, over a training on digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lab_fakes
from valleys.lab import tasks
from valleys.lab.optimizers.resolve import resolve
from valleys.lab.optimizers.spec import OptimizerSpec, Plan
from valleys.lab.optimizers.table import entries
from valleys.lab.record import Record

digits = cache(partial(tasks.load, "digits"))
"""Loaded by the first test that trains on it: scikit-learn takes seconds to import."""


def ended(spec: OptimizerSpec, values: Mapping[str, float], **options: Any) -> tuple[Record, list[Tensor]]:
    models: list[nn.Module] = []
    settings = {"batch_size": 128, "epochs": 2, "seed": 5, "test": True, **options}
    record = lab_fakes.train_really(digits(), spec, values, keep=models.append, **settings)
    curve = [replace(evaluation, seconds=0.0) for evaluation in record.curve]
    times: dict[str, Any] = {"seconds_to_target": None, "step_seconds": 0.0, "optimizer_seconds": 0.0, "ended": None}
    same = replace(record, curve=curve, optimizer="", hyperparameters={}, state_bytes=0, **times)
    return same, [p.detach() for p in models[0].parameters()]


@pytest.mark.parametrize("batch_size", [128, 1024])
@pytest.mark.parametrize("name", ["alto", "alto-sqrt", "alto-tuned", "esgd", "eadam", "eadamw", "eadamw-tuned"])
def test_without_e_an_adapted_optimizer_is_its_base_bit_for_bit(name: str, batch_size: int) -> None:
    adapted = resolve(name, batch_size)
    assert adapted.base is not None
    base = resolve(adapted.base, batch_size)
    entry = entries(batch_size)[name]
    off = replace(entry, arguments=lambda values, plan: {**entry.arguments(values, plan), "alpha": 0.0})
    for u in (0.2, 0.7):
        values = {key: ranges.value(u) for key, ranges in base.space.items()}
        own = {**values, "c": 0.5, "memory": 50.0} if name.endswith("-tuned") else values
        options = {"batch_size": batch_size, "epochs": 10 if batch_size == 1024 else 2}
        record, weights = ended(replace(adapted, build=off.build), own, **options)
        expected, result = ended(base, values, **options)
        assert record == expected
        assert record.steps > 5
        assert all(torch.equal(a, b) for a, b in zip(weights, result, strict=True))
        with_e, _ = ended(adapted, own, **options)
        assert with_e.curve != expected.curve, "E does something where it is on"


@pytest.mark.parametrize("name", ["alto-tuned", "eadamw-tuned"])
def test_the_tuned_space_holds_the_base_at_c_0(name: str) -> None:
    spec = resolve(name)
    assert spec.base is not None
    base = resolve(spec.base)
    values = {key: ranges.middle for key, ranges in base.space.items()}
    assert ended(spec, {**values, "c": 0.0, "memory": 30.0})[0] == ended(base, values)[0]


@pytest.mark.parametrize("name", list(entries(128)))
def test_every_optimizer_lowers_the_loss_of_digits(name: str) -> None:
    spec = resolve(name, 128)
    values = {key: ranges.middle for key, ranges in spec.space.items()}
    record, _ = ended(spec, values, epochs=3)
    assert not record.diverged
    assert record.curve[-1].train_loss < record.curve[0].train_loss - 0.02
    assert record.examples == record.steps * 128 * (1 + spec.closure)


def test_the_plan_of_the_run_reaches_the_optimizer() -> None:
    plans: list[Plan] = []
    spec = resolve("adamw")

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> torch.optim.Optimizer:
        plans.append(plan)
        return spec.build(model, values, plan)

    ended(replace(spec, build=build), {key: ranges.middle for key, ranges in spec.space.items()})
    assert plans == [Plan(128, 2 * (1077 // 128))]
