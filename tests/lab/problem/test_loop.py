"""Problems with a training loop of their own: counted, timed and recorded like any other."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import lab_fakes
from valleys.lab.errors import LabError
from valleys.lab.optimizers import resolve
from valleys.lab.problem.loop import Loop, Running
from valleys.lab.record import Evaluation, Record
from valleys.lab.run.checkpoint import Checkpoint

STEPS = 6


def descend(running: Running) -> None:
    """Minimise a square, evaluating at every second step."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = running.optimizer(model)
    for step in range(running.epochs):
        optimizer.zero_grad()
        loss = (model.weight - 3).square().sum()
        loss.backward()
        optimizer.step()
        if step % 2 == 1:
            time.sleep(0.1)  # an evaluation, which is no training time
            running.evaluated(loss.item(), (model.weight - 3).abs().item())
    if running.test:
        running.tested(float(model.weight.detach()))


def loop(run: Any = descend, **changes: Any) -> Loop:
    fields: dict[str, Any] = {
        "name": "square",
        "metric_name": "distance",
        "maximize": False,
        "target": 1.0,
        "epochs": STEPS,
        "run": run,
        "steps": lambda batch_size, epochs: epochs,
        "examples": 1,
    }
    return Loop(**{**fields, **changes})


def train(problem: Loop, name: str = "sgd", **options: Any) -> Record:
    spec = resolve.resolve(name)
    values = {"lr": 0.2, "momentum": 0.1, "weight_decay": 0.0}
    return lab_fakes.train_really(problem, spec, values, **{"batch_size": 1, "seed": 0, **options})


def test_the_record_is_that_of_the_loop() -> None:
    evaluations: list[Evaluation] = []
    calls: list[tuple[int, int]] = []
    record = train(
        loop(), test=True, observe=evaluations.append, progress=lambda step, total: calls.append((step, total))
    )
    assert record.steps == STEPS
    assert [evaluation.step for evaluation in record.curve] == [2, 4, 6]
    assert record.curve == evaluations
    assert calls == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert record.validation == record.curve[-1].validation
    assert record.test == pytest.approx(3 - record.validation) or record.test == pytest.approx(3 + record.validation)
    assert record.steps_to_target == next(e.step for e in record.curve if e.validation <= 1.0)
    assert record.parameter_bytes == 4
    assert 0 < record.optimizer_seconds <= record.step_seconds
    assert record.curve[-1].seconds < 0.2, "what an evaluation costs is no training time"


def test_a_step_that_calls_the_one_above_is_one_step() -> None:
    class Mine(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)

    torch.optim.SGD([torch.ones(1)])  # only now torch's step announces itself, too
    result = resolve.resolve("sgd")
    spec = replace(result, build=lambda model, values, plan: Mine(model.parameters(), lr=values["lr"]))
    values = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    record = lab_fakes.train_really(loop(), spec, values, batch_size=1)
    assert (record.steps, record.examples) == (STEPS, STEPS)
    assert [evaluation.step for evaluation in record.curve] == [2, 4, 6]


def test_the_same_seed_gives_the_same_run_and_leaves_the_callers_generator() -> None:
    state = torch.get_rng_state()
    first, second, other = (train(loop(), seed=seed) for seed in (0, 0, 1))
    values = [[evaluation.validation for evaluation in record.curve] for record in (first, second, other)]
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_plan_reaches_the_optimizer() -> None:
    plans: list[Any] = []

    def look(running: Running) -> None:
        plans.append(running.optimizer(nn.Linear(1, 1, bias=False)))
        raise LabError("seen")

    with pytest.raises(LabError, match="seen"):
        train(loop(look), "ademamix", epochs=400)
    assert plans[0].param_groups[0]["t_alpha_beta3"] == 400


def test_a_loss_or_metric_that_is_not_finite_ends_the_run_as_diverged() -> None:
    for bad in ((float("nan"), 1.0), (1.0, float("inf"))):

        def blow_up(running: Running, bad: tuple[float, float] = bad) -> None:
            descend(running)
            running.evaluated(*bad)
            raise AssertionError("it went on")

        record = train(loop(blow_up), test=True)
        assert record.diverged
        assert (record.validation, record.test) == (None, None)


def never_asks(running: Running) -> None:
    pass


def never_evaluates(running: Running) -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.ones_like(model.weight)
    running.optimizer(model).step()


def never_tests(running: Running) -> None:
    never_evaluates(running)
    running.evaluated(1.0, 1.0)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (never_asks, "never asked for its optimizer"),
        (never_evaluates, "must end with an evaluation"),
        (never_tests, "gave no test metric"),
    ],
)
def test_a_loop_that_forgets_something(run: Any, message: str) -> None:
    with pytest.raises(LabError, match=f"the loop of square {message}"):
        train(loop(run), test=True)


def test_settings_that_a_loop_does_not_have_are_refused() -> None:
    with pytest.raises(LabError, match="batch size 2: square takes batches of at most 1; choose 1"):
        train(loop(), batch_size=2)
    with pytest.raises(LabError, match="leave micro batch and precision out"):
        train(loop(), micro_batch=1)
    with pytest.raises(LabError, match="leave micro batch and precision out"):
        train(loop(), precision="bfloat16")
    with pytest.raises(LabError, match="leave the checkpoint out"):
        train(loop(), checkpoint=Checkpoint(__file__))  # type: ignore[arg-type]
