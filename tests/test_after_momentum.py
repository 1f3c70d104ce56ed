"""a behind the momentum instead of in the gradient: the equations with every option, and what is refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import valleys
from backends import largest_error
from distributed.worlds import spawn
from valleys.kernels import c, foreach

AFTER: dict[str, Any] = {"accelerate": "after_momentum", "layer_adaptation": True, "lr": 0.02}
SHAPES = [(4, 3), (5,), (), (0,), (2, 3, 2, 2)]
STEPS = 30
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "exploit": {"alpha": 0.5, "beta": 0.01},
    "strong": {"alpha": -90.0, "betas": (0.95, 0.999)},
    "no memory": {"alpha": -0.7, "beta": 0.0, "betas": (0.0, 0.9)},
    "alpha 0": {"alpha": 0.0},
    "much decay": {"weight_decay": 0.5},
    "large eps": {"eps": 0.1, "trust_eps": 0.2, "norm_eps": 0.3},
    "Alg. 1": {"bias_correction": False},
    "no ratio": {"layer_adaptation": False},
    "clipped": {"max_grad_norm": 0.5},
    "maximize, ratio bounded": {"maximize": True, "trust_clip": (0.5, 0.7)},
    "capturable": {"capturable": True},
    "skip": {"skip_nonfinite": True},
}
BACKENDS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "differentiable": {"differentiable": True},
}


def parameters(dtype: torch.dtype = torch.float64, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)) for shape in shapes
    ]


def of_backend(params: list[Any], backend: str) -> list[Any]:
    """Differentiable steps write into parameters, which must not be leaves."""
    return [param.clone() for param in params] if backend == "differentiable" else params


def gradients(params: Sequence[Tensor], step: int) -> list[Tensor]:
    """Gradients of a step; now and then one is zero."""
    generator = torch.Generator().manual_seed(1000 + step)
    grads = [torch.randn(p.shape, dtype=torch.float64, generator=generator).to(p.dtype) for p in params]
    return [grad * ((step + index) % 7 != 6) for index, grad in enumerate(grads)]


def run(optimizer: torch.optim.Optimizer, params: Sequence[Any], steps: range = range(STEPS)) -> None:
    for step in steps:
        for param, grad in zip(params, gradients(params, step), strict=True):
            param.grad = grad
        optimizer.step()


def by_hand(params: Sequence[Tensor], groups: Sequence[dict[str, Any]]) -> list[Tensor]:
    """The equations in NumPy, with a_k and g_{k-1}; ``groups`` have one parameter each, or one has all."""
    thetas: list[Any] = [p.detach().double().numpy().copy() for p in params]
    a, last, m, v = ([np.zeros_like(theta) for theta in thetas] for _ in range(4))
    for k in range(1, STEPS + 1):
        gs = [g.double().numpy() for g in gradients(params, k - 1)]
        norm = np.sqrt(sum((g**2).sum() for g in gs))
        for i, g in enumerate(gs):
            o = groups[i] if len(groups) > 1 else groups[0]
            bound = o["max_grad_norm"]
            raw = g
            g = g * (-1 if o["maximize"] else 1) * (1 if bound is None else min(1, bound / (norm + 1e-6)))
            b1, (b2, b3) = o["beta"], o["betas"]
            a[i] = b1 * a[i] + (1 - b1) * (g - last[i])
            m[i] = b2 * m[i] + (1 - b2) * g
            v[i] = b3 * v[i] + (1 - b3) * g**2
            mh, vh = (m[i] / (1 - b2**k), v[i] / (1 - b3**k)) if o["bias_correction"] else (m[i], v[i])
            r = (mh + o["alpha"] * a[i]) / (np.sqrt(vh) + o["eps"]) + o["weight_decay"] * thetas[i]
            w, size = np.sqrt((thetas[i] ** 2).sum()), np.sqrt((r**2).sum())
            ratio = (w + o["norm_eps"]) / (size + o["trust_eps"] * (w + o["norm_eps"]))
            ratio = np.clip(ratio, *(o["trust_clip"] or (0, np.inf)))
            ratio = 1.0 if w == 0 or size == 0 else ratio
            ratio = ratio if (raw != 0).any() else min(ratio, 1.0)
            thetas[i] = thetas[i] - o["lr"] * (ratio if o["layer_adaptation"] else 1.0) * r
            last[i] = g
    return [torch.as_tensor(theta) for theta in thetas]


COMBINED = [(o, b) for o in OPTIONS for b in BACKENDS if (o, b) != ("capturable", "differentiable")]


@pytest.mark.parametrize(("options", "backend"), COMBINED)
def test_the_step_is_that_of_the_equations(options: str, backend: str) -> None:
    params = of_backend(parameters(), backend)
    optimizer = valleys.ALTO(params, **{**AFTER, **OPTIONS[options], **BACKENDS[backend]})
    expected = by_hand(params, optimizer.param_groups)
    run(optimizer, params)
    assert largest_error(params, expected) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_group_has_its_own_numbers(backend: str) -> None:
    params = of_backend(parameters(), backend)
    options: list[dict[str, Any]] = [
        {"alpha": -80.0, "betas": (0.8, 0.95)},
        {"alpha": 0.5, "beta": 0.01, "weight_decay": 0.3},
        {"beta": 0.9, "lr": 0.1},
        {},
        {"alpha": 0.0, "bias_correction": False},
    ]
    groups = [{"params": [param], **own} for param, own in zip(params, options, strict=True)]
    optimizer = valleys.ALTO(groups, **{**AFTER, **BACKENDS[backend]})
    expected = by_hand(params, optimizer.param_groups)
    run(optimizer, params)
    assert largest_error(params, expected) < 1e-12


def test_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreach, "_CPU_PIECE", 7)
    params = parameters(shapes=[(4, 3), (5,), (2,), (50,), ()])
    optimizer = valleys.ALTO(params, **AFTER, foreach=True, max_grad_norm=1.0)
    expected = by_hand(params, optimizer.param_groups)
    run(optimizer, params)
    assert largest_error(params, expected) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_alpha_0_is_lamb_bit_for_bit(backend: str, dtype: torch.dtype) -> None:
    params, twins = (of_backend(parameters(dtype), backend) for _ in range(2))
    options: dict[str, Any] = {"lr": 0.02, "layer_adaptation": True, "weight_decay": 0.1, "betas": (0.9, 0.99)}
    run(valleys.ALTO(params, alpha=0.0, accelerate="after_momentum", **options, **BACKENDS[backend]), params)
    run(valleys.Lamb(twins, **options, **BACKENDS[backend]), twins)
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_the_first_step_is_that_of_a_in_m() -> None:
    """The bias correction makes m_1 = (1 - beta2) g a whole g; a_1 = (1 - beta1) g is whole without it."""
    params, twins = parameters(), parameters()
    run(valleys.ALTO(params, **AFTER, alpha=-50.0, foreach=True), params, range(1))
    run(valleys.ALTO(twins, **{**AFTER, "accelerate": ("momentum",)}, alpha=-50.0), twins, range(1))
    assert largest_error(params, [p.detach() for p in twins]) < 1e-12


@pytest.mark.parametrize(
    ("state_dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float32, 2e-4), ("8bit", 0.2)], ids=str
)
def test_compressed_states(state_dtype: Any, tolerance: float) -> None:
    params, exact = parameters(torch.float32, [(64, 64), (5,)]), parameters(torch.float64, [(64, 64), (5,)])
    for other, param in zip(exact, params, strict=True):
        other.data = param.detach().double()
    start = [p.detach().clone() for p in params]
    # Alpha is strong enough for the updates with and without a to differ by more than the rounding.
    options = {**AFTER, "alpha": -60.0, "lr": 1e-3, "eps": 0.1}
    optimizer = valleys.ALTO(params, **options, foreach=True, state_dtype=state_dtype)
    reference, plain = valleys.ALTO(exact, **options, foreach=True), parameters(torch.float64, [(64, 64), (5,)])
    without = valleys.ALTO(plain, **{**options, "alpha": 0.0}, foreach=True)
    for step in range(6):
        grads = [grad.float() for grad in gradients(exact, step)]
        for several in (params, exact, plain):
            for param, grad in zip(several, grads, strict=True):
                param.grad = grad.to(param.dtype)
        for each in (optimizer, reference, without):
            each.step()
    moved, expected, off = (
        [p.detach().double() - s.double() for p, s in zip(several, start, strict=True)]
        for several in (params, exact, plain)
    )
    assert largest_error(moved, expected) < tolerance
    assert largest_error(off, expected) > 3 * tolerance


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    params = parameters()
    optimizer = valleys.ALTO(params, **AFTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is foreach
        run(optimizer, params, range(11))
        twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
        twin = valleys.ALTO(twins)
        twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert twin.param_groups[0]["accelerate"] == "after_momentum"
        for each, own_params in ((optimizer, params), (twin, twins)):
            run(each, own_params, range(11, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_that_is_not_finite_is_left_out(capturable: bool) -> None:
    params, twins = parameters(), parameters()
    options = {**AFTER, "foreach": True, "skip_nonfinite": True, "capturable": capturable}
    optimizer, twin = valleys.ALTO(params, **options), valleys.ALTO(twins, **options)
    run(optimizer, params, range(3))
    for param in params:
        param.grad = torch.full_like(param, torch.nan)
    optimizer.step()
    run(optimizer, params, range(3, 6))
    run(twin, twins, range(6))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_scaled_gradients_are_unscaled() -> None:
    params, twins = parameters(), parameters()
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer, twin = valleys.ALTO(params, **AFTER, foreach=True), valleys.ALTO(twins, **AFTER, foreach=True)
    for step in range(5):
        grads = gradients(params, step)
        for param, grad in zip(params, grads, strict=True):
            param.grad = None
            scaler.scale((param * grad).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        for param, grad in zip(twins, grads, strict=True):
            param.grad = grad
        twin.step()
    assert largest_error(params, [p.detach() for p in twins]) < 1e-12


@pytest.mark.parametrize("fused", [True, "c", "triton", "compiled"])
def test_other_backends_are_refused(fused: bool | str) -> None:
    with pytest.raises(RuntimeError, match=f"fused={fused!r} excludes accelerate='after_momentum'.*leave fused=None"):
        valleys.ALTO(parameters(), **AFTER, fused=fused)


def test_the_default_is_foreach_and_says_why(fresh_warning: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "alto_", None)
    params, twins = parameters(), parameters()
    with pytest.warns(UserWarning, match="accelerate='after_momentum' is written in multi-tensor operations alone"):
        run(valleys.ALTO(params, **AFTER), params)
    run(valleys.ALTO(twins, **AFTER, foreach=True), twins)
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


@pytest.fixture
def fresh_warning() -> None:
    from valleys.kernels import choice

    choice._warn_once.cache_clear()


def test_blocks_and_ratios_are_refused() -> None:
    param = torch.nn.Parameter(torch.ones(4, 2))
    with pytest.raises(RuntimeError, match="accelerate='after_momentum' is for whole parameters; leave blocks unset"):
        valleys.ALTO([param], **AFTER, blocks=valleys.blocks.stacked(2))
    optimizer = valleys.ALTO([param], **AFTER, foreach=True)
    assert optimizer.trust_ratios() == {}
    param.grad = torch.ones(4, 2)
    optimizer.step()
    with pytest.raises(RuntimeError, match="keeps no a"):
        optimizer.trust_ratios()


def sharded() -> list[str]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    param = torch.nn.Parameter(distribute_tensor(torch.ones(4, 2), init_device_mesh("cpu", (1,)), [Shard(0)]))
    messages = []
    for options in ({"foreach": True}, {"layer_adaptation": False, "foreach": True}):
        try:
            valleys.ALTO([param], **{**AFTER, **options})
        except RuntimeError as error:
            messages.append(str(error))
    return messages


def test_shards_are_refused() -> None:
    (messages,) = spawn(sharded, 1)
    assert len(messages) == 2
    assert all("accelerate='after_momentum' is for whole parameters" in message for message in messages)
