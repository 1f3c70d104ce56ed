"""A GradScaler's scale and its skipped steps, and ``skip_nonfinite``: in every backend, read where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from backends import BACKENDS
from public_optimizers import available, feed, parameters, snapshot, train

NAMES = [f"{cls} {name}" for cls in ("ALTO", "Lamb") for name in (*BACKENDS, "triton")]
INTERPRETED = [name for name in NAMES if name.endswith("triton")]
FAST = [name for name in NAMES if name not in INTERPRETED]
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "on the device": {"capturable": True},
    "clipped": {"max_grad_norm": 0.5},
    "no ratio": {"layer_adaptation": False},
    "blocks": {"blocks": ("stacked", 0, 2)},
    "bfloat16 states": {"state_dtype": torch.bfloat16},
    "bfloat16 states on the device": {"state_dtype": torch.bfloat16, "capturable": True},
    "skipping": {"skip_nonfinite": True},
}
SHAPES = (4,), (4, 6), (2, 3, 5)


@pytest.fixture(params=NAMES)
def build(request: pytest.FixtureRequest) -> Iterator[Any]:
    with available(request.param) as function:
        yield function


def assert_same(one: Any, other: Any) -> None:
    (params, states, _), (others, other_states, _) = one, other
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    assert states.keys() == other_states.keys()
    for index, entry in states.items():
        for name, value in entry.items():
            assert torch.equal(value, other_states[index][name]), name


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_with_found_inf_moves_nothing(build: Any, name: str) -> None:
    """Not the count of steps either; the run goes on as if the step had not been."""
    runs = []
    for skipping in (False, True):
        params = parameters(*SHAPES)
        optimizer = build(params, **OPTIONS[name])
        for step in range(3):
            if skipping and step in (0, 2):
                feed(params, 77)
                params[1].grad[0] = torch.inf if step else torch.nan  # type: ignore[index]
                started = step > 0
                before = snapshot(optimizer)
                optimizer.found_inf, optimizer.grad_scale = torch.ones(1), torch.full((1,), 8.0)
                optimizer.step()
                del optimizer.found_inf, optimizer.grad_scale
                after = snapshot(optimizer)
                assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
                for index, entry in after[1].items():
                    for key, value in entry.items():
                        if key != "skipped_steps":
                            expected = before[1][index][key] if started else torch.zeros_like(value)
                            assert torch.equal(value, expected), key
            feed(params, step)
            optimizer.found_inf = torch.zeros(1)
            optimizer.step()
            del optimizer.found_inf
            for param in params:
                optimizer.state[param].pop("skipped_steps", None)
        runs.append(snapshot(optimizer))
    assert_same(*runs)


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> float:
    """A power of two or another number, in turn: each meets all builders and all options, if not all pairs of them."""
    params = request.node.callspec.params
    return (2.0**16, 1000.0)[(NAMES.index(params["build"]) + list(OPTIONS).index(params["name"])) % 2]


@pytest.mark.parametrize("name", OPTIONS)
def test_scaled_gradients_make_the_step_of_unscaled_ones(build: Any, name: str, scale: float) -> None:
    """Clipping included: the norm is that of the unscaled gradients."""
    runs = []
    for scaled in (False, True):
        params = parameters(*SHAPES)
        optimizer = build(params, **OPTIONS[name])
        for step in range(3):
            feed(params, step)
            if scaled:
                for param in params:
                    param.grad = param.grad * scale  # type: ignore[operator, assignment]
                copies = [param.grad.clone() for param in params]  # type: ignore[union-attr]
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.zeros(())
            optimizer.step()
            if scaled:
                assert all(torch.equal(p.grad, g) for p, g in zip(params, copies, strict=True))  # type: ignore[arg-type]
        runs.append([param.detach().clone() for param in params])
    tolerance = 1e-12 if "bfloat16" not in name else 1e-2
    for own, twin in zip(*runs, strict=True):
        torch.testing.assert_close(own, twin, rtol=tolerance, atol=tolerance)


def test_torch_leaves_the_unscaling_to_the_step(build: Any) -> None:
    assert build(parameters((3,)))._step_supports_amp_scaling


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"max_grad_norm": 0.5}], ids=str)
@pytest.mark.parametrize("build", FAST, indirect=True)
def test_skip_nonfinite_leaves_one_group_as_it_is_and_counts(build: Any, options: dict[str, Any], bad: float) -> None:
    assert_one_group_is_skipped(build, options, bad)


@pytest.mark.parametrize(
    ("options", "bad"),
    [({}, torch.inf), ({"capturable": True}, -torch.inf), ({"max_grad_norm": 0.5}, torch.nan)],
    ids=str,
)
@pytest.mark.parametrize("build", INTERPRETED, indirect=True)
def test_skip_nonfinite_in_triton(build: Any, options: dict[str, Any], bad: float) -> None:
    """Its interpreter is slow: each number with one of the options."""
    assert_one_group_is_skipped(build, options, bad)


def assert_one_group_is_skipped(build: Any, options: dict[str, Any], bad: float) -> None:
    params, twins = parameters(*SHAPES), parameters(*SHAPES)
    optimizer = build([{"params": params[:1]}, {"params": params[1:]}], skip_nonfinite=True, **options)
    twin = build([{"params": twins[:1]}, {"params": twins[1:]}], skip_nonfinite=True, **options)
    train(optimizer, params, 2)
    train(twin, twins, 2)
    feed(params, 2)
    feed(twins, 2)
    params[2].grad.view(-1)[3] = bad  # type: ignore[union-attr]
    twins[1].grad = twins[2].grad = None
    optimizer.step()
    twin.step()
    # The first group moved, the second did not.
    for param in params[1:]:
        state = optimizer.state[param]
        assert int(state["skipped_steps"]) == 1
        assert int(state["step"]) == 2
        state["skipped_steps"] -= 1
    assert int(optimizer.state[params[0]]["skipped_steps"]) == 0
    assert int(optimizer.state[params[0]]["step"]) == 3
    assert_same(snapshot(optimizer), snapshot(twin))
    assert all(param.isfinite().all() for param in params)


def test_without_it_one_nan_takes_its_layer_and_no_other(build: Any) -> None:
    """As the documentation says; AdamW loses one element."""
    params = parameters(*SHAPES)
    optimizer = build(params)
    feed(params, 0)
    params[1].grad[1, 2] = torch.nan  # type: ignore[index]
    optimizer.step()
    assert params[1].isnan().all()
    assert params[0].isfinite().all()
    assert params[2].isfinite().all()
    plain = parameters(*SHAPES)
    adamw = torch.optim.AdamW(plain)
    feed(plain, 0)
    plain[1].grad[1, 2] = torch.nan  # type: ignore[index]
    adamw.step()
    assert int(plain[1].isnan().sum()) == 1


def test_large_finite_gradients_are_not_taken_for_infinite_ones(build: Any) -> None:
    """Squares of float32 numbers overflow float32, and their norm does not."""
    params = parameters(*SHAPES, dtype=torch.float32)
    optimizer = build(params, skip_nonfinite=True, max_grad_norm=1.0)
    feed(params, 0)
    for param in params:
        param.grad = param.grad * 1e25  # type: ignore[operator, assignment]
    before = [param.detach().clone() for param in params]
    optimizer.step()
    assert all(int(optimizer.state[param]["skipped_steps"]) == 0 for param in params)
    assert not any(torch.equal(a, b) for a, b in zip(before, params, strict=True))


class Mlp(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_a_grad_scaler_trains_as_without(build: Any) -> None:
    """torch's own scaler around a real model, overflows on the way included."""
    runs = []
    batch = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    for scaled in (False, True):
        torch.manual_seed(0)
        model = Mlp()
        optimizer = build(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3, enabled=scaled)
        for step in range(12):
            overflows = step in (0, 5)
            if overflows and not scaled:
                continue
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            scaler.scale(loss).backward()
            if overflows:
                next(model.parameters()).grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]
            scaler.step(optimizer)
            scaler.update()
        runs.append([param.detach().clone() for param in model.parameters()])
    for own, twin in zip(*runs, strict=True):
        torch.testing.assert_close(own, twin, rtol=2e-5, atol=1e-6)


def test_found_inf_reaches_the_differentiable_step() -> None:
    param = torch.ones(3, dtype=torch.float64, requires_grad=True).clone()
    optimizer = valleys.ALTO([param], differentiable=True)
    param.grad = torch.full((3,), torch.inf, dtype=torch.float64)
    optimizer.found_inf = torch.ones(1)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(param, torch.ones(3, dtype=torch.float64))
    assert int(optimizer.state[param]["step"]) == 0
    optimizer.found_inf, optimizer.grad_scale = torch.zeros(1), torch.full((1,), 4.0)  # type: ignore[attr-defined]
    param.grad = torch.full((3,), 4.0, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], torch.full((3,), 0.095, dtype=torch.float64))


def test_found_inf_holds_for_groups_whose_own_gradients_are_finite(build: Any) -> None:
    """The scaler's word is about all gradients, skip_nonfinite's about a group's."""
    params = parameters(*SHAPES)
    optimizer = build([{"params": params[:1]}, {"params": params[1:]}], skip_nonfinite=True)
    train(optimizer, params, 2)
    feed(params, 2)
    params[1].grad[0] = torch.inf  # type: ignore[index]
    before = [param.detach().clone() for param in params]
    optimizer.found_inf = torch.ones(1)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
    assert all(int(optimizer.state[param]["step"]) == 2 for param in params)
