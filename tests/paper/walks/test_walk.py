"""Walks on test functions: the optimizers' own steps, and measures on paths whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from valleys import ALTO, ESGD, EAdam, Lamb, reference
from valleys.paper.walks.functions import FUNCTIONS
from valleys.paper.walks.measures import (
    arc_length,
    covered,
    lowest,
    measure,
    minima_passed,
    minima_visited,
    where_it_ends,
)
from valleys.paper.walks.walk import Walk, starts, walk, walks
from valleys.paper.walks.walkers import FAMILIES, PRESETS, equal_memory, walkers


def path(name: str, *points: tuple[float, ...]) -> Walk:
    """A walk through given points."""
    function, tensor = FUNCTIONS[name], torch.tensor(points, dtype=torch.float64)
    return Walk(function, tensor, function.f(tensor))


def sgd(params: list[Tensor]) -> Optimizer:
    return SGD(params, lr=1e-4, momentum=0.9)


MAKERS: dict[str, Any] = {
    "sgd": sgd,
    "esgd": lambda p: ESGD(p, lr=1e-4, alpha=-50.0),
    "eadam": lambda p: EAdam(p, lr=1e-3, alpha=-50.0),
    "lamb": lambda p: Lamb(p, lr=1e-3),
    "alto": lambda p: ALTO(p, lr=1e-3, alpha=-50.0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_walk_takes_the_optimizer_s_steps(name: str) -> None:
    function = FUNCTIONS["rosenbrock"]
    point = torch.nn.Parameter(torch.tensor(function.start, dtype=torch.float64))
    optimizer = MAKERS[name]([point])
    expected = [point.detach().clone()]
    for _ in range(20):
        optimizer.zero_grad()
        function.f(point).backward()
        optimizer.step()
        expected.append(point.detach().clone())
    result = walk(function, MAKERS[name], steps=20)
    assert result.points.dtype == torch.float64
    torch.testing.assert_close(result.points, torch.stack(expected), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(result.values, function.f(result.points))
    assert not result.diverged
    assert result.finite == 21


@pytest.mark.parametrize("name", MAKERS)
def test_walks_side_by_side_are_walks_alone(name: str) -> None:
    function = FUNCTIONS["rosenbrock"]
    begin = starts(function, 3)
    apart = walks(function, MAKERS[name], steps=30, starts=begin)
    alone = [walk(function, MAKERS[name], steps=30, start=point) for point in begin]
    for one, other in zip(apart, alone, strict=True):
        torch.testing.assert_close(one.points, other.points, rtol=1e-9, atol=1e-12)
    if name in ("sgd", "esgd", "eadam"):
        joined = walks(function, MAKERS[name], steps=30, starts=begin, together=True)
        for one, other in zip(joined, alone, strict=True):
            torch.testing.assert_close(one.points, other.points, rtol=1e-9, atol=1e-12)
    begin += 1  # the walks keep their own
    assert (apart[0].points[0] - begin[0]).abs().min() > 0.9


def test_noise_is_added_to_the_gradient_and_seeded() -> None:
    function, still = FUNCTIONS["rosenbrock"], [1.0, 1.0]
    maker = lambda p: SGD(p, lr=1e-6)  # noqa: E731
    result = walk(function, maker, steps=4000, start=still, noise=3.0, seed=1)
    assert torch.equal(walk(function, maker, steps=4000, start=still, noise=3.0, seed=1).points, result.points)
    assert not torch.equal(walk(function, maker, steps=4000, start=still, noise=3.0, seed=2).points, result.points)
    steps = result.points.diff(dim=0) / 1e-6
    assert steps.std(dim=0).tolist() == pytest.approx([3.0, 3.0], rel=0.05)
    assert abs(torch.corrcoef(steps.T)[0, 1].item()) < 0.06
    assert walk(function, maker, steps=5, start=still).points.unique(dim=0).shape == (1, 2)


def test_starts_lie_around_the_start() -> None:
    function = FUNCTIONS["rosenbrock"]
    many = starts(function, 2000, spread=0.1, seed=3)
    assert many.dtype == torch.float64
    assert torch.equal(many, starts(function, 2000, spread=0.1, seed=3))
    assert not torch.equal(many, starts(function, 2000, spread=0.1, seed=4))
    assert many.mean(0).tolist() == pytest.approx([-1.2, 1.0], abs=0.02)
    assert many.std(0).tolist() == pytest.approx([0.1 * math.hypot(1.2, 1.0)] * 2, rel=0.06)
    assert starts(function, 500).std().item() < many.std().item()


def test_a_walk_that_leaves_the_domain_has_diverged_even_if_it_comes_back() -> None:
    class Jumps(SGD):
        def step(self, closure: Any = None) -> Any:
            (point,) = self.param_groups[0]["params"]
            with torch.no_grad():
                point.copy_(torch.tensor([-1.0 if float(point) == 3.0 else float(point) + 1]))

    result = walk(FUNCTIONS["f1"], lambda p: Jumps(p, lr=1.0), steps=6, start=[1.0])
    assert result.diverged
    assert result.finite == 3
    assert result.points[:3].flatten().tolist() == [1.0, 2.0, 3.0]
    assert result.points[3:].isnan().all()
    assert result.values[3:].isnan().all()
    measures = measure(result)
    assert measures.diverged
    assert measures.end == (3.0,)
    assert measures.value == FUNCTIONS["f1"].f(torch.tensor([3.0], dtype=torch.float64)).item()
    assert where_it_ends(result) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps 0"),
        ({"noise": -1.0}, "noise -1.0"),
        ({"noise": math.inf}, "noise inf"),
        ({"start": [1.0]}, r"\(n, 2\)"),
        ({"start": [math.nan, 1.0]}, "not finite"),
    ],
)
def test_what_a_walk_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walk(FUNCTIONS["rosenbrock"], sgd, **{"steps": 3, **changes})


def test_what_starts_and_measures_refuse() -> None:
    with pytest.raises(ValueError, match="count 0"):
        starts(FUNCTIONS["f1"], 0)
    with pytest.raises(ValueError, match=r"spread -0\.1"):
        starts(FUNCTIONS["f1"], 1, spread=-0.1)
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        walks(FUNCTIONS["f1"], sgd, steps=1, starts=torch.zeros(0, 1))
    with pytest.raises(ValueError, match="radius 0"):
        minima_visited(path("f2", (0.95,)), 0)


def test_arc_length_counts_steps_with_both_ends_inside() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [3.0, 7.0], [math.nan, 7.0]])
    assert arc_length(points) == 8.0
    assert arc_length(points, torch.tensor([True, False, True, True, True])) == 2.0
    assert arc_length(points[:1]) == 0.0


def around(turns: float, pieces: int, wobble: float = 0.0) -> list[tuple[float, float]]:
    """Along the cardioid's floor from its tip, (-2, 0), some turns of 8 each."""
    floor = FUNCTIONS["cardioid"].floor
    assert floor is not None
    t = (0.5 + turns * torch.linspace(0, 1, pieces + 1, dtype=torch.float64)) % 1
    sides = torch.tensor([(-1.0) ** n for n in range(pieces + 1)], dtype=torch.float64)
    return [tuple(point) for point in (floor(t) * (1 + wobble * sides).unsqueeze(-1)).tolist()]


@pytest.mark.parametrize("turns", [0.1, 0.45, 0.9, 1.0, 2.5, -1.25])
def test_covered_follows_the_floor_round_and_round(turns: float) -> None:
    assert covered(path("cardioid", *around(turns, 200))) == pytest.approx(8 * abs(turns), abs=0.01)


def test_covered_counts_no_zigzag_no_return_and_nothing_outside() -> None:
    straight, zigzag = (path("cardioid", *around(0.3, 600, wobble)) for wobble in (0.0, 0.004))
    assert arc_length(zigzag.points) > 3 * arc_length(straight.points)
    assert covered(zigzag) == pytest.approx(8 * 0.3, abs=0.02)
    way = around(0.2, 100)
    assert covered(path("cardioid", *way, *way[::-1])) == pytest.approx(8 * 0.2, abs=0.01)
    outside = [(0.5, 1.0), (-3.0, 0.0), (0.0, -3.0)]
    assert covered(path("cardioid", *outside)) == 0.0
    assert covered(path("cardioid", *outside, *way, (0.0, -3.0))) == pytest.approx(8 * 0.2, abs=0.01)


def test_covered_on_rosenbrock_and_where_no_floor_is_known() -> None:
    x = torch.linspace(-1, 1, 500, dtype=torch.float64)
    along = path("rosenbrock", *torch.stack([x, x * x + 0.02], dim=-1).tolist())
    expected = 2 * (math.sqrt(5) / 2 + math.asinh(2) / 4)  # of the parabola
    assert covered(along) == pytest.approx(expected, rel=0.02)
    assert covered(path("himmelblau", (1.0, 1.0), (2.0, 2.0))) is None
    assert covered(path("f2", (0.95,), (0.0,), (0.3,))) == pytest.approx(0.95)


def test_lowest_is_the_first_of_the_lowest() -> None:
    result = path("rosenbrock", (-1.2, 1.0), (0.9, 0.81), (1.0, 1.1), (0.9, 0.81))
    value, point = lowest(result)
    assert value == pytest.approx(0.01)
    assert point == (0.9, 0.81)


@pytest.mark.parametrize(
    ("name", "points", "visited", "passed", "end"),
    [
        ("f2", [(0.95,), (0.7,)], 0, 0, 0.6),
        ("f2", [(0.95,), (0.607,)], 1, 0, 0.6),  # as near as 0.01
        ("f2", [(0.95,), (0.615,)], 0, 0, 0.6),
        ("f2", [(0.95,), (0.55,)], 1, 0, 0.6),
        ("f2", [(0.95,), (0.45,)], 1, 1, 0.0),
        ("f2", [(0.95,), (-0.1,)], 2, 1, 0.0),
        ("f2", [(0.95,), (-0.1,), (0.62,)], 2, 1, 0.6),
        ("f2", [(0.95,), (-0.9,)], 3, 2, -0.6),
        ("f1", [(2.3,), (3.0,)], 0, 0, 4.0853),
        ("f1", [(2.3,), (1.0,)], 0, 0, 4.0853),
        ("f1", [(2.3,), (7.0,)], 2, 2, 7.1296),
        ("f1", [(2.3,), (7.3,)], 3, 2, 7.1296),
        ("f1", [(2.3,), (1e6,)], 62, None, None),
        ("himmelblau", [(0.0, 0.0), (3.05, 2.05), (-2.8, 3.1)], 2, 1, -2.805),
        ("himmelblau", [(3.0, 2.0), (3.2, 2.0)], 1, 1, None),
        ("himmelblau", [(3.08, 2.08)], 0, 0, None),
    ],
)
def test_minima(name: str, points: list[Any], visited: int, passed: int | None, end: float | None) -> None:
    result = path(name, *points)
    assert len(minima_visited(result)) == visited
    ends = where_it_ends(result)
    if passed is not None:
        assert len(minima_passed(result)) == passed
        assert (None if ends is None else ends[0]) == (None if end is None else pytest.approx(end, abs=1e-3))
        assert ends not in minima_passed(result)


def test_before_the_first_and_after_the_last_minimum() -> None:
    above = FUNCTIONS["f1"].minima[-1][0] + 0.3
    assert where_it_ends(path("f1", (above,))) == FUNCTIONS["f1"].minima[-1]
    assert where_it_ends(path("f1", (above + 1.0,))) is None  # down to one that is not listed
    assert where_it_ends(path("f2", (-0.65,))) == FUNCTIONS["f2"].minima[0]
    two = replace(FUNCTIONS["f2"], minima=FUNCTIONS["f2"].minima[1:])
    assert where_it_ends(replace(path("f2", (-0.57,)), function=two)) is None  # down to the one that is left out


def test_the_radius_is_the_caller_s() -> None:
    result = path("himmelblau", (3.3, 2.0))
    assert len(minima_visited(result, 0.4)) == 1
    assert where_it_ends(result, 0.4) == (3.0, 2.0)
    assert minima_passed(result, 0.4) == ()
    assert measure(result, 0.4).visited == 1
    assert measure(result).visited == 0
    assert len(minima_visited(path("f2", (0.95,), (0.63,)), 0.4)) == 1


def test_measure_is_its_parts() -> None:
    result = walk(FUNCTIONS["cardioid"], lambda p: SGD(p, lr=1e-3, momentum=0.9), steps=300)
    measures = measure(result)
    assert measures.arc == arc_length(result.points, result.function.inside(result.points)) > 0
    assert measures.floor == covered(result)
    assert (measures.lowest, measures.value) == (lowest(result)[0], result.values[-1].item())
    assert measures.end == tuple(result.points[-1].tolist())
    assert (measures.visited, measures.passed) == (len(minima_visited(result)), len(minima_passed(result)))
    assert measure(path("f2", (0.95,))).arc is None


@pytest.mark.parametrize(("momentum", "alpha", "beta1"), [(0.9, -50.0, 0.99), (0.0, -3.0, 0.8), (0.5, 0.4, 0.1)])
def test_equal_memory_is_the_mean_age_of_the_weights(momentum: float, alpha: float, beta1: float) -> None:
    def weights(optimizer_momentum: float, strength: float, lr: float) -> Tensor:
        """Response of the updates to an impulse, a gradient at step 1 alone."""
        zero, m, result = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), []
        memory: reference.TwoBuffer | reference.OneBuffer = reference.TwoBuffer(zero, zero)
        for step in range(6000):
            g = torch.tensor(1.0 if step == 0 else 0.0, dtype=torch.float64)
            adapted, memory = reference.explore(g, memory, strength, beta1)
            m = optimizer_momentum * m + adapted
            result.append(lr * m)
        return torch.stack(result)

    longer = equal_memory(momentum, alpha)
    own, control = weights(momentum, alpha, 1.0), weights(longer, 0.0, (1 - longer) / (1 - momentum))
    ages = torch.arange(len(own), dtype=torch.float64)
    assert own.sum().item() == pytest.approx(control.sum().item(), rel=1e-9) == pytest.approx(1 / (1 - momentum))
    assert (ages * own).sum().item() == pytest.approx((ages * control).sum().item(), rel=1e-9)
    assert (ages * own).sum().item() * (1 - momentum) == pytest.approx(momentum / (1 - momentum) - alpha)


@pytest.mark.parametrize(
    ("family", "classes", "plain", "adapted"),
    [
        ("sgd", (SGD, ESGD), {"momentum": 0.8}, {"explore_alpha": -20.0, "explore_beta": 0.95, "momentum": 0.8}),
        ("adam", (Adam, EAdam), {"betas": (0.8, 0.97)}, {"explore_alpha": -10.0, "betas": (0.8, 0.97)}),
        ("lamb", (Lamb, ALTO), {"betas": (0.8, 0.97)}, {"alpha": -10.0, "beta": 0.95, "betas": (0.8, 0.97)}),
    ],
)
def test_walkers_have_the_settings_asked_for(family: str, classes: Any, plain: Any, adapted: Any) -> None:
    alpha = adapted.get("alpha", adapted.get("explore_alpha"))
    alpha = max(alpha, -19.0)  # |alpha| (1 - 0.95) < 1
    options = {"alpha": alpha, "beta1": 0.95, "momentum": 0.8, "beta2": 0.97}
    result = walkers(family, 0.02, **options)
    assert [walker.role for walker in result] == ["plain", "adapted", "control"]
    assert [walker.name for walker in result[:2]] == [FAMILIES[family].plain, FAMILIES[family].adapted]
    longer = (4 - alpha) / (5 - alpha)
    assert [walker.momentum for walker in result] == [0.8, 0.8, pytest.approx(longer)]
    optimizers = [walker.make([torch.nn.Parameter(torch.ones(2))]) for walker in result]
    assert [type(optimizer) for optimizer in optimizers] == [classes[0], classes[1], classes[0]]
    adapted = {name: alpha if name.endswith("alpha") else value for name, value in adapted.items()}
    groups = [optimizer.param_groups[0] for optimizer in optimizers]
    for group, walker, expected in zip(groups, result, (plain, adapted, {}), strict=True):
        assert {name: group[name] for name in expected} == expected
        assert group["lr"] == walker.lr
        assert group["weight_decay"] == 0
        assert group.get("layer_adaptation", True)
    lr = 0.02 * (1 - longer) / 0.2 if family == "sgd" else 0.02
    assert [walker.lr for walker in result] == [0.02, 0.02, pytest.approx(lr)]
    first = groups[2]["momentum"] if family == "sgd" else groups[2]["betas"][0]
    assert first == pytest.approx(longer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rmsprop", 0.1), "sgd, adam, lamb"),
        (("sgd", 0.0), "lr 0.0"),
        (("sgd", math.nan), "lr nan"),
        (("adam", 0.1, {"beta2": 1.0}), "beta2 1.0"),
        (("adam", 0.1, {"alpha": -100.0}), "must be below 1"),
        (("adam", 0.1, {"momentum": 1.0}), "momentum 1.0"),
        (("adam", 0.1, {"momentum": 0.5, "alpha": 1.5}), "at most 1"),
    ],
)
def test_what_walkers_refuse(arguments: Any, message: str) -> None:
    family, lr, *options = arguments
    with pytest.raises(ValueError, match=message):
        walkers(family, lr, **(options[0] if options else {}))


def test_presets_hold_for_every_function_and_family() -> None:
    assert set(PRESETS) == set(FUNCTIONS)
    for preset in PRESETS.values():
        assert set(preset.lr) == set(FAMILIES)
    f1, f2 = PRESETS["f1"], PRESETS["f2"]
    assert (f1.alpha, f1.beta1, f1.momentum) == (-80.0, 0.99, 0.95)  # the paper's
    assert (f2.alpha, f2.beta1, f2.momentum) == (-90.0, 0.99, 0.9)


def test_what_the_documentation_says_of_f1() -> None:
    """ALTO passes minima where LAMB stops, and so does LAMB with a memory as long."""
    lamb, alto, control = (
        measure(walk(FUNCTIONS["f1"], walker.make, steps=1000))
        for walker in walkers("lamb", 0.003, alpha=-80.0, momentum=0.95, beta2=0.99)
    )
    assert lamb.passed == 0
    assert alto.passed == control.passed == 18
