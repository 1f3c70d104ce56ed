"""The Triton kernels behind ``triton``: each is one launch for all tensors.

A program works on one block of one tensor. ``table`` has a record of int64 per tensor: the number of its first block,
its size, then the addresses and integers that the kernel's docstring lists. ``numbers`` are the factors of the
equations in the dtype of the arithmetic; no value of theirs is compiled in.
"""

import torch
import triton
import triton.language as tl

from valleys.kernels.triton._device import (
    direction,
    is_fast,
    load_key,
    load_param,
    load_step,
    load_values,
    locate,
    memory_offsets,
    mix,
    narrow,
    random_bits,
    store_param,
    store_values,
    sum_range,
    unless_skipped,
)
from valleys.kernels.triton._quantized import (
    quantized_explore as quantized_explore,
)
from valleys.kernels.triton._quantized import (
    quantized_first as quantized_first,
)
from valleys.kernels.triton._quantized import (
    quantized_second as quantized_second,
)

DTYPES = {torch.float64: tl.float64, torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["lr", "clip", "skip"])
def alto_first(
    table: tl.tensor,
    numbers: tl.tensor,
    lr: tl.tensor,
    clip: tl.tensor,
    skip: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    P: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    EXPLORES: tl.constexpr,
    MEASURE: tl.constexpr,
    GAPS: tl.constexpr,
    RANDOM: tl.constexpr,
    STEP: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    CORRECTS: tl.constexpr,
    SKIPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The states' step; then each block's sums for its tensor's ratio or, without MEASURE, the parameter's step.

    Record: parameter, gradient, s, m, v, step (with STEP, the dtype, its address), key of the random bits (with
    KEYS_ON_DEVICE its address), number of the first element's random bits, length of a row, gap between rows (0 without
    GAPS), the correction of ``reference.split`` (read with CORRECTS). With SKIPS and ``skip`` not zero nothing is
    stored. ``numbers``: -1 to maximise or 1, c for m, c for v, 1 - beta1, 1 - beta2, beta3, 1 - beta3, eps,
    weight_decay, log beta2, log beta3.
    ``sums`` is 3 x blocks: squares of p, squares of r, how many gradients are not zero.
    """
    record, _, start, size = locate(table, count, 13, BLOCK)
    size = unless_skipped(size, skip, SKIPS)
    offsets = start + tl.arange(0, BLOCK)
    if is_fast(record, 5, start, size, BLOCK) & (tl.load(record + 11) == 0):
        _first(
            record, offsets, offsets, size, numbers, lr, clip, sums,
            P, G, S, WIDE, EXPLORES, MEASURE, RANDOM, STEP, KEYS_ON_DEVICE, CORRECTS, True,
        )  # fmt: skip
    else:
        _first(
            record, offsets, memory_offsets(record, offsets, GAPS), size, numbers, lr, clip, sums,
            P, G, S, WIDE, EXPLORES, MEASURE, RANDOM, STEP, KEYS_ON_DEVICE, CORRECTS, False,
        )  # fmt: skip


@triton.jit
def _first(
    record: tl.tensor,
    offsets: tl.tensor,
    places: tl.tensor,
    size: tl.tensor,
    numbers: tl.tensor,
    lr: tl.tensor,
    clip: tl.tensor,
    sums: tl.tensor,
    P: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    EXPLORES: tl.constexpr,
    MEASURE: tl.constexpr,
    RANDOM: tl.constexpr,
    STEP: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    CORRECTS: tl.constexpr,
    FAST: tl.constexpr,
) -> None:
    k = load_step(record, STEP)
    h0, h1 = random_bits(record, offsets, KEYS_ON_DEVICE)
    inside = offsets < size
    p = load_param(record + 2, record + 12, places, inside, P, WIDE, CORRECTS, FAST)
    raw = load_values(record + 3, places, inside, G, WIDE, FAST)
    # Not g, which a clip may have made zero; as integers here, for fewer registers than raw itself until the end.
    moving = (raw != 0).to(tl.int32)
    g = raw * tl.load(clip).to(WIDE) * tl.load(numbers)
    for_m, for_v = g, g
    if EXPLORES:
        s = load_values(record + 4, places, inside, S, WIDE, FAST)
        difference = g - s
        for_m = g + tl.load(numbers + 1) * difference
        for_v = g + tl.load(numbers + 2) * difference
        s = narrow(s + tl.load(numbers + 3) * difference, h0 >> 16, S, RANDOM)
        store_values(record + 4, places, inside, s, FAST)
    m = load_values(record + 5, places, inside, S, WIDE, FAST)
    m = narrow(m + tl.load(numbers + 4) * (for_m - m), h1 & 0xFFFF, S, RANDOM)
    store_values(record + 5, places, inside, m, FAST)
    v = load_values(record + 6, places, inside, S, WIDE, FAST)
    v = narrow(tl.load(numbers + 5) * v + tl.load(numbers + 6) * for_v * for_v, h1 >> 16, S, RANDOM)
    store_values(record + 6, places, inside, v, FAST)
    r = direction(p, m.to(WIDE), tl.sqrt(v.to(WIDE)), k.to(WIDE), numbers)
    if MEASURE:
        if not FAST:
            # Past the end it is 0 / 0 if eps is 0.
            r = tl.where(inside, r, 0.0)
        block, blocks = tl.program_id(0), tl.num_programs(0)
        tl.store(sums + block, tl.sum(p * p, 0))
        tl.store(sums + blocks + block, tl.sum(r * r, 0))
        tl.store(sums + 2 * blocks + block, tl.sum(moving, 0).to(WIDE))
    else:
        p -= tl.load(lr).to(WIDE) * r
        store_param(record + 2, record + 12, places, inside, p, h0 & 0xFFFF, P, RANDOM, CORRECTS, FAST)


@triton.jit(do_not_specialize=["blocks"], do_not_specialize_on_alignment=["totals"])
def alto_totals(
    table: tl.tensor,
    sums: tl.tensor,
    totals: tl.tensor,
    blocks: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Each tensor's three ``sums`` over its blocks, in a fixed order; ``totals`` is 3 x tensors."""
    tensor, tensors = tl.program_id(0), tl.num_programs(0)
    pp, rr, moving = _totals(table, sums, blocks, WIDTH, BLOCK, CHUNK)
    tl.store(totals + tensor, pp)
    tl.store(totals + tensors + tensor, rr)
    tl.store(totals + 2 * tensors + tensor, moving)


@triton.jit(do_not_specialize=["blocks"], do_not_specialize_on_alignment=["lr"])
def alto_ratios(
    table: tl.tensor,
    trust: tl.tensor,
    lr: tl.tensor,
    sums: tl.tensor,
    factors: tl.tensor,
    blocks: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Each tensor's ratio times lr, as ``ratio.step_lengths`` has it. ``trust``: trust_eps, norm_eps, the bounds."""
    pp, rr, moving = _totals(table, sums, blocks, WIDTH, BLOCK, CHUNK)
    w_norm, r_norm = tl.sqrt(pp), tl.sqrt(rr)
    w = w_norm + tl.load(trust + 1)
    ratio = w / (r_norm + tl.load(trust) * w)
    low, high = tl.load(trust + 2), tl.load(trust + 3)
    ratio = tl.where(ratio < low, low, tl.where(ratio > high, high, ratio))
    ratio = tl.where((w_norm == 0) | (r_norm == 0), 1.0, ratio)
    ratio = tl.where((moving == 0) & (ratio > 1), 1.0, ratio)
    tl.store(factors + tl.program_id(0), tl.load(lr) * ratio)


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["factors", "skip"])
def alto_second(
    table: tl.tensor,
    numbers: tl.tensor,
    factors: tl.tensor,
    skip: tl.tensor,
    count: tl.tensor,
    P: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    GAPS: tl.constexpr,
    RANDOM: tl.constexpr,
    STEP: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    CORRECTS: tl.constexpr,
    SKIPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The parameters' step, by ``factors``, from the states that ``alto_first`` stored."""
    record, index, start, size = locate(table, count, 13, BLOCK)
    size = unless_skipped(size, skip, SKIPS)
    offsets = start + tl.arange(0, BLOCK)
    factor = tl.load(factors + index).to(WIDE)
    if is_fast(record, 5, start, size, BLOCK) & (tl.load(record + 11) == 0):
        _second(
            record, offsets, offsets, size, numbers, factor, P, S, WIDE, RANDOM, STEP, KEYS_ON_DEVICE, CORRECTS, True
        )
    else:
        places = memory_offsets(record, offsets, GAPS)
        _second(
            record, offsets, places, size, numbers, factor, P, S, WIDE, RANDOM, STEP, KEYS_ON_DEVICE, CORRECTS, False
        )


@triton.jit
def _second(
    record: tl.tensor,
    offsets: tl.tensor,
    places: tl.tensor,
    size: tl.tensor,
    numbers: tl.tensor,
    factor: tl.tensor,
    P: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    RANDOM: tl.constexpr,
    STEP: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    CORRECTS: tl.constexpr,
    FAST: tl.constexpr,
) -> None:
    k = load_step(record, STEP)
    h0, _ = random_bits(record, offsets, KEYS_ON_DEVICE)
    inside = offsets < size
    p = load_param(record + 2, record + 12, places, inside, P, WIDE, CORRECTS, FAST)
    m = load_values(record + 5, places, inside, S, WIDE, FAST)
    v = load_values(record + 6, places, inside, S, WIDE, FAST)
    r = direction(p, m, tl.sqrt(v), k.to(WIDE), numbers)
    p -= factor * r
    store_param(record + 2, record + 12, places, inside, p, h0 & 0xFFFF, P, RANDOM, CORRECTS, FAST)


@triton.jit(do_not_specialize=["count"])
def explore(
    table: tl.tensor,
    numbers: tl.tensor,
    count: tl.tensor,
    G: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    RANDOM: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """E alone. Record: gradient, s, result, key (with KEYS_ON_DEVICE its address). ``numbers``: c, 1 - beta."""
    record, _, start, size = locate(table, count, 6, BLOCK)
    offsets = start + tl.arange(0, BLOCK)
    if is_fast(record, 3, start, size, BLOCK):
        _explore(record, offsets, size, numbers, G, S, WIDE, RANDOM, KEYS_ON_DEVICE, True)
    else:
        _explore(record, offsets, size, numbers, G, S, WIDE, RANDOM, KEYS_ON_DEVICE, False)


@triton.jit
def _explore(
    record: tl.tensor,
    offsets: tl.tensor,
    size: tl.tensor,
    numbers: tl.tensor,
    G: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    RANDOM: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    FAST: tl.constexpr,
) -> None:
    noise = mix(offsets.to(tl.uint32) + load_key(record + 5, KEYS_ON_DEVICE)) >> 16
    inside = offsets < size
    g = load_values(record + 2, offsets, inside, G, WIDE, FAST)
    s = load_values(record + 3, offsets, inside, S, WIDE, FAST)
    difference = g - s
    store_values(record + 3, offsets, inside, narrow(s + tl.load(numbers + 1) * difference, noise, S, RANDOM), FAST)
    store_values(record + 4, offsets, inside, narrow(g + tl.load(numbers) * difference, noise, G, False), FAST)


@triton.jit(do_not_specialize=["count"])
def square_sum_blocks(
    table: tl.tensor, sums: tl.tensor, count: tl.tensor, T: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Each block's sum of squares. Record: the tensor."""
    record, _, start, size = locate(table, count, 3, BLOCK)
    offsets = start + tl.arange(0, BLOCK)
    if is_fast(record, 1, start, size, BLOCK):
        x = load_values(record + 2, offsets, offsets < size, T, WIDE, True)
        tl.store(sums + tl.program_id(0), tl.sum(x * x, 0))
    else:
        x = load_values(record + 2, offsets, offsets < size, T, WIDE, False)
        tl.store(sums + tl.program_id(0), tl.sum(x * x, 0))


@triton.jit(do_not_specialize=["blocks"])
def square_sum_total(sums: tl.tensor, result: tl.tensor, blocks: tl.tensor, CHUNK: tl.constexpr) -> None:
    """The sum of ``sums``, in a fixed order."""
    tl.store(result, sum_range(sums, 0, blocks, CHUNK))


@triton.jit
def _totals(
    table: tl.tensor, sums: tl.tensor, blocks: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The three ``sums`` of the program's own tensor."""
    record = table + tl.program_id(0) * WIDTH
    first, end = tl.load(record), tl.load(record) + tl.cdiv(tl.load(record + 1), BLOCK)
    return (
        sum_range(sums, first, end, CHUNK),
        sum_range(sums + blocks, first, end, CHUNK),
        sum_range(sums + 2 * blocks, first, end, CHUNK),
    )


INTERPRETED = not isinstance(explore, triton.JITFunction)
