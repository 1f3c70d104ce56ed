"""A loss as a function of the parameters alone: its weights, what it leaves alone, what it refuses."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from landscape import curvature_cases as cases
from valleys.landscape.objective import Objective


def regression(n: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn(n, 4, dtype=torch.float64, generator=random)
    return cases.mlp().double(), inputs, torch.randn(n, 3, dtype=torch.float64, generator=random)


def pairs(inputs: Tensor, targets: Tensor, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs, targets, reduction="sum")


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_uneven_batches_are_weighed_by_their_examples(sizes: list[int]) -> None:
    model, inputs, targets = regression(sum(sizes))
    batches = pairs(inputs, targets, sizes)
    mean = Objective(model, functional.mse_loss, batches)
    total = Objective(model, squares, batches, reduction="sum")
    assert mean.examples == total.examples == sum(sizes)
    loss = functional.mse_loss(model(inputs), targets)
    assert mean.value() == pytest.approx(loss.item(), rel=1e-13)
    assert total.value() == pytest.approx(3 * sum(sizes) * loss.item(), rel=1e-13)
    true = torch.autograd.grad(loss, mean.parameters)
    for one, summed, expected in zip(mean.gradient(), total.gradient(), true, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(summed, 3 * sum(sizes) * expected, rtol=1e-11, atol=1e-12)
    assert [weight for _, _, weight in mean.batches()] == [size / sum(sizes) for size in sizes]
    assert [weight for _, _, weight in total.batches()] == [1.0] * len(sizes)


def test_nothing_is_touched() -> None:
    objective = cases.objective("conv")
    objective.parameters[0].grad = torch.full_like(objective.parameters[0], 7)
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    with torch.no_grad():
        gradient = objective.gradient()
    objective.value()
    assert not any(part.requires_grad for part in gradient)
    assert bool((objective.parameters[0].grad == 7).all())
    assert all(parameter.grad is None for parameter in objective.parameters[1:])
    assert all(torch.equal(value, before[name]) for name, value in objective.model.state_dict().items())
    assert not objective.model.training


def test_a_training_mode_that_does_no_harm_stays() -> None:
    model, inputs, targets = regression()
    dropout = nn.Sequential(model, nn.Dropout(0.0), nn.BatchNorm1d(3).double().eval(), nn.LayerNorm(3).double())
    dropout.train()
    dropout[2].eval()
    assert Objective(dropout, functional.mse_loss, [(inputs, targets)]).value() > 0
    assert dropout.training
    assert not dropout[2].training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_moving_restores_bit_for_bit(dtype: torch.dtype) -> None:
    model, inputs, targets = regression()
    objective = Objective(model.to(dtype), functional.mse_loss, [(inputs.to(dtype), targets.to(dtype))])
    before = [parameter.detach().clone() for parameter in objective.parameters]
    places = [parameter.data_ptr() for parameter in objective.parameters]
    at_start = objective.value()
    direction = tuple(torch.randn_like(parameter) for parameter in objective.parameters)
    with objective.moved(direction, 0.3):
        for parameter, old, part in zip(objective.parameters, before, direction, strict=True):
            assert torch.equal(parameter, old.add(part, alpha=0.3))
        assert objective.value() != at_start
    with pytest.raises(KeyError), objective.moved(direction):  # noqa: PT012
        assert objective.value() != at_start
        raise KeyError
    with pytest.raises(ValueError), objective.moved(direction[:-1]):
        pytest.fail("one tensor is missing")
    assert all(torch.equal(parameter, old) for parameter, old in zip(objective.parameters, before, strict=True))
    assert [parameter.data_ptr() for parameter in objective.parameters] == places
    assert objective.value() == at_start
    assert all(parameter.requires_grad for parameter in objective.parameters)


def test_the_slope_is_the_gradients() -> None:
    objective = cases.objective("attention")
    direction = tuple(torch.randn_like(parameter) for parameter in objective.parameters)
    ends = []
    for distance in (1e-5, -1e-5):
        with objective.moved(direction, distance):
            ends.append(objective.value())
    slope = sum(float((one * part).sum()) for one, part in zip(objective.gradient(), direction, strict=True))
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-7)


def test_flat_and_back() -> None:
    objective = cases.objective("conv")
    flat = objective.flatten(objective.parameters)
    assert flat.shape == (objective.numel,) == (51,)
    assert not flat.requires_grad
    for back, parameter in zip(objective.unflatten(flat.float()), objective.parameters, strict=True):
        assert back.dtype == parameter.dtype
        assert torch.equal(back, parameter.float().double())


def test_frozen_parameters_are_left_out_and_named_ones_are_taken() -> None:
    model, inputs, targets = regression()
    frozen = next(model.parameters()).requires_grad_(False)
    objective = Objective(model, functional.mse_loss, [(inputs, targets)])
    assert objective.numel == 23
    assert all(parameter is not frozen for parameter in objective.parameters)
    last = list(model.parameters())[-1]
    assert Objective(model, functional.mse_loss, [(inputs, targets)], parameters=[last]).parameters == (last,)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"parameters: there is none .* unfreeze"):
        Objective(model, functional.mse_loss, [(inputs, targets)])


def test_a_parameter_without_influence_has_a_zero_gradient() -> None:
    model, inputs, targets = regression()
    model.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    assert not Objective(model, functional.mse_loss, [(inputs, targets)]).gradient()[0].any()


class Pair(nn.Module):
    """Takes a dictionary, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3).double()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        return {"logits": self.inner(batch["x"]) * batch["mask"][:, None]}


def test_dictionaries_go_in_and_come_out() -> None:
    _, inputs, _ = regression()
    mask, labels = torch.ones(12, dtype=torch.float64), torch.arange(12) % 3
    mask[3] = 0

    def loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(outputs["logits"], targets["labels"])

    model = Pair()
    cuts = [slice(0, 7), slice(7, 12)]
    batches = [({"x": inputs[cut], "mask": mask[cut]}, {"labels": labels[cut]}) for cut in cuts]
    objective = Objective(model, loss, batches)
    true = functional.cross_entropy(model({"x": inputs, "mask": mask})["logits"], labels)
    assert objective.examples == 12
    assert objective.value() == pytest.approx(true.item(), rel=1e-13)


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_targets_are_counted_by_the_first(kind: type) -> None:
    model, inputs, targets = regression()
    batches = [(inputs[cut], kind((targets[cut], targets[cut]))) for cut in (slice(0, 7), slice(7, 12))]
    objective = Objective(model, lambda z, y: functional.mse_loss(z, y[0]) + functional.mse_loss(z, y[1]), batches)
    assert objective.examples == 12
    assert objective.value() == pytest.approx(2 * functional.mse_loss(model(inputs), targets).item(), rel=1e-13)
    assert isinstance(next(objective.batches())[1], kind)


@pytest.mark.parametrize(
    ("layer", "remedy"),
    [
        (nn.Dropout(0.5), "Dropout '1' draws anew"),
        (nn.AlphaDropout(0.1), "AlphaDropout '1' draws anew"),
        (nn.BatchNorm1d(3).double(), "BatchNorm1d '1' in training mode"),
    ],
)
def test_layers_that_are_no_function_in_training_mode_are_refused(layer: nn.Module, remedy: str) -> None:
    model, inputs, targets = regression()
    whole = nn.Sequential(model, layer)
    with pytest.raises(ValueError, match=rf"model: {remedy}.* model.eval\(\)"):
        Objective(whole, functional.mse_loss, [(inputs, targets)])
    whole.eval()
    assert Objective(whole, functional.mse_loss, [(inputs, targets)]).value() > 0


def test_a_functional_dropout_is_refused() -> None:
    model, inputs, targets = regression()
    with pytest.raises(ValueError, match="on the same batches: something is random"):
        Objective(model, lambda z, y: functional.mse_loss(functional.dropout(z), y), [(inputs, targets)])


def test_a_layer_that_changes_from_call_to_call_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta, self.calls = nn.Parameter(torch.ones(1)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.theta * self.calls

    with pytest.raises(ValueError, match="changes from call to call"):
        Objective(Counter(), functional.mse_loss, [(torch.ones(2, 1), torch.zeros(2, 1))])


def test_a_shuffling_loader_that_drops_examples_is_refused() -> None:
    model, inputs, targets = regression()
    random = torch.Generator().manual_seed(0)
    data = TensorDataset(inputs, targets)
    loader = DataLoader(data, batch_size=5, shuffle=True, drop_last=True, generator=random)
    with pytest.raises(ValueError, match="a shuffling loader"):
        Objective(model, functional.mse_loss, loader)


def test_a_loader_is_as_good_as_a_list() -> None:
    model, inputs, targets = regression()
    objective = Objective(model, functional.mse_loss, DataLoader(TensorDataset(inputs, targets), batch_size=5))
    assert objective.value() == pytest.approx(functional.mse_loss(model(inputs), targets).item(), rel=1e-13)


def test_no_batches_are_refused() -> None:
    model, inputs, targets = regression()
    for batches in ([], [(inputs[:0], targets[:0])]):
        with pytest.raises(ValueError, match=r"batches: they hold no example"):
            Objective(model, functional.mse_loss, batches)


def test_an_iterator_is_refused() -> None:
    model, inputs, targets = regression()

    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield inputs, targets

    with pytest.raises(ValueError, match="an iterator can be read once only"):
        Objective(model, functional.mse_loss, once())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    model, inputs, targets = regression()
    with pytest.raises(ValueError, match="no landscape"):
        Objective(model, lambda z, y: functional.mse_loss(z, y) * value, [(inputs, targets)])


def test_an_unknown_reduction_is_refused() -> None:
    model, inputs, targets = regression()
    with pytest.raises(ValueError, match="reduction 'none': choose one of mean, sum"):
        Objective(model, functional.mse_loss, [(inputs, targets)], reduction="none")


def test_what_is_not_checked_is_taken() -> None:
    model, inputs, targets = regression()
    objective = Objective(nn.Sequential(model, nn.Dropout()), functional.mse_loss, [(inputs, targets)], check=False)
    assert objective.value() != objective.value()


def test_a_named_tuple_goes_in() -> None:
    class Batch(NamedTuple):
        x: Tensor
        scale: Tensor

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3).double()

        def forward(self, batch: Batch) -> Tensor:
            output: Tensor = self.inner(batch.x) * batch.scale
            return output

    _, inputs, targets = regression()
    assert Objective(Scaled(), functional.mse_loss, [(Batch(inputs, torch.ones(1)), targets)]).value() > 0
