"""The Triton kernels as CUDA code: compiled without a GPU, and run where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from backends import largest_error
from valleys._engine.options import rule_of
from valleys.kernels import Tensors, ratio
from valleys.kernels import triton as backend

triton = pytest.importorskip("triton", reason="triton is not installed")
SHAPES: list[tuple[int, ...]] = [(4, 3), (5,), (), (1, 1), (300, 70), (3 * backend.BLOCK + 1,)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def randn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


COMPILE = """
import json
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from valleys.kernels.triton import _kernels as kernels

def vectors(kernel, capability=90, **constants):
    signature = {name: constants.pop(name, "constexpr") for name in kernel.arg_names if name.islower()}
    signature |= {name: "constexpr" for name in constants}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, places)
    options = {"num_warps": 8, "enable_fp_fusion": False}
    ptx = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    lines = [line for line in ptx.splitlines() if ".global" in line and ".v4" in line]
    return sum("ld." in line for line in lines), sum("st." in line for line in lines)

counts = {}
f32, bf16 = tl.float32, tl.bfloat16
for name, param, state in (("float32", f32, f32), ("bfloat16", bf16, bf16), ("mixed", bf16, f32)):
    table = dict(table="*i64", numbers="*fp32", count="i32")
    constants = dict(P=param, S=state, WIDE=f32, RANDOM=state == bf16, STEP=f32, BLOCK=2048)
    constants |= dict(GAPS=name == "mixed", KEYS_ON_DEVICE=state == bf16, SKIPS=name == "mixed", skip="*i32")
    constants |= dict(CORRECTS=name == "mixed")
    scalars = dict(lr="*fp64", clip="*fp32", sums="*fp32", EXPLORES=True, MEASURE=True)
    counts[f"alto_first {name}"] = vectors(kernels.alto_first, **table, **constants, **scalars, G=param)
    if name == "float32":
        counts["alto_first on 7.5"] = vectors(kernels.alto_first, 75, **table, **constants, **scalars, G=param)
    counts[f"alto_second {name}"] = vectors(kernels.alto_second, **table, factors="*fp64", **constants)
    counts[f"explore {name}"] = vectors(
        kernels.explore, **table, G=param, S=state, WIDE=f32, RANDOM=state == bf16, KEYS_ON_DEVICE=True, BLOCK=2048
    )
for random in (True, False):
    table = dict(table="*i64", numbers="*fp32", count="i32")
    constants = dict(P=bf16 if random else f32, WIDE=f32, RANDOM=random, STEP=f32, KEYS_ON_DEVICE=random, BLOCK=2048)
    constants |= dict(CORRECTS=random, SKIPS=random, skip="*i32")
    scalars = dict(lr="*fp64", clip="*fp32", sums="*fp32", EXPLORES=True, MEASURE=True)
    vectors(kernels.quantized_first, **table, **constants, **scalars, G=bf16)
    vectors(kernels.quantized_second, **table, factors="*fp64", **constants)
    vectors(kernels.quantized_explore, **table, G=f32, WIDE=f32, RANDOM=random, KEYS_ON_DEVICE=random, BLOCK=2048)
sums = dict(sums="*fp32", blocks="i32", CHUNK=1024)
vectors(kernels.alto_ratios, table="*i64", trust="*fp64", lr="*fp64", factors="*fp64", WIDTH=13, BLOCK=2048, **sums)
vectors(kernels.alto_totals, table="*i64", totals="*fp64", WIDTH=13, BLOCK=2048, **sums)
vectors(kernels.square_sum_blocks, table="*i64", sums="*fp64", count="i32", T=f32, WIDE=tl.float64, BLOCK=2048)
vectors(kernels.square_sum_total, result="*fp64", **{**sums, "sums": "*fp64"})
print(json.dumps(counts))
"""


def test_compiles_for_cuda(tmp_path: Path) -> None:
    """Down to machine code, without a GPU; memory is moved 16 bytes at a time. A process of its own: see above."""
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("triton < 3.3 has another interface to compile without a GPU")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # Per branch of 8 elements a thread: parameter, gradient, s, m, v in two moves of 4 float32, or one of 8 bfloat16.
    assert json.loads(result.stdout) == {
        "alto_first float32": [10, 6],
        "alto_second float32": [6, 2],
        "explore float32": [4, 4],
        "alto_first bfloat16": [5, 3],
        "alto_first on 7.5": [10, 6],
        "alto_second bfloat16": [3, 1],
        "explore bfloat16": [2, 2],
        "alto_first mixed": [8, 6],
        "alto_second mixed": [5, 1],
        "explore mixed": [3, 3],
    }


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_device(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(randn(shape, seed, dtype).cuda()) for seed, shape in enumerate(SHAPES)]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("options", [{}, {"layer_adaptation": False}, {"capturable": True, "max_grad_norm": 0.5}])
def test_equals_foreach_on_the_device(options: dict[str, Any], dtype: torch.dtype) -> None:
    actual, expected = on_device(dtype), on_device(dtype)
    options = {"lr": 0.02, "layer_adaptation": True, "stochastic_rounding": False, **options}
    optimizers = [
        valleys.ALTO(actual, **options, fused="triton"),
        valleys.ALTO(expected, **options, foreach=True, fused=False),
    ]
    for k in range(10):
        for optimizer, params in zip(optimizers, (actual, expected), strict=True):
            for i, p in enumerate(params):
                p.grad = randn(tuple(p.shape), 1000 * (k + 1) + i, dtype).cuda()
            optimizer.step()
    assert largest_error([p.detach() for p in actual], [p.detach().double() for p in expected]) < TOLERANCE[dtype]


@pytest.mark.gpu
@needs_gpu
def test_a_step_does_not_synchronise() -> None:
    params = on_device(torch.float32)
    optimizer = valleys.ALTO(params, lr=torch.tensor(0.02).cuda(), capturable=True, fused=True, max_grad_norm=1.0)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_halves_make_the_step(dtype: torch.dtype) -> None:
    """Bit for bit and without synchronising. Rows with gaps, which stay, add up their squares in another order."""
    lr = torch.tensor(0.02).cuda()
    options: dict[str, Any] = {"capturable": True, "lr": lr}
    rule = rule_of(valleys.ALTO(on_device(dtype), **options).param_groups[0])
    shapes = [shape for shape in SHAPES if len(shape) == 2]

    def entries(gap: int) -> tuple[Tensors, list[Tensor]]:
        columns, memories = [], []
        for role in range(5):
            values = [randn(shape, 10 * i + role, dtype).cuda() for i, shape in enumerate(shapes)]
            memory = [x.new_full((x.shape[0], x.shape[1] + gap), 7.0) for x in values]
            columns.append([x[:, : x.shape[1] - gap] for x in memory])
            torch._foreach_copy_(columns[-1], [x.square() if role == 4 else x for x in values])
            memories += memory
        steps, numbers = [torch.ones((), device="cuda") for _ in shapes], list(range(len(shapes)))
        return Tensors._make([*columns, steps, numbers, [5 + 2**32 * i for i in numbers], None]), memories  # type: ignore[list-item]

    (once, _), (twice, _), (gapped, memories) = entries(0), entries(0), entries(3)
    for warm in (True, False):
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default" if warm else "error")
        try:
            backend.alto_(once, rule)
            backend.apply_(twice, rule, ratio.step_lengths(backend.measure_(twice, rule), rule))
            sums = backend.measure_(gapped, rule)
            backend.apply_(gapped, rule, ratio.step_lengths(sums, rule))
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for actual, expected, rows in zip(twice[:5], once[:5], gapped[:5], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(actual or (), expected or (), strict=True))
        assert largest_error(rows or (), actual or ()) < TOLERANCE[dtype]
    assert all((memory[:, -3:] == 7).all() for memory in memories)


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_graph_equals_eager_steps() -> None:
    """Gradients made inside the graph lie in its own memory, where no eager step has seen them."""
    actual, expected = on_device(torch.float32), on_device(torch.float32)
    inputs = [torch.zeros_like(p) for p in actual]
    lrs = [torch.tensor(0.02).cuda() for _ in range(2)]
    optimizers = [
        valleys.ALTO(params, lr=lr, capturable=True, fused=True)
        for params, lr in zip((actual, expected), lrs, strict=True)
    ]

    def step(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter]) -> None:
        for p, x in zip(params, inputs, strict=True):
            p.grad = 2 * x
        optimizer.step()

    def feed(k: int) -> None:
        for i, x in enumerate(inputs):
            x.copy_(randn(tuple(x.shape), 1000 * (k + 1) + i))
        for lr in lrs:
            lr.fill_(0.02 / (k + 1))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        feed(0)
        step(optimizers[0], actual)
        step(optimizers[1], expected)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(optimizers[0], actual)
    for k in range(1, 5):
        feed(k)
        graph.replay()
        step(optimizers[1], expected)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
