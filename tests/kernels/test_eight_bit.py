"""States in 8 bits: the code, every backend against the reference, expectations, layouts, checkpoints, errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.triton import cases
from triton_interpreter import interpreted
from valleys import reference
from valleys.kernels import Rule, Tensors, c, foreach, triton
from valleys.kernels.quantization import Quantized, block_count, code_dtype, quantize, uniform
from valleys.kernels.rounding import Noise

STATES = ("explore", "exp_avg", "exp_avg_sq")
SYMBOLS = dict(zip(STATES, "smv", strict=True))
SHAPES: list[tuple[int, ...]] = [(3, 1), (2, 255), (5, 256), (2, 257), (3, 700), (40, 512), (1, 9001)]
FEW: list[tuple[int, ...]] = [(3, 1), (2, 257), (2, 600)]  # for the interpreter, which takes its time
RULE = cases.RULE._replace(lr=1e-2, weight_decay=0.1, stochastic_rounding=True)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Values whose rows differ in size by six orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (6 * torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator) - 5)
    return torch.randn(*shape, generator=generator) * sizes


def zero(shape: tuple[int, ...], role: str) -> Quantized:
    codes = torch.zeros(shape, dtype=code_dtype(role))
    return Quantized(codes, torch.zeros(shape[0], block_count(shape[1])), role)


def tensors(params: list[Tensor], grads: list[Tensor], states: list[list[Quantized]], step: int) -> Tensors:
    steps = [torch.tensor(float(step)) for _ in params]
    keys = [1000 * i + step for i in range(len(params))]
    columns: Any = states
    return Tensors(params, grads, columns[0], columns[1], columns[2], steps, keys, [7 * i for i in range(len(params))])


def noise(index: int, step: int) -> Noise:
    return Noise(1000 * index + step, 7 * index)


def special() -> Tensor:
    """Blocks with no number, an infinity, zeros, one tiny value, and the smallest that is not 0."""
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(3))
    x[0, 5], x[1, 280], x[2] = math.nan, math.inf, 0.0
    x[3] = 0.0
    x[3, 7] = 1e-31
    x[4] *= 3e-30
    x[5, :256] = -0.0
    x[6] *= 1e38
    return x


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("role", ["explore", "exp_avg", "exp_avg_sq"])
def test_the_multi_tensor_code_is_the_references(role: str, random: bool) -> None:
    symbol = SYMBOLS[role]
    for x in [special(), *(randn(*shape) for shape in SHAPES)]:
        x = x * x if symbol == "v" else x
        u = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) * 0.998 + 0.001 if random else None
        expected = reference.quantize(x, symbol, u)
        assert all(torch.equal(a, b) or same(a, b) for a, b in zip(quantize(x, role, u), expected, strict=True))
        values = Quantized(*expected, role).dequantize()
        assert same(values, reference.dequantize(*expected, symbol))


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)) and torch.equal(a.isnan(), b.isnan())


@pytest.fixture(params=["foreach", "c", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each backend's module; Triton's in its interpreter."""
    if request.param != "triton":
        yield {"foreach": foreach, "c": c}[request.param]
        return
    with interpreted():
        yield triton


def shapes_for(backend: Any) -> list[tuple[int, ...]]:
    return FEW if backend is triton else SHAPES


@pytest.mark.parametrize("random", [False, True])
def test_every_backends_code_is_the_references_bit_for_bit(backend: Any, random: bool) -> None:
    """With betas of 0 the states are g, g and g^2, before they are rounded."""
    rule = RULE._replace(alpha=0.0, beta1=0.0, beta2=0.0, beta3=0.0, stochastic_rounding=random)
    grads = [special(), *(randn(*shape) for shape in shapes_for(backend))]
    states = [[zero(tuple(g.shape), role) for g in grads] for role in STATES]
    backend.alto_(tensors([torch.ones_like(g) for g in grads], grads, states, 3), rule)
    for role, column in zip(STATES, states, strict=True):
        for i, (g, state) in enumerate(zip(grads, column, strict=True)):
            u = uniform(noise(i, 3), role, state.codes) if random else None
            codes, scales = reference.quantize(g * g if role == "exp_avg_sq" else g, SYMBOLS[role], u)
            assert same(state.scales, scales), (role, g.shape)
            assert torch.equal(state.codes, codes), (role, g.shape)


@pytest.mark.parametrize("explores", [True, False])
@pytest.mark.parametrize("random", [False, True])
def test_a_step_is_the_references(backend: Any, random: bool, explores: bool) -> None:
    """From the same codes, at each of several steps: at most one code apart, on at most 1e-4 of the elements."""
    rule, shapes = RULE._replace(stochastic_rounding=random), shapes_for(backend)
    params = [randn(*shape, seed=9) for shape in shapes]
    states = [[zero(shape, role) for shape in shapes] for role in STATES]
    elements = wrong = far = 0
    for step in range(1, 13 if shapes is SHAPES else 4):
        grads = [randn(*shape, seed=step) for shape in shapes]
        expected = [
            _oracle(p, g, [column[i] for column in states], rule, step, i if random else None, explores)
            for i, (p, g) in enumerate(zip(params, grads, strict=True))
        ]
        work = tensors(params, grads, states, step)
        backend.alto_(work if explores else work._replace(explore=None), rule)
        for i, (p, (theta, codes)) in enumerate(zip(params, expected, strict=True)):
            for column, (right, scales) in zip(states[0 if explores else 1 :], codes, strict=True):
                difference = (column[i].codes.int() - right.int()).abs()
                assert difference.max() <= 1
                wrong, elements = wrong + int(difference.sum()), elements + difference.numel()
                torch.testing.assert_close(column[i].scales, scales, rtol=1e-5, atol=0)
            far += int(((p - theta).abs() > 1e-5 * theta.abs() + 1e-7).sum())
            p.copy_(theta)
    assert wrong <= max(1, 1e-4 * elements)
    assert far <= wrong  # nowhere else


def test_parts_of_a_matrix_are_left_alone_but_for_themselves(backend: Any) -> None:
    """Every second row and the middle blocks, as a layer inside a parameter lies; the same as tensors of their own."""
    rows, columns, blocks = slice(1, None, 2), slice(256, 640), slice(1, 3)
    grads, params = randn(4, 1024, seed=1), randn(4, 1024, seed=2)
    states = [zero((4, 1024), role) for role in STATES]
    parts = [replace(x, codes=x.codes[rows, columns], scales=x.scales[rows, blocks]) for x in states]
    own = [zero((2, 384), role) for role in STATES]
    alone, before = params[rows, columns].clone(), params.clone()
    backend.alto_(tensors([alone], [grads[rows, columns].contiguous()], [[x] for x in own], 1), RULE)
    backend.alto_(tensors([params[rows, columns]], [grads[rows, columns]], [[x] for x in parts], 1), RULE)
    torch.testing.assert_close(params[rows, columns], alone, rtol=1e-5, atol=1e-8)  # norms may add up in another order
    for x, y, whole in zip(parts, own, states, strict=True):
        assert torch.equal(x.codes, y.codes)
        assert torch.equal(x.scales, y.scales)
        x.codes.zero_()
        x.scales.zero_()
        assert not whole.codes.any()
        assert not whole.scales.any()
    params[rows, columns] = before[rows, columns]
    assert torch.equal(params, before)


@pytest.mark.parametrize("random", [False, True])
def test_no_product_is_fused_with_a_sum_in_c(random: bool) -> None:
    """Over two million elements, of which a fused multiply-add would round some otherwise."""
    rule = RULE._replace(alpha=0.0, beta1=0.0, beta2=0.0, beta3=0.0, stochastic_rounding=random)
    g = torch.randn(2000, 1000, generator=torch.Generator().manual_seed(0))
    states = [[zero((2000, 1000), role)] for role in STATES]
    c.alto_(tensors([torch.ones_like(g)], [g], states, 3), rule)
    for role, (state,) in zip(STATES, states, strict=True):
        u = uniform(noise(0, 3), role, state.codes) if random else None
        codes, _ = quantize(g if role != "exp_avg_sq" else g * g, role, u)
        assert torch.equal(state.codes, codes), role


def _oracle(
    p: Tensor, g: Tensor, states: list[Quantized], rule: Rule, step: int, index: int | None, explores: bool
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """A step in the reference's float32, its states rounded by the reference, and theta's by the rounded ones."""
    s, m, v = (reference.dequantize(x.codes, x.scales, SYMBOLS[role]) for x, role in zip(states, STATES, strict=True))
    options: dict[str, Any] = {"b2": rule.beta2, "b3": rule.beta3, "lam": rule.weight_decay, "eps1": rule.eps}
    options.update(lr=rule.lr, alpha=rule.alpha, b1=rule.beta1, eps2=rule.trust_eps, eps3=rule.norm_eps)
    memory = reference.OneBuffer(s) if explores else None
    _, memory_after, after = reference.alto(p, g, memory, reference.Moments(m, v, step - 1), **options)
    values = [after.m, after.v]
    if isinstance(memory_after, reference.OneBuffer):
        values.insert(0, memory_after.s)
    codes, rounded = [], []
    for role, x in zip(STATES[-len(values) :], values, strict=True):
        u = None if index is None else uniform(noise(index, step), role, x)
        codes.append(reference.quantize(x, SYMBOLS[role], u))
        rounded.append(reference.dequantize(*codes[-1], SYMBOLS[role]))
    m, v = rounded[-2:]
    r = m / (1 - rule.beta2**step) / ((v / (1 - rule.beta3**step)).sqrt() + rule.eps) + rule.weight_decay * p
    ratio = reference.trust_ratio(p.double(), r.double(), g, eps2=rule.trust_eps, eps3=rule.norm_eps)
    return (p - rule.lr * ratio.item() * r), codes


@pytest.mark.parametrize("role", STATES)
def test_stochastic_rounding_keeps_the_expectation(role: str) -> None:
    """Over 4,000 steps: within five standard errors at every element, also where a code is small."""
    has_sign = role != "exp_avg_sq"
    x = torch.linspace(-1, 1, 256).unsqueeze(0) if has_sign else torch.linspace(0.02, 1, 256).square().unsqueeze(0)
    state, total, squares = zero((1, 256), role), torch.zeros(1, 256), torch.zeros(1, 256)
    n = 4000
    for key in range(n):
        state.store(x, Noise(key, 0))
        error = state.dequantize() - x
        total, squares = total + error, squares + error * error
    # Beside chance an element may be off by what 10 random bits resolve: 255 / 127^2 / 1024.
    assert ((total / n).abs() < 5 * (squares / n).sqrt() / n**0.5 + 2e-5).all()


def test_neighbours_do_not_round_alike() -> None:
    """The elements of a block share a word of random bits; one pair of ten at most is correlated by 0.2."""
    for role in STATES:
        numbers = torch.stack([uniform(Noise(key, 0), role, torch.empty(1, 256))[0] for key in range(2000)])
        assert (numbers.mean(0) - 0.5).abs().max() < 5 * 0.289 / 2000**0.5
        correlation = torch.corrcoef(numbers.T).fill_diagonal_(0).abs()
        assert (correlation > 0.2).float().mean() < 0.1, role
    between = [uniform(Noise(9, 0), role, torch.empty(64, 256)).flatten() for role in STATES]
    assert torch.corrcoef(torch.stack(between)).fill_diagonal_(0).abs().max() < 0.05


def test_the_second_moment_of_a_small_element_never_becomes_zero() -> None:
    v = torch.full((1, 256), 1e-12)
    v[0, 0] = 1.0
    for noises in (None, Noise(5, 0)):
        state = zero((1, 256), "exp_avg_sq")
        state.store(v, noises)
        assert state.codes.min() == 1


def test_e_alone_is_the_references(backend: Any) -> None:
    grads = [randn(*shape) for shape in shapes_for(backend)]
    buffers = [zero(tuple(g.shape), "explore") for g in grads]
    for step in range(3):
        olds = [reference.dequantize(b.codes, b.scales, "s") for b in buffers]
        outs = [torch.empty_like(g) for g in grads]
        keys = [100 * i + step for i in range(len(grads))]
        backend.explore_(grads, buffers, outs, alpha=-30.0, beta=0.9, keys=keys)
        for i, (g, old, out, buffer) in enumerate(zip(grads, olds, outs, buffers, strict=True)):
            expected, memory = reference.explore(g, reference.OneBuffer(old), -30.0, 0.9)
            torch.testing.assert_close(out, expected, rtol=2e-5, atol=1e-9)
            assert isinstance(memory, reference.OneBuffer)
            u = uniform(Noise(keys[i], 0), "explore", buffer.codes)
            codes, _ = reference.quantize(memory.s, "s", u)
            assert (codes.int() - buffer.codes.int()).abs().sum() <= 1
