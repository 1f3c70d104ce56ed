"""The recorder against a recomputation in float64 of everything it says, and against training without it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import valleys
from landscape.recorder.recorded import OPTIMIZERS, Seen, backward, batch, network, train
from valleys.landscape.recorder.recorder import record
from valleys.landscape.recorder.stages import stage


def expected(theta: list[Tensor], g: list[Tensor], k: int, window: int) -> dict[str, Any]:
    """Row k from the definitions."""
    u, dg = theta[k] - theta[k - 1], g[k] - g[k - 1]
    slope, inner = float(u @ g[k]), float(u @ dg)
    return {
        "step": k,
        "drift": float((theta[k] - theta[0]).norm()),
        "window_drift": float((theta[k] - theta[k - window]).norm()) if k >= window else None,
        "parameter_norm": float(theta[k].norm()),
        "update_norm": float(u.norm()),
        "gradient_norm_before": float(g[k - 1].norm()),
        "gradient_norm": float(g[k].norm()),
        "gradient_difference_norm": float(dg.norm()),
        "slope_before": float(u @ g[k - 1]),
        "slope": slope,
        "inner": inner,
        "cosine": inner / float(u.norm() * dg.norm()),
        "stage": stage(slope, inner),
    }


def assert_row(row: dict[str, Any], truth: dict[str, Any], rel: float) -> None:
    """Equal; an inner product to within ``rel`` of the product of the lengths."""
    lengths = {
        "slope_before": truth["update_norm"] * truth["gradient_norm_before"],
        "slope": truth["update_norm"] * truth["gradient_norm"],
        "inner": truth["update_norm"] * truth["gradient_difference_norm"],
        "cosine": 1.0,
    }
    for name, value in truth.items():
        if isinstance(value, float):
            assert row[name] == pytest.approx(value, rel=rel, abs=rel * lengths.get(name, 0.0)), name
        else:
            assert row[name] == value, name


def flat(tensors: Seen) -> list[Tensor]:
    return [torch.cat([x.reshape(-1) for x in each]) for each in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("every", "window"), [(1, 10), (5, 10), (6, 4), (4, 10)])
def test_every_number_is_that_of_the_definition(name: str, dtype: torch.dtype, every: int, window: int) -> None:
    model = network().to(dtype)
    optimizer = OPTIMIZERS[name](model.parameters())
    recorder = record(optimizer, model, every=every, window=window)
    positions, gradients = train(model, optimizer, range(28))
    theta, g = flat(positions), flat(gradients)
    rows = recorder.rows
    assert [row["step"] for row in rows] == list(range(every, 29, every))
    assert len(rows) > 3
    # float32: differences of float32 parameters, whose last digit is 1e-7 of the parameter, not of the difference.
    rel = 1e-4 if dtype == torch.float32 else 1e-11
    for row in rows:
        if row["step"] < 28:
            assert_row(row, expected(theta, g, row["step"], window), rel)
            assert row["lr"] == optimizer.param_groups[0]["lr"]
    names = [name for name, _ in model.named_parameters()]
    layers = recorder.layers
    assert [line["layer"] for line in layers] == names * len(rows)
    for line in layers:
        k, i = line["step"], names.index(line["layer"])
        if k == 28:
            continue
        own = [[x[i].reshape(-1) for x in quantities] for quantities in (positions, gradients)]
        truth = expected(own[0], own[1], k, window)
        for column in ("slope_before", "slope", "stage", "gradient_norm_before"):
            truth_value = truth.pop(column)
            assert column not in line
            if column == "gradient_norm_before":
                norm = truth_value
        assert norm > 0
        for column, value in truth.items():
            length = truth["update_norm"] * truth["gradient_difference_norm"]
            scale = {"inner": length, "cosine": 1.0}.get(column, 0.0)
            if value is None:
                assert line[column] is None
            else:
                assert line[column] == pytest.approx(value, rel=10 * rel, abs=10 * rel * scale), column
        length = float(own[0][k - 1].norm())
        if length == 0:  # a bias at its start
            assert line["relative_update"] is None
        else:
            assert line["relative_update"] == pytest.approx(truth["update_norm"] / length, rel=10 * rel)


def oracle_ratio(optimizer: Optimizer, p: Tensor, theta: Tensor, g: Tensor) -> float:
    group = next(group for group in optimizer.param_groups if any(q is p for q in group["params"]))
    state = optimizer.state[p]
    k = int(state["step"])
    b2, b3 = group["betas"][-2:]
    correct = group["bias_correction"]
    m = state["exp_avg"].double() / (1 - b2**k if correct else 1)
    v = state["exp_avg_sq"].double() / (1 - b3**k if correct else 1)
    r = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * theta
    clip = group["trust_clip"]
    ratio = valleys.reference.trust_ratio(
        theta, r, g, eps2=group["trust_eps"], eps3=group["norm_eps"], clip=None if clip is None else (0.0, clip)
    )
    return float(ratio)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias_correction": False},
        {"weight_decay": 0.5},
        {"trust_clip": 0.2},
        {"max_grad_norm": 0.01},
        {"eps": 1e-2, "trust_eps": 0.1, "norm_eps": 0.3},
    ],
)
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_the_trust_ratio_is_the_one_the_step_used(cls: Any, options: dict[str, Any]) -> None:
    model = network().double()
    optimizer = cls(model.parameters(), lr=0.01, layer_adaptation=True, **options)
    recorder = record(optimizer, model, every=1)
    for step in range(4):
        backward(model, step)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        lines = {line["layer"]: line for line in recorder.layers if line["step"] == step + 1}
        for (name, p), theta in zip(model.named_parameters(), before, strict=True):
            assert p.grad is not None
            truth = oracle_ratio(optimizer, p, theta, p.grad)
            assert lines[name]["trust_ratio"] == pytest.approx(truth, rel=1e-9)
            # And that ratio, times the learning rate and |r|, is how far the layer went.
            if not options and float(theta.norm()) > 0:
                assert lines[name]["relative_update"] == pytest.approx(0.01, rel=1e-3)


def test_there_is_no_trust_ratio_where_no_parameter_has_one() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    groups: list[dict[str, Any]] = [
        {"params": model[0].parameters(), "layer_adaptation": False},
        {"params": [model[1].weight], "blocks": valleys.blocks.stacked(2)},
        {"params": [model[1].bias, *model[2].parameters()]},
    ]
    optimizer = valleys.ALTO(groups, lr=0.01, layer_adaptation=True)
    recorder = record(optimizer, model, every=1)
    backward(model, 0)
    model[1].bias.grad = None
    optimizer.step()
    ratios = {line["layer"]: line["trust_ratio"] is not None for line in recorder.layers}
    assert ratios == {"0.weight": False, "0.bias": False, "1.weight": False, "1.bias": False} | {
        "2.weight": True,
        "2.bias": True,
    }
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(plain, every=1)
    plain.step()
    assert {line["trust_ratio"] for line in recorder.layers} == {None}


def test_a_ratio_per_block_is_none_of_the_parameter() -> None:
    model = nn.Linear(6, 4)
    blocks: dict[str, Any] = {"params": [model.weight], "blocks": valleys.blocks.stacked(2)}
    optimizer = valleys.ALTO([blocks, {"params": [model.bias]}], layer_adaptation=True)
    recorder = record(optimizer, model, every=1)
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    assert optimizer.trust_ratios()[model.weight].shape == (2,)
    assert [line["trust_ratio"] is None for line in recorder.layers] == [True, False]


def test_the_ratio_of_any_optimizer_that_has_some_is_recorded() -> None:
    class Ratios(torch.optim.SGD):
        def trust_ratios(self, parameters: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
            return {p: before.norm() for p, before in parameters.items() if p.dim() > 1}

    model = nn.Linear(2, 3, dtype=torch.complex64)
    lengths = [model.weight.detach().norm().item(), None]
    optimizer = Ratios(model.parameters(), lr=0.1)
    recorder = record(optimizer, every=1)
    model(torch.ones(2, 2, dtype=torch.complex64)).abs().sum().backward()
    optimizer.step()
    assert [line["trust_ratio"] for line in recorder.layers] == pytest.approx(lengths)


@pytest.mark.parametrize("name", ["SGD", "AdamW fused", "ALTO", "adapt(AdamW)", "adapt in place"])
def test_a_closure_is_looked_at_where_it_is_first_evaluated(name: str) -> None:
    rows = []
    for with_closure in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        recorder = record(optimizer, every=1)
        for step in range(5):
            if with_closure:
                loss: Any = optimizer.step(functools.partial(backward, model, step))  # type: ignore[arg-type]
                assert loss.item() > 0
            else:
                backward(model, step)
                optimizer.step()
        rows.append(recorder.rows)
    assert rows[0] == rows[1]
    assert len(rows[0]) == 5


def test_lbfgs_steps_once_per_closure_loop() -> None:
    model = network().double()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    recorder = record(optimizer, every=1)
    theta, g = [], []
    for _ in range(4):
        backward(model, 0)
        theta.append(torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()]))
        g.append(torch.cat([p.grad.reshape(-1).clone() for p in model.parameters() if p.grad is not None]))
        optimizer.step(closure=lambda: backward(model, 0))  # type: ignore[arg-type]
    assert [row["step"] for row in recorder.rows] == [1, 2, 3, 4]
    for row in recorder.rows[:-1]:
        assert_row(row, expected(theta, g, row["step"], 10), 1e-9)


@pytest.mark.parametrize("name", ["SGD", "AdamW fused", "adapt(AdamW fused)", "ALTO"])
def test_steps_that_a_scaler_skips_are_none(name: str) -> None:
    """Steps 2 and 5 overflow; the rows must be those of a run that never saw them, unscaled."""
    rows, sizes = [], []
    for scaled in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        recorder = record(optimizer, every=1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000, enabled=scaled)
        for step in range(8):
            if step in (2, 5) and not scaled:
                continue
            inputs, targets = batch(step)
            model.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            scaler.scale(loss).backward()
            if step in (2, 5):
                next(model.parameters()).grad.fill_(math.inf)  # type: ignore[union-attr]
            scaler.step(optimizer)
            scaler.update(1024.0) if scaled else None
        rows.append(recorder.rows)
        sizes.append(recorder.step)
    assert sizes == [6, 6]
    for plain_row, scaled_row in zip(*rows, strict=True):
        for column, value in plain_row.items():
            if isinstance(value, float):
                assert scaled_row[column] == pytest.approx(value, rel=2e-4, abs=1e-7), column
            else:
                assert scaled_row[column] == value


def test_missing_gradients_count_as_zero_and_sparse_ones_as_they_are() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    other = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([*model.parameters(), other], lr=0.1)
    recorder = record(optimizer, every=1)
    for step in range(3):
        optimizer.zero_grad()
        loss = model(torch.tensor([step, 1])).sum() + (3 * other.sum() if step == 1 else 0)
        loss.backward()
        optimizer.step()
    # Two rows of three ones, and 3 twice in the second step.
    squares = [round(row["gradient_norm_before"] ** 2, 4) for row in recorder.rows]
    assert squares == [6.0, 12 + 18.0, 6.0]
    assert [round(row["gradient_difference_norm"] ** 2, 4) for row in recorder.rows[:2]] == [3 + 3 + 18.0, 3 + 3 + 18.0]


def test_ascending_is_descending_of_the_negative() -> None:
    rows = []
    for maximize in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, maximize=maximize)
        recorder = record(optimizer, every=1)
        for step in range(4):
            inputs, targets = batch(step)
            model.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            (-loss if maximize else loss).backward()
            optimizer.step()
        rows.append(recorder.rows)
    assert rows[0] == rows[1]
    assert rows[0][0]["slope_before"] < 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    recorder = record(optimizer, every=1, window=2)
    positions, gradients = train(model, optimizer, range(6))
    for row in recorder.rows[:-1]:
        assert_row(row, expected(flat(positions), flat(gradients), row["step"], 2), 2e-6)


def test_complex_parameters_are_pairs() -> None:
    p = nn.Parameter(torch.tensor([3 + 4j]))
    optimizer = torch.optim.SGD([p], lr=1.0)
    recorder = record(optimizer, every=1)
    p.grad = torch.tensor([1 - 2j])
    optimizer.step()
    row = recorder.rows[0]
    assert row["update_norm"] == pytest.approx(math.sqrt(5))
    assert row["slope_before"] == pytest.approx(-5)


def test_large_and_strided_tensors_are_summed_like_small_ones() -> None:
    """Pieces end at 2^16 elements, calls at 2^18; empty tensors have none."""
    shapes = [(700, 401), (0,), (3,), (65536,), (1,)]
    parameters = [nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
    parameters.append(nn.Parameter(torch.randn(8, 6, 5, 5, dtype=torch.float64).to(memory_format=torch.channels_last)))
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    recorder = record(optimizer, every=1)
    theta, g = [], []
    for _ in range(3):
        for p in parameters:
            p.grad = torch.randn(p.shape, dtype=p.dtype)
        theta.append(torch.cat([p.detach().reshape(-1).clone() for p in parameters]))
        g.append(torch.cat([p.grad.reshape(-1).clone() for p in parameters if p.grad is not None]))
        optimizer.step()
    for row in recorder.rows[:-1]:
        assert_row(row, expected(theta, g, row["step"], 10), 1e-12)


def test_projected_drifts_have_the_stated_error() -> None:
    exact: list[dict[str, Any]] = []
    ratios = []
    for seed in range(-1, 40):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        options = {"projection": 0} if seed < 0 else {"projection": 128, "seed": seed}
        recorder = record(optimizer, every=4, window=4, per_layer=False, **options)  # type: ignore[arg-type]
        train(model, optimizer, range(9))
        if seed < 0:
            exact = recorder.rows
            continue
        for row, truth in zip(recorder.rows, exact, strict=True):
            for column in truth:
                if column not in ("drift", "window_drift"):
                    assert row[column] == truth[column], column
        ratios.append([recorder.rows[1][c] ** 2 / exact[1][c] ** 2 for c in ("drift", "window_drift")])
    errors = torch.tensor(ratios)
    assert errors.mean(0).tolist() == pytest.approx([1, 1], abs=5 * math.sqrt(2 / 128 / 40))
    assert float(errors.std(0).max()) < 1.5 * math.sqrt(2 / 128)
    assert float(errors.std(0).min()) > 0.3 * math.sqrt(2 / 128)


def test_noise_of_the_batch_looks_like_curvature() -> None:
    """The documentation's warning: without any curvature, E inner = lr E|noise|^2, and the slope is unbiased."""
    n, lr, steps = 200, 0.1, 400
    generator = torch.Generator().manual_seed(3)
    p = nn.Parameter(torch.zeros(n, dtype=torch.float64))
    optimizer = torch.optim.SGD([p], lr=lr)
    recorder = record(optimizer, every=1, per_layer=False)
    for _ in range(steps + 1):
        p.grad = torch.randn(n, generator=generator, dtype=torch.float64)
        optimizer.step()
    inner = torch.tensor([row["inner"] for row in recorder.rows[:steps]])
    slope = torch.tensor([row["slope"] for row in recorder.rows[:steps]])
    assert float(inner.mean()) == pytest.approx(lr * n, rel=0.05)
    assert float(slope.mean()) == pytest.approx(0, abs=5 * lr * math.sqrt(n / steps))
    assert {row["stage"] for row in recorder.rows[:steps]} == {"2-3", "3-4"}
