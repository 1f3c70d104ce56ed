"""A step in two halves: what ``measure_`` says of each tensor, that ``apply_`` goes on from there, in every backend.

Triton's are in the folder ``triton``, whose fixture has them interpreted.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from valleys import reference
from valleys.kernels import Needs, Rule, Tensors
from valleys.kernels.ratio import step_lengths
from valleys.kernels.rounding import Noise, bits, mix, round_to_bfloat16

NAMES = ["foreach", "compiled", "c"]
FLOATS = Needs(torch.float32, torch.float32, torch.float32)
RULE = Rule(
    lr=0.02,
    alpha=-5.0,
    beta1=0.99,
    beta2=0.9,
    beta3=0.99,
    eps=1e-6,
    weight_decay=0.1,
    trust_eps=1e-3,
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
# Around the blocks (4096) of the C kernel and the pieces (2^18) of foreach.
SIZES = [(1,), (4095,), (4096,), (), (4097,), (2**19 + 3,), (3, 5), (8193,)]
# Rows of 1, 3 and 1000 elements and the distances between them, some across the same boundaries, and one row alone.
ROWS = [((5000, 1), 3), ((3001, 3), 4), ((9, 1000), 1001), ((2, 1), 2), ((300, 1001), 1500), ((1, 7), 9)]
# Of parameter, gradient and states.
MIXES = [
    (torch.float32, torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16, torch.float32),
]
# Relative error of sums of squares in float32: torch's norms of up to 2^18 elements, blocks of 4096.
TOLERANCE = {"foreach": 2e-4, "compiled": 2e-4, "c": 1e-5}


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Any:
    module = importlib.import_module(f"valleys.kernels.{request.param}")
    # Asked first, as the optimizers do: inductor warns when it is first imported.
    assert request.param == "foreach" or module.unavailable(torch.device("cpu"), FLOATS) is None
    return module


def randn(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(tuple(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def entries(
    shapes: Sequence[tuple[int, ...]],
    param: torch.dtype = torch.float64,
    grad: torch.dtype | None = None,
    state: torch.dtype | None = None,
    explores: bool = True,
) -> Tensors:
    """Tensors in the middle of a run, the i-th before its step i + 1."""
    params, grads, s, m, v = (
        [randn(shape, 10 * i + role, dtype or param) for i, shape in enumerate(shapes)]
        for role, dtype in enumerate((param, grad, state, state, state))
    )
    numbers = range(len(shapes))
    steps, keys = [torch.tensor(i + 1.0) for i in numbers], [mix(mix(i) ^ i + 1) for i in numbers]
    return Tensors(params, grads, s if explores else None, m, [x.square() for x in v], steps, keys, [0] * len(shapes))


def copied(tensors: Tensors) -> Tensors:
    columns: Any = [None if column is None else [x.clone() for x in column] for column in tensors[:6]]
    return Tensors._make([*columns, list(tensors.keys), list(tensors.starts), None])


def embedded(x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The rows of ``x`` with gaps between them, and all of the memory, which is full of 7s: enough to go wrong in."""
    rows, length = x.shape
    memory = x.new_full((3 + 2 * rows * stride,), 7.0)
    inner = memory[3 : 3 + rows * stride].view(rows, stride)[:, :length]
    return inner.copy_(x), memory


def with_gaps(tensors: Tensors, strides: Sequence[int]) -> tuple[Tensors, list[tuple[Tensor, Tensor]]]:
    columns = [None if c is None else list(map(embedded, c, strides)) for c in tensors[:5]]
    inner: Any = [None if column is None else [x for x, _ in column] for column in columns]
    return Tensors._make([*inner, *tensors[5:]]), [pair for column in columns if column is not None for pair in column]


def assert_gaps_untouched(memories: list[tuple[Tensor, Tensor]]) -> None:
    for inner, memory in memories:
        inner.fill_(7.0)
        assert (memory == 7).all()


def states(tensors: Tensors) -> list[Tensor]:
    return [*(tensors.explore or []), *tensors.exp_avgs, *tensors.exp_avg_sqs]


def same_bits(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Equal, NaN included."""
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(actual, expected, strict=True))


def name(backend: Any) -> str:
    return str(backend.__name__).rsplit(".", 1)[1]


def assert_rounded_alike(backend: Any, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Bit for bit, but for ``compiled``: ends of tensors are foreach's, whose last bit may tip a rounding."""
    differing = torch.cat([(a != b).flatten() for a, b in zip(actual, expected, strict=True)])
    assert differing.double().mean() <= (1e-3 if name(backend) == "compiled" else 0)


def stepped(tensors: Tensors, i: int, rule: Rule, clip: float) -> list[Tensor]:
    """The i-th entry's s, m and v after its step, by the reference."""
    theta, g, m, v = (column[i].double() for column in (tensors.params, tensors.grads, *tensors[3:5]))
    memory = reference.OneBuffer(tensors.explore[i].double()) if tensors.explore else None
    _, memory, moments = reference.alto(  # type: ignore[assignment]
        theta,
        g * (-clip if rule.maximize else clip),
        memory,
        reference.Moments(m, v, int(tensors.steps[i]) - 1),
        lr=0.0,
        alpha=rule.alpha,
        b1=rule.beta1,
        b2=rule.beta2,
        b3=rule.beta3,
        lam=rule.weight_decay,
        eps1=rule.eps,
        eps2=rule.trust_eps,
        eps3=rule.norm_eps,
        in_m=rule.accelerate_momentum,
        in_v=rule.accelerate_second_moment,
    )
    return [*([] if memory is None else [memory.s]), moments.m, moments.v]


def direction(tensors: Tensors, i: int, rule: Rule) -> Tensor:
    """r of the i-th entry, from its parameter and moments as they are."""
    p, m, v, k = (column[i].double() for column in (tensors.params, *tensors[3:6]))
    if rule.bias_correction:
        m, v = m / (1 - rule.beta2**k), v / (1 - rule.beta3**k)
    return m / (v.sqrt() + rule.eps) + rule.weight_decay * p


def assert_halves(backend: Any, tensors: Tensors, rule: Rule, clip: float | None, tolerance: float = 1e-12) -> None:
    """Both halves against the reference: states, sums, parameters; gradients, and parameters at first, stay."""
    before = copied(tensors)
    sums = backend.measure_(tensors, rule, None if clip is None else torch.tensor(clip, dtype=torch.float64))
    assert same_bits([*tensors.params, *tensors.grads], [*before.params, *before.grads])
    count = len(tensors.params)
    assert sums.shape == (3, count)
    assert sums.dtype == torch.float64
    factors = randn((count,), 77) / 10
    backend.apply_(tensors, rule, factors)
    for i, p in enumerate(before.params):
        expected = stepped(before, i, rule, 1.0 if clip is None else clip)
        for state, should in zip((column[i] for column in tensors[2:5] if column), expected, strict=True):
            rounding = 0 if state.dtype == torch.float64 else 2 * torch.finfo(state.dtype).eps
            # Of the largest element: what is left of a difference has the size of its terms' rounding.
            close(state, should, rounding or tolerance)
        r = direction(before._replace(exp_avgs=tensors.exp_avgs, exp_avg_sqs=tensors.exp_avg_sqs), i, rule)
        squares = torch.stack([p.double().square().sum(), r.square().sum()])
        torch.testing.assert_close(sums[:2, i], squares, rtol=tolerance, atol=0)
        assert bool(sums[2, i] != 0) == bool((before.grads[i] != 0).any())
        rounding = 0 if p.dtype == torch.float64 else 2 * torch.finfo(p.dtype).eps
        close(tensors.params[i], p.double() - factors[i] * r, rounding or tolerance)
    assert same_bits(tensors.grads, before.grads)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({}, None),
        ({"maximize": True}, 0.25),
        ({"accelerate_second_moment": False, "bias_correction": False}, None),
        ({"trust_clip": (0.0, 1.0), "weight_decay": 0.0, "lr": torch.tensor(0.02)}, 0.0),
    ],
    ids=str,
)
def test_contiguous(backend: Any, options: dict[str, Any], clip: float | None) -> None:
    assert_halves(backend, entries(SIZES), RULE._replace(**options), clip)


def test_lamb(backend: Any) -> None:
    assert_halves(backend, entries(SIZES, explores=False), RULE, 0.25)


@pytest.mark.parametrize("explores", [True, False])
def test_rows_with_gaps(backend: Any, explores: bool) -> None:
    plain = entries([shape for shape, _ in ROWS], explores=explores)
    tensors, memories = with_gaps(plain, [stride for _, stride in ROWS])
    assert not any(x.is_contiguous() for x in tensors.params[:5])
    # Beside tensors without gaps.
    columns: Any = [None if a is None or b is None else [*a, *b] for a, b in zip(tensors, plain, strict=True)]
    both = Tensors._make(columns)
    assert_halves(backend, both, RULE, None)
    assert_gaps_untouched(memories)


@pytest.mark.parametrize("dtypes", MIXES, ids=str)
def test_mixed_dtypes(backend: Any, dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]) -> None:
    tolerance = TOLERANCE[name(backend)]
    shapes = [shape for shape, _ in ROWS]
    assert_halves(backend, entries(shapes, *dtypes), RULE, None, tolerance)
    tensors, memories = with_gaps(entries(shapes, *dtypes), [stride for _, stride in ROWS])
    assert_halves(backend, tensors, RULE, None, tolerance)
    assert_gaps_untouched(memories)


PARTS = [slice(0, 1), slice(1, 4097), slice(4097, 4099), slice(4099, 300_000), slice(300_000, 300_700)]


def cut(whole: Tensors, places: Sequence[Any], starts: Sequence[int]) -> Tensors:
    """One tensor's parts as entries, views of it."""
    columns: Any = [None if column is None else [column[0][place] for place in places] for column in whole[:5]]
    count = len(places)
    return Tensors._make([*columns, whole.steps * count, whole.keys * count, list(starts), None])


@pytest.mark.parametrize(
    ("shape", "places"), [((300_700,), PARTS), ((300, 1001), [(slice(None), x) for x in (PARTS[0], slice(1, 1001))])]
)
@pytest.mark.parametrize("zero", ["nothing", "gradient", "a part's gradient", "parameter"])
def test_parts_of_a_layer_add_up(backend: Any, shape: tuple[int, ...], places: Sequence[Any], zero: str) -> None:
    whole, together = entries([shape]), entries([shape])
    for tensors in (whole, together):
        if zero == "parameter":
            tensors.params[0].zero_()
        elif zero != "nothing":
            tensors.grads[0][places[0] if "part" in zero else ...] = 0
    parts = cut(together, places, [0] * len(places))
    sums = backend.measure_(parts, RULE)
    factors = step_lengths(sums.sum(1, keepdim=True), RULE)
    backend.apply_(parts, RULE, factors.expand(len(places)))
    backend.alto_(whole, RULE)
    for actual, expected in zip([*together.params, *states(together)], [*whole.params, *states(whole)], strict=True):
        close(actual, expected, 1e-12)


HALF = (torch.bfloat16, torch.float32, torch.bfloat16)


def test_parts_round_like_the_whole(backend: Any) -> None:
    """All three functions: a part's random bits begin where it begins in the whole."""
    rule = RULE._replace(stochastic_rounding=True)
    together, whole, once = (entries([(300_700,)], *HALF) for _ in range(3))
    # A graph's compilation takes as long for each part.
    places = [slice(0, 4097), slice(4097, 300_700)] if name(backend) == "compiled" else PARTS
    parts = cut(together, places, [place.start for place in places])
    backend.measure_(parts, rule)
    factors = step_lengths(backend.measure_(whole, rule), rule)
    assert_rounded_alike(backend, states(together), states(whole))
    backend.apply_(parts, rule, factors.expand(len(places)))
    backend.apply_(whole, rule, factors)
    assert_rounded_alike(backend, together.params, whole.params)
    # With a ratio of 1 the parts of alto_ move alike, too.
    one = rule._replace(trust_clip=(1.0, 1.0))
    again = entries([(300_700,)], *HALF)
    backend.alto_(cut(again, places, [place.start for place in places]), one)
    backend.alto_(once, one)
    assert_rounded_alike(backend, [*again.params, *states(again)], [*once.params, *states(once)])


def test_rows_with_gaps_round_like_rows_without(backend: Any) -> None:
    rule = RULE._replace(stochastic_rounding=True)
    plain = entries([shape for shape, _ in ROWS], *HALF)._replace(starts=[5, 2**32 - 100, 0, 2**33 + 1, 7, 8])
    tensors, memories = with_gaps(plain, [stride for _, stride in ROWS])
    for each in (plain, tensors):
        backend.measure_(each, rule)
        backend.apply_(each, rule, torch.full((len(ROWS),), 0.01, dtype=torch.float64))
    assert_rounded_alike(backend, [*tensors.params, *states(tensors)], [*plain.params, *states(plain)])
    assert_gaps_untouched(memories)


@pytest.mark.parametrize("start", [0, 5, 2**31 - 2, 2**32 - 3, 2**33 + 17])
@pytest.mark.parametrize("halves", [True, False])
def test_the_bits_are_those_of_rounding(backend: Any, start: int, halves: bool) -> None:
    """betas of 0 leave s = m = g and v = g^2. Where g = 1/2, r = 1/2 / (1/2 + 1/2): the parameter is exact, too."""
    options: dict[str, Any] = {"beta1": 0.0, "beta2": 0.0, "beta3": 0.0, "eps": 0.5, "weight_decay": 0.0, "lr": 2**-9}
    options |= {"accelerate_momentum": False, "accelerate_second_moment": False, "trust_clip": (1.0, 1.0)}
    rule = RULE._replace(**options, alpha=0.5, bias_correction=False, stochastic_rounding=True)
    tensors = entries([(5000,)], *HALF)._replace(starts=[start])
    place, g = Noise(tensors.keys[0], start), tensors.grads[0]
    g[::2] = 0.5
    tensors.params[0].fill_(1)
    if halves:
        backend.measure_(tensors, rule)
        backend.apply_(tensors, rule, torch.tensor([2**-9], dtype=torch.float64))
    else:
        backend.alto_(tensors, rule)
    for state, role, x in zip(states(tensors), ("explore", "exp_avg", "exp_avg_sq"), (g, g, g * g), strict=True):
        assert torch.equal(state, round_to_bfloat16(x, bits(place, role, x)))
    interior = torch.full((5000,), 1 - 2**-10)
    assert torch.equal(tensors.params[0][::2], round_to_bfloat16(interior, bits(place, "param", interior))[::2])


@pytest.mark.parametrize("dtypes", [(torch.float64,) * 3, (torch.float32,) * 3, HALF], ids=str)
@pytest.mark.parametrize("trust_clip", [None, (0.5, 0.75)])
def test_the_halves_make_the_step(
    backend: Any, dtypes: tuple[torch.dtype, torch.dtype, torch.dtype], trust_clip: tuple[float, float] | None
) -> None:
    """Bit for bit, where every tensor is a layer: also where gradients or parameters are zero or no numbers."""
    # Of a size with the rest of the ratio: what rounds differently then shows.
    rule = RULE._replace(stochastic_rounding=True, trust_clip=trust_clip, trust_eps=0.7)
    shapes = [*SIZES, *[(10 + i,) for i in range(40)]]
    once, twice = entries(shapes, *dtypes), entries(shapes, *dtypes)
    for tensors in (once, twice):
        tensors.grads[1].zero_()
        tensors.params[2].zero_()
        tensors.grads[4][4096] = float("nan")
        tensors.grads[7][17] = float("inf")
    # The graph of the test above serves, where another would take seconds to compile.
    clip = None if dtypes is HALF and name(backend) == "compiled" else torch.tensor(0.3)
    backend.alto_(once, rule, clip)
    backend.apply_(twice, rule, step_lengths(backend.measure_(twice, rule, clip), rule))
    assert same_bits(states(twice), states(once))
    assert same_bits(twice.params, once.params)


def test_numbers_that_are_none_go_through(backend: Any) -> None:
    """A NaN and an infinity stay in their own columns; a gradient that is all but zero counts as one."""
    tensors = entries([(5000,), (5000,), (5000,), (5000,), (3,)], torch.float32)
    tensors.grads[0].zero_()[4999] = float("nan")
    tensors.grads[1][7] = float("inf")
    tensors.grads[2].zero_()
    tensors.grads[3].zero_()[4098] = 1e-45
    clean = [x.clone() for x in (tensors.params[4], tensors.exp_avgs[4], tensors.exp_avg_sqs[4])]
    sums = backend.measure_(tensors, RULE)
    assert sums[0].isfinite().all()
    assert (~sums[1].isfinite()).tolist() == [True, True, False, False, False]
    assert (sums[2] != 0).tolist() == [True, True, False, True, True]
    nan = torch.arange(5000) == 4999
    assert torch.equal(tensors.exp_avgs[0].isnan(), nan)
    assert torch.equal(tensors.exp_avg_sqs[0].isnan(), nan)
    backend.apply_(tensors, RULE, step_lengths(sums, RULE))
    assert tensors.params[0].isnan().all()  # the layer's norm is not a number
    assert not any(
        x.isnan().any() or torch.equal(x, y) for x, y in zip(states(tensors)[4::5][1:], clean[1:], strict=True)
    )
    assert tensors.params[4].isfinite().all()
    assert not torch.equal(tensors.params[4], clean[0])


def test_the_sums_do_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = importlib.import_module("valleys.kernels.c")
    monkeypatch.setattr(backend, "ALONE", 0)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            tensors = entries([*SIZES, *(shape for shape, _ in ROWS)], torch.float32)
            sums = backend.measure_(tensors, RULE)
            backend.apply_(tensors, RULE, torch.full((len(tensors.params),), 0.01))
            runs.append([sums, *tensors.params, *states(tensors)])
    finally:
        torch.set_num_threads(threads)
    assert all(same_bits(each, runs[0]) for each in runs[1:])
