"""The page's arithmetic, inside headless Chromium, against ``valleys.reference`` in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import chromium
from chromium import Tab
from valleys import reference
from valleys.paper import playground
from valleys.paper.walks.functions import FUNCTIONS
from valleys.reference import Moments, OneBuffer, TwoBuffer

pytestmark = pytest.mark.skipif(chromium.BINARY is None, reason="there is no Chromium")

Memory = TwoBuffer | OneBuffer
State = tuple[Memory, Moments]
Step = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]

RULES = ("sgd", "adam", "lamb", "vanilla")

EPSILONS: dict[str, dict[str, float]] = {
    "sgd": {},
    "adam": {"eps1": 1e-8},
    "lamb": {"eps1": 1e-6, "eps2": 1e-6, "eps3": 1e-10},
    "vanilla": {"eps1": 1e-6, "eps2": 1e-6, "eps3": 1e-10},
}

RATES = {"lr": 0.02, "b2": 0.9, "b3": 0.99, "lam": 0.0}

SYMBOLS = [
    {"alpha": -5.0, "b1": 0.99, **RATES},
    {"alpha": 0.5, "b1": 0.01, **RATES},
    {"alpha": 0.0, "b1": 0.0, **RATES, "lam": 0.1},
    {"alpha": -90.0, "b1": 0.99, **RATES, "b2": 0.0, "b3": 0.9999},
    {"alpha": 700.0, "b1": 0.999, **RATES, "lr": 1e-4, "b2": 0.5, "b3": 0.0, "lam": 0.01},
    {"alpha": -2.0, "b1": 0.3, **RATES, "lr": 1.5, "b2": 0.99, "b3": 0.9},
]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("playground")
    with chromium.running(tmp_path_factory.mktemp("profile")) as browser:
        yield Tab(browser, playground.write(folder / "page.html"))


def ask(tab: Tab, expression: str, **values: Any) -> Any:
    """The value of an expression in which these names have these values."""
    names = ", ".join(values)
    return tab.evaluate(f"(({{ {names} }}) => {expression})({json.dumps(values, allow_nan=False)})")


def number(x: Any) -> float:
    """JSON has no infinity: the page sends words for what is not finite."""
    return float(x)


def step(rule: str, symbols: dict[str, float]) -> Step:
    """One step of a rule as ``reference`` has it."""
    e: Any = {"alpha": symbols["alpha"], "b1": symbols["b1"]}
    lr, b2, b3, lam = (symbols[name] for name in ("lr", "b2", "b3", "lam"))
    eps: Any = {**EPSILONS[rule], **{name: value for name, value in symbols.items() if name.startswith("eps")}}

    def sgd(theta: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        theta, memory, m = reference.esgd(theta, g, state[0], state[1].m, lr=lr, b2=b2, **e)
        return theta, (memory, state[1]._replace(m=m))

    def decoupled(theta: Tensor, g: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        k = moments.k + 1
        m, v = b2 * moments.m + (1 - b2) * g, b3 * moments.v + (1 - b3) * g * g
        theta = theta * (1 - lr * lam)
        return theta - lr * (m / (1 - b2**k)) / ((v / (1 - b3**k)).sqrt() + eps["eps1"]), Moments(m, v, k)

    def adam(theta: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        if lam:
            theta, memory, moments = reference.any_optimizer(decoupled, theta, g, state[0], state[1], **e)
        else:
            theta, memory, moments = reference.eadam(theta, g, *state, lr=lr, b2=b2, b3=b3, eps=eps["eps1"], **e)
        return theta, (memory, moments)

    def layerwise(theta: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        which: Any = reference.alto if rule == "lamb" else reference.alto_vanilla
        theta, memory, moments = which(theta, g, *state, lr=lr, b2=b2, b3=b3, lam=lam, **e, **eps)
        assert memory is not None
        return theta, (memory, moments)

    return {"sgd": sgd, "adam": adam, "lamb": layerwise, "vanilla": layerwise}[rule]


def begin(theta: Tensor, one_buffer: bool = False) -> State:
    nothing = torch.zeros_like(theta)
    return OneBuffer(nothing) if one_buffer else TwoBuffer(nothing, nothing), reference.zeros(theta)


def follow(rule: str, symbols: dict[str, float], theta: Tensor, gs: Tensor, one_buffer: bool = False) -> Tensor:
    """The points of a rule on these gradients."""
    move, state, points = step(rule, symbols), begin(theta, one_buffer), []
    for g in gs:
        theta, state = move(theta, g, state)
        points.append(theta)
    return torch.stack(points)


FOLLOW = """{
  let [theta, state] = [start, begin(start)];
  return gradients.map((g) => {
    [theta, state] = RULES[rule].step(theta, g, state, symbols);
    return theta;
  });
}"""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", range(len(SYMBOLS)))
def test_rules_equal_the_reference_on_random_gradients(tab: Tab, rule: str, case: int) -> None:
    generator = torch.Generator().manual_seed(case)
    start = torch.randn(1 + case % 3, generator=generator, dtype=torch.float64)
    gs = torch.randn(210, len(start), generator=generator, dtype=torch.float64)
    gs *= torch.logspace(1, -3, 210, dtype=torch.float64).unsqueeze(-1)
    gs[100:110] = 0.0
    symbols = {**SYMBOLS[case], **EPSILONS[rule]}
    result = torch.tensor(
        ask(tab, FOLLOW, start=start.tolist(), gradients=gs.tolist(), rule=rule, symbols=symbols), dtype=torch.float64
    )
    exact = follow(rule, symbols, start, gs, one_buffer=bool(case % 2))
    assert exact.isfinite().all()
    torch.testing.assert_close(result, exact, rtol=1e-9, atol=1e-9 * float(start.norm()))


@pytest.mark.parametrize("rule", RULES)
def test_rules_equal_the_reference_where_norms_vanish(tab: Tab, rule: str) -> None:
    gs = torch.zeros(30, 2, dtype=torch.float64)
    gs[3] = torch.tensor([1e-12, 0.0])
    gs[10] = torch.tensor([0.3, -0.2])
    large = {"eps1": 0.1, "eps2": 0.2, "eps3": 0.3} if rule != "sgd" else {}
    for start in ([0.0, 0.0], [1.0, -2.0]):
        for lam in (0.0, 0.5):
            symbols = {**SYMBOLS[0], "lam": lam, **large}
            result = ask(tab, FOLLOW, start=start, gradients=gs.tolist(), rule=rule, symbols=symbols)
            exact = follow(rule, symbols, torch.tensor(start, dtype=torch.float64), gs)
            torch.testing.assert_close(torch.tensor(result, dtype=torch.float64), exact, rtol=1e-9, atol=1e-15)


def test_the_page_has_the_reference_s_epsilons(tab: Tab) -> None:
    assert tab.evaluate("EPSILONS") == EPSILONS
    assert tuple(tab.evaluate("Object.keys(RULES)")) == RULES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_equal_the_library_s(tab: Tab, name: str) -> None:
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(3)
    low, high = torch.tensor(function.bounds, dtype=torch.float64).unbind(-1)
    points = low + (high - low) * torch.rand(400, function.dimension, generator=generator, dtype=torch.float64)
    points = torch.cat([points, torch.tensor([function.start, *function.minima], dtype=torch.float64), 3 * points[:50]])
    result = ask(
        tab,
        "points.map((p) => [String(FUNCTIONS[name].f(p)), FUNCTIONS[name].gradient(p)])",
        name=name,
        points=points.tolist(),
    )
    values = torch.tensor([number(value) for value, _ in result], dtype=torch.float64)
    gradients = torch.tensor([gradient for _, gradient in result], dtype=torch.float64)
    points.requires_grad_()
    exact = function.f(points)
    (slopes,) = torch.autograd.grad(exact.sum(), points)
    # Near a minimum both are differences of larger numbers, of about the size of the function's own scale.
    torch.testing.assert_close(values, exact.detach(), rtol=1e-12, atol=1e-13)
    for expected in (slopes, function.gradient(points.detach())):
        torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12)


def test_f1_has_no_value_beyond_its_pole(tab: Tab) -> None:
    assert tab.evaluate("[0, -0.5, NaN].map((x) => String(FUNCTIONS.f1.f([x])))") == ["Infinity", "Infinity", "NaN"]
    assert tab.evaluate("FUNCTIONS.f1.gradient([-0.5])") == [0]


def test_the_page_has_the_library_s_starts_minima_and_depths(tab: Tab) -> None:
    assert sorted(tab.evaluate("Object.keys(FUNCTIONS)")) == sorted(FUNCTIONS)
    for name, function in FUNCTIONS.items():
        start, minima, lowest, view = tab.evaluate(
            f"(({{ start, minima, lowest, view }}) => [start, minima, lowest, view])(FUNCTIONS.{name})"
        )
        assert tuple(start) == function.start
        for minimum in minima:
            here = torch.tensor(minimum, dtype=torch.float64)
            gaps = (torch.tensor(function.minima, dtype=torch.float64) - here).norm(dim=-1)
            assert gaps.min() < 1e-8
        values = function.f(torch.tensor(function.minima, dtype=torch.float64))
        assert lowest <= float(values.min()) + 1e-15
        if name != "f1":  # which has no least value
            assert lowest == pytest.approx(float(values.min()), abs=1e-9)
        assert all(view[i] < entry < view[2 + i] for i, entry in enumerate(start if len(start) == 2 else start[:1]))


Walk = tuple[Tensor, list[float], int | None]


def python_walk(settings: dict[str, Any], alpha: float, noise: Tensor) -> Walk:
    """The page's walk, by reference.py: points, values, and the step at which it diverged."""
    function = FUNCTIONS[settings["f"]]
    theta = torch.tensor(settings["start"], dtype=torch.float64)
    move, state = step(settings["rule"], {**settings, "alpha": alpha}), begin(theta)
    points, values = [theta], [float(function.f(theta))]
    for k in range(settings["steps"]):
        theta, state = move(theta, function.gradient(theta) + settings["noise"] * noise[k], state)
        value = float(function.f(theta))
        if not math.isfinite(value) or not float(theta.norm()) < 1e6:
            return torch.stack(points), values, k + 1
        points.append(theta)
        values.append(value)
    return torch.stack(points), values, None


def compare(tab: Tab, settings: dict[str, Any]) -> list[int | None]:
    """Compare both walks, all of their steps; where they diverged."""
    dimension = len(settings["start"])
    draws = ask(
        tab,
        "{ const draw = normals(seed); return Array.from({ length: count }, draw); }",
        seed=settings["seed"],
        count=settings["steps"] * dimension,
    )
    noise = torch.tensor(draws, dtype=torch.float64).reshape(-1, dimension)
    both = ask(tab, "walks(settings)", settings=settings)
    for side, alpha in (("plain", 0.0), ("adapted", settings["alpha"])):
        path = both[side]
        points, values, diverged = python_walk(settings, alpha, noise)
        assert path["diverged"] == diverged
        assert len(path["points"]) == len(points)
        torch.testing.assert_close(torch.tensor(path["points"], dtype=torch.float64), points, rtol=1e-9, atol=1e-9)
        exact = torch.tensor(values, dtype=torch.float64)
        lengths = torch.cat([torch.zeros(1), (points[1:] - points[:-1]).norm(dim=-1).cumsum(0)]).double()
        for key, expected in (
            ("values", exact),
            ("lowest", exact.cummin(0).values),
            ("lengths", lengths),
        ):
            torch.testing.assert_close(torch.tensor(path[key], dtype=torch.float64), expected, rtol=1e-8, atol=1e-9)
    return [both["plain"]["diverged"], both["adapted"]["diverged"]]


def settings_of(tab: Tab, name: str, rule: str, **changes: Any) -> dict[str, Any]:
    start, lr = tab.evaluate(f"[FUNCTIONS.{name}.start, FUNCTIONS.{name}.rates.{rule}]")
    usual = {"alpha": -16.0, "b1": 0.95, "b2": 0.9, "b3": 0.99, "lam": 0.0, "noise": 0.0, "seed": 1, "steps": 220}
    return {**usual, "f": name, "rule": rule, "start": start, "lr": lr, **changes}


# LAMB's steps have one length: among Rastrigin's pits, a rounding error of a sine grows by 1e13 in 220 steps.
CHAOTIC = {("rastrigin", "lamb"): 40, ("rastrigin", "vanilla"): 40}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rule", RULES)
def test_whole_walks_equal_python_s(tab: Tab, name: str, rule: str) -> None:
    steps = CHAOTIC.get((name, rule), 220)
    assert compare(tab, settings_of(tab, name, rule, steps=steps))[0] is None


@pytest.mark.parametrize("number", range(4))
def test_the_walks_of_the_presets_equal_python_s(tab: Tab, number: int) -> None:
    settings = tab.evaluate(f"PRESETS[{number}].settings")
    assert compare(tab, {**settings, "steps": min(settings["steps"], 300)}) == [None, None]


@pytest.mark.parametrize("rule", RULES)
def test_noisy_walks_equal_python_s(tab: Tab, rule: str) -> None:
    compare(tab, settings_of(tab, "rosenbrock", rule, noise=2.0, seed=7, lam=0.01, alpha=3.0))


@pytest.mark.parametrize(
    ("name", "rule", "changes"),
    [
        ("rosenbrock", "sgd", {"lr": 0.1}),
        ("beale", "sgd", {"lr": 0.01, "alpha": 15.0}),
        ("f1", "sgd", {"lr": 2000.0, "start": [4.6], "alpha": -0.1}),
        ("himmelblau", "lamb", {"lr": 10.0, "b2": 0.0, "alpha": 2.0}),
    ],
)
def test_divergence_is_seen_where_python_sees_it(tab: Tab, name: str, rule: str, changes: dict[str, Any]) -> None:
    ends = compare(tab, settings_of(tab, name, rule, steps=60, **changes))
    assert any(end is not None for end in ends), ends


@pytest.mark.parametrize("rule", RULES)
def test_the_plain_twin_is_the_rule_at_alpha_zero(tab: Tab, rule: str) -> None:
    both = ask(tab, "walks(settings)", settings=settings_of(tab, "cardioid", rule, alpha=0.0, noise=0.3))
    assert both["plain"] == both["adapted"]
    parted = ask(tab, "walks(settings)", settings=settings_of(tab, "cardioid", rule, noise=0.3))
    assert parted["plain"] == both["plain"]
    assert parted["adapted"] != both["plain"]


def test_the_noise_is_normal_and_seeded(tab: Tab) -> None:
    sample = "{ const draw = normals(seed); return Array.from({ length: 20000 }, draw); }"
    samples = {seed: torch.tensor(ask(tab, sample, seed=seed), dtype=torch.float64) for seed in (1, 2, 4294967295)}
    assert ask(tab, sample, seed=1) == samples[1].tolist()
    for draws in samples.values():
        n = len(draws)
        assert abs(float(draws.mean())) < 4 / math.sqrt(n)
        assert abs(float(draws.var()) - 1) < 4 * math.sqrt(2 / n)
        assert abs(float((draws**4).mean()) - 3) < 4 * math.sqrt(96 / n)
        assert abs(float((draws[1:] * draws[:-1]).mean())) < 4 / math.sqrt(n)
    assert abs(float((samples[1] * samples[2]).mean())) < 4 / math.sqrt(20000)
