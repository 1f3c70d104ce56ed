"""Advice: the rule, a noise scale that is known beforehand, what follows from it, and a command that exists."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab_fakes import task as make_task
from valleys.hyperparameters import suggest
from valleys.lab.errors import LabError
from valleys.lab.optimizers import resolve
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.task import Split, Task
from valleys.lab.run import trainer
from valleys.lab.run.noise_scale import Measurement
from valleys.lab.suggestions.brief_run import recommend as advise
from valleys.lab.suggestions.recommendation import Recommendation, Trial, from_memory


class Linear(nn.Module):
    """Its loss has the same gradient everywhere: an example's is the example itself."""

    sizes: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        Linear.sizes += (len(x),)
        return x @ self.weight


def linear(examples: int = 400, scale: float = 1.0) -> tuple[Task, float]:
    """The task and its noise scale."""
    x = 0.5 + scale * torch.randn(examples, 8, generator=torch.Generator().manual_seed(0))
    split = Split(x, torch.zeros(examples))
    task = replace(
        make_task("linear", examples),
        train=split,
        validation=split,
        build_model=Linear,
        loss=lambda outputs, targets: (outputs - targets).mean(),
        metric=lambda outputs, targets: (outputs - targets).mean(),
    )
    return task, (x.var(0).sum() / x.mean(0).square().sum()).item()


def measurement(value: float | None, interval: tuple[float, float] | None) -> Measurement:
    return Measurement(value, interval, 1.0, 1.0, 100)


def advice(batch_size: int, late: Measurement) -> Recommendation:
    trial = Trial("toy", "sgd", {"lr": 0.1}, 64, 200, measurement(None, None), late, 400, "valleys compare toy")
    return Recommendation(batch_size, suggest(batch_size), trial)


def test_without_a_task_there_is_the_rule_alone() -> None:
    small, large = advise(128), advise(16384)
    assert (small.rule, large.rule) == (suggest(128), suggest(16384))
    assert (large.trial, large.strong, large.regime) == (None, None, None)
    assert "alpha = -5, beta1 = 0.99" in str(large)
    assert "= -0.05 with a memory 1 / (1 - beta1) of 100 steps" in str(large)
    assert "--task" in str(large)


def test_the_noise_scale_of_a_task_is_found() -> None:
    task, truth = linear()
    calls: list[tuple[int, int]] = []
    answer = advise(100, task, optimizer="sgd", steps=200, progress=lambda made, total: calls.append((made, total)))
    assert answer.trial is not None
    assert calls == [(step, 200) for step in range(1, 201)]
    for measured, steps in ((answer.trial.early, 50), (answer.trial.late, 200)):
        assert measured.steps == steps
        assert measured.interval is not None
        assert measured.interval[0] < truth < measured.interval[1] < 4 * measured.interval[0]
    assert answer.trial.late.value is not None
    assert f"late {answer.trial.late.value:.3g} (" in str(answer)
    assert answer.trial.run_steps == 2 * 4  # the fake's epochs


@pytest.mark.parametrize(
    ("batch_size", "examples", "measured", "micro"),
    [(300, 400, 100, 12), (20, 400, 20, 2), (1, 400, 2, 1), (2000, 2000, 256, 32)],
)
def test_the_brief_run_has_a_moderate_batch_in_parts(batch_size: int, examples: int, measured: int, micro: int) -> None:
    Linear.sizes = ()
    trial = advise(batch_size, linear(examples)[0], optimizer="sgd", steps=40).trial
    assert trial is not None
    assert trial.batch_size == measured
    parts = Linear.sizes[: -(-measured // micro)]
    assert sum(parts) == measured
    assert max(parts) == micro


def test_the_brief_run_has_a_constant_learning_rate_in_the_middle_of_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {}
    train = trainer.train

    def spy(task: Task, spec: Any, values: Mapping[str, float], config: Any, **options: Any) -> Any:
        arguments.update(task=task, values=dict(values), **options)
        return train(task, spec, values, config, **options)

    monkeypatch.setattr(trainer, "train", spy)
    trial = advise(64, linear()[0], steps=40, seed=3).trial
    assert trial is not None
    assert arguments["task"].schedule.kind == "constant"
    assert arguments["seed"] == 3
    middle = {"lr": 3e-3, "momentum": 1 - math.sqrt(0.03 * 0.3), "weight_decay": math.sqrt(1e-3)}
    assert arguments["values"] == pytest.approx(middle)
    assert arguments["values"] == trial.values
    assert arguments["hooks"].noise.examples == 400
    advise(64, linear()[0], steps=40, lr=0.02)
    assert arguments["values"]["lr"] == 0.02


@pytest.mark.parametrize(
    ("batch_size", "interval", "regime", "said"),
    [
        (10, (100.0, 300.0), "noise", "noise dominates, as it seems"),
        (10, (100.0, math.inf), "noise", "nearly in proportion"),
        (3000, (100.0, 300.0), "signal", "diminishing returns"),
        (2999, (100.0, 300.0), None, "not clear"),
        (11, (100.0, 300.0), None, "not clear"),
        (200, (100.0, 300.0), "between", "saves steps and costs examples"),
        (200, (100.0, math.inf), None, "--brief-steps"),
        (200, None, None, "not known here"),
    ],
)
def test_a_batch_is_placed_only_if_the_whole_interval_agrees(
    batch_size: int, interval: tuple[float, float] | None, regime: str | None, said: str
) -> None:
    text = advice(batch_size, measurement(200.0, interval))
    assert text.regime == regime
    assert said in str(text)


def test_predictions_follow_the_trade_off() -> None:
    text = str(advice(100, measurement(300.0, (200.0, 400.0))))
    assert "4 times the fewest steps, 1.33 times the fewest examples" in text
    assert "doubling the batch: 0.62 times the steps, 1.25 times the examples" in text


def test_what_is_unknown_is_called_so() -> None:
    text = str(advice(100, measurement(None, (5000.0, math.inf))))
    assert "late unknown (at least 5e+03) examples" in text
    assert "early unknown, " in text
    assert "predicted" not in text


def test_the_advice_on_e_is_sober_and_ends_with_the_command() -> None:
    text = advice(16384, measurement(300.0, (200.0, 400.0)))
    *_, sober, command = str(text).splitlines()
    assert "no run of the lab so far shows a gain" in sober
    assert command == "valleys compare toy"
    assert text.strong == from_memory(-0.75, 100)
    assert "alpha = -75, beta1 = 0.99" in str(text)
    assert "noisy quadratic model" in str(text)


def test_the_command_names_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = linear()
    monkeypatch.setattr("valleys.lab.tasks.load", lambda name, data_dir, preset: task)
    for optimizer in ("sgd", "adamw"):
        trial = advise(64, "linear", optimizer=optimizer, steps=40, preset="a b", data_dir="x y").trial
        assert trial is not None
        words = shlex.split(trial.command)
        options = dict(zip(words[3::2], words[4::2], strict=True))
        assert words[:3] == ["valleys", "compare", "linear"]
        names = options["--optimizers"].split(",")
        assert names[0] == optimizer
        assert len(set(names)) == len(names)
        assert set(names) <= set(resolve.names())
        assert {"--batch-size": "64", "--preset": "a b", "--data": "x y"}.items() <= options.items()
        assert options["--out"] == "runs/linear-64"


def test_alpha_and_beta_of_c_and_memory() -> None:
    assert from_memory(0.5, 1) == {"alpha": 0.5, "beta": 0.0}
    values = from_memory(-0.05, 100)
    assert values["alpha"] * (1 - values["beta"]) == pytest.approx(-0.05)
    for c, memory in ((1.0, 10.0), (-1.0, 10.0), (0.5, 0.9), (0.5, math.inf), (math.nan, 10.0)):
        with pytest.raises(LabError, match="choose c between"):
            from_memory(c, memory)


def test_mistakes_are_told() -> None:
    task, _ = linear()
    loop = Loop(
        name="own", metric_name="m", maximize=True, target=1.0, epochs=1, run=lambda running: None, steps=lambda b, e: 1
    )
    for message, options in {
        "batch size 0": {"batch_size": 0},
        "batch size 401": {"batch_size": 401, "task": task},
        "steps 39: choose 40": {"batch_size": 4, "task": task, "steps": 39},
        "loop of its own": {"batch_size": 4, "task": loop},
        "lr 0.0": {"batch_size": 4, "task": task, "lr": 0.0},
        "lr must be a finite number": {"batch_size": 4, "task": task, "lr": math.inf},
        "unknown task 'sin'": {"batch_size": 4, "task": "sin"},
        "unknown optimizer": {"batch_size": 4, "task": task, "optimizer": "adamwww"},
    }.items():
        with pytest.raises(LabError, match=message):
            advise(**options)  # type: ignore[arg-type]


def test_a_run_that_diverges_is_no_measurement() -> None:
    task = replace(linear()[0], loss=lambda outputs, targets: outputs.square().mean() + outputs.exp().mean())
    with pytest.raises(LabError, match=r"sgd with lr 1e\+20.* diverged on linear: choose a smaller lr"):
        advise(64, task, optimizer="sgd", lr=1e20, steps=400)
    # Nor is one whose gradients are infinite while no evaluation has seen it yet.
    task = replace(linear(64 * 801)[0], loss=lambda outputs, targets: outputs.mean() * math.inf)
    with pytest.raises(LabError, match="diverged"):
        advise(64, task, optimizer="sgd", steps=40)
