"""The noise scale: unbiased where the noise is known, a ratio of averages, with an honest interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import lab_fakes
from lab_fakes import task as make_task
from valleys.lab.errors import LabError
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.task import Split, Task
from valleys.lab.record import Record
from valleys.lab.run import trainer
from valleys.lab.run.noise_scale import MicroGradients, NoiseScale
from valleys.lab.run.ranks import Ranks

D = 12
SCALES = np.linspace(0.5, 1.5, D)  # standard deviations of one example's gradient
TRACE = float((SCALES**2).sum())
G = np.full(D, 0.3)
SIGNAL = float((G**2).sum())


def norms(examples: np.ndarray, sizes: Sequence[int]) -> tuple[list[float], float]:
    """Square norms of the micro-batches' means and of the batch's mean."""
    parts = np.split(examples, np.cumsum(sizes)[:-1])
    return [float((part.mean(0) ** 2).sum()) for part in parts], float((examples.mean(0) ** 2).sum())


def step(noise: NoiseScale, examples: np.ndarray, sizes: Sequence[int]) -> None:
    parts, whole = norms(examples, sizes)
    noise.update(parts, sizes, whole)


def single(examples: np.ndarray, sizes: Sequence[int], population: int | None = None) -> tuple[float, float]:
    """One step's estimates."""
    noise = NoiseScale(examples=population)
    step(noise, examples, sizes)
    assert noise.trace is not None
    assert noise.signal is not None
    return noise.trace, noise.signal


def assert_mean(draws: list[float], truth: float) -> None:
    error = np.std(draws) / math.sqrt(len(draws))
    assert abs(np.mean(draws) - truth) < 4.5 * error


@pytest.mark.parametrize("sizes", [[1, 1], [16, 16], [4] * 8, [1, 2, 13], [31, 1]])
def test_both_estimates_are_unbiased_whatever_the_sizes(sizes: list[int]) -> None:
    random = np.random.default_rng(0)
    draws = [single(G + SCALES * random.normal(size=(sum(sizes), D)), sizes) for _ in range(1500)]
    assert_mean([trace for trace, _ in draws], TRACE)
    assert_mean([signal for _, signal in draws], SIGNAL)


def test_a_batch_without_replacement_estimates_the_gradient_of_these_examples() -> None:
    random = np.random.default_rng(1)
    everything = G + SCALES * random.normal(size=(40, D))
    trace, signal = float(everything.var(0, ddof=1).sum()), float((everything.mean(0) ** 2).sum())
    draws = [single(random.permutation(everything)[:32], [20, 12], 40) for _ in range(1500)]
    assert_mean([trace for trace, _ in draws], trace)
    assert_mean([signal for _, signal in draws], signal)
    assert single(everything, [20, 20], 40)[1] == pytest.approx(signal, rel=1e-12)  # nothing is left to chance
    assert single(everything, [20, 20])[1] < signal


def test_the_value_scales_with_the_noise_and_not_with_the_loss() -> None:
    noise = SCALES * np.random.default_rng(2).normal(size=(64, D))
    trace, signal = single(G + noise, [32, 32])
    assert single(7 * (G + noise), [32, 32]) == pytest.approx((49 * trace, 49 * signal))
    assert single(G + 3 * noise, [32, 32])[0] == pytest.approx(9 * trace)
    assert single(5 * G + noise, [32, 32])[0] == pytest.approx(trace)


def test_the_value_is_the_ratio_of_the_averages() -> None:
    noise = NoiseScale(decay=0.5)
    for trace, signal in ((4.0, 1.0), (1.0, 4.0)):
        # Two micro-batches of one example: S = 2 (mean - g), Q = g - S / 2.
        noise.update([signal + trace] * 2, [1, 1], signal + trace / 2)
    assert noise.trace == pytest.approx((0.5 * 4 + 1) / 1.5)
    assert noise.signal == pytest.approx((0.5 * 1 + 4) / 1.5)
    assert noise.value == pytest.approx((0.5 * 4 + 1) / (0.5 * 1 + 4))
    assert noise.steps == 2


def test_one_step_counts_fully() -> None:
    noise = NoiseScale(decay=0.999)
    noise.update([5.0, 3.0], [2, 2], 3.5)
    assert (noise.trace, noise.signal) == pytest.approx((2.0, 3.0))


def test_where_nothing_is_known_the_value_is_none() -> None:
    noise = NoiseScale()
    assert (noise.value, noise.interval, noise.trace, noise.signal) == (None, None, None, None)
    noise.update([1.0, 1.0], [1, 1], 0.1)
    assert noise.signal is not None
    assert noise.signal < 0
    assert noise.value is None


@pytest.mark.parametrize("seed", [3, 4])  # with the first the estimate of |G|^2 is negative beyond its own error
def test_pure_noise_has_a_lower_bound_at_most(seed: int) -> None:
    random = np.random.default_rng(seed)
    noise = NoiseScale(decay=1.0)
    for _ in range(100):
        step(noise, SCALES * random.normal(size=(8, D)), [4, 4])
    assert noise.interval is not None
    low, high = noise.interval
    assert low > 20  # of 8 examples a step
    assert high == math.inf


@pytest.mark.parametrize(("sizes", "decay", "drift"), [([8] * 4, 1.0, 0.0), ([8] * 4, 0.95, 0.8), ([3, 13], 0.98, 0.5)])
def test_the_interval_covers_the_truth_as_often_as_it_says(sizes: list[int], decay: float, drift: float) -> None:
    random = np.random.default_rng(4)
    covered, runs, steps = 0, 160, 30
    for _ in range(runs):
        noise = NoiseScale(decay)
        trace = signal = 0.0
        for number in range(steps):
            mean = 2 * G * (1 - drift * number / steps)
            step(noise, mean + SCALES * random.normal(size=(sum(sizes), D)), sizes)
            trace, signal = decay * trace + TRACE, decay * signal + float((mean**2).sum())
        assert noise.interval is not None
        covered += noise.interval[0] <= trace / signal <= noise.interval[1]
    assert 0.89 <= covered / runs <= 0.995


def test_the_interval_ends_where_the_ratio_is_just_not_refuted() -> None:
    random = np.random.default_rng(7)
    decay, steps = 0.9, 30
    noise, sizes = NoiseScale(decay), []
    for _ in range(steps):
        examples = 3 * G + SCALES * random.normal(size=(32, D))
        sizes.append(single(examples, [8] * 4))
        step(noise, examples, [8] * 4)
    weights = decay ** np.arange(steps - 1, -1, -1)
    differences = np.diff(np.array(sizes), axis=0)
    covariance = np.einsum("t,ti,tj->ij", weights[1:] ** 2, differences, differences) / 2 / (weights[1:] ** 2).sum()
    covariance *= (weights**2).sum() / weights.sum() ** 2
    equal = (weights**2).sum() ** 2 / (weights**4).sum()
    quantile = stats.t.ppf(0.975, 2 * (equal - 1) ** 2 / (3 * equal - 4))
    assert noise.interval is not None
    for ratio in noise.interval:
        contrast = np.array([1.0, -ratio])
        off = contrast @ (weights @ np.array(sizes) / weights.sum())
        assert off**2 == pytest.approx(quantile**2 * contrast @ covariance @ contrast, rel=1e-9)


def test_where_even_the_noise_is_uncertain_the_interval_begins_at_zero() -> None:
    noise = NoiseScale(decay=1.0)
    for square in (1.0, 50.0, 1.0, 2.0, 1.0, 80.0):
        noise.update([square, square], [1, 1], 1.0)
    assert noise.interval is not None
    assert noise.interval[0] == 0.0


def test_the_interval_holds_the_value_and_shrinks() -> None:
    random = np.random.default_rng(5)
    noise, widths = NoiseScale(decay=1.0), []
    for number in range(1, 401):
        step(noise, 2 * G + SCALES * random.normal(size=(32, D)), [8] * 4)
        if number in (4, 100, 400):
            widths.append(noise.interval)
    assert widths[0] is None
    assert noise.value is not None
    assert noise.interval is not None
    assert noise.interval[0] < noise.value < noise.interval[1]
    wide, narrow = (interval[1] - interval[0] for interval in widths[1:] if interval is not None)
    assert 0.35 < narrow / wide < 0.7  # a half


def test_a_step_that_is_not_finite_is_left_out() -> None:
    noise = NoiseScale()
    noise.update([math.inf, 1.0], [1, 1], math.inf)
    noise.update([math.nan, 1.0], [1, 1], math.nan)
    assert noise.steps == 0


@pytest.mark.parametrize(
    ("squares", "sizes", "whole", "said"),
    [
        ([1.0], [4], 1.0, "at least 2"),
        ([1.0, 1.0], [4], 1.0, "2 square norms and 1 sizes"),
        ([1.0, 1.0], [4, 0], 1.0, "1 example or more"),
        ([1.0, 1.0], [40, 61], 1.0, "100 in all"),
        ([1.0, -1.0], [4, 4], 1.0, "negative"),
        ([1.0, 1.0], [4, 4], -1.0, "negative"),
    ],
)
def test_impossible_norms_and_sizes(squares: list[float], sizes: list[int], whole: float, said: str) -> None:
    with pytest.raises(LabError, match=said):
        NoiseScale(examples=100).update(squares, sizes, whole)


@pytest.mark.parametrize(
    ("options", "said"), [({"decay": 0.0}, "decay"), ({"decay": 1.1}, "decay"), ({"examples": 1}, "2")]
)
def test_settings_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=said):
        NoiseScale(**options)


class Spy(NoiseScale):
    """Remembers what it was told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.told: list[tuple[list[float], list[int], float]] = []

    def update(self, square_norms: Sequence[float], sizes: Sequence[int], square_norm: float) -> None:
        self.told.append((list(square_norms), list(sizes), square_norm))
        super().update(square_norms, sizes, square_norm)


def test_micro_gradients_add_up_as_accumulation_does_and_norms_are_taken_apart() -> None:
    a, b = (torch.zeros(3, requires_grad=True) for _ in range(2))
    micro, noise = MicroGradients([a, b]), Spy()
    a.grad = 0.25 * torch.tensor([1.0, 2.0, 2.0])  # b takes no part
    micro.take(0.25)
    assert a.grad is None
    a.grad, b.grad = 0.75 * torch.tensor([0.0, 0.0, 4.0]), 0.75 * torch.tensor([3.0, 0.0, 0.0])
    micro.take(0.75)
    micro.put(noise, 8)
    assert torch.equal(a.grad, torch.tensor([0.25, 0.5, 3.5]))
    assert torch.equal(b.grad, torch.tensor([2.25, 0.0, 0.0]))
    (squares, sizes, whole), *others = noise.told
    assert not others
    assert squares == pytest.approx([9.0, 25.0], rel=1e-6)
    assert sizes == [2, 6]
    assert whole == pytest.approx(0.25**2 + 0.5**2 + 3.5**2 + 2.25**2, rel=1e-6)


def test_norms_of_half_precision_are_not_rounded_to_it() -> None:
    parameter, noise = torch.zeros(1001, dtype=torch.bfloat16, requires_grad=True), Spy()
    micro = MicroGradients([parameter])
    for _ in range(2):
        parameter.grad = torch.ones_like(parameter)
        micro.take(0.5)
    micro.put(noise, 2)
    assert noise.told[0][0] == pytest.approx([4004.0, 4004.0], rel=1e-6)


N = 300


class Linear(nn.Module):
    largest = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(D, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        Linear.largest = max(Linear.largest, len(x) * self.training)
        return x @ self.weight


def linear() -> Task:
    """A loss whose gradient for an example is that example, whatever the weights are."""
    x = torch.tensor(G + SCALES * np.random.default_rng(6).normal(size=(N, D)))
    split = Split(x, torch.zeros(N, dtype=torch.float64))
    result = make_task(examples=N)
    return replace(
        result, train=split, validation=split, build_model=Linear, loss=lambda out, _: out.mean(), metric=_mean
    )


def _mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).mean()


def _sgd(model: nn.Module, values: Mapping[str, float], plan: Plan) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=values["lr"], momentum=0.9)


SGD = OptimizerSpec("sgd", _sgd, {"lr": Range(1e-4, 1.0)})


def train(task: Task, **options: Any) -> Record:
    return lab_fakes.train_really(task, SGD, {"lr": 1e-3}, **{"batch_size": 30, "seed": 0, "epochs": 1, **options})


@pytest.mark.parametrize("micro_batch", [7, 30])
def test_training_measures_the_noise_that_its_loss_has(micro_batch: int) -> None:
    task, noise = linear(), NoiseScale(decay=1.0, examples=N)
    train(task, epochs=20, micro_batch=micro_batch, noise=noise)
    x = task.train.inputs  # type: ignore[union-attr]
    assert isinstance(x, Tensor)
    trace, signal = x.var(0).sum().item(), x.mean(0).square().sum().item()
    assert noise.steps == 200
    assert noise.trace == pytest.approx(trace, rel=0.08)
    assert noise.interval is not None
    assert noise.interval[0] < trace / signal < noise.interval[1]
    assert noise.interval[1] < 1.5 * noise.interval[0]


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "sizes"),
    [(30, 7, [7, 7, 7, 7, 2]), (30, 30, [15, 15]), (3, 4096, [2, 1]), (300, 200, [150, 150]), (2, None, [1, 1])],
)
def test_every_step_has_two_micro_batches_or_more(batch_size: int, micro_batch: int | None, sizes: list[int]) -> None:
    noise = Spy()
    train(linear(), batch_size=batch_size, micro_batch=micro_batch, noise=noise)
    assert len(noise.told) == N // batch_size
    assert all(parts == sizes for _, parts, _ in noise.told)


def test_without_noise_no_batch_is_split() -> None:
    Linear.largest = 0
    train(linear(), batch_size=300)
    assert Linear.largest == 300


def test_measuring_does_not_change_training() -> None:
    task = make_task(examples=64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=generator)
    task = replace(task, train=Split(x, x.sum(1, keepdim=True).sin()), validation=Split(x, x.prod(1, keepdim=True)))
    plain, measured = (
        [evaluation.validation for evaluation in train(task, epochs=4, micro_batch=9, noise=noise).curve]
        for noise in (None, NoiseScale())
    )
    assert len(set(plain)) > 1
    assert measured == pytest.approx(plain, rel=1e-6)


def test_noise_is_refused_where_it_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(
        name="loop",
        metric_name="m",
        maximize=True,
        target=1.0,
        epochs=1,
        run=lambda running: None,
        steps=lambda b, e: 1,
    )
    with pytest.raises(LabError, match="training loop of its own"):
        lab_fakes.train_really(loop, SGD, {"lr": 1e-3}, batch_size=4, seed=0, noise=NoiseScale())
    with pytest.raises(LabError, match="batch of 2 or more"):
        train(linear(), batch_size=1, noise=NoiseScale())

    @contextmanager
    def two() -> Iterator[Ranks]:
        yield Ranks(0, 2)

    monkeypatch.setattr(trainer, "joined", two)
    monkeypatch.setattr(Ranks, "device", lambda self, wanted: torch.device(wanted))
    with pytest.raises(LabError, match=r"on 2 process\(es\)"):
        train(linear(), noise=NoiseScale())
