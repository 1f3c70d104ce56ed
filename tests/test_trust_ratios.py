"""``trust_ratios`` are those of the last step: equal to the reference, and to how far each layer moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import valleys
from backends import BACKENDS, symbols
from distributed.worlds import spawn
from test_blocks import owners
from valleys import reference

F64 = torch.float64
ALL = {"layer_adaptation": True}
# With the classes that have them. E's gradient enters a moment or not; the moments alone make the ratio.
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "Alg. 1": {"bias_correction": False},
    "much decay": {"weight_decay": 0.5},
    "large eps": {"eps": 0.1, "trust_eps": 0.2, "norm_eps": 0.3},
    "ratio at most 1": {"trust_clip": 1.0},
    "ratio bounded": {"trust_clip": (0.5, 0.7)},
    "clipped": {"max_grad_norm": 0.5},
    "maximize": {"maximize": True},
    "capturable": {"capturable": True},
    "in m": {"accelerate": ("momentum",)},
    "in v": {"accelerate": ("second_moment",)},
    "in neither": {"accelerate": ()},
}
SHAPES: list[tuple[Any, tuple[int, ...]]] = [
    (None, (4, 3)),
    (None, (5,)),
    (None, ()),
    (None, (2, 3, 2, 2)),
    (valleys.blocks.stacked(3), (6, 5)),
    (valleys.blocks.stacked(2), (4,)),
    (valleys.blocks.interleaved([2, 1, 1], 1), (3, 8, 2)),
    ((valleys.blocks.sections([3, 4], 1), valleys.blocks.stacked(2)), (4, 7, 3)),
]


def expected_ratios(
    theta: Tensor, grad: Tensor, states: dict[int, Any], number: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The new parameter and each layer's ratio by the reference."""
    new, ratios = theta.clone(), []
    for layer in range(int(number.max()) + 1):
        where = number == layer
        zero = torch.zeros(int(where.sum()), dtype=theta.dtype)
        memory, moments = states.get(layer, (reference.TwoBuffer(zero, zero), reference.zeros(zero)))
        new[where], memory, moments = reference.alto(theta[where], grad[where], memory, moments, **options)
        states[layer] = memory, moments
        bias = (1 - options["b2"] ** moments.k, 1 - options["b3"] ** moments.k)
        bc2, bc3 = bias if options["bias_correction"] else (1.0, 1.0)
        r = moments.m / bc2 / ((moments.v / bc3).sqrt() + options["eps1"]) + options["lam"] * theta[where]
        eps = {"eps2": options["eps2"], "eps3": options["eps3"], "clip": options["ratio_clip"]}
        ratios.append(reference.trust_ratio(theta[where], r, grad[where], **eps))
    return new, torch.stack(ratios)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_every_ratio_equals_the_reference(cls: Any, options: str) -> None:
    """In float64, after each of several steps, at the values from before the step; all shapes and blocks together."""
    if cls is valleys.Lamb and "accelerate" in OPTIONS[options]:
        return
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, dtype=F64, generator=generator)) for _, shape in SHAPES]
    groups = [{"params": [param], "blocks": blocks} for param, (blocks, _) in zip(params, SHAPES, strict=True)]
    optimizer = cls(groups, lr=0.05, **ALL, **OPTIONS[options])
    numbers = [torch.zeros(s, dtype=torch.long) if blocks is None else owners(blocks, s) for blocks, s in SHAPES]
    states: list[dict[int, Any]] = [{} for _ in params]
    assert optimizer.trust_ratios() == {}, "no step yet"
    for _ in range(4):
        before = {param: param.detach().clone() for param in params}
        for param in params:
            param.grad = torch.randn(param.shape, dtype=F64, generator=generator)
        optimizer.step()
        ratios = optimizer.trust_ratios(before)
        assert list(ratios) == params
        for param, number, state, group in zip(params, numbers, states, optimizer.param_groups, strict=True):
            grad = param.grad if group["max_grad_norm"] is None else reference.clip([param.grad], 0.5)[0]  # type: ignore[list-item]
            assert grad is not None
            grad = -grad if group["maximize"] else grad
            new, ratio = expected_ratios(before[param], grad, state, number, symbols(group))
            torch.testing.assert_close(param.detach(), new, rtol=1e-12, atol=1e-14)
            expected = ratio if group["blocks"] is not None else ratio[0]
            torch.testing.assert_close(ratios[param], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_a_layer_moves_by_lr_times_its_ratio_times_its_update(cls: Any, backend: str) -> None:
    """Without the reference: without weight decay r is known from the moments, and the step was made by a kernel."""
    param = nn.Parameter(torch.randn(7, 5, dtype=F64))
    optimizer = cls([param], lr=0.05, weight_decay=0.0, eps=0.0, bias_correction=False, **BACKENDS[backend])
    for _ in range(3):
        before = param.detach().clone()
        param.grad = torch.randn(7, 5, dtype=F64)
        optimizer.step()
        state = optimizer.state[param]
        moved = (before - param.detach()) * state["exp_avg_sq"].sqrt() / state["exp_avg"]
        ratio = optimizer.trust_ratios({param: before})[param]
        assert (ratio.shape, ratio.dtype, ratio.requires_grad) == ((), F64, False)
        torch.testing.assert_close(moved, (0.05 * ratio).expand(7, 5), rtol=1e-9, atol=0)


def test_present_values_unless_others_are_given() -> None:
    first, second = (nn.Parameter(torch.randn(3, 4, dtype=F64)) for _ in range(2))
    optimizer = valleys.ALTO([first, second], weight_decay=0.0, trust_eps=0.0, norm_eps=0.0)
    first.grad = second.grad = torch.randn(3, 4, dtype=F64)
    optimizer.step()
    now = optimizer.trust_ratios()
    doubled = optimizer.trust_ratios({first: 2 * first.detach()})
    torch.testing.assert_close(doubled[first], 2 * now[first])  # without decay r does not depend on theta
    assert torch.equal(doubled[second], now[second])
    with pytest.raises(ValueError, match=r"the value of a parameter of shape \(3, 4\) has the shape \(4,\)"):
        optimizer.trust_ratios({first: torch.ones(4)})
    with pytest.raises(ValueError, match="not one of this optimizer"):
        optimizer.trust_ratios({torch.ones(3, 4): torch.ones(3, 4)})


def test_the_exceptions_of_the_update() -> None:
    """A zero gradient bounds its block's ratio by 1; without ``.grad`` no gradient counts as zero."""
    zero, stacked = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.full((2, 6), 100.0))
    groups: list[dict[str, Any]] = [{"params": [zero]}, {"params": [stacked], "blocks": valleys.blocks.stacked(2)}]
    optimizer = valleys.ALTO(groups, lr=0.01)
    zero.grad, stacked.grad = torch.ones(2, 2), torch.ones(2, 6)
    before: dict[Tensor, Tensor] = {zero: zero.detach().clone()}
    optimizer.step()
    assert optimizer.trust_ratios(before)[zero] == 1
    assert optimizer.trust_ratios()[stacked].min() > 1
    stacked.grad[0] = 0
    optimizer.step()
    first, second = optimizer.trust_ratios()[stacked]
    assert first == 1 < second
    optimizer.zero_grad()
    assert optimizer.trust_ratios()[stacked].min() > 1


def test_who_has_none_is_left_out() -> None:
    stepped, waiting, plain, skipped = (nn.Parameter(torch.ones(2, 3)) for _ in range(4))
    groups: list[dict[str, Any]] = [
        {"params": [stepped, waiting]},
        {"params": [plain], "layer_adaptation": False},
        {"params": [skipped], "skip_nonfinite": True},
    ]
    optimizer = valleys.ALTO(groups)
    stepped.grad = plain.grad = torch.ones(2, 3)
    skipped.grad = torch.full((2, 3), float("nan"))
    optimizer.step()
    assert list(optimizer.trust_ratios()) == [stepped]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_and_gaps_in_memory(dtype: torch.dtype) -> None:
    """The same as of contiguous float64 copies of parameter and moments."""
    spaced = nn.Parameter(torch.randn(6, 8).to(dtype)[:, ::2])
    optimizer = valleys.ALTO([spaced])
    for _ in range(3):
        spaced.grad = torch.randn(6, 4).to(dtype)
        optimizer.step()
    twin = nn.Parameter(spaced.detach().double().contiguous())
    other = valleys.ALTO([twin])
    other.state[twin] = {k: v.double() if v.dim() else v for k, v in optimizer.state[spaced].items()}
    torch.testing.assert_close(optimizer.trust_ratios()[spaced], other.trust_ratios()[twin], rtol=1e-6, atol=0)


def test_a_complex_parameter_is_a_pair_of_real_ones() -> None:
    start, grad = (torch.randn(4, 3, dtype=torch.complex128) for _ in range(2))
    whole, pair = nn.Parameter(start.clone()), nn.Parameter(torch.view_as_real(start).clone())
    whole.grad, pair.grad = grad, torch.view_as_real(grad).clone()
    optimizers = [valleys.Lamb([param], blocks=valleys.blocks.stacked(2)) for param in (whole, pair)]
    for optimizer in optimizers:
        optimizer.step()
    ratios = [optimizers[0].trust_ratios()[whole], optimizers[1].trust_ratios()[pair]]
    assert ratios[0].shape == (2,)
    torch.testing.assert_close(*ratios, rtol=1e-13, atol=0)


def test_eight_bit_states_are_dequantized() -> None:
    param = nn.Parameter(torch.randn(64, 64))
    optimizer = valleys.ALTO([param], state_dtype="8bit", foreach=True)
    param.grad = torch.randn(64, 64)
    optimizer.step()
    plain = valleys.ALTO([param])
    state = optimizer.state[param]
    plain.state[param] = {
        "step": state["step"],
        **{
            name: reference.dequantize(state[name + "_code"], state[name + "_scale"], symbol)
            for symbol, name in zip("smv", ("explore_exp_avg", "exp_avg", "exp_avg_sq"), strict=True)
        },
    }
    assert torch.equal(optimizer.trust_ratios()[param], plain.trust_ratios()[param])


def sharded_and_whole(make: Callable[..., Any]) -> tuple[float, int]:
    """The largest difference of the shards' ratios from the whole parameters'."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    generator = torch.Generator().manual_seed(0)
    cases = [((5, 3), None, Shard(0)), ((4, 6), valleys.blocks.stacked(4), Shard(0)), ((3, 2), None, Replicate())]
    cases += [((4, 6), valleys.blocks.interleaved([1, 2], 1), Shard(1)), ((1, 2), None, Shard(0))]
    wholes = [nn.Parameter(torch.randn(shape, dtype=F64, generator=generator)) for shape, _, _ in cases]
    shards: list[Any] = [
        nn.Parameter(distribute_tensor(whole.detach().clone(), mesh, [placement]))
        for whole, (_, _, placement) in zip(wholes, cases, strict=True)
    ]
    blocks = [blocks for _, blocks, _ in cases]
    a, b = (make([{"params": [p], "blocks": x} for p, x in zip(ps, blocks, strict=True)]) for ps in (wholes, shards))
    for _ in range(2):
        before = {p: p.detach().clone() for p in (*wholes, *shards)}
        for whole, shard, (_, _, placement) in zip(wholes, shards, cases, strict=True):
            whole.grad = torch.randn(whole.shape, dtype=F64, generator=generator)
            shard.grad = distribute_tensor(whole.grad.clone(), mesh, [placement])
        a.step()
        b.step()
    expected, ratios = a.trust_ratios({p: before[p] for p in wholes}), b.trust_ratios({p: before[p] for p in shards})
    pairs = list(zip(expected.values(), ratios.values(), strict=True))
    assert all(x.shape == y.shape for x, y in pairs)
    with pytest.raises(ValueError, match="is placed as None"):
        b.trust_ratios({shards[0]: wholes[0].detach()})
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in pairs), len(pairs)


def alto_and_lamb() -> list[tuple[float, int]]:
    return [sharded_and_whole(lambda groups, cls=cls: cls(groups, lr=0.1)) for cls in (valleys.ALTO, valleys.Lamb)]


def test_sharded_parameters_have_the_ratios_of_whole_ones() -> None:
    for ratios in spawn(alto_and_lamb, 2):
        for error, count in ratios:
            assert error < 1e-13
            assert count == 5
