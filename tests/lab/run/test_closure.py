"""Optimizers that take two gradients a step: both of the same batch, and both counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import lab_fakes
from lab.run import worlds
from lab.run.test_checkpoint import task as noisy_task
from lab.run.worlds import world
from valleys.lab.optimizers.resolve import resolve
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.optimizers.table import entries
from valleys.lab.problem.schedules import Schedule
from valleys.lab.record import Record

VALUES = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


def ended(problem: Any, spec: OptimizerSpec, values: Mapping[str, float], **options: Any) -> tuple[Record, nn.Module]:
    before: list[nn.Module] = []
    record = lab_fakes.train_really(problem, spec, values, keep=before.append, **options)
    return record, before[0]


def by_hand(problem: Any, batch_size: int, steps: int, rho: float = 0.05, clip: float | None = None) -> nn.Module:
    """Sharpness-aware SGD with Nesterov's momentum, from the formula; the order of the data is the trainer's."""
    torch.manual_seed(0)
    model: nn.Module = problem.build_model()
    parameters = list(model.parameters())
    buffers = [torch.zeros_like(p) for p in parameters]
    order = torch.randperm(len(problem.train), generator=torch.Generator().manual_seed(0))

    def gradient(chosen: Tensor) -> list[Tensor]:
        loss = problem.loss(model(problem.train.inputs[chosen]), problem.train.targets[chosen])
        grads = [*torch.autograd.grad(loss, parameters)]
        norm = torch.stack([g.norm() for g in grads]).norm().item()
        return [g * min(1.0, clip / (norm + 1e-6)) for g in grads] if clip else grads

    for step, selection in enumerate(order.split(batch_size)[:steps]):
        first = gradient(selection)
        scale = rho / torch.stack([g.norm() for g in first]).norm()
        with torch.no_grad():
            for p, g in zip(parameters, first, strict=True):
                p.add_(scale * g)
        second = gradient(selection)
        with torch.no_grad():
            for p, g, other, buffer in zip(parameters, first, second, buffers, strict=True):
                p.sub_(scale * g)
                decayed = other + VALUES["weight_decay"] * p * (p.ndim > 1)
                buffer.copy_(decayed if step == 0 else VALUES["momentum"] * buffer + decayed)
                p.sub_(VALUES["lr"] * (decayed + VALUES["momentum"] * buffer))
    return model


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("micro_batch", [20, 7, 1])
def test_sam_is_two_gradients_a_step(micro_batch: int, clip: float | None) -> None:
    problem = worlds.task(clip=clip, schedule=Schedule("constant"), epochs=1)
    steps = len(problem.train) // 20
    expected = by_hand(problem, 20, steps, clip=clip)
    record, model = ended(problem, resolve("sam"), VALUES, batch_size=20, micro_batch=micro_batch, seed=0)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert record.steps == steps
    assert record.examples == 2 * 20 * steps
    sgd, other = ended(problem, resolve("sgd"), VALUES, batch_size=20, micro_batch=micro_batch, seed=0)
    assert sgd.examples == 20 * steps
    assert any(not torch.allclose(p, q, rtol=1e-4) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def off() -> OptimizerSpec:
    """SAM that goes nowhere uphill: its second gradient is the first again."""
    entry = entries(1024)["sam"]
    still = replace(entry, arguments=lambda values, plan: {**entry.arguments(values, plan), "rho": 0.0})
    return replace(resolve("sam"), build=still.build)


def test_the_second_gradient_sees_the_same_dropout_augmentation_and_clipping_and_leaves_no_trace() -> None:
    """With dropout, batch statistics and augmentation: at rho = 0 all is as if there had been one gradient."""
    problem = replace(noisy_task(Schedule("cosine")), clip=0.5)
    options: dict[str, Any] = {"batch_size": 10, "micro_batch": 4, "seed": 3, "test": True}
    record, model = ended(problem, off(), VALUES, **options)
    expected, other = ended(problem, resolve("sgd"), VALUES, **options)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert [e.train_loss for e in record.curve] == [e.train_loss for e in expected.curve]
    assert (record.validation, record.test) == (expected.validation, expected.test)


class Asking(SGD):
    """Asks for the gradient twice more, and remembers all that it got."""

    norms: list[float]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.norms = [*getattr(self, "norms", []), self.norm()]
        for _ in range(2):
            with torch.enable_grad():
                closure()
            self.norms.append(self.norm())
        super().step()

    def norm(self) -> float:
        return float(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]]).norm())


def asking(made: list[Asking]) -> OptimizerSpec:
    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        made.append(Asking(model.parameters(), lr=values["lr"]))
        return made[-1]

    return OptimizerSpec("asking", build, {"lr": Range(1e-4, 1.0)}, closure=True)


def test_every_gradient_is_clipped_and_counted_and_repeats_without_a_move() -> None:
    optimizers: list[Asking] = []
    problem = replace(noisy_task(Schedule("constant")), clip=0.01)
    record, _ = ended(problem, asking(optimizers), {"lr": 0.01}, batch_size=10, micro_batch=4)
    norms = optimizers[0].norms
    assert len(norms) == 3 * record.steps
    assert record.examples == 10 * len(norms)
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)


def test_seconds_of_a_step_hold_all_gradients_and_those_of_the_optimizer_none() -> None:
    plain = worlds.task(epochs=2)

    def slow(outputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(0.02)
        return plain.loss(outputs, targets)

    record, _ = ended(replace(plain, loss=slow), asking([]), {"lr": 0.01}, batch_size=20)
    assert record.step_seconds >= 3 * 0.02
    assert record.optimizer_seconds < 0.02
    assert record.curve[-1].seconds >= record.steps * 3 * 0.02


def on_ranks() -> tuple[list[Tensor], int]:
    record, model = ended(worlds.task(epochs=2), resolve("sam"), VALUES, batch_size=9, micro_batch=2)
    return [p.detach().clone() for p in model.parameters()], record.examples


def ranked(folder: str) -> Any:
    """Rank 0 keeps the model; the others have the record."""
    problem, path = worlds.task(epochs=2), Path(folder) / "model.pt"
    record = lab_fakes.train_really(
        problem,
        resolve("sam"),
        VALUES,
        batch_size=9,
        micro_batch=2,
        keep=lambda model: torch.save(list(model.parameters()), path),
    )
    return record.examples


def test_several_ranks_make_the_steps_of_one(tmp_path: Path) -> None:
    expected, examples = on_ranks()
    counts = worlds.values(world(2, tmp_path / "world", ranked, str(tmp_path)))
    assert counts == [examples, examples]
    weights = torch.load(tmp_path / "model.pt", weights_only=False)
    for p, q in zip(weights, expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-9, atol=1e-12)
