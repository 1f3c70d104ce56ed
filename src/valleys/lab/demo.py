"""The demonstration: two small comparisons at large batch, a few minutes on two cores, of which one is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from valleys.lab.compare import Comparison, compare

__all__ = ["OPTIMIZERS", "STAGES", "Stage", "run"]

OPTIMIZERS = ("sgd", "adamw", "lamb", "alto")
"""What ``make demo`` compares."""


@dataclass(frozen=True)
class Stage:
    """One comparison of the demonstration.

    Args:
        task: its name.
        batch_size: examples per step.
        trials: tuning trials per optimizer.
        seeds: fresh seeds per optimizer.
        epochs: length of a run; None: the task's own.
    """

    task: str
    batch_size: int
    trials: int
    seeds: int
    epochs: int | None = None


STAGES = (Stage("digits", 1024, 8, 5), Stage("sine", 16384, 6, 5))
"""The comparisons of ``make demo``."""


def run(out: Path | str, progress: bool | None = None) -> Iterator[Comparison]:
    """Run the stages one after the other; those finished before are read from their folders.

    Args:
        out: folder that gets one folder per task.
        progress: whether to show a progress bar on stderr; default: where it is a terminal.

    Yields:
        Each comparison as it finishes.
    """
    for stage in STAGES:
        with _one_thread():
            comparison = compare(
                stage.task,
                OPTIMIZERS,
                batch_size=stage.batch_size,
                trials=stage.trials,
                seeds=stage.seeds,
                epochs=stage.epochs,
                out=Path(out) / stage.task,
                progress=progress,
            )
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
