"""The demonstration: two small comparisons at large batch, a few minutes on two cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from valleys.lab.compare import Comparison, compare

__all__ = ["OPTIMIZERS", "STAGES", "Stage", "run"]

OPTIMIZERS = ("sgd", "adamw", "lamb", "alto")


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


STAGES = (Stage("digits", 1024, 8, 5), Stage("sine", 16384, 8, 5))


def run(out: Path | str, progress: bool | None = None) -> Iterator[Comparison]:
    """Run the stages one after the other; those finished before are read from their folders.

    Args:
        out: folder that gets one folder per task.
        progress: whether to show a progress bar on stderr; default: where it is a terminal.

    Yields:
        Each comparison as it finishes.
    """
    for stage in STAGES:
        yield compare(
            stage.task,
            OPTIMIZERS,
            batch_size=stage.batch_size,
            trials=stage.trials,
            seeds=stage.seeds,
            epochs=stage.epochs,
            out=Path(out) / stage.task,
            progress=progress,
        )
