"""The update on a CPU in C: the kernels that a wheel brings, else compiled when first used and kept on disk.

The arithmetic is in ``update.c`` and, for states in 8 bits, ``quantized.c``; the threads are torch's (``threads.h``).
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from array import array
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from valleys.kernels import Needs, Rule, Tensors, foreach, wide_dtype
from valleys.kernels.c import compiler, openmp, prebuilt
from valleys.kernels.c.sources import NATIVE, Variant
from valleys.kernels.layout import addresses, extent
from valleys.kernels.quantization import Quantized, block_count

_TYPES = {torch.float64: "double", torch.float32: "float", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_FOLDER = Path(__file__).parent
# Elements below which a step is one thread's work, as in torch's own loops.
ALONE = 32768

_pointer, _int64, _int32, _double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_double


class _Options(ctypes.Structure):
    _fields_ = [
        *((name, _double) for name in ("lr", "c_m", "c_v", "beta1", "beta2", "beta3", "eps", "weight_decay")),
        *((name, _double) for name in ("trust_eps", "norm_eps", "low", "high", "scale")),
        *((name, _int32) for name in ("bias_correction", "layer_adaptation", "wide_steps", "threads")),
    ]


def unavailable(device: torch.device, needs: Needs) -> str | None:
    """Return the reason why this backend cannot update such tensors, or None if it can; may compile."""
    if device.type != "cpu":
        return f"the C kernels run on the CPU, not on {device.type}"
    for dtype in needs.dtypes[:2] if needs.is_quantized else needs.dtypes:
        if dtype not in _TYPES:
            return f"the C kernels know no {dtype}"
    try:
        _library(needs)
    except compiler.CompileError as error:
        return str(error)
    return None


def alto_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> None:
    """Alg. 2 of the paper in one call; see :func:`valleys.kernels.foreach.alto_`."""
    if skip is None or not skip.item():
        _call("alto", tensors, rule, clip)


def measure_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """The first half of ``alto_``; see :func:`valleys.kernels.foreach.measure_`."""
    sums = torch.zeros(3, len(tensors.params), dtype=torch.float64, device="cpu")
    if skip is None or not skip.item():
        _call("alto_first", tensors, rule, clip, sums)
    return sums


def apply_(tensors: Tensors, rule: Rule, factors: Tensor, skip: Tensor | None = None) -> None:
    """The second half of ``alto_``; see :func:`valleys.kernels.foreach.apply_`."""
    if skip is None or not skip.item():
        _call("alto_second", tensors, rule, None, factors.double().contiguous())


def explore_(
    grads: list[Tensor],
    buffers: list[Tensor],
    outs: list[Tensor],
    *,
    alpha: float,
    beta: float,
    keys: list[int] | list[Tensor] | None = None,
) -> None:
    """E in one pass; see :func:`valleys.kernels.foreach.explore_`."""
    _explore("explore", grads, buffers, outs, alpha, beta, keys)


def explored_alto_(tensors: Tensors, rule: Rule, buffers: list[Any], keys: list[int] | None) -> None:
    """A step without layer ratio whose gradients are E's, in one pass over memory.

    Args:
        tensors: contiguous, without E's buffers; beside ``Quantized`` the gradients are matrices with its rows.
        rule: its ``alpha`` and ``beta1`` are E's; nothing is rounded stochastically but the buffers.
        buffers: E's, in another dtype than the parameters or ``Quantized``.
        keys: of the random bits that round the buffers; None if none do.
    """
    items, options = _arguments(tensors, rule, None)
    library = _updating(tensors, rule)
    library.alto_begin.restype = _pointer
    work = _pointer(library.alto_begin(_first(items), _int64(len(tensors.params)), ctypes.byref(options)))
    _check(work.value is None)
    try:
        part = ctypes.cast(library.alto_part, _pointer)
        _explore("explore_into", tensors.grads, buffers, tensors.grads, rule.alpha, rule.beta1, keys, part, work)
    finally:
        library.alto_end(work)


def _explore(
    function: str,
    grads: list[Tensor],
    buffers: list[Any],
    outs: list[Tensor],
    alpha: float,
    beta: float,
    keys: list[int] | list[Tensor] | None,
    *update: Any,
) -> None:
    library = _library(Needs(grads[0].dtype, grads[0].dtype, buffers[0].dtype, random=keys is not None))
    numbers = [int(key) for key in keys or [0] * len(grads)]
    items = _items(_extents(grads, buffers), [grads, *_memory([buffers]), outs], numbers)
    c, forget = _double(alpha * (1 - beta)), _double(1 - beta)
    count, threads = _int64(len(grads)), _int32(_threads(grads))
    _check(getattr(library, function)(_first(items), count, c, forget, threads, *update))


def square_sum(tensors: list[Tensor]) -> Tensor:
    """The sum of squares over all tensors, 0-dimensional, accumulated in float64."""
    dtype = tensors[0].dtype
    try:
        library = _library(Needs(dtype, dtype, wide_dtype(dtype)))
    except compiler.CompileError:
        # Not the kernel that was chosen, and the step goes on without it.
        return foreach.square_sum(tensors)
    items = _items(map(extent, tensors), [tensors, tensors, tensors], [0] * len(tensors))
    result = _double()
    count = _int64(len(tensors))
    _check(library.square_sum(_first(items), count, _int32(_threads(tensors)), ctypes.byref(result)))
    return torch.tensor(result.value, dtype=torch.float64, device="cpu")


def _call(function: str, tensors: Tensors, rule: Rule, clip: Tensor | None, *doubles: Tensor) -> None:
    items, options = _arguments(tensors, rule, clip)
    pointers = [_pointer(x.data_ptr()) for x in doubles]
    count = _int64(len(tensors.params))
    _check(getattr(_updating(tensors, rule), function)(_first(items), count, ctypes.byref(options), *pointers))


def _updating(tensors: Tensors, rule: Rule) -> ctypes.CDLL | SimpleNamespace:
    dtypes = tensors.params[0].dtype, tensors.grads[0].dtype, tensors.exp_avgs[0].dtype
    corrects = tensors.corrections is not None
    return _library(Needs(*dtypes, rule.stochastic_rounding, tensors.explore is not None, corrects=corrects))


def _arguments(tensors: Tensors, rule: Rule, clip: Tensor | None) -> tuple[array[int], _Options]:
    extents = _extents(tensors.params, tensors.exp_avgs)
    states = _memory([tensors.explore or tensors.exp_avgs, tensors.exp_avgs, tensors.exp_avg_sqs])
    # Without corrections the kernels do not read what they get in their place.
    columns = [tensors.params, tensors.grads, *states, tensors.corrections or tensors.params, tensors.steps]
    items = _items(extents, columns, tensors.keys, tensors.starts)
    return items, _options(rule, clip, tensors.steps[0].dtype == torch.float64, _threads(tensors.params))


def _items(extents: Iterable[tuple[int, ...]], columns: list[list[Tensor]], *numbers: Any) -> array[int]:
    """An array of a source's ``Tensor`` or ``Explored``; ctypes' structures would take longer than a small step."""
    fields = zip(*zip(*extents, strict=True), *map(addresses, columns), *numbers, strict=True)
    return array("q", itertools.chain.from_iterable(fields))


def _first(items: array[int]) -> ctypes.c_void_p:
    return _pointer(items.buffer_info()[0])


def _extents(tensors: list[Tensor], states: list[Any]) -> Iterable[tuple[int, ...]]:
    """The first fields of each record: where the elements lie and, in 8 bits, the scales of their blocks."""
    if not isinstance(states[0], Quantized):
        return map(extent, tensors)
    return [
        (len(x) * block_count(x.shape[1]), x.shape[1], x.stride(0), block_count(x.shape[1]), state.scales.stride(0))
        for x, state in zip(tensors, states, strict=True)
    ]


def _memory(columns: list[list[Any]]) -> list[list[Tensor]]:
    """The states' tensors; in 8 bits first all codes, then all scales."""
    if not isinstance(columns[0][0], Quantized):
        return columns
    return [[getattr(x, part) for x in column] for part in ("codes", "scales") for column in columns]


def _options(rule: Rule, clip: Tensor | None, wide_steps: bool, threads: int) -> _Options:
    scale = 1.0 if clip is None else clip.item()
    return _Options(
        float(rule.lr),
        *rule.strengths,
        *(rule.beta1, rule.beta2, rule.beta3, rule.eps, rule.weight_decay, rule.trust_eps, rule.norm_eps),
        *rule.bounds,
        -scale if rule.maximize else scale,
        *(rule.bias_correction, rule.layer_adaptation, wide_steps, threads),
    )


def _threads(tensors: list[Tensor]) -> int:
    """One thread for little work: on busy cores, waiting for a second one takes up to 100 times as long as the step."""
    return torch.get_num_threads() if sum(x.numel() for x in tensors) >= ALONE else 1


def _check(failed: int | bool) -> None:
    if failed:
        raise MemoryError("no memory for the block sums of a step; no parameter was changed")


def variant_of(needs: Needs) -> Variant:
    """Return the variant of the sources that updates such tensors."""
    source, state = ("quantized.c", "int8_t") if needs.is_quantized else ("update.c", _TYPES[needs.state])
    types = _TYPES[needs.param], _TYPES[needs.grad], state
    return Variant(source, *types, needs.random, needs.explores, needs.corrects)


@functools.cache
def _library(needs: Needs) -> ctypes.CDLL | SimpleNamespace:
    """Return the kernels for such tensors: the wheel's, else from the disk or compiled now; raises ``CompileError``."""
    variant = variant_of(needs)
    library: ctypes.CDLL | SimpleNamespace | None = prebuilt.load(variant)
    if library is None:
        library = compiler.load(_FOLDER / variant.source, [*variant.flags, NATIVE, "-shared"], variant.symbols)
    library.use_runtime(openmp.runtime())
    return library
