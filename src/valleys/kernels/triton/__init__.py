"""The update on a GPU in Triton: three launches for all tensors, no synchronisation, no atomics.

The kernels are in ``_kernels``; triton itself is imported when they are first used.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys.kernels import Needs, Rule, Tensors, summary, wide_dtype
from valleys.kernels.layout import addresses, extent
from valleys.kernels.quantization import Quantized, block_count
from valleys.kernels.ratio import learning_rate

# Elements of a program, 8 per thread; the number of blocks' sums that are added at a time.
BLOCK, CHUNK = 2048, 1024
QUANTIZED_BLOCK = 2048  # the same where states are in 8 bits: a multiple of 256
# Without fused multiply-adds the arithmetic is what it says: ALTO at alpha = 0 is LAMB bit for bit.
_LAUNCH = {"num_warps": 8, "enable_fp_fusion": False}


def unavailable(device: torch.device, needs: Needs) -> str | None:
    """Return the reason why this backend cannot update such tensors, or None if it can.

    Launches a kernel once per device; a CPU will do where TRITON_INTERPRET=1 was set when the kernels were imported.
    """
    try:
        kernels = _kernel_module()
    except Exception as error:  # a triton for another torch or driver may raise anything
        return f"triton cannot be imported ({summary(error)}); install valleys[triton]"
    for dtype in needs.dtypes[:2] if needs.is_quantized else needs.dtypes:
        if dtype not in kernels.DTYPES:
            return f"the Triton kernels know no {dtype}"
    if kernels.INTERPRETED:
        return None if device.type == "cpu" else f"TRITON_INTERPRET=1 runs the kernels on the CPU, not on {device.type}"
    if device.type != "cuda":
        return f"the Triton kernels run on CUDA devices, not on {device.type}"
    # For Turing and Volta Triton 3.2 compiles all but the conversion of bfloat16.
    lowest = (8, 0) if torch.bfloat16 in needs.dtypes else (7, 0)
    capability = torch.cuda.get_device_capability(device)
    if capability < lowest:
        name = torch.cuda.get_device_name(device)
        return f"the Triton kernels need compute capability {lowest} for these dtypes, {name} has {capability}"
    # A graph would keep the launch; and who captures one has made a step before.
    return None if torch.cuda.is_current_stream_capturing() else _launch_problem(device)


def alto_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> None:
    """Alg. 2 of the paper, in two or three launches; see :func:`valleys.kernels.foreach.alto_`."""
    launch = _prepare(tensors, rule, skip)
    sums = _first(launch, tensors, rule, clip)
    if rule.layer_adaptation:
        factors = torch.empty(len(tensors.params), dtype=torch.float64, device=sums.device)
        with torch.cuda.device_of(sums):
            _kernel_module().alto_ratios[(len(factors),)](
                launch.table, launch.trust, launch.lr, sums, factors, launch.blocks, *launch.records, CHUNK, **_LAUNCH
            )
        _second(launch, tensors, factors)


def measure_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """The first half of ``alto_``, in two launches; see :func:`valleys.kernels.foreach.measure_`."""
    launch = _prepare(tensors, rule, skip)
    sums = _first(launch, tensors, rule, clip)
    totals = torch.empty(3, len(tensors.params), dtype=torch.float64, device=sums.device)
    with torch.cuda.device_of(sums):
        _kernel_module().alto_totals[(len(tensors.params),)](
            launch.table, sums, totals, launch.blocks, *launch.records, CHUNK, **_LAUNCH
        )
    return totals


def apply_(tensors: Tensors, rule: Rule, factors: Tensor, skip: Tensor | None = None) -> None:
    """The second half of ``alto_``, in one launch; see :func:`valleys.kernels.foreach.apply_`."""
    _second(_prepare(tensors, rule, skip), tensors, factors.double().contiguous())


def explore_(
    grads: list[Tensor],
    buffers: list[Tensor],
    outs: list[Tensor],
    *,
    alpha: float,
    beta: float,
    keys: list[int] | list[Tensor] | None = None,
) -> None:
    """E in one launch; see :func:`valleys.kernels.foreach.explore_`."""
    kernels = _kernel_module()
    wide, count = wide_dtype(grads[0].dtype), len(grads)
    numbers = [alpha * (1 - beta), 1 - beta]
    options = {"RANDOM": keys is not None, "KEYS_ON_DEVICE": _on_device(keys), **_LAUNCH}
    if isinstance(buffers[0], Quantized):
        codes, scales = ([getattr(x, part) for x in buffers] for part in ("codes", "scales"))
        columns = [*map(addresses, (grads, codes, outs)), _keys(keys, count), [x.shape[1] for x in grads]]
        sizes, block = [_blocks_size(x) for x in grads], QUANTIZED_BLOCK
        columns.append(addresses(scales))
        kernel, types = kernels.quantized_explore, _types(grads[0].dtype, wide)
    else:
        columns = [*map(addresses, (grads, buffers, outs)), _keys(keys, count)]
        sizes, block = [g.numel() for g in grads], BLOCK
        kernel, types = kernels.explore, _types(grads[0].dtype, buffers[0].dtype, wide)
    table, factors, _, blocks = _upload(sizes, columns, numbers, wide, grads[0].device, block)
    with torch.cuda.device_of(table):
        kernel[(blocks,)](table, factors, count, *types, BLOCK=block, **options)


def square_sum(tensors: list[Tensor]) -> Tensor:
    """The sum of squares over all tensors, 0-dimensional float64: squares of float32 numbers overflow float32."""
    kernels = _kernel_module()
    device, wide = tensors[0].device, torch.float64
    table, _, _, blocks = _upload([x.numel() for x in tensors], [addresses(tensors)], [], wide, device, BLOCK)
    sums = torch.empty(blocks, dtype=wide, device=device)
    result = torch.empty((), dtype=wide, device=device)
    types = _types(tensors[0].dtype, wide)
    with torch.cuda.device_of(table):
        kernels.square_sum_blocks[(blocks,)](table, sums, len(tensors), *types, BLOCK, **_LAUNCH)
        kernels.square_sum_total[(1,)](sums, result, blocks, CHUNK, **_LAUNCH)
    return result


class _Launch(NamedTuple):
    """The arguments that the launches of a step share."""

    table: Tensor  # the tensors' records
    numbers: Tensor  # factors of the equations in the dtype of the arithmetic; last a 1, for gradients without a clip
    trust: Tensor  # those of the ratio in float64, as ``ratio.step_lengths`` has them, and the learning rate
    lr: Tensor  # the learning rate on the device
    skip: Tensor  # an int32 on the device, read by kernels with SKIPS
    blocks: int
    records: tuple[int, int]  # fields of a record, elements of a program
    options: dict[str, Any]  # constants of the compilation


def _prepare(tensors: Tensors, rule: Rule, skip: Tensor | None) -> _Launch:
    params, device = tensors.params, tensors.params[0].device
    on_device = rule.capturable and all(k.device == device for k in tensors.steps)
    keys = tensors.keys if rule.stochastic_rounding else None
    steps = addresses(tensors.steps) if on_device else [int(k) for k in torch.stack(tensors.steps).tolist()]
    states: list[Any] = [tensors.explore or tensors.exp_avgs, tensors.exp_avgs, tensors.exp_avg_sqs]
    sizes, lengths, gaps = map(list, zip(*map(extent, params), strict=True))
    scales: list[list[int]] = []
    block = BLOCK
    if isinstance(states[0][0], Quantized):
        block, sizes, lengths = QUANTIZED_BLOCK, [_blocks_size(x) for x in params], [x.shape[1] for x in params]
        gaps = [x.stride(0) - x.shape[1] for x in params]
        scales = [[x.scales.data_ptr() for x in column] for column in states]
        scales.append([x.scales.stride(0) for x in states[1]])
        states = [[x.codes for x in column] for column in states]
    columns = [*map(addresses, [params, tensors.grads, *states]), steps, _keys(keys, len(params)), tensors.starts]
    corrections = tensors.corrections
    columns += [lengths, gaps, *scales, [0] * len(params) if corrections is None else addresses(corrections)]
    lr = learning_rate(rule)
    table, numbers, trust, blocks = _upload(
        sizes,
        columns,
        [*_numbers(rule), 1.0],
        wide_dtype(params[0].dtype),
        device,
        block,
        [rule.trust_eps, rule.norm_eps, *rule.bounds, 0.0 if isinstance(lr, Tensor) else lr],
    )
    # Values that are on the device already are read where they are.
    lr = lr.to(device) if isinstance(lr, Tensor) else trust[-1]
    # Without one the kernels get a tensor that they do not read.
    flag = table if skip is None else (skip != 0).to(device, torch.int32)
    options = {
        **({} if scales else {"GAPS": any(gaps)}),
        "RANDOM": rule.stochastic_rounding,
        "STEP": _types(tensors.steps[0].dtype)[0] if on_device else None,
        "KEYS_ON_DEVICE": _on_device(keys),
        "CORRECTS": corrections is not None,
        "SKIPS": skip is not None,
        "BLOCK": block,
    }
    return _Launch(table, numbers, trust, lr, flag, blocks, (2 + len(columns), block), {**options, **_LAUNCH})


def _first(launch: _Launch, tensors: Tensors, rule: Rule, clip: Tensor | None) -> Tensor:
    """The states' step; returns the blocks' sums or, without the ratio, makes the parameters' step too."""
    numbers = launch.numbers
    clip = numbers[-1] if clip is None else clip.to(numbers.device)
    sums = numbers.new_empty(3 * launch.blocks if rule.layer_adaptation else 0)
    arguments = launch.table, numbers, launch.lr, clip, launch.skip, sums, len(tensors.params)
    kernel = _kernel_module().quantized_first if _in_codes(tensors) else _kernel_module().alto_first
    types = _types(tensors.params[0].dtype, tensors.grads[0].dtype, *_state_dtype(tensors), numbers.dtype)
    first = {"EXPLORES": tensors.explore is not None, "MEASURE": rule.layer_adaptation}
    with torch.cuda.device_of(sums):
        kernel[(launch.blocks,)](*arguments, *types, **first, **launch.options)
    return sums


def _second(launch: _Launch, tensors: Tensors, factors: Tensor) -> None:
    """The parameters' step."""
    kernel = _kernel_module().quantized_second if _in_codes(tensors) else _kernel_module().alto_second
    types = _types(tensors.params[0].dtype, *_state_dtype(tensors), launch.numbers.dtype)
    with torch.cuda.device_of(factors):
        kernel[(launch.blocks,)](
            launch.table, launch.numbers, factors, launch.skip, len(factors), *types, **launch.options
        )


def _in_codes(tensors: Tensors) -> bool:
    return isinstance(tensors.exp_avgs[0], Quantized)


def _state_dtype(tensors: Tensors) -> list[torch.dtype]:
    """The dtype of the states, for kernels that ask for it."""
    return [] if _in_codes(tensors) else [tensors.exp_avgs[0].dtype]


def _blocks_size(matrix: Tensor) -> int:
    """The elements of a matrix's blocks of 256, of which the last one of a row may not be full."""
    return len(matrix) * block_count(matrix.shape[1]) * 256


@functools.cache
def _launch_problem(device: torch.device) -> str | None:
    """Return the reason why nothing can be launched there: Triton compiles its launcher in C when first used."""
    try:
        square_sum([torch.ones(1, device=device)])
    except Exception as error:  # of Triton, its compilers or the driver
        return f"no Triton kernel can be launched ({summary(error)}); Triton needs a C compiler and Python's headers"
    return None


def _kernel_module() -> Any:
    from valleys.kernels.triton import _kernels

    return _kernels


def _types(*dtypes: torch.dtype) -> list[Any]:
    return [_kernel_module().DTYPES[dtype] for dtype in dtypes]


def _on_device(keys: list[int] | list[Tensor] | None) -> bool:
    return bool(keys) and isinstance(keys[0], Tensor)  # type: ignore[index]


def _keys(keys: list[int] | list[Tensor] | None, count: int) -> list[int]:
    """Numbers as they are, of tensors the addresses; zeros where nothing is rounded."""
    return [key.data_ptr() if isinstance(key, Tensor) else key for key in keys or [0] * count]


def _numbers(rule: Rule) -> list[float]:
    """A rule as the factors of the equations, in the order in which ``alto_first`` lists them."""
    return [
        -1.0 if rule.maximize else 1.0,
        *rule.strengths,
        *(1 - rule.beta1, 1 - rule.beta2, rule.beta3, 1 - rule.beta3, rule.eps, rule.weight_decay),
        # 1 - beta^k is 1 - e^(k log beta): 1 where log beta is -inf.
        *(math.log(b) if b > 0 and rule.bias_correction else -math.inf for b in (rule.beta2, rule.beta3)),
    ]


def _upload(
    sizes: list[int],
    columns: list[list[int]],
    numbers: list[float],
    wide: torch.dtype,
    device: torch.device,
    block: int,
    doubles: Sequence[float] = (),
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Send a launch's arguments to the device in one copy: records, numbers in ``wide``, and ``doubles`` in float64.

    A record is a tensor's size and its place in each column. Returned with them is the number of blocks, of ``block``
    elements.
    """
    *firsts, blocks = itertools.accumulate((-(-size // block) for size in sizes), initial=0)
    records = [x for record in zip(firsts, sizes, *columns, strict=True) for x in record]
    # Multiples of 16 bytes, so that what follows is at one, too; on the CPU whatever torch.set_default_device says.
    cpu = torch.device("cpu")
    parts = [
        torch.tensor(numbers + [0.0] * (-len(numbers) % 4), dtype=wide, device=cpu).view(torch.int64),
        torch.tensor([*doubles, *[0.0] * (len(doubles) % 2)], dtype=torch.float64, device=cpu).view(torch.int64),
        torch.tensor(records, dtype=torch.int64, device=cpu),
    ]
    host = torch.cat(parts)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # A graph would read the host's memory at each replay, when it may be gone; integers it keeps as arguments.
        uploaded = torch.zeros_like(host, device=device)
        torch._foreach_add_(uploaded.unbind(), host.tolist())
    else:
        uploaded = (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)
    first, second, table = uploaded.split([len(part) for part in parts])
    return table, first.view(wide)[: len(numbers)], second.view(torch.float64)[: len(doubles)], blocks
