"""Launches of the Triton kernels: E alone, sums, large offsets, their number, devices without them."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch

from backends import largest_error
from kernels.triton.cases import FEW, RULE, SHAPES, all_tensors, randn, run, same_bits, start
from triton_interpreter import BLOCK
from valleys import reference
from valleys.kernels import Needs, Tensors
from valleys.kernels import triton as backend
from valleys.kernels.rounding import Noise, bits, mix, round_to_bfloat16

triton = pytest.importorskip("triton", reason="triton is not installed")


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
    kernels.alto_second[(1,)](table, numbers, factors, table, 1, *types, True, False, None, False, False, False, BLOCK)
    assert torch.equal(p, expected)


@pytest.mark.parametrize("count", [1, 60])
def test_launches_do_not_grow_with_the_tensors(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """And what a tensor's step is depends neither on its neighbours nor on the run."""
    launches: list[str] = []

    class Counted:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            launches.append(self.kernel.__name__)
            return self.kernel[grid]

    for name, kernel in list(vars(kernels).items()):
        if hasattr(kernel, "run") and kernel.fn.__module__ == kernels.__name__ and not name.startswith("_"):
            monkeypatch.setattr(kernels, name, Counted(kernel))

    shapes = [(1 + 7 * i % (BLOCK + 9),) for i in range(count)]
    together = run(start(shapes, torch.float32), RULE, 1)
    assert launches == ["alto_first", "alto_ratios", "alto_second"]
    launches.clear()
    again = run(start(shapes, torch.float32), RULE._replace(layer_adaptation=False), 1)
    assert launches == ["alto_first"]
    launches.clear()
    backend.apply_(again, RULE, backend.measure_(again, RULE)[0])
    assert launches == ["alto_first", "alto_totals", "alto_second"]
    launches.clear()
    backend.explore_(again.grads, again.exp_avgs, again.grads, alpha=-5.0, beta=0.99)
    assert launches == ["explore"]
    launches.clear()
    backend.square_sum(again.grads)
    assert launches == ["square_sum_blocks", "square_sum_total"]

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
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, value=capability: value)
        problem = backend.unavailable(cuda, needs)
        assert problem is None if works else f"an old card has {capability}" in str(problem)

    def missing() -> ModuleType:
        raise ImportError("No module named 'triton'")

    # Undone before the fixture's own patch of the same name, which it would otherwise put back for good.
    with monkeypatch.context() as context:
        context.setattr(backend, "_kernel_module", missing)
        assert "install valleys[triton]" in (backend.unavailable(cuda, floats) or "")
