"""bfloat16 parameters with 8 bits more: the format, every backend's step, runs beside float32 parameters."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from kernels.test_eight_bit import RULE, STATES, randn
from triton_interpreter import interpreted
from valleys import reference
from valleys.kernels import Tensors, c, foreach, triton
from valleys.kernels.quantization import Quantized, block_count
from valleys.kernels.rounding import Noise, bits

pytestmark = pytest.mark.filterwarnings("ignore:lr = .* is low for ALTO")
SHAPES: list[tuple[int, ...]] = [(3, 5), (2, 257), (1, 2100)]


def bits_of(x: Tensor) -> Tensor:
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


def hard() -> Tensor:
    """Numbers between two of 24 bits or of 16, the largest, denormal ones, infinities, zeros of both signs."""
    patterns = [0x3F800000 + i for i in (0, 0x7F, 0x80, 0x81, 0x180, 0x7F80, 0x7FFF, 0x8000, 0x8080, 0xFFFF)]
    patterns += [0x3FFFFFFF, 0x7F7FFFFF, 0x7F7F7FFF, 1, 0x80, 0xFF80, 0x7FFFFF, 0, 0x7F800000]
    x = torch.tensor(patterns, dtype=torch.int32).view(torch.float32)
    return torch.cat([x, -x])


def test_the_format() -> None:
    x = torch.cat([hard(), torch.randn(100_000) * 10 ** torch.randn(100_000)])
    high, low = reference.split(x)
    value = reference.corrected(high, low)
    error = (value - x).abs()
    finite = x.isfinite() & value.isfinite()
    assert (error[finite] <= 2.0**-16 * x[finite].abs() + 1e-42).all()
    # The parameter is a nearest bfloat16 number, and nothing changes a second time.
    gap = (high.float() - value).abs()
    nearest = value.to(torch.bfloat16)
    both = finite & high.isfinite() & nearest.isfinite()
    assert torch.equal(gap[both], (nearest.float() - value).abs()[both])
    again = reference.split(value)
    assert torch.equal(bits_of(again[0]), bits_of(high))
    assert torch.equal(again[1], low)
    assert value[x == math.inf].eq(math.inf).all()
    assert reference.corrected(*reference.split(torch.tensor([math.nan, -math.nan]))).isnan().all()
    payload = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    assert reference.corrected(*reference.split(payload)).isnan().all()


def test_stochastic_rounding_to_24_bits_keeps_the_expectation() -> None:
    x = torch.tensor([1 + 2.0**-18, -3 - 2.0**-17, 2.0**-130, 1.0])
    values = [reference.corrected(*reference.split(x, torch.full((4,), k, dtype=torch.int32))) for k in range(256)]
    assert torch.equal(torch.stack(values).double().mean(0), x.double())


@pytest.fixture(params=["foreach", "c", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param != "triton":
        yield {"foreach": foreach, "c": c}[request.param]
        return
    with interpreted():
        yield triton


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("random", [False, True])
def test_a_step_is_that_of_a_float32_parameter_rounded(backend: Any, random: bool, eight_bit: bool) -> None:
    """Bit for bit the split of what the same backend makes of float32 parameters."""
    rule = RULE._replace(stochastic_rounding=random, lr=1e-3)
    for layer_adaptation in (True, False):
        rule = rule._replace(layer_adaptation=layer_adaptation)
        pairs = [reference.split(randn(*shape, seed=3)) for shape in SHAPES]
        pairs[0][0][0, :3] = torch.tensor([math.inf, math.nan, 0.0]) if not layer_adaptation else 0.5
        wide = [reference.corrected(*pair) for pair in pairs]
        runs = []
        for params, corrections in ((wide, None), ([p for p, _ in pairs], [low for _, low in pairs])):
            states = [[_zero(shape, role, eight_bit) for shape in SHAPES] for role in range(3)]
            grads = [randn(*shape, seed=4).to(torch.bfloat16).to(params[0].dtype) for shape in SHAPES]
            steps, keys = [torch.tensor(2.0) for _ in SHAPES], [100 + i for i in range(len(SHAPES))]
            work: Any = [params, grads, *states, steps, keys, [0] * len(SHAPES), corrections]
            # A float32 parameter with float32 states has nothing to round.
            rounds = random and (eight_bit or corrections is not None)
            backend.alto_(Tensors(*work), rule._replace(stochastic_rounding=rounds))
            runs.append((params, corrections))
        for i, (value, (param, low)) in enumerate(zip(wide, pairs, strict=True)):
            noise = bits(Noise(100 + i, 0), "param", value) & 0xFF if random else None
            high, rest = reference.split(value, noise)
            assert torch.equal(bits_of(param), bits_of(high)), (i, layer_adaptation)
            assert torch.equal(low, rest), (i, layer_adaptation)


def _zero(shape: tuple[int, ...], role: int, eight_bit: bool) -> Any:
    if not eight_bit:
        return torch.zeros(shape)
    dtype = torch.uint8 if role == 2 else torch.int8
    return Quantized(torch.zeros(shape, dtype=dtype), torch.zeros(shape[0], block_count(shape[1])), STATES[role])


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(128, 64), (5,), (16, 4, 10, 10)]
    values = [torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes]
    return [torch.nn.Parameter(value.to(dtype)) for value in values]


def train(optimizer: Any, params: list[Any], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = (0.3 + torch.randn(param.shape, generator=generator)).to(torch.bfloat16).to(param.dtype)
        optimizer.step()


def master(optimizer: Any, param: Tensor) -> Tensor:
    return reference.corrected(param.detach(), optimizer.state[param]["correction"])


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16, "8bit"], ids=str)
@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": "c"}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_a_run_is_that_of_float32_parameters(cls: Any, options: dict[str, Any], state_dtype: Any) -> None:
    """Updates of 1e-4 of the parameter, which bfloat16 alone loses or drowns in noise."""
    wide, narrow, plain = parameters(torch.float32), parameters(torch.bfloat16), parameters(torch.bfloat16)
    start = [p.detach().clone() for p in wide]
    options = {"lr": 1e-4, "state_dtype": state_dtype, **options}
    optimizers = cls(wide, **options), cls(narrow, error_correction=True, **options), cls(plain, **options)
    for optimizer, params in zip(optimizers, (wide, narrow, plain), strict=True):
        train(optimizer, params, range(40))
    for a, b, p, origin in zip(wide, narrow, plain, start, strict=True):
        way = (a - origin).norm()
        assert (master(optimizers[1], b) - a).norm() < 0.1 * way
        assert (p.float() - a).norm() > 0.4 * way
        assert torch.equal(b, reference.split(master(optimizers[1], b))[0])


def test_only_bfloat16_parameters_have_a_correction() -> None:
    params = [torch.nn.Parameter(torch.ones(4, 4, dtype=d)) for d in (torch.float32, torch.float16, torch.bfloat16)]
    optimizer = valleys.ALTO(params, error_correction=True)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert ["correction" in optimizer.state[param] for param in params] == [False, False, True]
    optimizer.param_groups[0]["error_correction"] = False
    optimizer.step()
    assert "correction" not in optimizer.state[params[2]]


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "gaps"])
def test_the_layout_in_memory_changes_nothing(layout: str) -> None:
    plain = parameters(torch.bfloat16)[2]
    value = plain.detach()
    other = torch.nn.Parameter(
        {
            "channels_last": lambda: value.to(memory_format=torch.channels_last),
            "transposed": lambda: value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
            "gaps": lambda: torch.empty(16, 4, 10, 20, dtype=torch.bfloat16)[..., ::2].copy_(value),
        }[layout]()
    )
    options: dict[str, Any] = {"lr": 1e-3, "error_correction": True, "stochastic_rounding": False}
    optimizers = valleys.ALTO([plain], **options), valleys.ALTO([other], **options)
    for optimizer, param in zip(optimizers, (plain, other), strict=True):
        train(optimizer, [param], range(4))
    assert torch.equal(plain, other)
    assert torch.equal(optimizers[0].state[plain]["correction"], optimizers[1].state[other]["correction"])
    # A checkpoint of the other layout is brought into this one's order.
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for optimizer, param in zip(optimizers, (plain, other), strict=True):
        train(optimizer, [param], range(4, 6))
    assert torch.equal(plain, other)


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": "c"}], ids=str)
def test_layers_inside_a_parameter(options: dict[str, Any]) -> None:
    whole = torch.nn.Parameter(randn(24, 70, seed=5).to(torch.bfloat16))
    halves = [torch.nn.Parameter(part.clone()) for part in whole.detach().split(12)]
    options = {"lr": 1e-3, "error_correction": True, "stochastic_rounding": False, **options}
    pair = valleys.ALTO([whole], blocks=valleys.blocks.stacked(2), **options), valleys.ALTO(halves, **options)
    for step in range(4):
        whole.grad = randn(24, 70, seed=step).to(torch.bfloat16)
        for half, grad in zip(halves, whole.grad.split(12), strict=True):
            half.grad = grad
        for optimizer in pair:
            optimizer.step()
    joined = torch.cat([master(pair[1], half) for half in halves])
    torch.testing.assert_close(master(pair[0], whole), joined, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_resumed_run_is_the_same_and_a_skipped_step_keeps_the_correction(capturable: bool) -> None:
    """Capturable, the kernel itself keeps it, as the host does not look."""
    params = parameters(torch.bfloat16)
    optimizer = valleys.ALTO(params, lr=1e-3, error_correction=True, skip_nonfinite=True, foreach=True)
    optimizer.param_groups[0]["capturable"] = capturable
    train(optimizer, params, range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = copy.deepcopy(params)
    resumed = valleys.ALTO(twins)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    before = [master(optimizer, param) for param in params]
    for param in params:
        param.grad = torch.full_like(param, math.inf)
    optimizer.step()
    assert all(torch.equal(a, master(optimizer, param)) for a, param in zip(before, params, strict=True))
    train(optimizer, params, range(5, 8))
    train(resumed, twins, range(5, 8))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


@pytest.mark.parametrize("change", [lambda x: x.float(), lambda x: x[:-1]], ids=["dtype", "shape"])
def test_a_correction_that_does_not_fit_is_refused(change: Any) -> None:
    param = parameters(torch.bfloat16)[0]
    optimizer = valleys.ALTO([param], error_correction=True)
    train(optimizer, [param], range(1))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["correction"] = change(saved["state"][0]["correction"])
    with pytest.raises(ValueError, match="correction"):
        optimizer.load_state_dict(saved)
    before = param.detach().clone()
    optimizer.state[param]["correction"] = change(optimizer.state[param]["correction"])
    with pytest.raises(ValueError, match="correction"):
        optimizer.step()
    assert torch.equal(before, param)


def test_a_backend_without_it_is_refused_at_once() -> None:
    with pytest.raises(RuntimeError, match=r"fused='compiled'.*torch\.compile"):
        valleys.ALTO(parameters(torch.bfloat16), fused="compiled", error_correction=True)
    valleys.ALTO(parameters(torch.float32)[:1], fused="c", error_correction=True)


def test_differentiable_steps_are_refused() -> None:
    with pytest.raises(RuntimeError, match="error_correction"):
        valleys.ALTO(parameters(torch.bfloat16), differentiable=True, error_correction=True)


def test_trust_ratios_are_of_the_24_bits() -> None:
    param = parameters(torch.bfloat16)[0]
    optimizer = valleys.ALTO([param], lr=1e-3, error_correction=True)
    train(optimizer, [param], range(3))
    ratios = [optimizer.trust_ratios()[param], optimizer.trust_ratios({param: param.detach().clone()})[param]]
    assert ratios[0] != ratios[1]
    torch.testing.assert_close(ratios[0], ratios[1], rtol=1e-2, atol=0)
