"""The Triton kernels behind ``triton``: each is one launch for all tensors.

A program works on one block of one tensor. ``table`` has a record of int64 per tensor: the number of its first block,
its size, then the addresses and integers that the kernel's docstring lists. ``numbers`` are the factors of the
equations in the dtype of the arithmetic; no value of theirs is compiled in.
"""

import torch
import triton
import triton.language as tl

__all__ = [
    "DTYPES",
    "INTERPRETED",
    "alto_first",
    "alto_ratios",
    "alto_second",
    "alto_totals",
    "explore",
    "square_sum_blocks",
    "square_sum_total",
]

DTYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


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
    SKIPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The states' step; then each block's sums for its tensor's ratio or, without MEASURE, the parameter's step.

    Record: parameter, gradient, s, m, v, step (with STEP, the dtype, its address), key of the random bits (with
    KEYS_ON_DEVICE its address), number of the first element's random bits, length of a row, gap between rows (0 without
    GAPS). With SKIPS and ``skip`` not zero nothing is stored. ``numbers``: -1 to maximise or 1, c for m, c for v,
    1 - beta1, 1 - beta2, beta3, 1 - beta3, eps, weight_decay, log beta2, log beta3.
    ``sums`` is 3 x blocks: squares of p, squares of r, how many gradients are not zero.
    """
    record, _, start, size = _locate(table, count, 12, BLOCK)
    size = _unless_skipped(size, skip, SKIPS)
    offsets = start + tl.arange(0, BLOCK)
    if _is_fast(record, 5, start, size, BLOCK) & (tl.load(record + 11) == 0):
        _first(
            record, offsets, offsets, size, numbers, lr, clip, sums,
            P, G, S, WIDE, EXPLORES, MEASURE, RANDOM, STEP, KEYS_ON_DEVICE, True,
        )  # fmt: skip
    else:
        _first(
            record, offsets, _places(record, offsets, GAPS), size, numbers, lr, clip, sums,
            P, G, S, WIDE, EXPLORES, MEASURE, RANDOM, STEP, KEYS_ON_DEVICE, False,
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
    FAST: tl.constexpr,
) -> None:
    k = _step(record, STEP)
    h0, h1 = _bits(record, offsets, KEYS_ON_DEVICE)
    inside = offsets < size
    p = _load(record + 2, places, inside, P, WIDE, FAST)
    raw = _load(record + 3, places, inside, G, WIDE, FAST)
    # Not g, which a clip may have made zero; as integers here, for fewer registers than raw itself until the end.
    moving = (raw != 0).to(tl.int32)
    g = raw * tl.load(clip).to(WIDE) * tl.load(numbers)
    for_m, for_v = g, g
    if EXPLORES:
        s = _load(record + 4, places, inside, S, WIDE, FAST)
        difference = g - s
        for_m = g + tl.load(numbers + 1) * difference
        for_v = g + tl.load(numbers + 2) * difference
        s = _narrow(s + tl.load(numbers + 3) * difference, h0 >> 16, S, RANDOM)
        _store(record + 4, places, inside, s, FAST)
    m = _load(record + 5, places, inside, S, WIDE, FAST)
    m = _narrow(m + tl.load(numbers + 4) * (for_m - m), h1 & 0xFFFF, S, RANDOM)
    _store(record + 5, places, inside, m, FAST)
    v = _load(record + 6, places, inside, S, WIDE, FAST)
    v = _narrow(tl.load(numbers + 5) * v + tl.load(numbers + 6) * for_v * for_v, h1 >> 16, S, RANDOM)
    _store(record + 6, places, inside, v, FAST)
    r = _direction(p, m.to(WIDE), v.to(WIDE), k.to(WIDE), numbers)
    if MEASURE:
        if not FAST:
            # Past the end it is 0 / 0 if eps is 0.
            r = tl.where(inside, r, 0.0)
        block, blocks = tl.program_id(0), tl.num_programs(0)
        tl.store(sums + block, tl.sum(p * p, 0))
        tl.store(sums + blocks + block, tl.sum(r * r, 0))
        tl.store(sums + 2 * blocks + block, tl.sum(moving, 0).to(WIDE))
    else:
        p = _narrow(p - tl.load(lr).to(WIDE) * r, h0 & 0xFFFF, P, RANDOM)
        _store(record + 2, places, inside, p, FAST)


@triton.jit(do_not_specialize=["blocks"], do_not_specialize_on_alignment=["totals"])
def alto_totals(
    table: tl.tensor,
    sums: tl.tensor,
    totals: tl.tensor,
    blocks: tl.tensor,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Each tensor's three ``sums`` over its blocks, in a fixed order; ``totals`` is 3 x tensors."""
    tensor, tensors = tl.program_id(0), tl.num_programs(0)
    pp, rr, moving = _totals(table, sums, blocks, BLOCK, CHUNK)
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
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Each tensor's ratio times lr, as ``ratio.step_lengths`` has it. ``trust``: trust_eps, norm_eps, the bounds."""
    pp, rr, moving = _totals(table, sums, blocks, BLOCK, CHUNK)
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
    SKIPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The parameters' step, by ``factors``, from the states that ``alto_first`` stored."""
    record, index, start, size = _locate(table, count, 12, BLOCK)
    size = _unless_skipped(size, skip, SKIPS)
    offsets = start + tl.arange(0, BLOCK)
    factor = tl.load(factors + index).to(WIDE)
    if _is_fast(record, 5, start, size, BLOCK) & (tl.load(record + 11) == 0):
        _second(record, offsets, offsets, size, numbers, factor, P, S, WIDE, RANDOM, STEP, KEYS_ON_DEVICE, True)
    else:
        places = _places(record, offsets, GAPS)
        _second(record, offsets, places, size, numbers, factor, P, S, WIDE, RANDOM, STEP, KEYS_ON_DEVICE, False)


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
    FAST: tl.constexpr,
) -> None:
    k = _step(record, STEP)
    h0, _ = _bits(record, offsets, KEYS_ON_DEVICE)
    inside = offsets < size
    p = _load(record + 2, places, inside, P, WIDE, FAST)
    m = _load(record + 5, places, inside, S, WIDE, FAST)
    v = _load(record + 6, places, inside, S, WIDE, FAST)
    r = _direction(p, m, v, k.to(WIDE), numbers)
    _store(record + 2, places, inside, _narrow(p - factor * r, h0 & 0xFFFF, P, RANDOM), FAST)


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
    record, _, start, size = _locate(table, count, 6, BLOCK)
    offsets = start + tl.arange(0, BLOCK)
    if _is_fast(record, 3, start, size, BLOCK):
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
    noise = _mix(offsets.to(tl.uint32) + _key(record + 5, KEYS_ON_DEVICE)) >> 16
    inside = offsets < size
    g = _load(record + 2, offsets, inside, G, WIDE, FAST)
    s = _load(record + 3, offsets, inside, S, WIDE, FAST)
    difference = g - s
    _store(record + 3, offsets, inside, _narrow(s + tl.load(numbers + 1) * difference, noise, S, RANDOM), FAST)
    _store(record + 4, offsets, inside, _narrow(g + tl.load(numbers) * difference, noise, G, False), FAST)


@triton.jit(do_not_specialize=["count"])
def square_sum_blocks(
    table: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    T: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Each block's sum of squares. Record: the tensor."""
    record, _, start, size = _locate(table, count, 3, BLOCK)
    offsets = start + tl.arange(0, BLOCK)
    if _is_fast(record, 1, start, size, BLOCK):
        x = _load(record + 2, offsets, offsets < size, T, WIDE, True)
        tl.store(sums + tl.program_id(0), tl.sum(x * x, 0))
    else:
        x = _load(record + 2, offsets, offsets < size, T, WIDE, False)
        tl.store(sums + tl.program_id(0), tl.sum(x * x, 0))


@triton.jit(do_not_specialize=["blocks"])
def square_sum_total(sums: tl.tensor, result: tl.tensor, blocks: tl.tensor, CHUNK: tl.constexpr) -> None:
    """The sum of ``sums``, in a fixed order."""
    tl.store(result, _total(sums, 0, blocks, CHUNK))


@triton.jit
def _locate(
    table: tl.tensor, count: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """This program's tensor, by bisection over the tensors' first blocks: its record, index, first element, size."""
    block = tl.program_id(0)
    index = block * 0
    end = index + count
    while end - index > 1:
        middle = (index + end) // 2
        after = tl.load(table + middle * WIDTH) > block
        end = tl.where(after, middle, end)
        index = tl.where(after, index, middle)
    record = table + index * WIDTH
    return record, index, (block - tl.load(record)) * BLOCK, tl.load(record + 1)


@triton.jit
def _is_fast(
    record: tl.tensor, TENSORS: tl.constexpr, start: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr
) -> tl.tensor:
    """Whether the block is full and all addresses are aligned: then an instruction moves 16 bytes, without a mask."""
    addresses = tl.load(record + 2)
    for i in tl.static_range(1, TENSORS):
        addresses |= tl.load(record + 2 + i)
    return (start + BLOCK <= size) & ((addresses & 15) == 0)


@triton.jit
def _places(record: tl.tensor, offsets: tl.tensor, GAPS: tl.constexpr) -> tl.tensor:
    """Where elements lie in memory: each behind the gaps of all rows before its own."""
    if GAPS:
        # Only where they are asked for: divisions of 64 bits would double the registers of the whole kernel.
        offsets += offsets // tl.load(record + 10) * tl.load(record + 11)
    return offsets


@triton.jit
def _load(
    slot: tl.tensor,
    places: tl.tensor,
    inside: tl.tensor,
    T: tl.constexpr,
    WIDE: tl.constexpr,
    FAST: tl.constexpr,
) -> tl.tensor:
    """A tensor's elements in WIDE, zeros past its end; ``slot`` holds its address."""
    if FAST:
        x = tl.load(tl.multiple_of(tl.load(slot).to(tl.pointer_type(T)), 16) + places)
    else:
        x = tl.load(tl.load(slot).to(tl.pointer_type(T)) + places, mask=inside, other=0.0)
    return x.to(WIDE)


@triton.jit
def _store(slot: tl.tensor, places: tl.tensor, inside: tl.tensor, x: tl.tensor, FAST: tl.constexpr) -> None:
    if FAST:
        tl.store(tl.multiple_of(tl.load(slot).to(tl.pointer_type(x.dtype)), 16) + places, x)
    else:
        tl.store(tl.load(slot).to(tl.pointer_type(x.dtype)) + places, x, mask=inside)


@triton.jit
def _narrow(x: tl.tensor, noise: tl.tensor, T: tl.constexpr, RANDOM: tl.constexpr) -> tl.tensor:
    """``x`` rounded to T, to bfloat16 by the given bits with RANDOM; see ``rounding.round_to_bfloat16``."""
    if tl.bfloat16 == T:
        pattern = x.to(tl.float32).to(tl.uint32, bitcast=True)
        if not RANDOM:
            noise = 0x7FFF + ((pattern >> 16) & 1)
        # In integers, for Triton's interpreter has the conversion wrong. Noise would make numbers of infinity and NaN.
        pattern = tl.where((pattern & 0x7F800000) == 0x7F800000, pattern, pattern + noise)
        x = (pattern >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(T)


@triton.jit
def _bits(record: tl.tensor, offsets: tl.tensor, KEYS_ON_DEVICE: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """h_0 and h_1 of ``rounding``; the compiler drops them where nothing is rounded by them."""
    key = _key(record + 8, KEYS_ON_DEVICE) + tl.load(record + 9).to(tl.uint32)
    h0 = _mix(offsets.to(tl.uint32) + key)
    return h0, _mix(h0 + 0x9E3779B9)


@triton.jit
def _key(slot: tl.tensor, ON_DEVICE: tl.constexpr) -> tl.tensor:
    """The key of a tensor's random bits; ``slot`` holds it or, ON_DEVICE, its address."""
    key = tl.load(slot)
    if ON_DEVICE:
        key = tl.load(key.to(tl.pointer_type(tl.int32)))
    return key.to(tl.uint32)


@triton.jit
def _unless_skipped(size: tl.tensor, skip: tl.tensor, SKIPS: tl.constexpr) -> tl.tensor:
    """A tensor's size, or 0 where the step is to leave it as it is."""
    if SKIPS:
        size = tl.where(tl.load(skip) != 0, size * 0, size)
    return size


@triton.jit
def _mix(x: tl.tensor) -> tl.tensor:
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _step(record: tl.tensor, STEP: tl.constexpr) -> tl.tensor:
    """The number k of the step, an int64; STEP is the dtype of steps on the device, or None."""
    k = tl.load(record + 7)
    if STEP is not None:
        k = tl.load(k.to(tl.pointer_type(STEP))).to(tl.int64)
    return k


@triton.jit
def _direction(p: tl.tensor, m: tl.tensor, v: tl.tensor, k: tl.tensor, numbers: tl.tensor) -> tl.tensor:
    """Direction r of Alg. 2, from the stored moments, so that both passes see the same."""
    m = m / _one_minus_exp(k * tl.load(numbers + 9))
    # The root first: v by its correction may overflow where its root does not.
    root = tl.sqrt(v) / tl.sqrt(_one_minus_exp(k * tl.load(numbers + 10)))
    return m / (root + tl.load(numbers + 7)) + tl.load(numbers + 8) * p


@triton.jit
def _one_minus_exp(x: tl.tensor) -> tl.tensor:
    """1 - e^x for x <= 0, by its series where the difference would cancel: 1 - beta^k for x = k log(beta)."""
    series = 1 + x * (1 / 14)
    for n in tl.static_range(12):
        series = 1 + x * (1 / (13 - n)) * series
    return tl.where(x > -0.25, -x * series, 1 - tl.exp(x))


@triton.jit
def _totals(
    table: tl.tensor, sums: tl.tensor, blocks: tl.tensor, BLOCK: tl.constexpr, CHUNK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The three ``sums`` of the program's own tensor."""
    record = table + tl.program_id(0) * 12
    first, end = tl.load(record), tl.load(record) + tl.cdiv(tl.load(record + 1), BLOCK)
    return (
        _total(sums, first, end, CHUNK),
        _total(sums + blocks, first, end, CHUNK),
        _total(sums + 2 * blocks, first, end, CHUNK),
    )


@triton.jit
def _total(sums: tl.tensor, begin: tl.tensor, end: tl.tensor, CHUNK: tl.constexpr) -> tl.tensor:
    """The sum of ``sums`` from ``begin`` to ``end`` in float64: they may be many."""
    lanes = tl.arange(0, CHUNK)
    total = tl.zeros([CHUNK], tl.float64)
    for start in range(begin, end, CHUNK):
        total += tl.load(sums + start + lanes, mask=start + lanes < end, other=0.0).to(tl.float64)
    return tl.sum(total, 0)


INTERPRETED = not isinstance(_mix, triton.JITFunction)
