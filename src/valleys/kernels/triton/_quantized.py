"""The Triton kernels for states in 8 bits: a program works on whole blocks of 256 elements of one tensor.

A record is that of ``alto_first``, but with a size of 256 for each block and, behind the gap, the addresses of the
scales of s, m and v, the distance between their rows, and the
correction. The code is ``quantization``'s, bit for bit.
"""

import triton
import triton.language as tl

from valleys.kernels.triton._device import (
    direction,
    load_key,
    load_param,
    load_step,
    locate,
    mix,
    narrow,
    store_param,
    unless_skipped,
)


@triton.jit
def _tile(
    length: tl.tensor, stride: tl.tensor, start: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The program's blocks: which exist, their first elements' numbers; elements' offsets in memory, which exist."""
    blocks = start // 256 + tl.arange(0, BLOCK // 256)
    per_row = (length + 255) // 256
    row, column = blocks // per_row, blocks % per_row
    places = tl.arange(0, 256)[None, :] + (column * 256)[:, None]
    present = blocks * 256 < size
    inside = present[:, None] & (places < length)
    return row, column, present, inside, places + (row * stride)[:, None], row * length + column * 256


@triton.jit
def _load(slot: tl.tensor, places: tl.tensor, inside: tl.tensor, T: tl.constexpr) -> tl.tensor:
    return tl.load(tl.load(slot).to(tl.pointer_type(T)) + places, mask=inside, other=0)


@triton.jit
def _store(slot: tl.tensor, places: tl.tensor, inside: tl.tensor, x: tl.tensor) -> None:
    tl.store(tl.load(slot).to(tl.pointer_type(x.dtype)) + places, x, mask=inside)


@triton.jit
def _values(
    codes: tl.tensor,
    scales: tl.tensor,
    places: tl.tensor,
    inside: tl.tensor,
    of_scale: tl.tensor,
    present: tl.tensor,
    T: tl.constexpr,
    WIDE: tl.constexpr,
) -> tl.tensor:
    """Values that codes stand for: s, the root of v, and that of m with its sign."""
    scale = _load(scales, of_scale, present, tl.float32).to(WIDE)
    return _load(codes, places, inside, T).to(WIDE) * scale[:, None]


@triton.jit
def _store_state(
    codes: tl.tensor,
    scales: tl.tensor,
    places: tl.tensor,
    inside: tl.tensor,
    of_scale: tl.tensor,
    present: tl.tensor,
    code: tl.tensor,
    scale: tl.tensor,
) -> None:
    _store(codes, places, inside, code)
    _store(scales, of_scale, present, scale)


@triton.jit
def _scales(x: tl.tensor, CODES: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Each block's scale, what its values are multiplied by, and the values, zeros where one is not finite."""
    # Integers: the largest of floats would pass over NaN.
    pattern = tl.max((x.to(tl.int32, bitcast=True) & 0x7FFFFFFF), 1)
    finite = pattern < 0x7F800000
    largest = pattern.to(tl.float32, bitcast=True)
    empty = largest < 1e-30
    codes = tl.full(largest.shape, CODES, tl.float32)
    scale = tl.where(finite, tl.where(empty, 0.0, tl.div_rn(largest, codes)), float("nan"))
    inverse = tl.where(empty | (pattern >= 0x7F800000), 0.0, tl.div_rn(codes, largest))
    return scale, inverse, tl.where(finite[:, None], x, 0.0)


@triton.jit
def _noise(bits: tl.tensor) -> tl.tensor:
    """A number in (1, 2) from 10 of the bits."""
    return ((bits & 0x7FE000) | 0x3F801000).to(tl.float32, bitcast=True)


@triton.jit
def _signed_codes(x: tl.tensor, bits: tl.tensor, RANDOM: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The codes of s, float32, and the scales; ``bits`` hold the random ones of the state in place."""
    scale, inverse, x = _scales(x, 127.0)
    y = x * inverse[:, None]
    if RANDOM:
        y = y + (_noise(bits) - 1.5)
    return (y + 12582912.0) - 12582912.0, scale


@triton.jit
def _root_codes(
    root: tl.tensor, bits: tl.tensor, CODES: tl.constexpr, RANDOM: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The codes of roots, and the scales."""
    scale, inverse, root = _scales(root, CODES)
    y = root * inverse[:, None]
    if RANDOM:
        c = tl.floor(y)
        code = tl.where((y - c) * (y + c) > (_noise(bits) - 1) * (c + c + 1), c + 1, c)
    else:
        code = (y + 12582912.0) - 12582912.0
    return code, scale


@triton.jit
def _bits(numbers: tl.tensor, key: tl.tensor) -> tl.tensor:
    """The random bits of each element of blocks, of whose first elements these are the numbers."""
    words = mix(numbers.to(tl.uint32) + key)
    places = mix(tl.arange(0, 256).to(tl.uint32))
    return (places[None, :] ^ words[:, None]) * 0x9E3779B1


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["lr", "clip", "skip"])
def quantized_first(
    table: tl.tensor,
    numbers: tl.tensor,
    lr: tl.tensor,
    clip: tl.tensor,
    skip: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    P: tl.constexpr,
    G: tl.constexpr,
    WIDE: tl.constexpr,
    EXPLORES: tl.constexpr,
    MEASURE: tl.constexpr,
    RANDOM: tl.constexpr,
    STEP: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    CORRECTS: tl.constexpr,
    SKIPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The states' step; then each program's sums or, without MEASURE, the parameter's step. See ``alto_first``."""
    record, _, start, size = locate(table, count, 17, BLOCK)
    size = unless_skipped(size, skip, SKIPS)
    length = tl.load(record + 10)
    row, column, present, inside, places, first = _tile(length, length + tl.load(record + 11), start, size, BLOCK)
    of_scale = row * tl.load(record + 15) + column
    key = load_key(record + 8, KEYS_ON_DEVICE) + tl.load(record + 9).to(tl.uint32)
    bits = _bits(first, key)
    p = load_param(record + 2, record + 16, places, inside, P, WIDE, CORRECTS, False)
    raw = _load(record + 3, places, inside, G).to(WIDE)
    g = raw * tl.load(clip).to(WIDE) * tl.load(numbers)
    for_m, for_v = g, g
    if EXPLORES:
        s = _values(record + 4, record + 12, places, inside, of_scale, present, tl.int8, WIDE)
        difference = g - s
        for_m = g + tl.load(numbers + 1) * difference
        for_v = g + tl.load(numbers + 2) * difference
        code, scale = _signed_codes((s + tl.load(numbers + 3) * difference).to(tl.float32), bits << 1, RANDOM)
        _store_state(record + 4, record + 12, places, inside, of_scale, present, code.to(tl.int8), scale)
    m = _values(record + 5, record + 13, places, inside, of_scale, present, tl.int8, WIDE)
    m = m * tl.abs(m)
    m = (m + tl.load(numbers + 4) * (for_m - m)).to(tl.float32)
    code, scale = _root_codes(tl.sqrt_rn(tl.abs(m)), bits >> 9, 127.0, RANDOM)
    code = tl.where(m < 0, -code, code)
    _store_state(record + 5, record + 13, places, inside, of_scale, present, code.to(tl.int8), scale)
    m = code.to(WIDE) * scale.to(WIDE)[:, None]
    root = _values(record + 6, record + 14, places, inside, of_scale, present, tl.uint8, WIDE)
    v = (tl.load(numbers + 5) * (root * root) + tl.load(numbers + 6) * for_v * for_v).to(tl.float32)
    root, scale = _root_codes(tl.sqrt_rn(v), bits << 11, 255.0, RANDOM)
    root = tl.where(root < 1, 1.0, root)
    _store_state(record + 6, record + 14, places, inside, of_scale, present, root.to(tl.uint8), scale)
    r = direction(p, m * tl.abs(m), root.to(WIDE) * scale.to(WIDE)[:, None], load_step(record, STEP).to(WIDE), numbers)
    if MEASURE:
        r = tl.where(inside, r, 0.0)
        block, blocks = tl.program_id(0), tl.num_programs(0)
        tl.store(sums + block, tl.sum(tl.sum(p * p, 1), 0))
        tl.store(sums + blocks + block, tl.sum(tl.sum(r * r, 1), 0))
        moving = (raw != 0).to(tl.int32)
        tl.store(sums + 2 * blocks + block, tl.sum(tl.sum(moving, 1), 0).to(WIDE))
    else:
        _move(record, places, inside, p - tl.load(lr).to(WIDE) * r, first, key, P, RANDOM, CORRECTS)


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["factors", "skip"])
def quantized_second(
    table: tl.tensor,
    numbers: tl.tensor,
    factors: tl.tensor,
    skip: tl.tensor,
    count: tl.tensor,
    P: tl.constexpr,
    WIDE: tl.constexpr,
    RANDOM: tl.constexpr,
    STEP: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    CORRECTS: tl.constexpr,
    SKIPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The parameters' step, by ``factors``, from the states that ``quantized_first`` stored."""
    record, index, start, size = locate(table, count, 17, BLOCK)
    size = unless_skipped(size, skip, SKIPS)
    length = tl.load(record + 10)
    row, column, present, inside, places, first = _tile(length, length + tl.load(record + 11), start, size, BLOCK)
    of_scale = row * tl.load(record + 15) + column
    key = load_key(record + 8, KEYS_ON_DEVICE) + tl.load(record + 9).to(tl.uint32)
    p = load_param(record + 2, record + 16, places, inside, P, WIDE, CORRECTS, False)
    m = _values(record + 5, record + 13, places, inside, of_scale, present, tl.int8, WIDE)
    root = _values(record + 6, record + 14, places, inside, of_scale, present, tl.uint8, WIDE)
    r = direction(p, m * tl.abs(m), root, load_step(record, STEP).to(WIDE), numbers)
    _move(record, places, inside, p - tl.load(factors + index).to(WIDE) * r, first, key, P, RANDOM, CORRECTS)


@triton.jit
def _move(
    record: tl.tensor,
    places: tl.tensor,
    inside: tl.tensor,
    p: tl.tensor,
    first: tl.tensor,
    key: tl.tensor,
    P: tl.constexpr,
    RANDOM: tl.constexpr,
    CORRECTS: tl.constexpr,
) -> None:
    """Store the parameter, rounded by the random bits of ``rounding``."""
    offsets = first.to(tl.uint32)[:, None] + tl.arange(0, 256).to(tl.uint32)[None, :]
    noise = mix(offsets + key) & 0xFFFF
    store_param(record + 2, record + 16, places, inside, p, noise, P, RANDOM, CORRECTS, False)


@triton.jit(do_not_specialize=["count"])
def quantized_explore(
    table: tl.tensor,
    numbers: tl.tensor,
    count: tl.tensor,
    G: tl.constexpr,
    WIDE: tl.constexpr,
    RANDOM: tl.constexpr,
    KEYS_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """E alone. Record: gradient, codes, result, key, length of a row, scales. ``numbers``: c, 1 - beta."""
    record, _, start, size = locate(table, count, 8, BLOCK)
    length = tl.load(record + 6)
    row, column, present, inside, places, first = _tile(length, length, start, size, BLOCK)
    of_scale = row * ((length + 255) // 256) + column
    g = _load(record + 2, places, inside, G).to(WIDE)
    s = _values(record + 3, record + 7, places, inside, of_scale, present, tl.int8, WIDE)
    difference = g - s
    bits = _bits(first, load_key(record + 5, KEYS_ON_DEVICE))
    code, scale = _signed_codes((s + tl.load(numbers + 1) * difference).to(tl.float32), bits << 1, RANDOM)
    _store_state(record + 3, record + 7, places, inside, of_scale, present, code.to(tl.int8), scale)
    _store(record + 4, places, inside, narrow(g + tl.load(numbers) * difference, mix(bits), G, False))
