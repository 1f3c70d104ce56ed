"""Random numbers that are a run's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators in use and no others; put them and cuDNN's switches back afterwards.

    Args:
        device: where the work is done; its generator and the CPU's are seeded.
        seed: from 0 to 2^63 - 1.

    Yields:
        Nothing.

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
