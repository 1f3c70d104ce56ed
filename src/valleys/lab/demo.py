"""The demonstration: two questions about optimizers at large batch, answered in a few minutes on one core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from valleys.lab.comparison import Comparison, compare
from valleys.lab.config import ComparisonConfig
from valleys.lab.progress import Announce

__all__ = ["STAGES", "run"]

STAGES = {
    "digits": ComparisonConfig(batch_size=1024, epochs=40, optimizers=("adamw", "lamb", "alto"), rounds=5, trials=5),
    "sine": ComparisonConfig(
        batch_size=4096, epochs=50, optimizers=("adamw", "lamb"), rounds=5, trials=5, pairs=("adamw:lamb",)
    ),
}
"""The comparisons of ``make demo``, by task: is ALTO better than LAMB, and is AdamW?"""


def run(out: Path | str, progress: bool | None = None, announce: Announce | None = None) -> Iterator[Comparison]:
    """Run the stages one after the other; those finished before are read from their folders.

    Args:
        out: folder that gets one folder per task.
        progress: see ``compare``.
        announce: see ``compare``.

    Yields:
        Each comparison as it finishes.
    """
    for task, config in STAGES.items():
        with _one_thread():
            comparison = compare(task, config, out=Path(out) / task, progress=progress, announce=announce)
        yield comparison


@contextmanager
def _one_thread() -> Iterator[None]:
    # A second thread would save a third of the time on an idle machine. Where other programs keep the cores busy,
    # OpenMP's threads wait for each other, and a step of these small models takes up to a hundred times longer.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
