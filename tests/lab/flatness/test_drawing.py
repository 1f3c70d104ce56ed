"""The landscape between minima, on losses whose surface, barriers, spectra and sharpness are known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lab_fakes
from valleys.lab import LabError, Split, Task
from valleys.lab.flatness.drawing import START, Minimum, drawing, parts
from valleys.lab.run.batch_statistics import restated

SIZE = 4
SCALES = torch.tensor([1.0, 2.0, 3.0, 5.0])
GOALS = torch.tensor([1.0, -2.0, 0.5, 3.0])

NEAR = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [1.0, 1.0, 3.0, 0], [0.5, 1.0, 1.0, 4.0]])


def quadratic(scales: Tensor = SCALES) -> Task:
    r"""L(w) = 1/n sum_i s_i^2 (w_i - g_i)^2; validation counts the first coordinate alone."""
    train = Split(torch.diag(scales), (scales * GOALS)[:, None])
    validation = Split(torch.diag(scales)[:1], (scales * GOALS)[:1, None])
    fake = lab_fakes.task("quadratic", maximize=False)
    return replace(fake, train=train, validation=validation, build_model=lambda: nn.Linear(SIZE, 1, bias=False))


def formula(point: Tensor, scales: Tensor = SCALES) -> float:
    return ((scales * (point - GOALS)) ** 2).mean().item()


def at(point: Tensor) -> nn.Linear:
    model = nn.Linear(SIZE, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(point)
    return model.eval()


def minima(points: Tensor, scores: list[float] | None = None) -> list[Minimum]:
    return [
        Minimum(name, at(point), at(torch.full((SIZE,), -1.0)), {"round": 1, "seed": 5000, "trial": 2}, score)
        for name, point, score in zip(
            ["sgd", "adamw", "lamb", "alto"], points, scores or [4.0, 3.0, 2.0, 1.0], strict=False
        )
    ]


def drawn(points: Tensor, task: Task | None = None, scores: list[float] | None = None) -> dict[str, Any]:
    return drawing(task or quadratic(), minima(points, scores), examples=100, grid=5)


def frame(points: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Origin and orthonormal directions of three points, by Gram and Schmidt."""
    x = points[1] - points[0]
    x = x / x.norm()
    y = points[2] - points[0]
    y = y - (x @ y) * x
    return points[0], x, y / y.norm()


@pytest.mark.parametrize("scores", [[4.0, 3.0, 2.0], [2.0, 1.0, 3.0]])
def test_the_surface_of_a_quadratic_is_that_of_its_formula(scores: list[float]) -> None:
    result = drawn(NEAR[:3], scores=scores)
    ranked = [i for _, i in sorted(zip(scores, range(3), strict=True), reverse=True)]
    plane = result["plane"]
    assert plane["spanned_by"] == [["sgd", "adamw", "lamb"][i] for i in ranked]
    origin, across, along = frame([NEAR[i] for i in ranked])
    for row, y in zip(plane["loss"], plane["y"], strict=True):
        expected = [formula(origin + x * across + y * along) for x in plane["x"]]
        assert row == pytest.approx(expected, rel=1e-5)
    for minimum, point in zip(result["minima"], NEAR[:3], strict=True):
        where = origin + minimum["x"] * across + minimum["y"] * along
        assert torch.allclose(where, point, atol=1e-6)
        assert plane["x"][0] < minimum["x"] < plane["x"][-1]
        assert plane["y"][0] < minimum["y"] < plane["y"][-1]


def test_a_minimum_lies_where_its_coordinates_say() -> None:
    result = drawn(NEAR[:3])
    assert [minimum["optimizer"] for minimum in result["minima"]] == ["sgd", "adamw", "lamb"]
    for minimum, point in zip(result["minima"], NEAR, strict=False):
        assert minimum["training_loss"] == pytest.approx(formula(point), rel=1e-6)
        assert minimum["plane_loss"] == pytest.approx(minimum["training_loss"], rel=1e-5)
        assert minimum["validation_loss"] == pytest.approx((point[0] - GOALS[0]).item() ** 2, abs=1e-9)
        assert minimum["distance"] < 1e-5
        assert (minimum["round"], minimum["seed"], minimum["trial"]) == (1, 5000, 2)


def test_the_initial_weights_span_the_plane_of_two() -> None:
    result = drawn(NEAR[:2])
    plane, start = result["plane"], result["plane"]["start"]
    assert plane["spanned_by"] == ["sgd", "adamw", START]
    origin, across, along = frame([NEAR[0], NEAR[1], torch.full((SIZE,), -1.0)])
    assert torch.allclose(origin + start["x"] * across + start["y"] * along, torch.full((SIZE,), -1.0), atol=1e-5)
    assert start["distance"] < 1e-5
    assert plane["x"][0] < start["x"] < plane["x"][-1]
    assert plane["y"][0] < start["y"] < plane["y"][-1]


def test_a_fourth_minimum_is_projected_with_its_distance() -> None:
    result = drawn(NEAR, scores=[1.0, 2.0, 3.0, 0.0])
    assert result["plane"]["spanned_by"] == ["lamb", "adamw", "sgd"]
    *inside, other = result["minima"]
    assert max(minimum["distance"] for minimum in inside) < 1e-5
    origin, across, along = frame([NEAR[2], NEAR[1], NEAR[0]])
    step = NEAR[3] - origin
    rest = step - (step @ across) * across - (step @ along) * along
    assert other["distance"] == pytest.approx(rest.norm().item(), rel=1e-5)
    assert other["training_loss"] == pytest.approx(formula(NEAR[3]), rel=1e-5)
    assert other["plane_loss"] == pytest.approx(formula(NEAR[3] - rest), rel=1e-4)
    assert other["plane_loss"] != pytest.approx(other["training_loss"], rel=0.1)
    assert len(result["barriers"]) == 6


def test_there_is_no_barrier_in_a_convex_loss() -> None:
    for pair in drawn(NEAR)["barriers"]:
        assert pair["training"]["barrier"] == pytest.approx(0, abs=1e-5)
        assert pair["validation"]["barrier"] == pytest.approx(0, abs=1e-5)
    first = drawn(NEAR)["barriers"][0]
    assert (first["first"], first["second"]) == ("sgd", "adamw")
    assert first["distance"] == pytest.approx(math.sqrt(5))
    expected = [formula(torch.lerp(NEAR[0], NEAR[1], t)) for t in first["t"]]
    assert first["training"]["losses"] == pytest.approx(expected, rel=1e-5)


class Wells(nn.Module):
    """(x^2 - 1)^2 + y^2 times the input."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.x, self.y = nn.Parameter(torch.tensor([x])), nn.Parameter(torch.tensor([y]))

    def forward(self, inputs: Tensor) -> Tensor:
        return ((self.x**2 - 1) ** 2 + self.y**2) * inputs


def test_the_barrier_between_two_wells_is_known() -> None:
    task = replace(
        lab_fakes.task("wells", maximize=False),
        train=Split(torch.ones(3, 1), torch.zeros(3, 1)),
        validation=Split(torch.full((2, 1), 3.0), torch.zeros(2, 1)),
        build_model=lambda: Wells(0.0, 1.0),
        loss=lambda outputs, targets: outputs.mean(),
    )
    wells = [Minimum(name, Wells(x, 0.0), Wells(0.0, 1.0), {}, x) for name, x in (("left", -1.0), ("right", 1.0))]
    result = drawing(task, wells, examples=10, grid=5)
    (pair,) = result["barriers"]
    assert pair["distance"] == pytest.approx(2)
    assert (pair["training"]["barrier"], pair["training"]["at"]) == pytest.approx((1, 0.5))
    assert (pair["validation"]["barrier"], pair["validation"]["at"]) == pytest.approx((3, 0.5))
    assert result["plane"]["start"] == pytest.approx({"x": 1.0, "y": 1.0, "distance": 0.0})
    assert result["examples"] == {"training": 3, "validation": 2}


def test_the_spectrum_is_that_of_the_quadratic() -> None:
    eigenvalues = 2 * SCALES.double() ** 2 / SIZE
    result = drawn(NEAR[:2])
    assert [entry["optimizer"] for entry in result["spectra"]] == ["sgd", "adamw"]
    for entry in result["spectra"]:
        assert (entry["smallest"], entry["largest"]) == pytest.approx((0.5, 12.5), rel=1e-4)
        grid, values = (torch.tensor(entry[name], dtype=torch.float64) for name in ("eigenvalues", "density"))
        spacing = (grid[1] - grid[0]).item()
        assert (values * spacing).sum().item() == pytest.approx(1, rel=1e-6)
        near = torch.stack([(grid - value).abs() < 5 * entry["sigma"] for value in eigenvalues])
        shares = torch.stack([(values * one * spacing).sum() for one in near])
        assert shares.sum().item() == pytest.approx(1, abs=1e-4)  # nothing lies elsewhere
        assert shares[-1].item() == pytest.approx(1 / SIZE, rel=1e-3)  # signs weigh the axes equally
        assert len(entry["standard_error"]) == len(grid)


def test_the_sharpness_of_a_round_bowl_is_known_at_every_radius() -> None:
    r"""Of c |w - g|^2 the largest rise in a ball is c ((|w - g| + rho)^2 - |w - g|^2)."""
    scales = torch.full((SIZE,), 3.0)
    for entry, point in zip(drawn(NEAR[:2], quadratic(scales))["sharpness"], NEAR, strict=False):
        away = (point - GOALS).norm().item()
        for radius, rise in zip(entry["l2"]["radii"], entry["l2"]["rises"], strict=True):
            assert rise == pytest.approx(9 / SIZE * ((away + radius) ** 2 - away**2), rel=1e-3)
        for kind in ("l2", "adaptive"):
            assert entry[kind]["rises"] == sorted(entry[kind]["rises"])
            assert len(entry[kind]["radii"]) == len(entry[kind]["rises"])


def test_examples_bound_what_is_measured() -> None:
    result = drawing(quadratic(), minima(NEAR[:2]), examples=2, grid=3)
    assert result["examples"] == {"training": 2, "validation": 1}
    indices = torch.tensor([0, 2])  # evenly spaced
    losses = (SCALES * (NEAR[0] - GOALS))[indices] ** 2
    assert result["minima"][0]["training_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_the_progress_counts_every_part() -> None:
    calls: list[int] = []

    def bar(label: str, done: int) -> Any:
        calls.append(done)
        return lambda step, total: None

    drawing(quadratic(), minima(NEAR[:3]), examples=4, grid=3, bar=bar)
    assert calls == list(range(parts(3)))


# --- batch normalisation ---------------------------------------------------------------------------------------------


def normalised(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).eval()


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs.prod(1, keepdim=True)


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    return nn.functional.mse_loss(model(inputs), targets).item()


def test_surface_and_barriers_have_the_statistics_of_the_weights_in_question() -> None:
    splits = {"training": pairs(40, 0), "validation": pairs(20, 1)}
    train, validation = (Split(*split) for split in splits.values())
    task = replace(lab_fakes.task("normed"), train=train, validation=validation)
    models = {"adamw": normalised(1), "lamb": normalised(2)}
    stored = {name: [buffer.clone() for buffer in model.buffers()] for name, model in models.items()}

    def result() -> dict[str, Any]:
        both = [Minimum(name, model, normalised(3), {}, len(name)) for name, model in models.items()]
        return drawing(task, both, examples=1000, grid=5)

    first = result()
    for model, buffers in zip(models.values(), stored.values(), strict=True):
        assert all(map(torch.equal, model.buffers(), buffers)), "the models' own statistics are left alone"
    for minimum in first["minima"]:
        model = models[minimum["optimizer"]]
        stored_loss = loss_of(model, *splits["training"])
        assert minimum["training_loss"] != pytest.approx(stored_loss, rel=1e-2), "statistics of 0 and 1 fit nothing"
        with restated(model, lambda model=model: model(splits["training"][0])):  # type: ignore[misc]
            own = [loss_of(model, *split) for split in splits.values()]
        assert [minimum["training_loss"], minimum["validation_loss"]] == pytest.approx(own, rel=1e-5)
        assert minimum["plane_loss"] == pytest.approx(own[0], rel=1e-4)
    (pair,) = first["barriers"]
    for name in splits:
        ends = [minimum[f"{name}_loss"] for minimum in first["minima"]]
        assert [pair[name]["losses"][0], pair[name]["losses"][-1]] == pytest.approx(ends, rel=1e-5)

    models["adamw"][1].running_mean += 5  # type: ignore[index, operator]
    second = result()
    assert (second["plane"], second["barriers"]) == (first["plane"], first["barriers"])
    assert second["spectra"] != first["spectra"], "spectra are those of the model with its own statistics"


def normed(count: int) -> dict[str, Any]:
    task = replace(lab_fakes.task("normed"), train=Split(*pairs(count, 0)), validation=Split(*pairs(20, 1)))
    both = [Minimum(name, normalised(seed), normalised(3), {}, seed) for name, seed in (("adamw", 1), ("lamb", 2))]
    return drawing(task, both, examples=1000, grid=3)


def test_no_batch_is_too_small_for_its_statistics() -> None:
    assert normed(257)["examples"]["training"] == 257
    with pytest.raises(LabError, match="the landscape of normed cannot be drawn: Expected more than 1 value") as caught:
        normed(1)
    assert "\n" not in str(caught.value)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_models_that_no_line_joins_are_refused() -> None:
    frozen = minima(NEAR[:2])
    for number, minimum in enumerate(frozen):
        minimum.model.register_buffer("mask", torch.full((2,), float(number)))
    with pytest.raises(LabError, match="mask is not trained and differs between sgd and adamw") as caught:
        drawing(quadratic(), frozen, examples=4, grid=3)
    assert "\n" not in str(caught.value)


def test_tied_weights_are_trained_under_both_names() -> None:
    tied = minima(NEAR[:2])
    for minimum in tied:
        minimum.model.other = minimum.model.weight
    assert drawing(quadratic(), tied, examples=4, grid=3)["plane"]["spanned_by"] == ["sgd", "adamw", START]


def test_a_loss_that_is_not_finite_names_its_optimizer() -> None:
    points = NEAR[:2].clone()
    points[1, 0] = 1e30
    with pytest.raises(LabError, match="the minimum of adamw cannot be drawn: loss: it is inf") as caught:
        drawn(points)
    assert "\n" not in str(caught.value)


def test_minima_at_one_point_are_refused() -> None:
    with pytest.raises(LabError, match=f"sgd, adamw, {START} lie at one point or on one line"):
        drawn(torch.stack([NEAR[0], NEAR[0]]))


def test_losses_that_overflow_on_the_plane_stay_visible() -> None:
    task = replace(quadratic(), loss=lambda outputs, targets: ((outputs - targets) ** 2).mean().mul(3).exp())
    result = drawing(task, minima(0.2 * NEAR[:2] + 0.8 * GOALS), examples=4, grid=5)
    assert not all(math.isfinite(loss) for row in result["plane"]["loss"] for loss in row)
