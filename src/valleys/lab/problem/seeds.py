"""Random numbers that are a run's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


def mixed(*numbers: int) -> int:
    """Return a seed of 32 bits, for each list of numbers below 2^63 another one but for a chance of 1 in 4 billion.

    All bits count, while torch's generator on the CPU reads the lowest 32 bits of a seed alone.

    Example:
        >>> mixed(0, 1) == mixed(1, 0), mixed(2**40, 1) == mixed(0, 1)
        (False, False)
    """
    packed = b"".join(number.to_bytes(8, "little") for number in numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=4).digest(), "little")


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators in use, the device's and the CPU's; put them and cuDNN's switches back afterwards.

    Example:
        >>> state = torch.get_rng_state()
        >>> with seeded(torch.device("cpu"), 0):
        ...     _ = torch.rand(3)
        >>> torch.equal(torch.get_rng_state(), state)
        True
    """
    cuda = device.type == "cuda"
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.cuda.device(device) if cuda else nullcontext(), torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        if cuda:
            torch.cuda.manual_seed(seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
