"""The trainer: a run is repeatable, its gradient is the batch's, and its record says what happened."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import lab_fakes
from valleys.lab.errors import LabError
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Split, Task
from valleys.lab.record import Record
from valleys.lab.run import training_loop

N = 50
VALUES = {"lr": 0.05}


class Net(nn.Module):
    """With dropout, so that forgetting the evaluation mode or the seed shows."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def split(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Split:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return Split(x, x.sum(1, keepdim=True).sin())


def make_task(**changes: Any) -> Any:
    task = Task(
        name="toy",
        train=split(N, 1),
        validation=split(11, 2),
        test=split(7, 3),
        build_model=Net,
        loss=nn.functional.mse_loss,
        metric=nn.functional.mse_loss,
        metric_name="mse",
        maximize=False,
        target=1e9,
        epochs=3,
    )
    return replace(task, **changes)


def spec(make: Callable[..., Optimizer] = SGD) -> OptimizerSpec:
    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        return make(model.parameters(), **values)

    return OptimizerSpec("toy optimizer", build, {"lr": Range(1e-4, 1.0)})


def run(task: Task | None = None, make: Callable[..., Optimizer] = SGD, **options: Any) -> Record:
    return lab_fakes.train_really(task or make_task(), spec(make), VALUES, **{"batch_size": 10, "seed": 0, **options})


def without_times(record: Record) -> Record:
    curve = [replace(evaluation, seconds=0.0) for evaluation in record.curve]
    return replace(record, curve=curve, seconds_to_target=None, step_seconds=0.0, optimizer_seconds=0.0, ended=None)


class Spy(SGD):
    """An SGD that remembers gradients, learning rates and whether anybody calls it."""

    seen: list[tuple[float, list[Tensor]]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        type(self).seen = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        self.seen.append((group["lr"], [p.grad.clone() for p in group["params"] if p.grad is not None]))
        super().step(closure)


def test_the_same_seed_gives_the_same_record_whatever_the_callers_random_state() -> None:
    torch.manual_seed(1)
    first = run(test=True)
    torch.manual_seed(2)
    second = run(test=True)
    assert without_times(first) == without_times(second)
    assert without_times(first) != replace(without_times(run(test=True, seed=1)), seed=0)


def test_the_callers_random_state_is_untouched_even_when_the_run_fails() -> None:
    state = torch.get_rng_state()
    run()
    assert torch.equal(torch.get_rng_state(), state)

    def broken(*_: Any, **__: Any) -> Optimizer:
        torch.rand(3)
        raise RuntimeError("broken")

    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with pytest.raises(LabError, match="RuntimeError: broken"):
        run(make=broken)
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags


@pytest.mark.parametrize("micro", [1, 3, 7, 13, 20, 99])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro: int) -> None:
    doubles = [split(n, s, torch.float64) for n, s in ((N, 1), (11, 2), (7, 3))]
    task = make_task(
        train=doubles[0],
        validation=doubles[1],
        test=doubles[2],
        build_model=lambda: Net(dropout=0.0).double(),
    )
    records = []
    for size in (20, micro):
        records.append(run(task, Spy, batch_size=20, micro_batch=size))
        if size == 20:
            expected = Spy.seen
    assert len(Spy.seen) == len(expected) == 6
    for (_, gradients), (_, reference) in zip(Spy.seen, expected, strict=True):
        for a, b in zip(gradients, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert records[0].curve[-1].train_loss == pytest.approx(records[1].curve[-1].train_loss, rel=1e-6)
    assert records[0].validation == pytest.approx(records[1].validation, rel=1e-6)


def test_the_gradient_is_that_of_the_mean_loss_over_the_batch() -> None:
    task = make_task(build_model=lambda: Net(dropout=0.0))
    run(task, Spy, batch_size=N, micro_batch=16, epochs=1)
    torch.manual_seed(0)
    model = task.build_model()
    task.loss(model(task.train.inputs), task.train.targets).backward()
    for gradient, parameter in zip(Spy.seen[0][1], model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [5] * 4), (False, [5] * 4 + [3])])
def test_an_epoch_sees_each_example_once_in_a_new_order(drop_last: bool, sizes: list[int]) -> None:
    rows = torch.arange(23, dtype=torch.float32).unsqueeze(1)
    examples: list[float] = []

    class Watch(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                examples.extend(x.flatten().tolist())
            return super().forward(x)

    task = make_task(
        train=Split(rows, rows),
        validation=Split(rows, rows),
        test=Split(rows, rows),
        build_model=lambda: Watch(1, 1),
        drop_last=drop_last,
    )
    record = lab_fakes.train_really(task, spec(), {"lr": 1e-6}, batch_size=5, seed=3, epochs=2, micro_batch=2)
    count = sum(sizes)
    assert (record.steps, record.examples) == (2 * len(sizes), 2 * count)
    first, second = examples[:count], examples[count:]
    assert len(set(first)) == len(set(second)) == count
    assert first != second
    assert first != sorted(first)


def test_the_gradient_of_a_smaller_last_batch_is_its_own_mean() -> None:
    task = make_task(build_model=lambda: Net(dropout=0.0), train=split(N + 7, 1), drop_last=False)
    record = lab_fakes.train_really(task, spec(Spy), {"lr": 1e-30}, batch_size=N, seed=0, micro_batch=4, epochs=1)
    assert record.steps == 2
    last = torch.randperm(N + 7, generator=torch.Generator().manual_seed(0))[N:]
    torch.manual_seed(0)
    model = task.build_model()
    task.loss(model(task.train.inputs[last]), task.train.targets[last]).backward()
    for gradient, parameter in zip(Spy.seen[1][1], model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("epochs", [1, 12, 40])
def test_the_cosine_warms_up_over_five_percent_and_ends_near_zero(epochs: int) -> None:
    run(make=Spy, epochs=epochs)
    rates = [lr / VALUES["lr"] for lr, _ in Spy.seen]
    total = 5 * epochs
    warm = max(1, round(0.05 * total))
    assert len(rates) == total
    steps = [b - a for a, b in pairwise(rates[: warm + 1])]
    assert steps == pytest.approx([1 / (warm + 1)] * warm)
    assert rates[warm] == max(rates) == pytest.approx(1.0)
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * (1 - 1 / (total - warm)))))


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    run(make=Spy, batch_size=N, epochs=1)
    assert [lr for lr, _ in Spy.seen] == [VALUES["lr"]]


def test_the_constant_schedule_is_constant() -> None:
    run(make_task(schedule=Schedule("constant")), Spy)
    assert {lr for lr, _ in Spy.seen} == {VALUES["lr"]}


@pytest.mark.parametrize("epochs", [1, 3, 4, 5, 41])
def test_evaluations_are_even_about_twenty_and_include_the_end(epochs: int) -> None:
    record = run(epochs=epochs)
    steps = [evaluation.step for evaluation in record.curve]
    assert record.steps == steps[-1] == 5 * epochs
    assert len(steps) == min(20, 5 * epochs)
    gaps = [b - a for a, b in zip([0, *steps], steps, strict=False)]
    assert max(gaps) - min(gaps) <= 1
    assert record.validation == record.curve[-1].validation


@pytest.mark.parametrize("micro", [2, 4, 50])
def test_metrics_are_over_whole_splits_in_evaluation_mode(micro: int) -> None:
    models: list[Net] = []

    def build() -> Net:
        models.append(Net())
        return models[-1]

    task = make_task(build_model=build)
    record = run(task, test=True, micro_batch=micro)
    model = models[0].eval()
    for value, part in ((record.validation, task.validation), (record.test, task.test)):
        assert value == pytest.approx(task.metric(model(part.inputs), part.targets).item(), rel=1e-5)


def test_the_test_split_is_read_only_when_asked_and_then_once() -> None:
    reads: list[int] = []

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        reads.append(len(outputs))
        return nn.functional.mse_loss(outputs, targets)

    assert run(make_task(metric=metric)).test is None
    assert 7 not in reads
    assert run(make_task(metric=metric), test=True).test is not None
    assert reads.count(7) == 1


def test_evaluating_more_does_not_change_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    often = run(epochs=10)
    monkeypatch.setattr(training_loop, "EVALUATIONS", 1)
    assert run(epochs=10).validation == often.validation


@pytest.mark.parametrize(("bad", "part"), [(math.nan, "loss"), (math.inf, "loss"), (math.nan, "metric")])
def test_divergence_ends_the_run_and_keeps_no_metric(bad: float, part: str) -> None:
    calls = 0

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return nn.functional.mse_loss(outputs, targets) + (bad if calls > 7 else 0.0)

    record = run(make_task(epochs=20, **{part: broken}), test=True)
    assert record.diverged
    assert record.validation is None
    assert record.test is None
    assert record.steps < 100
    assert all(math.isfinite(e.train_loss) and math.isfinite(e.validation) for e in record.curve)


def test_an_optimizer_that_raises_is_no_divergence() -> None:
    class Broken(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            raise ZeroDivisionError("mine")

    with pytest.raises(LabError, match=r"ZeroDivisionError: mine; .* \(it failed in .*test_trainer.py, line \d+\)"):
        run(make=Broken)


@pytest.mark.parametrize("maximize", [False, True])
def test_the_target_is_timed_at_its_first_crossing(maximize: bool) -> None:
    curve = run(epochs=4).curve
    middle = sorted(evaluation.validation for evaluation in curve)[len(curve) // 2]
    task = make_task(maximize=maximize, target=middle)
    record = run(task, epochs=4)
    first = next(e for e in record.curve if (e.validation >= middle if maximize else e.validation <= middle))
    assert (record.steps_to_target, record.seconds_to_target) == (first.step, first.seconds)
    missed = run(make_task(maximize=maximize, target=1e9 if maximize else -1.0))
    assert missed.steps_to_target is None
    assert missed.seconds_to_target is None


def test_seconds_count_training_and_no_evaluation_nor_the_first_steps_warm_up() -> None:
    def slow(outputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(0.02)
        return nn.functional.mse_loss(outputs, targets)

    class Slow(SGD):
        calls = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            time.sleep(0.2 if not self.calls else 0.005)
            self.calls += 1
            super().step(closure)

    record = run(make_task(metric=slow), Slow, epochs=2)
    assert 0.005 <= record.optimizer_seconds <= record.step_seconds < 0.1
    assert record.curve[-1].seconds >= 0.2 + 9 * 0.005
    free = run(make_task(metric=slow), epochs=2)
    assert free.curve[-1].seconds < 10 * 0.02
    assert [e.seconds for e in free.curve] == sorted(e.seconds for e in free.curve)


def test_memory_counts_each_storage_of_the_state_once_and_no_parameter() -> None:
    elements = 3 * 8 + 8 + 8 + 1
    adam = run(make=Adam)
    assert adam.parameter_bytes == 4 * elements
    assert adam.state_bytes == 2 * 4 * elements + 4 * 4  # two moments; a step count for each of four tensors
    assert run(make=SGD).state_bytes == 0

    class Sharing(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            shared = torch.zeros(100)
            for p in self.param_groups[0]["params"]:
                self.state[p] = {"nested": [{"a": shared[:50]}, (shared[50:],)], "itself": p.data, "note": "text"}

    assert run(make=Sharing).state_bytes == 400

    class Holder:
        def __init__(self) -> None:
            self.itself, self.matrices = self, [torch.zeros(50), torch.zeros(25)]

    class Holding(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                self.state[p] = {"holder": Holder(), "kind": Holder}

    assert run(make=Holding).state_bytes == 4 * 300


def test_a_record_counts_the_examples_whose_gradient_was_computed() -> None:
    record = run(batch_size=20, epochs=4)
    assert (record.steps, record.examples) == (8, 160)


def test_progress_is_told_every_step() -> None:
    calls: list[tuple[int, int]] = []
    run(progress=lambda step, total: calls.append((step, total)))
    assert calls == [(step, 15) for step in range(1, 16)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size 0.*choose 1 to 50"),
        ({"batch_size": 51}, "batch size 51: toy has 50 training examples"),
        ({"micro_batch": 0}, "micro batch 0"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
    ],
)
def test_mistakes_are_refused_before_any_work(options: dict[str, int], message: str) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("work began")

    with pytest.raises(LabError, match=message):
        run(make_task(build_model=never), never, **options)


@pytest.mark.parametrize("values", [{}, {"lr": 0.1, "momentum": 0.9}, {"LR": 0.1}])
def test_hyperparameters_other_than_the_spaces_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(LabError, match="toy optimizer needs values for lr, got"):
        lab_fakes.train_really(make_task(), spec(), values, batch_size=10, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_run_repeats_and_leaves_the_random_state() -> None:
    state, here = torch.cuda.get_rng_state(), torch.get_rng_state()
    first, second = run(device="cuda", test=True), run(device="cuda", test=True)
    assert without_times(first) == without_times(second)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), here)
