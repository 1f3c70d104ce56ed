"""Calls of the C kernels for ``test_sanitizers``, which compiles them with AddressSanitizer and UBSan and runs this."""

from __future__ import annotations

import ctypes
import itertools
import sys
import warnings
from typing import Any

import torch
from torch import Tensor

import valleys
from valleys.kernels import c

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CASES: list[tuple[int, torch.dtype, Any]] = [
    *[(2, dtype, None) for dtype in DTYPES],
    *[(2, dtype, torch.bfloat16) for dtype in (torch.float32, torch.bfloat16)],
    (1, torch.float32, None),
    *[(2, dtype, "8bit") for dtype in (torch.float32, torch.bfloat16)],
]
"""Threads, dtype of the parameters, dtype of the states."""

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"layer_adaptation": False}, {"max_grad_norm": 0.5})
SMALL = [(), (0,), (3, 0), (1,), (2,), (3, 5), (4095,), (4096,), (4097,), (63, 65)]
# Together they reach the end of a batch of small tensors, with one that needs a pass of its own behind it.
LARGE = [(2**19 - 4000,), *[(7,)] * 20, (2**19 + 1,), (5,)]


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def with_gaps(x: Tensor) -> Tensor:
    return torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)[..., ::2].copy_(x)


def groups(dtype: torch.dtype, large: bool, blocks: bool) -> list[dict[str, Any]]:
    """Parameters of every size and layout, with layers inside them if ``blocks``."""
    tensors = [torch.randn(shape).to(dtype) for shape in [*SMALL, *(LARGE if large else ())]]
    tensors += [channels_last(torch.randn(2, 3, 4, 5).to(dtype)), with_gaps(torch.randn(33, 125).to(dtype))]
    tensors += [torch.randn(130, 64).to(dtype).t()]
    result: list[dict[str, Any]] = [{"params": [torch.nn.Parameter(x) for x in tensors]}]
    if blocks:
        for shape, option in (
            ((12, 700), valleys.blocks.stacked(4)),
            ((3, 10_000), valleys.blocks.sections((4097, 5903), dim=1)),
            ((97, 30), valleys.blocks.sections((1, 9, 20), dim=1)),
            ((60, 7), valleys.blocks.interleaved((2, 3), dim=0)),
        ):
            result.append({"params": [torch.nn.Parameter(torch.randn(shape).to(dtype))], "blocks": option})
    return result


def contiguous() -> list[torch.nn.Parameter]:
    """Parameters whose rounded buffers one pass takes: chunks and rows that end together, and not."""
    shapes = [(5,), (3, 5), (70, 64), (9, 1000), (2, 4096), (3, 5, 1365), (9001,), (1, 8193)]
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def run(optimizer: torch.optim.Optimizer, steps: int = 2) -> int:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(steps):
        for i, param in enumerate(params):
            # One of them all zeros, one in another layout than its parameter.
            grad = torch.zeros_like(param) if i == 3 else torch.randn(param.shape).to(param.dtype)
            param.grad = with_gaps(grad) if (i + step) % 7 == 6 and grad.dim() else grad
        optimizer.step()
    assert all(param.isfinite().all() for param in params)
    return steps


def all_steps() -> int:
    steps = 0
    for threads, dtype, state in CASES:
        torch.set_num_threads(threads)
        for options, cls in itertools.product(OPTIONS, (valleys.ALTO, valleys.Lamb)):
            params = groups(dtype, large=not options and cls is valleys.ALTO, blocks=True)
            steps += run(cls(params, lr=1e-3, state_dtype=state, fused="c", **{"layer_adaptation": True, **options}))
        for inplace in (False, True):
            params = groups(dtype, large=not inplace and dtype == torch.float32, blocks=False)
            sgd = torch.optim.SGD(params, 1e-3, momentum=0.9)
            steps += run(valleys.adapt(sgd, state_dtype=state, inplace=inplace))
        if dtype in (torch.float64, torch.float32) and state is None:
            steps += run(valleys.EAdamW(groups(dtype, large=True, blocks=False), lr=1e-3, fused=True))
        if dtype == torch.float32 and state is not None:
            steps += run(valleys.EAdamW(contiguous(), lr=1e-3, state_dtype=state, fused=True))
    return steps


def foreign(count: int, size: int, offset: int = 0) -> Tensor:
    """A tensor of ``count`` float32 over ``size`` bytes of the heap, from the byte ``offset`` on."""
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    memory = (ctypes.c_char * (4 * count + offset)).from_address(malloc(size))
    return torch.frombuffer(memory, dtype=torch.float32, offset=offset, count=count)


if __name__ == "__main__":
    warnings.simplefilter("error")
    c.ALONE = 0  # all sizes with all threads
    if sys.argv[1] == "steps":
        sys.stdout.write(f"sanitizers: {all_steps()} steps clean\n")
    elif sys.argv[1] == "overrun":
        c.square_sum([foreign(1001, 4000)])
    else:
        c.square_sum([foreign(1000, 4001, offset=1)])
