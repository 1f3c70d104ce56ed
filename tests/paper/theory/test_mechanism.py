"""The measurements of docs/mechanism.md: weights out of the real optimizers, and what is true of them by hand."""

import importlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import valleys
from valleys.paper.theory import ema_weights, nested_weights
from valleys.paper.walks.functions import Function

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
RESULTS = BENCHMARKS / "results" / "analysis" / "mechanism.md"
PAIRS = [(0.99, 0.9), (0.9, 0.9), (0.5, 0.9), (0.0, 0.9), (0.7, 0.0)]


@pytest.fixture
def mechanism(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("analysis_mechanism")


def closed_form(beta1: float, beta2: float, steps: int) -> Tensor:
    """The paper's weight for equal decays, and that of the partial fractions for unequal ones."""
    j = torch.arange(steps, dtype=torch.float64)
    if beta1 == beta2:
        return (1 - beta1) ** 2 * beta1**j * (j + 1)
    return (1 - beta1) * (1 - beta2) * (beta1 ** (j + 1) - beta2 ** (j + 1)) / (beta1 - beta2)


# --- what the momentum holds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta1", "beta2"), PAIRS)
def test_altos_momentum_holds_each_difference_with_the_weight_of_the_theory(
    mechanism: Any, beta1: float, beta2: float
) -> None:
    weights = mechanism.e_weights(60, -0.9, beta1, (beta2, 0.99))
    expected = closed_form(beta1, beta2, 60)
    assert torch.allclose(weights, expected, rtol=0, atol=1e-13)
    assert torch.allclose(weights, torch.tensor(nested_weights([beta1, beta2], 60)), rtol=0, atol=1e-13)
    if beta1 == beta2:
        assert torch.allclose(weights, torch.tensor(ema_weights(2, beta1, 60)), rtol=0, atol=1e-13)


Make = Callable[[list[Tensor], float], Any]


@pytest.mark.parametrize(
    ("make", "state", "scale"),
    [
        (lambda p, a: valleys.ALTO(p, 0.1, betas=(0.9, 0.99), alpha=a, beta=0.5, foreach=True), "exp_avg", 1.0),
        (lambda p, a: valleys.EAdam(p, 0.1, betas=(0.9, 0.99), alpha=a, beta=0.5), "exp_avg", 1.0),
        (lambda p, a: valleys.ESGD(p, 0.1, momentum=0.9, alpha=a, beta=0.5), "momentum_buffer", 10.0),
        (lambda p, a: valleys.adapt(SGD(p, 0.1, momentum=0.9), alpha=a, beta=0.5), "momentum_buffer", 10.0),
    ],
)
def test_so_do_other_optimizers_by_differentiation(make: Make, state: str, scale: float) -> None:
    """The momentum is linear in the differences: an indicator of one of them in each element is its derivative."""
    steps, momenta = 40, []
    for alpha in (-1.5, 0.0):
        parameter = nn.Parameter(torch.ones(steps, dtype=torch.float64))
        optimizer = make([parameter], alpha)
        for step in range(steps):
            parameter.grad = (torch.arange(steps) <= step).double()
            optimizer.step()
        momenta.append(optimizer.state[parameter][state].clone())
    weights = ((momenta[0] - momenta[1]) / -1.5).flip(0)
    assert torch.allclose(weights, scale * closed_form(0.5, 0.9, steps), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("beta", "beta2"), [(0.99, 0.9), (0.8, 0.8)])
def test_the_differences_of_a_real_run_with_these_weights_make_up_es_part(
    mechanism: Any, beta: float, beta2: float
) -> None:
    memory = mechanism.held(128, 30, alpha=-4.0, beta=beta, beta2=beta2)
    assert memory.error < 1e-12
    assert 0.001 < memory.part.norm() / memory.momentum.norm() < 10
    assert torch.allclose(memory.weights, closed_form(beta, beta2, 30), rtol=0, atol=1e-14)
    # Of a step's difference alone: the parts are not the same whatever the weights.
    assert memory.parts.shape == (30, 64 * 32 + 32 + 32 * 10 + 10)
    assert (memory.parts[:-1].sum(0) - memory.part).norm() > 1e-4 * memory.part.norm()


def test_bands_have_all_steps_once(mechanism: Any) -> None:
    parts = torch.tensor([[4.0, 0.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)  # the first step first
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)  # the newest first
    memory = mechanism.Memory(parts.sum(0), parts, parts.sum(0), weights)
    assert memory.error == 0
    rows = mechanism.bands(memory)
    assert [row[0] for row in rows] == ["0 to 1", "2: the first gradient"]
    assert rows[0][1:] == pytest.approx((0.75, 3 / 7, 9 / 29))
    assert rows[1][1:] == pytest.approx((0.25, 4 / 7, 20 / 29))


# --- the gradient difference as a proxy ------------------------------------------------------------------------------


def function(f: Callable[[Tensor], Tensor], gradient: Callable[[Tensor], Tensor], dimension: int) -> Function:
    return Function("test", f, gradient, (1.0,) * dimension, (), ((-2.0, 2.0),) * dimension)


def test_on_a_quadratic_the_difference_is_the_product_with_the_hessian(mechanism: Any) -> None:
    h = torch.tensor([1.0, 0.2], dtype=torch.float64)
    quadratic = function(lambda x: 0.5 * (h * x * x).sum(-1), lambda x: h * x, 2)
    assert mechanism.error_on_curve(quadratic, (1.0, -3.0), 0.3, 6.0) < 1e-12


def test_on_a_cubic_one_step_errs_by_the_third_derivative(mechanism: Any) -> None:
    # g = 3 x^2, H = 6 x: the error is 6 lr g^2 of 12 x g.
    cubic = function(lambda x: x[..., 0] ** 3, lambda x: 3 * x * x, 1)
    assert mechanism.error_on_curve(cubic, (0.7,), 0.01, 0.01) == pytest.approx(1.5 * 0.01 * 0.7, rel=1e-9)


def test_the_error_is_of_first_order_in_the_learning_rate(mechanism: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "HALVINGS", 3)
    titles = []
    for title, _, errors in mechanism.proxy_errors():
        titles.append(title)
        assert 0 < errors[0] < 0.2, title
        assert [a / b for a, b in itertools.pairwise(errors)] == pytest.approx([2, 2], abs=0.25), title
    assert titles == [*mechanism.CURVES, mechanism.NETWORK]


# --- real runs -------------------------------------------------------------------------------------------------------


def test_the_inner_products_of_a_run_are_those_of_autograd(mechanism: Any) -> None:
    rows = mechanism.braking(lambda params: valleys.ESGD(params, lr=0.3, momentum=0.9, alpha=-5.0, beta=0.9), 6)
    run = mechanism.digits()
    parameters = list(run.model.parameters())
    optimizer = valleys.ESGD(parameters, lr=0.3, momentum=0.9, alpha=-5.0, beta=0.9)

    def gradient(create: bool) -> tuple[Tensor, ...]:
        loss = nn.functional.cross_entropy(run.model(run.inputs), run.targets)
        return torch.autograd.grad(loss, parameters, create_graph=create)

    for row in rows:
        before = [p.detach().clone() for p in parameters]
        first = gradient(False)
        for p, g in zip(parameters, first, strict=True):
            p.grad = g.clone()
        optimizer.step()
        moved = [p.detach() - x for p, x in zip(parameters, before, strict=True)]
        second = gradient(True)
        of_square = torch.autograd.grad(torch.stack([g.square().sum() for g in second]).sum(), parameters)
        along = sum(float(-(u * d).sum()) for u, d in zip(moved, of_square, strict=True))
        inner = sum(float((u * (b - a)).detach().sum()) for u, a, b in zip(moved, first, second, strict=True))
        assert row["along"] == pytest.approx(along, rel=1e-9)
        assert row["inner"] == pytest.approx(inner, rel=1e-7)
    assert [row["step"] for row in rows] == list(range(1, 7))


def test_for_small_steps_the_recorders_norms_have_the_same_inner_product(mechanism: Any) -> None:
    """|g_{k-1}|^2 - |g_k|^2 is the mean over the step of what ``along`` is at its end."""
    for row in mechanism.braking(lambda params: SGD(params, lr=1e-3), 4):
        secant = row["gradient_norm_before"] ** 2 - row["gradient_norm"] ** 2
        assert secant == pytest.approx(row["along"], rel=0.01)


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_every_table(mechanism: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mechanism, "STEPS", 110)
    monkeypatch.setattr(mechanism, "HALVINGS", 2)
    monkeypatch.setattr(mechanism, "OPTIMIZERS", dict(list(mechanism.OPTIMIZERS.items())[:1]))
    importlib.import_module("analysis").main(["--mechanism", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"mechanism.md", "memory.png"}
    text = (tmp_path / "mechanism.md").read_text()
    for row in (
        "-1.5 | none",
        "f1 from 3.3",
        mechanism.NETWORK,
        "SGD, lr 0.5",
        "0.99, 0.9",
        "0 to 9",
        "109: the first",
    ):
        assert f"\n| {row}" in text
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_the_page_has_the_committed_numbers() -> None:
    page = (BENCHMARKS.parent / "docs" / "mechanism.md").read_text()
    tables = [block for block in re.split(r"\n\n", RESULTS.read_text()) if block.startswith("| ")]
    assert len(tables) == 6
    for table in tables:
        assert table.strip() in page
