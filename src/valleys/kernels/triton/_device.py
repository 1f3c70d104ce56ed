"""Device functions of the Triton kernels: a program's tensor and elements, loads and stores, rounding, random bits.

``slot`` points to a field of a record; ``places`` are offsets of elements in memory. FAST says that the block is full
and all addresses are aligned.
"""

import triton
import triton.language as tl


@triton.jit
def locate(
    table: tl.tensor, count: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Return the program's tensor (record, index, first element, size) by bisection over the tensors' first blocks."""
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
def is_fast(
    record: tl.tensor, TENSORS: tl.constexpr, start: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr
) -> tl.tensor:
    """Return True for a full block at aligned addresses: one instruction moves 16 bytes, without a mask."""
    addresses = tl.load(record + 2)
    for i in tl.static_range(1, TENSORS):
        addresses |= tl.load(record + 2 + i)
    return (start + BLOCK <= size) & ((addresses & 15) == 0)


@triton.jit
def memory_offsets(record: tl.tensor, offsets: tl.tensor, GAPS: tl.constexpr) -> tl.tensor:
    """Offsets of elements in memory: each behind the gaps of all rows before its own."""
    if GAPS:
        # Only where they are asked for: divisions of 64 bits would double the registers of the whole kernel.
        offsets += offsets // tl.load(record + 10) * tl.load(record + 11)
    return offsets


@triton.jit
def load_values(
    slot: tl.tensor, places: tl.tensor, inside: tl.tensor, T: tl.constexpr, WIDE: tl.constexpr, FAST: tl.constexpr
) -> tl.tensor:
    """Load a tensor's elements in WIDE, zeros past its end."""
    if FAST:
        x = tl.load(tl.multiple_of(tl.load(slot).to(tl.pointer_type(T)), 16) + places)
    else:
        x = tl.load(tl.load(slot).to(tl.pointer_type(T)) + places, mask=inside, other=0.0)
    return x.to(WIDE)


@triton.jit
def store_values(slot: tl.tensor, places: tl.tensor, inside: tl.tensor, x: tl.tensor, FAST: tl.constexpr) -> None:
    if FAST:
        tl.store(tl.multiple_of(tl.load(slot).to(tl.pointer_type(x.dtype)), 16) + places, x)
    else:
        tl.store(tl.load(slot).to(tl.pointer_type(x.dtype)) + places, x, mask=inside)


@triton.jit
def narrow(x: tl.tensor, noise: tl.tensor, T: tl.constexpr, RANDOM: tl.constexpr) -> tl.tensor:
    """Round ``x`` to T, to bfloat16 by the bits of ``noise`` with RANDOM; see ``rounding.round_to_bfloat16``."""
    if tl.bfloat16 == T:
        pattern = x.to(tl.float32).to(tl.uint32, bitcast=True)
        if not RANDOM:
            noise = 0x7FFF + ((pattern >> 16) & 1)
        # In integers, for Triton's interpreter has the conversion wrong. Noise would make numbers of infinity and NaN.
        pattern = tl.where((pattern & 0x7F800000) == 0x7F800000, pattern, pattern + noise)
        x = (pattern >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(T)


@triton.jit
def load_param(
    slot: tl.tensor,
    correction: tl.tensor,
    places: tl.tensor,
    inside: tl.tensor,
    P: tl.constexpr,
    WIDE: tl.constexpr,
    CORRECTS: tl.constexpr,
    FAST: tl.constexpr,
) -> tl.tensor:
    """Load a parameter; with CORRECTS the 24 bits of ``reference.split``."""
    if CORRECTS:
        high = load_values(slot, places, inside, tl.uint16, tl.int32, FAST)
        magnitude = ((high & 0x7FFF) << 8) + load_values(correction, places, inside, tl.int8, tl.int32, False)
        p = ((magnitude << 8) | ((high & 0x8000) << 16)).to(tl.float32, bitcast=True)
    else:
        p = load_values(slot, places, inside, P, WIDE, FAST)
    return p


@triton.jit
def store_param(
    slot: tl.tensor,
    correction: tl.tensor,
    places: tl.tensor,
    inside: tl.tensor,
    p: tl.tensor,
    noise: tl.tensor,
    P: tl.constexpr,
    RANDOM: tl.constexpr,
    CORRECTS: tl.constexpr,
    FAST: tl.constexpr,
) -> None:
    """Round and store a parameter; with CORRECTS to 24 bits, by the low 8 bits of ``noise``."""
    if CORRECTS:
        pattern = p.to(tl.uint32, bitcast=True)
        magnitude = pattern & 0x7FFFFFFF
        up = noise & 0xFF if RANDOM else 0x7F + ((magnitude >> 8) & 1)
        bits = tl.where(magnitude > 0x7F800000, 0x7FC000, (magnitude + up) >> 8)
        high = (bits + 0x80) >> 8
        store_values(slot, places, inside, (high | ((pattern >> 16) & 0x8000)).to(tl.uint16), FAST)
        store_values(correction, places, inside, (bits.to(tl.int32) - (high << 8).to(tl.int32)).to(tl.int8), False)
    else:
        store_values(slot, places, inside, narrow(p, noise, P, RANDOM), FAST)


@triton.jit
def random_bits(record: tl.tensor, offsets: tl.tensor, KEYS_ON_DEVICE: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """h_0 and h_1 of ``rounding``; the compiler drops them where nothing is rounded by them."""
    key = load_key(record + 8, KEYS_ON_DEVICE) + tl.load(record + 9).to(tl.uint32)
    h0 = mix(offsets.to(tl.uint32) + key)
    return h0, mix(h0 + 0x9E3779B9)


@triton.jit
def load_key(slot: tl.tensor, ON_DEVICE: tl.constexpr) -> tl.tensor:
    """Load the key of a tensor's random bits; ``slot`` is the key or, ON_DEVICE, its address."""
    key = tl.load(slot)
    if ON_DEVICE:
        key = tl.load(key.to(tl.pointer_type(tl.int32)))
    return key.to(tl.uint32)


@triton.jit
def unless_skipped(size: tl.tensor, skip: tl.tensor, SKIPS: tl.constexpr) -> tl.tensor:
    """Return a tensor's size, or 0 where ``skip`` is not zero."""
    if SKIPS:
        size = tl.where(tl.load(skip) != 0, size * 0, size)
    return size


@triton.jit
def mix(x: tl.tensor) -> tl.tensor:
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def load_step(record: tl.tensor, STEP: tl.constexpr) -> tl.tensor:
    """The number k of the step, an int64; STEP is the dtype of steps on the device, or None."""
    k = tl.load(record + 7)
    if STEP is not None:
        k = tl.load(k.to(tl.pointer_type(STEP))).to(tl.int64)
    return k


@triton.jit
def sum_range(sums: tl.tensor, begin: tl.tensor, end: tl.tensor, CHUNK: tl.constexpr) -> tl.tensor:
    """The sum of ``sums`` from ``begin`` to ``end`` in float64: they may be many."""
    lanes = tl.arange(0, CHUNK)
    total = tl.zeros([CHUNK], tl.float64)
    for start in range(begin, end, CHUNK):
        total += tl.load(sums + start + lanes, mask=start + lanes < end, other=0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def direction(p: tl.tensor, m: tl.tensor, root: tl.tensor, k: tl.tensor, numbers: tl.tensor) -> tl.tensor:
    """Direction r of Alg. 2 from the stored first moment and the root of the second: both passes see the same."""
    m = m / one_minus_exp(k * tl.load(numbers + 9))
    # The root first: v by its correction may overflow where its root does not.
    root = root / tl.sqrt(one_minus_exp(k * tl.load(numbers + 10)))
    return m / (root + tl.load(numbers + 7)) + tl.load(numbers + 8) * p


@triton.jit
def one_minus_exp(x: tl.tensor) -> tl.tensor:
    """1 - e^x for x <= 0, by its series where the difference would cancel: 1 - beta^k for x = k log(beta)."""
    series = 1 + x * (1 / 14)
    for n in tl.static_range(12):
        series = 1 + x * (1 / (13 - n)) * series
    return tl.where(x > -0.25, -x * series, 1 - tl.exp(x))
