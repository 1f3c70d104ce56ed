"""Numbers that do not depend on the cut into batches, of means, sums, ignored targets, class weights; or a refusal."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from landscape import curvature_cases as cases
from valleys.landscape.curvature.hvp import Curvature
from valleys.landscape.curvature.spectrum import eigenvalues
from valleys.landscape.curvature.trace import trace
from valleys.landscape.objective import Objective
from valleys.landscape.sharpness.average import average_sharpness
from valleys.landscape.sharpness.generalization import gap
from valleys.landscape.sharpness.worst_case import sharpness
from valleys.landscape.slices.directions import random_direction
from valleys.landscape.slices.slices import slice_1d

IGNORED = -100
WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)

Loss = Callable[[Any, Any], Tensor]
Denominator = Callable[[Any], Any]


def squares(reduction: str) -> Loss:
    return lambda z, y: functional.mse_loss(z, functional.one_hot(y % 3, 3).to(z), reduction=reduction)


def entropy(**options: Any) -> Loss:
    return lambda z, y: functional.cross_entropy(z, y, **options)


CASES: dict[str, tuple[Loss, dict[str, Any]]] = {
    "mean": (entropy(ignore_index=-1), {}),
    "squares": (squares("mean"), {}),
    "sum": (entropy(reduction="sum"), {"reduction": "sum"}),
    "sum of squares": (squares("sum"), {"reduction": "sum"}),
    "ignored": (entropy(ignore_index=IGNORED), {"denominator": lambda y: (y != IGNORED).sum()}),
    "class weights": (entropy(weight=WEIGHTS), {"denominator": lambda y: WEIGHTS[y].sum()}),
    "sum of weighted": (entropy(weight=WEIGHTS, reduction="sum"), {"reduction": "sum"}),
}


def data(n: int, ignored: bool, shape: tuple[int, ...] = (4,)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(n)
    x = torch.randn(n, *shape, dtype=torch.float64, generator=random)
    y = torch.randint(0, 3, (n,), generator=random)
    if ignored:
        y[: n // 4] = IGNORED  # the first batches have more of them
    return x, y


def objective(name: str, sizes: list[int], **options: Any) -> Objective:
    loss, settings = CASES[name]
    x, y = data(sum(sizes), "ignored" in name)
    torch.manual_seed(0)
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    return Objective(cases.mlp().double(), loss, batches, **settings | options)


def measures(of: Objective) -> dict[str, Tensor]:
    direction = random_direction(of, seed=0)
    top = eigenvalues(of, 2, tolerance=1e-10)
    rise = sharpness(of, 0.05, steps=3)
    average = average_sharpness(of, 0.05, samples=3)
    numbers = {
        "value": of.value(),
        "eigenvalues": top.values.tolist(),
        "trace": trace(of, matvecs=10).value,
        "hutch++": trace(of, matvecs=12, method="hutch++").value,
        "sharpness": [rise.value, rise.one_step, rise.first_order],
        "average sharpness": average.value,
        "slice": slice_1d(of, direction, 1.0, 5).values.tolist(),
        "gradient": of.flatten(of.gradient()).tolist(),
    }
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}


@functools.cache
def whole(name: str, count: int) -> dict[str, Tensor]:
    """Of one batch."""
    return measures(objective(name, [count]))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", [[25, 15], [1] * 12, [1, 9, 2], [3, 3, 3, 3, 1]])
def test_every_instrument_gives_what_it_gives_of_one_batch(name: str, sizes: list[int]) -> None:
    parts = measures(objective(name, sizes))
    for measure, number in whole(name, sum(sizes)).items():
        torch.testing.assert_close(parts[measure], number, rtol=1e-9, atol=1e-12, msg=f"{measure}: {parts[measure]}")


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(CASES)), sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_the_hessian_of_any_cut_is_that_of_one_batch_or_the_cut_is_refused(name: str, sizes: list[int]) -> None:
    dense = Curvature(objective(name, [sum(sizes)])).dense()
    torch.testing.assert_close(Curvature(objective(name, sizes)).dense(), dense, rtol=1e-9, atol=1e-12)
    if "denominator" in CASES[name][1]:
        unstated = Curvature(objective(name, sizes, denominator=None, check=False)).dense()
        if not torch.allclose(unstated, dense, rtol=1e-6, atol=1e-9):  # else they are in the examples' proportion
            with pytest.raises(ValueError, match=r"(?i)pass denominator"):
                objective(name, sizes, denominator=None)


@pytest.mark.parametrize("name", ["ignored", "class weights"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mean_over_other_numbers_than_the_examples_is_refused(name: str, dtype: torch.dtype) -> None:
    loss, _ = CASES[name]
    x, y = data(40, "ignored" in name)
    batches = list(zip(x.to(dtype).split([25, 15]), y.split([25, 15]), strict=True))
    weighted = entropy(weight=WEIGHTS.to(dtype)) if name == "class weights" else loss
    with pytest.raises(ValueError, match=r"loss: it is not the mean over examples: .* pass denominator.* or give one"):
        Objective(cases.mlp().to(dtype), weighted, batches)
    wrong = Objective(cases.mlp().to(dtype), weighted, batches, check=False)
    assert wrong.value() > 0
    with pytest.raises(ValueError, match="it is not the mean over examples"):
        Objective(cases.mlp().to(dtype), weighted, batches, denominator=lambda targets: len(targets) + 1)


def test_losses_that_are_all_the_same_do_not_hide_it() -> None:
    """A last layer of zeros gives every example the same loss, whatever the weights, but not the same Hessian."""
    x, y = data(40, True)
    batches = list(zip(x.split([25, 15]), y.split([25, 15]), strict=True))
    model = cases.mlp().double()
    assert isinstance(model, nn.Sequential)
    for parameter in model[2].parameters():
        nn.init.zeros_(parameter)
    for start in (model, nn.Linear(4, 3).double()):
        if start is not model:
            for parameter in start.parameters():
                nn.init.zeros_(parameter)
        with pytest.raises(ValueError, match="it is not the mean over examples"):
            Objective(start, entropy(ignore_index=IGNORED), batches)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
def test_rounding_is_no_reason_to_refuse(dtype: torch.dtype, scale: float) -> None:
    """Targets that the model fits exactly leave a loss that is rounding alone, of any scale."""
    torch.manual_seed(1)
    for trial in range(10):
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).to(dtype)
        x = torch.randn(70, 20).to(dtype) * scale
        y = model.double()(x.double()).detach().to(dtype) if trial % 2 else torch.zeros(70, 3, dtype=dtype)
        model.to(dtype)
        sizes = [32, 32, 6] if trial % 3 else [1] * 70
        batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
        assert Objective(model, functional.mse_loss, batches).examples == 70


@pytest.mark.parametrize(("reduction", "loss"), [("sum", squares("mean")), ("mean", squares("sum"))])
def test_a_wrong_reduction_is_refused(reduction: str, loss: Loss) -> None:
    x, y = data(12, False)
    for sizes in ([7, 5], [4, 4, 4], [1] * 12, [6, 6]):
        batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
        with pytest.raises(ValueError, match=f"it is not the {reduction} over examples.* correct reduction"):
            Objective(cases.mlp().double(), loss, batches, reduction=reduction)


def test_a_penalty_that_a_sum_would_count_once_a_batch_is_refused() -> None:
    model = cases.mlp().double()
    x, y = data(12, False)
    batches = list(zip(x.split(6), y.split(6), strict=True))

    def penalised(reduction: str) -> Loss:
        penalty = sum(parameter.square().sum() for parameter in model.parameters())
        return lambda z, y: squares(reduction)(z, y) + sum(p.square().sum() for p in model.parameters()) + 0 * penalty

    assert Objective(model, penalised("mean"), batches).value() > 0
    with pytest.raises(ValueError, match="it is not the sum over examples"):
        Objective(model, penalised("sum"), batches, reduction="sum")


def test_examples_that_depend_on_their_batch_are_refused_but_in_one_batch() -> None:
    x, y = data(12, False)

    def contrast(z: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(z @ z.T, torch.arange(len(z)))

    with pytest.raises(ValueError, match="or give one batch"):
        Objective(cases.mlp().double(), contrast, list(zip(x.split(6), y.split(6), strict=True)))
    assert Objective(cases.mlp().double(), contrast, [(x, y)]).value() > 0


class Padded(nn.Module):
    """Tokens of any length, the mean of whose vectors is not needed: one output for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).transpose(1, 2)  # type: ignore[no-any-return]


def test_batches_that_cannot_be_joined_want_a_statement() -> None:
    random = torch.Generator().manual_seed(2)
    tokens = [torch.randint(0, 7, (n, length), generator=random) for n, length in ((2, 5), (3, 4), (1, 9))]
    batches = [(part, part % 3) for part in tokens]
    with pytest.raises(ValueError, match=r"cannot be tested, as they do not fit into other batches \(RuntimeError: .*"):
        Objective(Padded(), entropy(), batches)
    torch.manual_seed(0)
    stated = Objective(Padded(), entropy(), batches, denominator=lambda y: y.numel())
    flat = torch.cat([part.reshape(-1) for part in tokens])
    one = Objective(stated.model, lambda z, y: functional.cross_entropy(z[0].T, y[0]), [(flat[None], flat[None] % 3)])
    torch.testing.assert_close(Curvature(stated).dense(), Curvature(one).dense(), rtol=1e-12, atol=1e-14)
    assert stated.denominator == 2 * 5 + 3 * 4 + 9
    assert stated.examples == 6


def test_inputs_with_time_before_examples_want_a_statement() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(4, 3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][-1]  # type: ignore[no-any-return]

    x, y = data(9, False, (6, 4))
    batches = [(x[cut].transpose(0, 1), y[cut]) for cut in (slice(0, 6), slice(6, 9))]
    with pytest.raises(ValueError, match="cannot be tested, as they do not fit into other"):
        Objective(Last(), entropy(), batches)
    assert Objective(Last(), entropy(), batches, denominator=len).value() > 0


def test_a_batch_without_a_target_that_counts_is_left_out() -> None:
    x, y = data(12, False)
    y[4:8] = IGNORED
    batches = list(zip(x.split(4), y.split(4), strict=True))
    model = cases.mlp().double()
    stated = Objective(model, *_ignoring(batches), denominator=lambda y: (y != IGNORED).sum())
    one = Objective(model, *_ignoring([(x, y)]))
    assert stated.value() == pytest.approx(one.value(), rel=1e-13)
    spectrum = eigenvalues(stated)
    assert spectrum.batch_values.shape == (1, 2)
    assert spectrum.values.item() == pytest.approx(eigenvalues(one).values.item(), rel=1e-6)
    with pytest.raises(ValueError, match="no example that counts"):
        Objective(model, *_ignoring([(x[4:8], y[4:8])]), denominator=lambda y: (y != IGNORED).sum())


def _ignoring(batches: list[tuple[Tensor, Tensor]]) -> tuple[Loss, list[tuple[Tensor, Tensor]]]:
    return entropy(ignore_index=IGNORED), batches


def test_shares_are_those_of_the_denominators() -> None:
    spectrum = eigenvalues(objective("ignored", [25, 15]))
    shares = torch.tensor([15.0, 15.0], dtype=torch.float64) / 30
    torch.testing.assert_close(spectrum.batch_values @ shares, spectrum.values, rtol=1e-12, atol=0)
    total = objective("sum", [25, 15], denominator=lambda y: (y != 0).sum())
    assert gap(total, total).train == pytest.approx(total.value() / float((data(40, False)[1] != 0).sum()))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_denominator_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"denominator: it is {value} for a batch; return .* 0 or more"):
        objective("mean", [6, 6], denominator=lambda y: value)


def test_parameters_come_back_bit_for_bit_and_a_loss_that_overflows_nearby_is_tested_where_it_is() -> None:
    model = nn.Linear(4, 3).double()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    places = [parameter.data_ptr() for parameter in model.parameters()]
    x, y = data(12, True)
    batches = list(zip(x.split(6), y.split(6), strict=True))

    def brittle(z: Tensor, y: Tensor) -> Tensor:
        moved = any(not torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))
        return entropy(ignore_index=IGNORED)(z, y) * (float("inf") if moved else 1.0)

    assert Objective(model, brittle, batches, denominator=lambda y: (y != IGNORED).sum()).value() > 0
    with pytest.raises(ValueError, match="it is not the mean over examples"):
        Objective(model, brittle, batches)
    assert all(map(torch.equal, model.parameters(), before))
    assert [parameter.data_ptr() for parameter in model.parameters()] == places


def test_what_belongs_to_a_batch_as_a_whole_wants_a_statement() -> None:
    """Here a temperature: two batches of different ones are no batch."""
    inner = cases.mlp().double()

    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            outputs: Tensor = self.inner(batch[0]) * batch[1]
            return outputs

    x, y = data(12, False)
    batches = [((x[:7], torch.tensor(1.0)), y[:7]), ((x[7:], torch.tensor(2.0)), y[7:])]
    with pytest.raises(ValueError, match="what has no row for each example differs from batch to batch"):
        Objective(Tempered(), entropy(), batches)
    halves = [entropy()(inner(part) * t, target) * len(target) / 12 for (part, t), target in batches]
    stated = Objective(Tempered(), entropy(), batches, denominator=len)
    assert stated.value() == pytest.approx(sum(half.item() for half in halves), rel=1e-12)
    same = [(inputs, target) for ((part, _), target) in batches for inputs in [(part, torch.tensor(2.0))]]
    assert Objective(Tempered(), entropy(), same).value() > 0
