"""Optimizers with states in 8 bits: runs, layouts, layers inside a parameter, checkpoints, E alone, errors."""

from __future__ import annotations

import copy
import io
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from valleys import reference
from valleys._engine.state import BUFFER
from valleys.kernels import Needs, c


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Values whose rows differ in size by six orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (6 * torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator) - 5)
    return torch.randn(*shape, generator=generator) * sizes


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(128, 64), (5,), (100, 100), (16, 4, 10, 10), (9000,), (200, 40), (7, 65)]
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


IN_CODES = [True, False, True, True, False, False, False]  # the others: vectors, short rows, too small


def train(optimizer: Any, params: list[Any], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = (0.3 + torch.randn(param.shape, generator=generator)).to(param.dtype)
        optimizer.step()


def in_codes(optimizer: Any, param: Tensor, name: str = "exp_avg") -> bool:
    return name + "_code" in optimizer.state[param]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", [{"foreach": True}, {"fused": "c"}], ids=str)
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_a_run_stays_close_to_the_exact_one(cls: Any, backend: dict[str, Any], dtype: torch.dtype) -> None:
    exact, narrow, start = parameters(torch.float64), parameters(dtype), parameters(torch.float64)
    optimizers = cls(exact, lr=0.01), cls(narrow, lr=0.01, state_dtype="8bit", **backend)
    for optimizer, params in zip(optimizers, (exact, narrow), strict=True):
        train(optimizer, params, range(50))
    for a, b, origin, has_codes in zip(exact, narrow, start, IN_CODES, strict=True):
        assert in_codes(optimizers[1], b) is has_codes
        # A bfloat16 parameter has an error of its own.
        assert (a - b).norm() < (0.15 if dtype == torch.bfloat16 else 0.05) * (a - origin).norm()


def test_the_states_take_three_bytes() -> None:
    param = torch.nn.Parameter(torch.zeros(768, 768))
    optimizer = valleys.ALTO([param], state_dtype="8bit")
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert sum(x.nbytes for x in optimizer.state[param].values()) < 3.06 * param.numel()


@pytest.mark.parametrize("backend", [{"foreach": True}, {"fused": "c"}, {"foreach": False}], ids=str)
def test_what_is_no_number_stays_none(backend: dict[str, Any]) -> None:
    param = torch.nn.Parameter(torch.ones(16, 300))
    optimizer = valleys.ALTO([param], layer_adaptation=False, state_dtype="8bit", **backend)
    param.grad = torch.ones_like(param)
    param.grad[2, 290] = math.nan
    optimizer.step()
    assert param[2, 256:].isnan().all()
    assert param.isfinite().sum() == param.numel() - 44


@pytest.mark.parametrize("backend", [{"foreach": True}, {"foreach": True, "capturable": True}, {"fused": "c"}], ids=str)
def test_a_skipped_step_leaves_the_codes(backend: dict[str, Any]) -> None:
    params = parameters()
    optimizer = valleys.ALTO(params, skip_nonfinite=True, state_dtype="8bit", **backend)
    train(optimizer, params, range(3))
    before = copy.deepcopy(dict(optimizer.state[params[0]]))
    values = params[0].detach().clone()
    for param in params:
        param.grad = torch.full_like(param, math.inf)
    optimizer.step()
    after = optimizer.state[params[0]]
    assert torch.equal(values, params[0])
    assert all(torch.equal(before[k], after[k]) for k in before if k != "skipped_steps")


@pytest.mark.parametrize("backend", [{"foreach": True}, {"fused": "c"}], ids=str)
@pytest.mark.parametrize(
    ("shape", "blocks", "has_codes"),
    [
        ((40, 700), valleys.blocks.stacked(4), True),
        ((256, 768), valleys.blocks.sections((256, 512), dim=1), True),
        ((64, 2048), valleys.blocks.interleaved((256, 512, 256), dim=1), True),
        ((600, 70), valleys.blocks.interleaved((2, 3), dim=0), True),
        ((8, 60, 90), valleys.blocks.stacked(8), True),
        ((256, 768), valleys.blocks.sections((250, 518), dim=1), False),
        ((256, 768), valleys.blocks.stacked(6, dim=1), False),
    ],
    ids=str,
)
def test_layers_inside_a_parameter(
    shape: tuple[int, ...], blocks: Any, has_codes: bool, backend: dict[str, Any]
) -> None:
    """Each layer moves as a parameter of its own would; to nearest, as its random bits would be other ones."""
    options: dict[str, Any] = {"lr": 0.01, "state_dtype": "8bit", "stochastic_rounding": False, **backend}
    whole = torch.nn.Parameter(randn(*shape))
    optimizer = valleys.ALTO([{"params": [whole], "blocks": blocks}], **options)
    index = torch.zeros(shape, dtype=torch.long)
    kind, dim, value = blocks
    sizes = [shape[dim] // value] * value if kind == "stacked" else list(value)
    repeated = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).repeat(shape[dim] // sum(sizes))
    index += repeated.view([-1 if d == dim else 1 for d in range(len(shape))])
    layers = [torch.nn.Parameter(_layer(whole.detach(), index, i, dim)) for i in range(len(sizes))]
    twins = valleys.ALTO(layers, **{**options, "state_dtype": "8bit" if has_codes else None})
    for step in range(5):
        grad = randn(*shape, seed=step)
        whole.grad = grad
        for i, layer in enumerate(layers):
            layer.grad = _layer(grad, index, i, dim)
        optimizer.step()
        twins.step()
    assert in_codes(optimizer, whole) is has_codes
    for i, layer in enumerate(layers):
        assert in_codes(twins, layer) is has_codes
        torch.testing.assert_close(_layer(whole.detach(), index, i, dim), layer.detach(), rtol=1e-4, atol=1e-4)


def _layer(x: Tensor, index: Tensor, number: int, dim: int) -> Tensor:
    shape = list(x.shape)
    shape[dim] = -1
    order = [dim, *[d for d in range(x.dim()) if d != dim]]
    rows = x.permute(order)[(index.permute(order).flatten(1)[:, 0] == number)]
    return rows.permute([order.index(d) for d in range(x.dim())]).contiguous()


@pytest.mark.parametrize("backend", [{"foreach": True}, {"fused": "c"}], ids=str)
def test_the_layout_in_memory_changes_nothing(backend: dict[str, Any]) -> None:
    plain = torch.nn.Parameter(randn(16, 8, 6, 6))
    others = [
        torch.nn.Parameter(plain.detach().to(memory_format=torch.channels_last)),
        torch.nn.Parameter(plain.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)),
        torch.nn.Parameter(torch.empty(16, 8, 6, 12)[..., ::2].copy_(plain.detach())),
    ]
    optimizers = [valleys.ALTO([p], lr=0.01, state_dtype="8bit", **backend) for p in (plain, *others)]
    for step in range(4):
        for p, optimizer in zip((plain, *others), optimizers, strict=True):
            p.grad = randn(16, 8, 6, 6, seed=step)
            optimizer.step()
    assert in_codes(optimizers[1], others[0])
    assert all(torch.equal(plain, other) for other in others)


def test_a_resumed_run_is_the_same_and_needs_weights_alone() -> None:
    params = parameters()
    optimizer = valleys.ALTO(params, lr=0.01, state_dtype="8bit")
    train(optimizer, params, range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = copy.deepcopy(params)
    resumed = valleys.ALTO(twins)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(optimizer, params, range(5, 10))
    train(resumed, twins, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


@pytest.mark.parametrize("make", [valleys.ALTO, valleys.EAdamW])
def test_the_form_follows_the_option(make: Any) -> None:
    """A run goes on from float32 states in 8 bits, and back."""
    name = "state_dtype" if make is valleys.ALTO else "explore_state_dtype"
    params, twins = parameters(), parameters()
    optimizer, twin = (make(p, lr=0.001, state_dtype=torch.float32) for p in (params, twins))
    for steps, form in ((range(30), torch.float32), (range(30, 31), "8bit"), (range(31, 32), torch.float32)):
        optimizer.param_groups[0][name] = form
        train(optimizer, params, steps)
        train(twin, twins, steps)
        assert in_codes(optimizer, params[0], BUFFER) is (form == "8bit")
        assert (BUFFER in optimizer.state[params[0]]) is (form != "8bit")
    memory, expected = (o.state[p[0]][BUFFER] for o, p in ((optimizer, params), (twin, twins)))
    assert 0 < (memory - expected).norm() < 0.02 * expected.norm()


def test_moments_in_8_bits_are_taken_over_from_lamb() -> None:
    params = parameters()
    lamb = valleys.Lamb(params, lr=0.01, state_dtype="8bit")
    train(lamb, params, range(3))
    alto = valleys.ALTO(params, lr=0.01)
    with pytest.warns(UserWarning, match="without E"):
        alto.load_state_dict(lamb.state_dict())
    moments = alto.state[params[0]]["exp_avg"]
    state = lamb.state[params[0]]
    expected = reference.dequantize(state["exp_avg_code"].view(128, -1), state["exp_avg_scale"], "m")
    assert torch.equal(moments.view(128, -1), expected)


def test_trust_ratios_are_those_of_the_step() -> None:
    param = torch.nn.Parameter(randn(64, 300))
    optimizer = valleys.ALTO([param], lr=0.1, weight_decay=0.0, state_dtype="8bit")
    before, param.grad = param.detach().clone(), randn(64, 300, seed=2)
    optimizer.step()
    ratio = optimizer.trust_ratios({param: before})[param]
    torch.testing.assert_close((before - param).norm(), 0.1 * before.norm(), rtol=1e-4, atol=0)
    assert ratio > 0


@pytest.mark.parametrize("inplace", [False, True])
def test_e_alone(inplace: bool) -> None:
    """The buffer of EAdamW in 8 bits: the reference's code, and a run near the exact one; a scaler's skip keeps it."""
    exact, narrow = parameters(), parameters()
    start = parameters()
    optimizers = [
        valleys.EAdamW(exact, lr=0.01, alpha=-50.0, inplace=inplace),
        valleys.EAdamW(narrow, lr=0.01, alpha=-50.0, inplace=inplace, state_dtype="8bit"),
    ]
    for optimizer, params in zip(optimizers, (exact, narrow), strict=True):
        train(optimizer, params, range(30))
    for a, b, origin, has_codes in zip(exact, narrow, start, IN_CODES, strict=True):
        assert in_codes(optimizers[1], b, BUFFER) is has_codes
        assert torch.equal(a, b) is not has_codes
        assert (a - b).norm() < 0.02 * (a - origin).norm()


def test_a_scaler_that_skips_a_step_leaves_es_codes() -> None:
    params = parameters()
    optimizer: Any = valleys.adapt(torch.optim.SGD(params, lr=0.01, fused=True), state_dtype="8bit")
    for flag in (0.0, 1.0):
        before = copy.deepcopy(dict(optimizer.state[params[0]]))
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(flag)
        train(optimizer, params, range(1))
        after = optimizer.state[params[0]]
        assert all(torch.equal(before[k], after[k]) for k in before if k != "explore_step")
    assert before[BUFFER + "_code"].any()  # the first step stored what it made


def test_second_derivatives_are_refused() -> None:
    params = [torch.nn.Parameter(torch.ones(128, 64))]
    optimizer = valleys.EAdamW(params, state_dtype="8bit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cycle between parameter and gradient
        params[0].square().sum().backward(create_graph=True)
    with pytest.raises(RuntimeError, match="state_dtype='8bit' excludes"):
        optimizer.step()
    params[0].grad = None


BROKEN = [
    ("exp_avg_code", lambda x: x.float(), "must be torch.int8"),
    ("exp_avg_code", lambda x: x[:-1], "shape"),
    ("exp_avg_scale", lambda x: x[:, :0], "exp_avg_scale"),
    ("exp_avg_scale", lambda x: x.double(), "exp_avg_scale"),
    ("exp_avg_scale", lambda x: x.repeat(1, 2)[:, ::2], "gaps"),
    ("exp_avg_sq_code", lambda x: x.t().contiguous().t(), "gaps"),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN, ids=[f"{i}-{b[0]}" for i, b in enumerate(BROKEN)])
def test_a_state_that_does_not_fit_is_refused_before_a_kernel_reads_it(name: str, change: Any, message: str) -> None:
    param = torch.nn.Parameter(randn(128, 300))
    optimizer = valleys.ALTO([param], state_dtype="8bit")
    param.grad = randn(128, 300, seed=1)
    optimizer.step()
    state, before = optimizer.state[param], param.detach().clone()
    state[name] = change(state[name])
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(before, param)


@pytest.mark.parametrize(("name", "change"), [b[:2] for b in BROKEN[:4]], ids=["dtype", "shape", "scales", "double"])
def test_a_checkpoint_that_does_not_fit_is_refused(name: str, change: Any) -> None:
    param = torch.nn.Parameter(randn(128, 300))
    optimizer = valleys.ALTO([param], state_dtype="8bit")
    param.grad = randn(128, 300, seed=1)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0][name] = change(saved["state"][0][name])
    with pytest.raises(ValueError, match=name):
        optimizer.load_state_dict(saved)


def test_what_is_not_written_for_8_bits_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"torch\.compile"):
        valleys.ALTO([torch.nn.Parameter(torch.ones(128, 64))], fused="compiled", state_dtype="8bit")
    assert c.unavailable(torch.device("cpu"), Needs(torch.float32, torch.float32, torch.int8)) is None
