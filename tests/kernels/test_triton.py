"""The Triton kernels equal the reference, run by Triton's interpreter on the CPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from backends import largest_error
from triton_interpreter import BLOCK, interpreted
from valleys import reference
from valleys.kernels import Needs, Rule, Tensors
from valleys.kernels import triton as backend
from valleys.kernels.ratio import step_lengths
from valleys.kernels.rounding import Noise, bits, mix, round_to_bfloat16

triton = pytest.importorskip("triton", reason="triton is not installed")
SHAPES = [(4, 3), (5,), (), (1, 1), (BLOCK,), (4 * BLOCK + 1,)]
FEW = [(4, 3), (), (2 * BLOCK + 3,)]

# Largest error relative to each tensor's largest element, against a float64 reference fed the same gradients.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

RULE = Rule(
    lr=0.02,
    alpha=-5.0,
    beta1=0.99,
    beta2=0.9,
    beta3=0.99,
    eps=1e-6,
    weight_decay=1e-4,
    trust_eps=1e-6,
    norm_eps=1e-10,
    bias_correction=True,
    layer_adaptation=True,
    trust_clip=None,
    accelerate_momentum=True,
    accelerate_second_moment=True,
    maximize=False,
    capturable=False,
    stochastic_rounding=False,
)
OPTIONS: dict[str, dict[str, Any]] = {
    "exploit": {"alpha": 0.5, "beta1": 0.01},
    "strong": {"alpha": -90.0, "beta2": 0.95, "beta3": 0.999},
    "much decay": {"weight_decay": 0.5},
    "large eps": {"eps": 0.1, "trust_eps": 0.2, "norm_eps": 0.3},
    "no eps": {"eps": 0.0, "trust_eps": 0.0, "norm_eps": 0.0},
    "Alg. 1": {"bias_correction": False},
    "betas 0": {"beta1": 0.0, "beta2": 0.0, "beta3": 0.0, "alpha": -0.5},
    "no ratio": {"layer_adaptation": False},
    "ratio at most 1": {"trust_clip": (0.0, 1.0)},
    "ratio at least 30": {"trust_clip": (30.0, 40.0)},
    "in m": {"accelerate_second_moment": False},
    "in v": {"accelerate_momentum": False},
    "maximize": {"maximize": True},
    "capturable": {"capturable": True},
    "tensor lr": {"lr": torch.tensor(0.02, dtype=torch.float64)},
    "tensor lr, no ratio": {"lr": torch.tensor(0.02, dtype=torch.float64), "layer_adaptation": False},
}


@pytest.fixture
def kernels() -> Iterator[ModuleType]:
    """The kernels as the interpreter runs them."""
    with interpreted() as module:
        yield module


def randn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def start(
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
    state: torch.dtype | None = None,
    explores: bool = True,
    grad: torch.dtype | None = None,
) -> Tensors:
    """Parameters before their first step; the i-th has made i steps already, with moments still zero.

    Their random bits begin at 0, shortly before 2^32, where their numbers wrap around, and beyond.
    """
    params = [randn(shape, seed, dtype) for seed, shape in enumerate(shapes)]
    s, m, v = ([torch.zeros_like(p, dtype=state or dtype) for p in params] for _ in range(3))
    grads = [torch.zeros_like(p, dtype=grad or dtype) for p in params]
    steps = [torch.tensor(float(i)) for i in range(len(params))]
    keys, starts = [mix(mix(i) ^ int(k)) for i, k in enumerate(steps)], [i * (2**32 - 3) for i in range(len(params))]
    return Tensors(params, grads, s if explores else None, m, v, steps, keys, starts)


def gradients(tensors: Tensors, k: int) -> None:
    """The k-th of a fixed sequence of gradients; each tensor's is zero at some step."""
    for i, grad in enumerate(tensors.grads):
        grad.copy_(randn(tuple(grad.shape), 1000 * (k + 1) + i) * (k == 0 or (k + i) % 4 != 3))


def run(tensors: Tensors, rule: Rule, steps: int, clip: Tensor | None = None) -> Tensors:
    for k in range(steps):
        gradients(tensors, k)
        torch._foreach_add_(tensors.steps, 1)
        backend.alto_(tensors, rule, clip)
    return tensors


def by_reference(tensors: Tensors, rule: Rule, steps: int, clip: float = 1.0) -> list[Tensor]:
    """The same run from the same start by ``reference.alto`` in float64."""
    thetas = [p.to(torch.float64, copy=True) for p in tensors.params]
    grads = Tensors(*[None if column is None else [*column] for column in tensors])  # type: ignore[arg-type]
    grads = grads._replace(grads=[g.clone() for g in tensors.grads])
    memory: list[Any] = [
        None if tensors.explore is None else reference.OneBuffer(torch.zeros_like(theta)) for theta in thetas
    ]
    moments = [reference.zeros(t)._replace(k=int(k)) for t, k in zip(thetas, tensors.steps, strict=True)]
    for k in range(steps):
        gradients(grads, k)
        for i, grad in enumerate(grads.grads):
            thetas[i], memory[i], moments[i] = reference.alto(
                thetas[i],
                grad.double() * (-clip if rule.maximize else clip),
                memory[i],
                moments[i],
                lr=float(rule.lr),
                alpha=rule.alpha,
                b1=rule.beta1,
                b2=rule.beta2,
                b3=rule.beta3,
                lam=rule.weight_decay,
                eps1=rule.eps,
                eps2=rule.trust_eps,
                eps3=rule.norm_eps,
                bias_correction=rule.bias_correction,
                layer_adaptation=rule.layer_adaptation,
                in_m=rule.accelerate_momentum,
                in_v=rule.accelerate_second_moment,
                ratio_clip=rule.trust_clip,
            )
    return thetas


def all_tensors(tensors: Tensors) -> list[Tensor]:
    return [*tensors.params, *(tensors.explore or []), *tensors.exp_avgs, *tensors.exp_avg_sqs]


def same_bits(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Equal, NaN included."""
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(ours, theirs, strict=True))


def assert_rounded_alike(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Equal but for the last bits: numpy, in the interpreter, and torch contract a * b + c on some processors only.

    Now and then that carries a value over a rounding to bfloat16; other random bits would do so to half of them.
    """
    for a, b in zip(ours, theirs, strict=True):
        if a.dtype == torch.bfloat16:
            assert a.numel() == 0 or ((a != b) & ~(a.isnan() & b.isnan())).double().mean() <= 0.01
        last = torch.finfo(a.dtype).eps * (1 if a.dtype == torch.bfloat16 else 8)  # one step of bfloat16
        torch.testing.assert_close(a, b, rtol=last, atol=min(last, 1e-7), equal_nan=True)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("dtype", "state", "steps"),
    [
        (torch.float64, torch.float64, 10),
        (torch.float32, torch.float32, 10),
        (torch.bfloat16, torch.float32, 4),
        (torch.float16, torch.float32, 4),
    ],
    ids=str,
)
def test_equals_the_reference(dtype: torch.dtype, state: torch.dtype, steps: int) -> None:
    tensors = start(SHAPES, dtype, state)
    expected = by_reference(tensors, RULE, steps)
    assert largest_error(run(tensors, RULE, steps).params, expected) < TOLERANCE[dtype]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_equals_the_reference(options: str) -> None:
    rule = RULE._replace(**OPTIONS[options])
    tensors = start(FEW, torch.float64)
    expected = by_reference(tensors, rule, 4)
    assert largest_error(run(tensors, rule, 4).params, expected) < TOLERANCE[torch.float64]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lamb(dtype: torch.dtype) -> None:
    """Against the reference; and ALTO at alpha = 0 is the same, bit for bit, clipped or not."""
    clip = torch.tensor(0.3, dtype=dtype)
    lamb = start(FEW, dtype, explores=False)
    expected = by_reference(lamb, RULE, 5, clip=clip.item())
    assert largest_error(run(lamb, RULE, 5, clip).params, expected) < TOLERANCE[dtype]
    alto = run(start(FEW, dtype), RULE._replace(alpha=0.0), 5, clip)
    assert same_bits(alto.params, lamb.params)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layer_adaptation", [True, False])
def test_mixed_dtypes(layer_adaptation: bool) -> None:
    rule = RULE._replace(layer_adaptation=layer_adaptation, lr=torch.tensor(0.02))
    tensors = start(FEW, torch.float32, torch.float64, grad=torch.bfloat16)
    expected = by_reference(tensors, rule, 4)
    assert largest_error(run(tensors, rule, 4).params, expected) < TOLERANCE[torch.float32]
    assert {g.dtype for g in tensors.grads} == {torch.bfloat16}


@pytest.mark.usefixtures("kernels")
def test_grads_are_left_as_found() -> None:
    tensors = start(FEW, torch.float32)
    gradients(tensors, 0)
    before = [g.clone() for g in tensors.grads]
    torch._foreach_add_(tensors.steps, 1)
    backend.alto_(tensors, RULE._replace(maximize=True), torch.tensor(0.5))
    assert same_bits(tensors.grads, before)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("size", "offset"), [(2 * BLOCK, 1), (2 * BLOCK - 1, 0), (2 * BLOCK - 1, 4)])
def test_nothing_beside_a_tensor_is_touched(size: int, offset: int) -> None:
    """Views into larger tensors, some from the middle of 16 bytes on, which must not be moved 16 bytes at a time."""
    alone, views = start([(size,)], torch.float32), start([(size,)], torch.float32)

    def embed(x: Tensor) -> Tensor:
        return torch.cat([x.new_full((offset,), 7.0), x, x.new_full((4,), 7.0)])

    columns: Any = views[:5]
    whole = [[embed(x) for x in column] for column in columns]
    inner: Any = [[x[offset:-4] for x in column] for column in whole] + [*views[5:]]
    views = Tensors._make(inner)
    assert views.params[0].data_ptr() % 16 == 4 * offset % 16
    run(alone, RULE, 2)
    run(views, RULE, 2)
    assert same_bits(all_tensors(views), all_tensors(alone))
    assert all((x[:offset] == 7).all() and (x[-4:] == 7).all() for column in whole for x in column)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("steps", [0, 10**6])
def test_bias_correction_does_not_cancel(steps: int, capturable: bool) -> None:
    """1 - beta^k in float32 for beta near 1."""
    rule = RULE._replace(beta2=1 - 1e-6, beta3=1 - 1e-7, capturable=capturable, layer_adaptation=False)
    tensors = start(FEW[:1], torch.float32)
    tensors.steps[0].fill_(steps)
    expected = by_reference(tensors, rule, 1)
    before = tensors.params[0].double()
    run(tensors, rule, 1)
    # The moments' step of 1e-7 and the parameter's rounding leave less than this.
    moved, should = tensors.params[0].double() - before, expected[0] - before
    torch.testing.assert_close(moved, should, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("kernels")
def test_zeros_and_nan() -> None:
    """A zero parameter, a zero gradient, one element's NaN, each beside healthy tensors."""
    rule = RULE._replace(weight_decay=0.1)
    tensors = start([(5,), (5,), (BLOCK + 2,), (5,)], torch.float64)
    tensors.params[0].zero_()
    expected = by_reference(tensors, rule, 1)
    gradients(tensors, 0)
    tensors.grads[1].zero_()
    tensors.grads[2][BLOCK] = float("nan")
    torch._foreach_add_(tensors.steps, 1)
    shrunk = tensors.params[1] * (1 - rule.lr * rule.weight_decay)
    backend.alto_(tensors, rule)
    torch.testing.assert_close(tensors.params[0], expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(tensors.params[1], shrunk, rtol=1e-12, atol=0)
    torch.testing.assert_close(tensors.params[3], expected[3], rtol=1e-12, atol=0)
    nan = torch.arange(BLOCK + 2) == BLOCK
    for tensor in (column[2] for column in tensors[2:5] if column is not None):
        assert torch.equal(tensor.isnan(), nan)
    assert tensors.params[2].isnan().all()  # the layer's norm is not a number


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [6e-8, 255.0])
def test_norms_of_float16_tensors(value: float) -> None:
    """The square of 6e-8 is zero in float16, 300 squares of 255 overflow it; the ratio shows it."""
    tensors = start([(300,)], torch.float16, torch.float32)
    tensors.params[0].fill_(255.0)
    tensors.grads[0].fill_(value)
    tensors.steps[0].add_(1)
    backend.alto_(tensors, RULE._replace(lr=0.25, eps=0.0, weight_decay=0.0, trust_eps=0.0, norm_eps=0.0))
    # ratio = |theta| / |r| = 255, so every element moves by 255 lr.
    assert torch.equal(tensors.params[0], torch.full_like(tensors.params[0], 0.75 * 255))


def emulated(tensors: Tensors, rule: Rule, steps: int) -> Tensors:
    """A run without bias correction and ratio in torch's float32, narrowed with the bits of ``rounding``."""
    f = [torch.tensor(x) for x in (1 - rule.beta1, 1 - rule.beta2, rule.beta3, 1 - rule.beta3, rule.eps)]
    c, decay, lr = (torch.tensor(x) for x in (rule.alpha * (1 - rule.beta1), rule.weight_decay, rule.lr))
    columns: Any = tensors[:5]
    for k in range(steps):
        gradients(tensors, k)
        torch._foreach_add_(tensors.steps, 1)
        for i, (p, grad, s, m, v) in enumerate(zip(*columns, strict=True)):
            write = narrowing(rule, Noise(tensors.keys[i], tensors.starts[i]))
            g = grad.float()
            difference = g - s.float()
            adapted = g + c * difference
            write(s, s.float() + f[0] * difference, "explore")
            write(m, m.float() + f[1] * (adapted - m.float()), "exp_avg")
            write(v, f[2] * v.float() + f[3] * adapted * adapted, "exp_avg_sq")
            r = m.float() / (v.float().sqrt() + f[4]) + decay * p.float()
            write(p, p.float() - lr * r, "param")
    return tensors


def narrowing(rule: Rule, place: Noise) -> Callable[[Tensor, Tensor, str], None]:
    def write(to: Tensor, x: Tensor, role: str) -> None:
        if to.dtype == torch.bfloat16 and rule.stochastic_rounding:
            x = round_to_bfloat16(x, bits(place, role, x))
        to.copy_(x)

    return write


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(
    ("dtype", "state"),
    [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_low_precision_rounds_with_the_same_bits(
    dtype: torch.dtype, state: torch.dtype, random: bool, capturable: bool
) -> None:
    rule = RULE._replace(
        bias_correction=False, layer_adaptation=False, stochastic_rounding=random, capturable=capturable
    )
    ours, theirs = start(FEW, dtype, state), start(FEW, dtype, state)
    assert_rounded_alike(all_tensors(run(ours, rule, 3)), all_tensors(emulated(theirs, rule, 3)))


@pytest.mark.usefixtures("kernels")
def test_stochastic_rounding_with_the_ratio() -> None:
    """The second launch rounds by the same bits: at the ratio of 1, which trust_clip forces, nothing changes."""
    rule = RULE._replace(bias_correction=False, stochastic_rounding=True, trust_clip=(1.0, 1.0))
    ours, theirs = (start(FEW, torch.bfloat16) for _ in range(2))
    run(ours, rule, 3)
    run(theirs, rule._replace(layer_adaptation=False), 3)
    assert same_bits(all_tensors(ours), all_tensors(theirs))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float64, "capturable"),
        (torch.float32, "exploit"),
        (torch.float32, "ratio at least 30"),
        (torch.bfloat16, "tensor lr"),
    ],
    ids=str,
)
def test_the_halves_make_the_step(dtype: torch.dtype, options: str) -> None:
    """The same, where every tensor is a layer; the sums are those of what is stored."""
    rule = RULE._replace(**OPTIONS[options], stochastic_rounding=True)
    shapes = [(4, 3), (5,), (), (0,), (6 * BLOCK + 1,), (2 * BLOCK,), (7,)]
    clip = torch.tensor(0.3)
    once, twice = run(start(shapes, dtype), rule, 1), run(start(shapes, dtype), rule, 1)
    for tensors in (once, twice):
        gradients(tensors, 2)
        tensors.params[6].zero_()
        tensors.grads[1][3] = float("nan")
    before = [p.to(torch.float64, copy=True) for p in twice.params]
    sums = backend.measure_(twice, rule, clip)
    backend.apply_(twice, rule, step_lengths(sums, rule))
    backend.alto_(once, rule, clip)
    assert_rounded_alike(all_tensors(twice), all_tensors(once))
    assert sums.dtype == torch.float64
    moving = [bool((g != 0).any()) for g in twice.grads]
    assert 0 < sum(moving) < len(moving) - 1
    assert (sums[2] != 0).tolist() == moving
    for i, (p, m, v, k) in enumerate(zip(before, twice.exp_avgs, twice.exp_avg_sqs, twice.steps, strict=True)):
        m, v = m.double() / (1 - rule.beta2 ** k.double()), v.double() / (1 - rule.beta3 ** k.double())
        r = m / (v.sqrt() + rule.eps) + rule.weight_decay * p
        expected = torch.stack([p.square().sum(), r.square().sum()])
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(sums[:2, i], expected, rtol=tolerance, atol=0, equal_nan=True)


@pytest.mark.usefixtures("kernels")
def test_a_gradient_that_clipping_makes_zero_is_none() -> None:
    tensors = start(FEW, torch.float32)
    gradients(tensors, 0)
    tensors.grads[1].zero_()
    torch._foreach_add_(tensors.steps, 1)
    assert (backend.measure_(tensors, RULE, torch.tensor(0.0))[2] != 0).tolist() == [True, False, True]


@pytest.mark.usefixtures("kernels")
def test_parts_add_up_and_round_like_the_whole() -> None:
    rule = RULE._replace(stochastic_rounding=True)
    whole, together = (run(start([(4 * BLOCK + 9,)], torch.bfloat16), rule, 1) for _ in range(2))
    begins = [0, 1, BLOCK, 3 * BLOCK + 5]
    columns: Any = [list(column[0].tensor_split(begins[1:])) for column in together[:5] if column]
    parts = Tensors._make([*columns, together.steps * 4, together.keys * 4, begins])
    sums, expected = backend.measure_(parts, rule), backend.measure_(whole, rule)
    torch.testing.assert_close(sums.sum(1, keepdim=True), expected, rtol=1e-6, atol=0)
    factors = step_lengths(expected, rule)
    backend.apply_(parts, rule, factors.expand(4))
    backend.apply_(whole, rule, factors)
    assert same_bits(all_tensors(together), all_tensors(whole))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_rows_with_gaps(dtype: torch.dtype) -> None:
    """Like rows without, beside which they are; what lies in the gaps stays. In whole blocks and in part of one."""
    rule = RULE._replace(stochastic_rounding=True)
    shapes, strides = (
        [(70, 1), (40, 3), (3, BLOCK), (2, 4 * BLOCK), (2, 1), (1, 7)],
        [2, 5, BLOCK + 16, 5 * BLOCK, 8, 8],
    )
    plain, other = start(shapes, dtype), start(shapes, dtype)
    columns: Any = other[:5]
    memories = [[x.new_full((2 * len(x) + 1, n), 7) for x, n in zip(xs, strides, strict=True)] for xs in columns]
    inner = [[x[: shape[0], : shape[1]] for x, shape in zip(xs, shapes, strict=True)] for xs in memories]
    for column, views in zip(columns, inner, strict=True):
        torch._foreach_copy_(views, column)
    gapped = Tensors._make([*inner, *other[5:]])
    assert not any(p.is_contiguous() for p in gapped.params[:5])
    found = []
    for k in range(2):
        for tensors in (plain, gapped):
            gradients(tensors, k)
            torch._foreach_add_(tensors.steps, 1)
            found.append(backend.measure_(tensors, rule))
            backend.apply_(tensors, rule, torch.linspace(0.01, 0.02, len(shapes), dtype=torch.float64))
    assert same_bits(found[::2], found[1::2])
    assert same_bits(all_tensors(gapped), all_tensors(plain))
    for memory, view in zip(itertools.chain(*memories), itertools.chain(*inner), strict=True):
        view.fill_(7)
        assert (memory == 7).all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("random", [False, True])
def test_every_kind_of_number_is_rounded_like_torch(random: bool) -> None:
    """Ties, carries into the exponent, subnormal numbers, the largest one, infinities, NaN: s becomes g, narrowed."""
    halves = torch.tensor([0x0000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    tops = torch.tensor([0x0000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x3FFF, 0x7F7F, 0x8000, 0xBF81, 0x7FFF])
    patterns = (tops[:, None] * 2**16 + halves).flatten()
    g = torch.where(patterns >= 2**31, patterns - 2**32, patterns).to(torch.int32).view(torch.float32)
    g = torch.cat([g, torch.tensor([float("inf"), -float("inf"), float("nan")])])
    s = torch.zeros_like(g, dtype=torch.bfloat16)
    backend.explore_([g], [s], [torch.empty_like(g)], alpha=0.0, beta=0.0, keys=[77] if random else None)
    noise = bits(Noise(77, 0), "explore", g)
    expected = round_to_bfloat16(g, noise) if random else g.to(torch.bfloat16)
    assert same_bits([s], [expected])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("dtype", "state"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_explore(dtype: torch.dtype, state: torch.dtype, inplace: bool) -> None:
    grads = [randn(shape, seed, dtype) for seed, shape in enumerate(SHAPES)]
    buffers = [randn(shape, 100 + seed, state) for seed, shape in enumerate(SHAPES)]
    expected = [
        reference.explore(g.double(), reference.OneBuffer(s.double()), -5.0, 0.9)
        for g, s in zip(grads, buffers, strict=True)
    ]
    before = [g.clone() for g in grads]
    outs = grads if inplace else [torch.empty_like(g) for g in grads]
    backend.explore_(grads, buffers, outs, alpha=-5.0, beta=0.9)
    assert largest_error(outs, [g for g, _ in expected]) <= torch.finfo(dtype).eps
    assert largest_error(buffers, [m.s for _, m in expected if isinstance(m, reference.OneBuffer)]) <= max(
        torch.finfo(dtype).eps, torch.finfo(state).eps
    )
    assert inplace or same_bits(grads, before)


@pytest.mark.usefixtures("kernels")
def test_explore_keys() -> None:
    shapes = FEW
    grads = [randn(shape, seed, torch.float32) for seed, shape in enumerate(shapes)]
    buffers = [randn(shape, 100 + seed, torch.bfloat16) for seed, shape in enumerate(shapes)]
    keys = [mix(i + 9) for i in range(len(shapes))]
    forget = torch.tensor(1 - 0.99)
    expected = [
        round_to_bfloat16(s.float() + forget * (g - s.float()), bits(Noise(key, 0), "explore", g))
        for g, s, key in zip(grads, buffers, keys, strict=True)
    ]
    backend.explore_(grads, buffers, grads, alpha=-5.0, beta=0.99, keys=keys)
    assert same_bits(buffers, expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_square_sum(dtype: torch.dtype) -> None:
    tensors = [randn(shape, seed, dtype) for seed, shape in enumerate(SHAPES)]
    result = backend.square_sum(tensors)
    assert result.shape == ()
    assert result.dtype == torch.float64
    expected = sum(x.double().square().sum().item() for x in tensors)
    assert result.item() == pytest.approx(expected, rel=1e-14)


def test_positions_beyond_32_bits(kernels: ModuleType) -> None:
    """A record that puts a block at element 2^32 + 64 of a tensor of which only that block exists."""
    begin, size = 2**32 + BLOCK, 10
    g, s = randn((size,), 0, torch.float32), randn((size,), 1, torch.bfloat16)
    out = torch.empty_like(g)
    forget = torch.tensor(0.25)
    noise = bits(Noise(5, begin), "explore", g)
    expected = round_to_bfloat16(s.float() + forget * (g - s.float()), noise)
    addresses = [x.data_ptr() - begin * x.element_size() for x in (g, s, out)]
    table = torch.tensor([-(begin // BLOCK), begin + size, *addresses, 5])
    tl = triton.language
    numbers = torch.tensor([0.0, 0.25])
    kernels.explore[(1,)](table, numbers, 1, tl.float32, tl.bfloat16, tl.float32, True, False, BLOCK)
    assert torch.equal(s, expected)
    assert torch.equal(out, g)


def test_rows_beyond_32_bits(kernels: ModuleType) -> None:
    """A record that puts rows of 8 elements 2^33 apart; of them only the ninth exists, which is a block's first."""
    p, m = (randn((8,), seed, torch.float32) for seed in range(2))
    v, place = torch.ones(8), 8 * 2**33
    expected = p - 0.5 * (m / (v + 0.25))
    addresses = [x.data_ptr() - place * x.element_size() for x in (p, p, p, m, v)]
    table = torch.tensor([-(64 // BLOCK), 64 + 8, *addresses, 1, 0, 0, 8, 2**33 - 8])
    numbers = torch.tensor([0.0] * 7 + [0.25, 0.0, -math.inf, -math.inf])
    tl = triton.language
    factors = torch.tensor([0.5], dtype=torch.float64)
    types = tl.float32, tl.float32, tl.float32
    kernels.alto_second[(1,)](table, numbers, factors, table, 1, *types, True, False, None, False, False, BLOCK)
    assert torch.equal(p, expected)


@pytest.mark.parametrize("count", [1, 60])
def test_launches_do_not_grow_with_the_tensors(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """And what a tensor's step is depends neither on its neighbours nor on the run."""
    launched: list[str] = []

    class Counted:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            launched.append(self.kernel.__name__)
            return self.kernel[grid]

    for name, kernel in list(vars(kernels).items()):
        if hasattr(kernel, "run") and kernel.fn.__module__ == kernels.__name__ and not name.startswith("_"):
            monkeypatch.setattr(kernels, name, Counted(kernel))

    shapes = [(1 + 7 * i % (BLOCK + 9),) for i in range(count)]
    together = run(start(shapes, torch.float32), RULE, 1)
    assert launched == ["alto_first", "alto_ratios", "alto_second"]
    launched.clear()
    again = run(start(shapes, torch.float32), RULE._replace(layer_adaptation=False), 1)
    assert launched == ["alto_first"]
    launched.clear()
    backend.apply_(again, RULE, backend.measure_(again, RULE)[0])
    assert launched == ["alto_first", "alto_totals", "alto_second"]
    launched.clear()
    backend.explore_(again.grads, again.exp_avgs, again.grads, alpha=-5.0, beta=0.99)
    assert launched == ["explore"]
    launched.clear()
    backend.square_sum(again.grads)
    assert launched == ["square_sum_blocks", "square_sum_total"]

    last = start(shapes, torch.float32)
    last = Tensors(*[None if column is None else column[-1:] for column in last])  # type: ignore[arg-type]
    last.grads[0].copy_(together.grads[-1])
    torch._foreach_add_(last.steps, 1)
    backend.alto_(last, RULE)
    assert same_bits(all_tensors(last), [column[-1] for column in together[:5] if column and column is not together[1]])


def test_unavailable(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    floats = Needs(torch.float64, torch.float32, torch.float16)
    brains = floats._replace(state=torch.bfloat16)
    assert backend.unavailable(cpu, floats) is None
    assert "know no torch.float8" in (backend.unavailable(cpu, floats._replace(grad=torch.float8_e5m2)) or "")
    assert "TRITON_INTERPRET" in (backend.unavailable(cuda, floats) or "")
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    assert "run on CUDA devices, not on cpu" in (backend.unavailable(cpu, floats) or "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    # The launch that is tried on a device, on this one.
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    backend._launch_problem.cache_clear()
    for capability, needs, works in (((6, 1), floats, False), ((7, 5), floats, True), ((7, 5), brains, False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, known=capability: known)
        problem = backend.unavailable(cuda, needs)
        assert problem is None if works else f"an old card has {capability}" in str(problem)

    def missing() -> ModuleType:
        raise ImportError("No module named 'triton'")

    # Undone before the fixture's own patch of the same name, which it would otherwise put back for good.
    with monkeypatch.context() as context:
        context.setattr(backend, "_kernels", missing)
        assert "install valleys[triton]" in (backend.unavailable(cuda, floats) or "")
