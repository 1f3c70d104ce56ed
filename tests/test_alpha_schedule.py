"""Schedules of alpha: their equations, their place in the optimizer, every backend beside the paper's two buffers."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR

import valleys
from backends import BACKENDS, largest_error, symbols
from triton_interpreter import interpreted
from valleys import AlphaSchedule, reference

SHAPES = [(4, 3), (5,), ()]
STEPS = 24


def parameters(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)) for shape in SHAPES
    ]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]


def halving(epoch: int) -> float:
    return 0.5 ** (epoch // 5)


SCHEDULES: dict[str, dict[str, Any]] = {
    "sqrt": {"schedule": "sqrt"},
    "linear": {"schedule": "linear", "end": 20.0, "total_steps": 15},
    "cosine": {"schedule": "cosine", "end": -3.0, "total_steps": 15},
    "function": {"schedule": halving},
}


def expected_alpha(name: str, start: float, k: int) -> float:
    """Alpha of the k-th step, k from 1, by the documented equation."""
    t = min(k - 1, 15)
    values: dict[str, float] = {
        "sqrt": start / k**0.5,
        "linear": start * (1 - t / 15) + 20.0 * t / 15,
        "cosine": -3.0 + (start + 3.0) * math.cos(math.pi * t / 30) ** 2,
        "function": start * halving(k - 1),
    }
    return values[name]


def make(kind: str, params: list[torch.nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    if kind == "alto":
        groups: Any = [
            {"params": params[:1], "alpha": -40.0},
            {"params": params[1:2], "alpha": 0.5, "beta": 0.98},
            {"params": params[2:]},
        ]
        return valleys.ALTO(groups, lr=0.02, alpha=-5.0, layer_adaptation=True, **options)
    groups = [
        {"params": params[:1], "explore_alpha": -40.0},
        {"params": params[1:2], "explore_alpha": 0.5, "explore_beta": 0.98},
        {"params": params[2:]},
    ]
    if kind == "adapted":
        return valleys.adapt(torch.optim.RMSprop(groups, lr=0.02), alpha=-5.0)
    return valleys.EAdamW(groups, lr=0.02, alpha=-5.0, **options)


def step(optimizer: torch.optim.Optimizer, number: int) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param, grad in zip(params, gradients(number), strict=True):
        param.grad = grad.to(param.dtype)
    optimizer.step()


@pytest.mark.parametrize("kind", ["alto", "adapted", "eadamw"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_group_follows_the_equation_beside_a_schedule_of_the_learning_rate(name: str, kind: str) -> None:
    optimizer = make(kind, parameters())
    key = "alpha" if kind == "alto" else "explore_alpha"
    own = [group.get("alpha") for group in optimizer.param_groups]
    rates = SequentialLR(optimizer, [LambdaLR(optimizer, lambda k: k / 4), CosineAnnealingLR(optimizer, 20)], [4])
    schedule = AlphaSchedule(optimizer, **SCHEDULES[name])
    for k in range(1, STEPS + 1):
        expected = [expected_alpha(name, start, k) for start in (-40.0, 0.5, -5.0)]
        assert schedule.last_epoch == k - 1
        assert schedule.get_last_alpha() == pytest.approx(expected, rel=1e-14, abs=1e-14)
        assert [group[key] for group in optimizer.param_groups] == schedule.get_last_alpha()
        rate = 0.02 * (k - 1) / 4 if k <= 4 else 0.01 * (1 + math.cos(math.pi * (k - 5) / 20))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=1e-12)
        step(optimizer, k)
        rates.step()
        schedule.step()
    if kind == "adapted":  # RMSprop's own alpha is its smoothing
        assert [group["alpha"] for group in optimizer.param_groups] == own == [0.99] * 3


def two_buffers(params: list[torch.nn.Parameter], groups: list[dict[str, Any]], name: str) -> list[Tensor]:
    """ALTO with the paper's a_k and g_{k-1}, whose alpha changes."""
    thetas = [p.detach().double() for p in params]
    memory: list[Any] = [reference.TwoBuffer(torch.zeros_like(t), torch.zeros_like(t)) for t in thetas]
    moments = [reference.zeros(theta) for theta in thetas]
    starts = (-40.0, 0.5, -5.0)
    for k in range(1, STEPS + 1):
        for i, g in enumerate(gradients(k)):
            options = {**symbols(groups[i], len(SHAPES[i])), "alpha": expected_alpha(name, starts[i], k)}
            thetas[i], memory[i], moments[i] = reference.alto(thetas[i], g, memory[i], moments[i], **options)
    return thetas


def trained(params: list[torch.nn.Parameter], name: str, **options: Any) -> list[dict[str, Any]]:
    optimizer = make("alto", params, **options)
    schedule = AlphaSchedule(optimizer, **SCHEDULES[name])
    for k in range(1, STEPS + 1):
        step(optimizer, k)
        schedule.step()
    return optimizer.param_groups


@pytest.mark.parametrize("backend", [*BACKENDS, "differentiable", "after_momentum"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_one_buffer_equals_two_while_alpha_changes(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valleys.kernels.compiled._ROW", 4)  # else foreach would update tensors so small
    special: dict[str, dict[str, Any]] = {
        "differentiable": {"differentiable": True},
        "after_momentum": {"accelerate": "after_momentum", "foreach": True},
    }
    params: Any = parameters()
    if backend == "differentiable":
        params = [param.clone() for param in params]
    start = [param.detach().clone() for param in params]
    groups = trained(params, name, **{**BACKENDS, **special}[backend])
    assert largest_error(params, two_buffers(start, groups, name)) < 1e-12  # type: ignore[arg-type]


def test_one_buffer_equals_two_in_triton_while_alpha_changes() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    for name in SCHEDULES:
        params = parameters()
        start = [param.detach().clone() for param in params]
        with interpreted(block=1024):
            groups = trained(params, name, fused="triton")
        assert largest_error(params, two_buffers(start, groups, name)) < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("base", ["Adam", "SGD"])
def test_an_adapted_optimizer_equals_its_base_on_two_buffers_gradients(base: str, fused: bool | None) -> None:
    """Also where alpha reaches 0, begins there, or changes its sign; Adam with ``fused`` is one kernel with E."""
    for name, start in (("sqrt", -5.0), ("linear", -60.0), ("cosine", 40.0)):
        params, twins = parameters(), parameters()
        adapted = valleys.adapt(getattr(torch.optim, base)(params, lr=0.01, fused=fused), alpha=start, beta=0.99)
        plain = getattr(torch.optim, base)(twins, lr=0.01)
        memory: list[Any] = [reference.TwoBuffer(torch.zeros_like(p), torch.zeros_like(p)) for p in twins]
        schedule = AlphaSchedule(adapted, **SCHEDULES[name])
        for k in range(1, STEPS + 1):
            step(adapted, k)
            schedule.step()
            for i, g in enumerate(gradients(k)):
                twins[i].grad, memory[i] = reference.explore(g, memory[i], expected_alpha(name, start, k), 0.99)
            plain.step()
        assert largest_error(params, [p.detach() for p in twins]) < 1e-12


def test_the_memory_of_an_adapted_optimizer_begins_where_alpha_leaves_0() -> None:
    (param,) = parameters()[:1]
    optimizer = valleys.adapt(torch.optim.SGD([param], lr=0.1), alpha=-5.0)
    schedule = AlphaSchedule(optimizer, lambda epoch: float(epoch >= 2))
    for k in range(4):
        param.grad = gradients(k)[0]
        assert ("explore_exp_avg" in optimizer.state[param]) == (k > 2)
        optimizer.step()
        schedule.step()


def test_what_a_change_of_beta_does() -> None:
    """The paper carries a_{k-1} on by beta_k, one buffer by (1 - beta_k) beta_{k-1} / (1 - beta_{k-1})."""
    betas = [0.9, 0.9, 0.99, 0.5, 0.5, 0.97]
    zero = torch.zeros(4, 3, dtype=torch.float64)
    two: Any = reference.TwoBuffer(zero, zero)
    one: Any = reference.OneBuffer(zero)
    a_one, last, before = zero, zero, betas[0]
    for k, beta in enumerate(betas):
        g = gradients(k)[0]
        paper, two = reference.explore(g, two, -1.5, beta)
        adapted, one = reference.explore(g, one, -1.5, beta)
        a_one = (1 - beta) * before / (1 - before) * a_one + (1 - beta) * (g - last)
        torch.testing.assert_close(adapted, g - 1.5 * a_one, rtol=1e-12, atol=1e-12)
        assert torch.allclose(adapted, paper, rtol=1e-12) == (k < 2)
        last, before = g, beta


@pytest.mark.parametrize("kind", ["alto", "adapted", "eadamw"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    "order", ["optimizer first", "schedule first", "built after the optimizer loaded", "automatic"]
)
def test_a_resumed_run_goes_on_bit_for_bit(name: str, kind: str, order: str) -> None:
    automatic = order == "automatic"
    params = parameters()
    optimizer = make(kind, params)
    schedule = AlphaSchedule(optimizer, **SCHEDULES[name], automatic=automatic)

    def forward(optimizer: Any, schedule: Any, steps: range) -> None:
        for k in steps:
            step(optimizer, k)
            if not automatic:
                schedule.step()

    forward(optimizer, schedule, range(1, 8))
    file = io.BytesIO()
    torch.save((schedule.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    saved, state = torch.load(file, weights_only=True)
    twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
    twin = make(kind, twins)
    if order == "built after the optimizer loaded":
        twin.load_state_dict(state)
    other = AlphaSchedule(twin, **SCHEDULES[name], automatic=automatic)
    if order == "schedule first":
        other.load_state_dict(saved)
    if order != "built after the optimizer loaded":
        twin.load_state_dict(state)
    if order not in ("schedule first", "automatic"):
        other.load_state_dict(saved)
    assert other.last_epoch == 7
    forward(optimizer, schedule, range(8, STEPS))
    forward(twin, other, range(8, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    assert other.get_last_alpha() == schedule.get_last_alpha()
    assert other.state_dict() == schedule.state_dict()


def test_last_epoch_begins_in_the_middle() -> None:
    optimizer = make("alto", parameters())
    with pytest.raises(KeyError, match="initial_alpha"):
        AlphaSchedule(optimizer, last_epoch=3)
    schedule = AlphaSchedule(optimizer)
    for _ in range(4):
        schedule.step()
    assert AlphaSchedule(optimizer, last_epoch=3).get_last_alpha() == schedule.get_last_alpha()
    assert AlphaSchedule(optimizer).get_last_alpha() == [-40.0, 0.5, -5.0]


def test_a_new_group_follows_from_the_next_step() -> None:
    optimizer = make("alto", parameters())
    schedule = AlphaSchedule(optimizer)
    optimizer.add_param_group({"params": parameters(1), "alpha": -8.0})
    assert schedule.get_last_alpha()[-1] == -8.0
    for k in (2, 3, 4):
        schedule.step()
        assert schedule.get_last_alpha()[-1] == -8.0 / k**0.5


def test_an_automatic_schedule_steps_once_a_step_and_not_by_hand() -> None:
    optimizer = make("alto", parameters())
    schedule = AlphaSchedule(optimizer, automatic=True)
    for k in range(1, 6):
        assert schedule.get_last_alpha()[0] == -40.0 / k**0.5
        assert schedule.last_epoch == k - 1
        step(optimizer, k)
    with pytest.raises(RuntimeError, match="leave the call out"):
        schedule.step()
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="without automatic"):
        valleys.release_gradients(optimizer)


def test_an_automatic_schedule_survives_the_checkpoint_of_a_run_without_one() -> None:
    optimizer, plain = make("alto", parameters()), make("alto", parameters())
    schedule = AlphaSchedule(optimizer, automatic=True)
    step(plain, 0)
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    step(optimizer, 1)
    assert schedule.get_last_alpha() == [alpha / 2**0.5 for alpha in (-40.0, 0.5, -5.0)]


def test_one_end_for_each_group() -> None:
    optimizer = make("alto", parameters())
    schedule = AlphaSchedule(optimizer, "linear", end=[0.0, 10.0, -9.0], total_steps=1)
    schedule.step()
    assert schedule.get_last_alpha() == [0.0, 10.0, -9.0]
    with pytest.raises(ValueError, match="end has 2 numbers for 3 parameter groups"):
        AlphaSchedule(make("alto", parameters()), "linear", end=[0.0, 1.0], total_steps=1)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"schedule": "exponential"}, TypeError, r"schedule must be one of \('sqrt', 'linear', 'cosine'\) or a function"),
    ({"schedule": 0.5}, TypeError, "schedule must be one of"),
    ({"schedule": "linear"}, ValueError, "total_steps must be an integer of 1 or more for 'linear', got None"),
    ({"schedule": "cosine", "total_steps": 0}, ValueError, "total_steps must .* got 0"),
    ({"schedule": "cosine", "total_steps": 2.5}, ValueError, "total_steps must .* got 2.5"),
    ({"schedule": "sqrt", "total_steps": 10}, ValueError, "no effect on the schedule 'sqrt'"),
    ({"schedule": halving, "end": -1.0}, ValueError, "no effect"),
    ({"schedule": "linear", "total_steps": 9, "end": math.nan}, ValueError, "end must be a number"),
    ({"schedule": "linear", "total_steps": 9, "end": "0"}, ValueError, "end must be a number"),
    ({"schedule": "linear", "total_steps": 9, "end": -60.0}, ValueError, r"alpha = -60.0 and beta = 0.98 .* below 1"),
    ({"schedule": lambda epoch: 3.0}, ValueError, r"alpha = -120.0 and beta = 0.99"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_what_is_out_of_range_is_refused_and_changes_nothing(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    optimizer = make("alto", parameters())
    before = copy.deepcopy([{**group, "params": []} for group in optimizer.param_groups])
    with pytest.raises(error, match=message):
        AlphaSchedule(optimizer, **options, automatic=True)
    assert [{**group, "params": []} for group in optimizer.param_groups] == before
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("automatic", [False, True])
def test_a_function_that_leaves_the_range_in_mid_run(automatic: bool) -> None:
    optimizer = make("alto", parameters())
    schedule = AlphaSchedule(optimizer, lambda epoch: [1.0, 2.0, 2.6][epoch], automatic=automatic)
    forward: Callable[[], object] = (lambda: step(optimizer, 0)) if automatic else schedule.step
    forward()
    with pytest.raises(ValueError, match=r"\|alpha\| \* \(1 - beta\) = 1\.04, which must be below 1"):
        forward()
    assert schedule.last_epoch == 1
    assert schedule.get_last_alpha() == [-80.0, 1.0, -10.0]


def test_optimizers_without_e_are_refused() -> None:
    lamb, rmsprop = valleys.Lamb(parameters()), torch.optim.RMSprop(parameters())
    for optimizer in (lamb, rmsprop, parameters(), valleys.ALTO):
        with pytest.raises(TypeError, match=r"must be valleys\.ALTO or adapted by valleys\.adapt"):
            AlphaSchedule(optimizer)  # type: ignore[arg-type]


def test_a_state_of_another_schedule_is_refused_and_changes_nothing() -> None:
    optimizer = make("alto", parameters())
    schedule = AlphaSchedule(optimizer, "linear", end=1.0, total_steps=4)
    schedule.step()
    before = schedule.state_dict(), schedule.get_last_alpha()
    for other in (AlphaSchedule(make("alto", parameters())), AlphaSchedule(make("alto", parameters()), halving)):
        with pytest.raises(ValueError, match="the state dict is of the schedule"):
            schedule.load_state_dict(other.state_dict())
    for damage in ({"total_steps": 0}, {"end": math.inf}, {"end": 60.0}):
        with pytest.raises(ValueError, match=r"total_steps|end|alpha"):
            schedule.load_state_dict({**before[0], **damage})
    assert (schedule.state_dict(), schedule.get_last_alpha()) == before


@pytest.mark.parametrize("kind", ["alto", "eadamw"])
def test_graphs_would_keep_an_alpha_and_are_refused(kind: str) -> None:
    with pytest.raises(RuntimeError, match="capturable=True, and a CUDA graph would keep the alpha"):
        AlphaSchedule(make(kind, parameters(), capturable=True))
    optimizer = make(kind, parameters())
    schedule = AlphaSchedule(optimizer)
    optimizer.param_groups[1]["capturable"] = True
    with pytest.raises(RuntimeError, match="capturable"):
        schedule.step()
    assert schedule.last_epoch == 0


def test_a_step_that_the_user_compiled_sees_every_alpha() -> None:
    # Each alpha is a compilation, which takes as long for each parameter.
    params, twins = (parameters(dtype=torch.float32)[:1] for _ in range(2))
    compiled, plain = (make("alto", each, foreach=True) for each in (params, twins))
    forward = torch.compile(compiled.step)
    for k in range(1, 3):
        for each in (params, twins):
            each[0].grad = gradients(k)[0].float()
        forward()
        plain.step()
        for optimizer in (compiled, plain):
            for group in optimizer.param_groups:
                group["alpha"] *= -0.5
    assert largest_error(params, [p.detach() for p in twins]) < 1e-5
