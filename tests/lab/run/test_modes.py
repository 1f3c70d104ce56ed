"""Optimizers that judge other weights than they train: evaluated in their evaluation mode, resumed in the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import lab_fakes
from lab.run.test_checkpoint import task as noisy_task
from valleys.lab import tasks
from valleys.lab.errors import LabError
from valleys.lab.optimizers.resolve import resolve
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.problem.loop import Loop, Running
from valleys.lab.problem.schedules import Schedule
from valleys.lab.record import Record
from valleys.lab.run import training_loop
from valleys.lab.run.checkpoint import Checkpoint

VALUES = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}


def run(problem: Any, name: str = "schedule-free-adamw", **options: Any) -> tuple[Record, nn.Module, Any, list[float]]:
    """The record; the model and its optimizer as training left them; the learning rates of the steps."""
    spec = resolve(name, 128)
    optimizers: list[Any] = []
    rates: list[float] = []

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        optimizer = spec.build(model, values, plan)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        optimizers[:] = [model, optimizer]
        return optimizer

    record = lab_fakes.train_really(problem, replace(spec, build=build), VALUES, **{"batch_size": 128, **options})
    return record, optimizers[0], optimizers[1], rates


def accuracy(problem: Any, model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return float(problem.metric(model(problem.validation.inputs), problem.validation.targets))


def test_schedule_free_is_judged_at_its_average() -> None:
    digits: Any = tasks.load("digits")
    digits = replace(digits, metric=digits.loss)  # a metric that shows every difference
    weights: list[dict[str, Tensor]] = []
    record, model, optimizer, rates = run(
        digits, epochs=3, keep=lambda model: weights.append({k: v.clone() for k, v in model.state_dict().items()})
    )
    assert record.validation is not None
    assert all(group["train_mode"] for group in optimizer.param_groups)
    trained = accuracy(digits, model)
    optimizer.eval()
    assert accuracy(digits, model) == pytest.approx(record.validation, rel=1e-5)
    assert abs(trained - record.validation) > 1e-3 * record.validation
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[0][name], value)
    assert set(rates) == {VALUES["lr"]}, "the task's schedule is left out"


def test_the_average_is_that_of_the_points_z() -> None:
    """From the formula: x_k is the mean of z_1, ..., z_k, weighted by squared learning rates, all equal here."""
    problem = replace(noisy_task(Schedule("cosine")), augment=None)
    spec, points = resolve("schedule-free-adamw"), []

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        optimizer = spec.build(model, values, plan)
        optimizer.register_step_post_hook(
            lambda *_: points.append([optimizer.state[p]["z"].clone() for p in model.parameters()])
        )
        return optimizer

    models: list[nn.Module] = []
    options: dict[str, Any] = {"batch_size": 10, "keep": models.append}
    lab_fakes.train_really(problem, replace(spec, build=build), VALUES, **options)
    assert len(points) == 20  # the warm-up is one step
    models[0].train()
    # ``keep`` was called with the average, but training's weights were put back since: judge by their formula.
    for p, zs in zip(models[0].parameters(), zip(*points, strict=True), strict=True):
        mean = torch.stack(zs).mean(0)
        torch.testing.assert_close(p.detach(), 0.1 * zs[-1] + 0.9 * mean, rtol=1e-4, atol=1e-5)


class Modes(SGD):
    """Says in which mode it is asked for what."""

    log: list[str]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        type(self).log = []

    def train(self) -> None:
        self.log.append("train")

    def eval(self) -> None:
        self.log.append("eval")

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.log.append("step")
        super().step(closure)


def modes(problem: Any, **options: Any) -> Record:
    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        return Modes(model.parameters(), lr=values["lr"])

    spec = OptimizerSpec("modes", build, {"lr": Range(1e-4, 1.0)})
    return lab_fakes.train_really(problem, spec, {"lr": 0.01}, **options)


def test_every_evaluation_is_in_evaluation_mode_and_every_step_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loop, "EVALUATIONS", 2)
    problem = noisy_task(Schedule("constant"))

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        Modes.log.append("metric")
        return nn.functional.mse_loss(outputs, targets)

    def keep(model: nn.Module) -> None:
        Modes.log.append("keep")

    modes(replace(problem, metric=metric), batch_size=20, epochs=2, test=True, keep=keep)
    judged = ["eval", "metric", "train"]
    assert Modes.log == ["train", "step", "step", *judged, "step", "step", *judged, *judged, "eval", "keep", "train"]


def test_the_mode_is_in_the_checkpoint(tmp_path: Path) -> None:
    modes: list[bool] = []

    class Looking(Checkpoint):
        def save(self, of: Mapping[str, Any], state: Mapping[str, Any]) -> None:
            modes.extend(group["train_mode"] for group in state["optimizer"]["param_groups"])
            super().save(of, state)

    run(noisy_task(Schedule("cosine")), batch_size=10, checkpoint=Looking(tmp_path / "run.pt", every=0.0))
    assert modes
    assert all(modes)


def test_batch_statistics_are_those_of_the_weights_that_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loop, "EVALUATIONS", 3)
    layers = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)
    problem = replace(noisy_task(Schedule("cosine")), augment=None, build_model=lambda: nn.Sequential(*layers))
    record, model, optimizer, _ = run(problem, batch_size=10)
    normalisation = model.get_submodule("1")
    assert isinstance(normalisation, nn.BatchNorm1d)
    assert (normalisation.momentum, int(normalisation.num_batches_tracked or 0)) == (0.1, record.steps)
    expected = accuracy(problem, model)
    optimizer.eval()
    examples: Any = problem.train
    hidden = layers[0](examples.inputs).detach()
    # Eight micro-batches hold all 40 training examples here.
    normalisation.running_mean, normalisation.running_var = hidden.mean(0), hidden.var(0)
    assert record.validation == pytest.approx(accuracy(problem, model), rel=1e-5)
    assert record.validation != pytest.approx(expected, rel=1e-3)


def loop(evaluate: bool, **changes: Any) -> Loop:
    def descend(running: Running) -> None:
        model = nn.Linear(1, 1, bias=False)
        optimizer = running.optimizer(model)
        for _ in range(running.epochs):
            optimizer.zero_grad()
            loss = (model.weight - 3).square().sum()
            loss.backward()
            optimizer.step()
        if evaluate:
            with running.evaluation():
                running.evaluated(loss.item(), (model.weight.detach() - 3).abs().item())
        else:
            running.evaluated(loss.item(), (model.weight.detach() - 3).abs().item())

    fields: dict[str, Any] = {"name": "square", "metric_name": "distance", "maximize": False, "target": 1.0}
    fields |= {"epochs": 6, "run": descend, "steps": lambda batch_size, epochs: epochs, "examples": 1}
    return Loop(**{**fields, **changes})


def test_a_loop_of_its_own_evaluates_in_evaluation_mode_or_is_refused() -> None:
    record = modes(loop(evaluate=True), batch_size=1)
    assert Modes.log == ["train", *["step"] * 6, "eval", "train"]
    assert record.examples == 6
    with pytest.raises(LabError, match=r"Modes wants other weights judged.*inside `with running.evaluation\(\):`"):
        modes(loop(evaluate=False), batch_size=1)
    plain = lab_fakes.train_really(loop(evaluate=False), resolve("sgd"), VALUES, batch_size=1)
    assert (
        plain.validation == lab_fakes.train_really(loop(evaluate=True), resolve("sgd"), VALUES, batch_size=1).validation
    )


def test_a_loop_knows_of_a_schedule_of_its_own_and_refuses_a_second_gradient() -> None:
    modes: list[bool] = []

    def look(running: Running) -> None:
        modes.append(running.own_schedule)
        raise LabError("seen")

    for name in ("schedule-free-adamw", "adamw"):
        with pytest.raises(LabError, match="seen"):
            lab_fakes.train_really(loop(True, run=look), resolve(name), VALUES, batch_size=1)
    assert modes == [True, False]
    with pytest.raises(LabError, match=r"sam computes two gradients in a step, and square has.*leave sam out"):
        lab_fakes.train_really(loop(True, run=look), resolve("sam"), VALUES, batch_size=1)


@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_a_decomposition_of_numbers_that_are_not_finite_is_a_divergence(name: str) -> None:
    base = noisy_task(Schedule("constant"))

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets) * torch.nan

    values = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}
    record = lab_fakes.train_really(
        replace(base, loss=broken), resolve(name), values, batch_size=10, epochs=50, test=True
    )
    assert record.diverged
    assert (record.validation, record.test) == (None, None)
