"""Tasks: data that is split once, a model, a loss, and a metric with a target fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from valleys.lab.errors import LabError, shortened, typed
from valleys.lab.problem.data import Batch, Split, Stream
from valleys.lab.problem.schedules import Schedule

__all__ = ["Problem", "Split", "Stream", "Task"]

MICRO_BATCH = 4096
"""Examples per forward pass and rank unless a task or the user says otherwise; larger batches are accumulated."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Fields of every training problem, whoever's loop trains it.

    Args:
        name: what the command line calls it.
        metric_name: the metric's name in tables, with its unit.
        maximize: whether a larger metric is better.
        target: the validation metric whose first crossing is timed; chosen before looking at any result.
        epochs: the default length of one run, at least 1.
        batch_size: examples per optimizer step unless the user says otherwise; None: the user must.
        scale: on which the metric's differences are judged and drawn, "linear" or "log", where a difference is a
            ratio. Default: "log" for a metric that is minimized (a loss, an error: positive), else "linear".
        resolution: the smallest difference of the test metric that can be: one example's worth of an accuracy, 0 for
            a continuous metric. Default: None; of a ``Task`` it is then measured on single examples.
        variant: the preset and whatever else tells this problem from another of the same name.
    """

    name: str
    metric_name: str
    maximize: bool
    target: float
    epochs: int
    batch_size: int | None = None
    scale: str | None = None
    resolution: float | None = None
    variant: str = ""

    def __post_init__(self) -> None:
        of = f"task {shortened(self.name)}: "
        typed(self, of)
        if self.scale not in (None, "linear", "log"):
            raise LabError(f"the scale of {self.name} must be linear or log, not {self.scale!r}")
        if self.resolution is not None and self.resolution < 0:
            raise LabError(f"the resolution of {self.name} must be a number of 0 or more, not {self.resolution!r}")
        for name in ("epochs", "batch_size", "micro_batch", "examples"):
            if getattr(self, name, None) is not None and getattr(self, name) < 1:
                raise LabError(f"{of}{name} must be at least 1, not {getattr(self, name)}")

    @property
    def metric_scale(self) -> str:
        """The scale on which the metric's differences are judged."""
        return self.scale or ("linear" if self.maximize else "log")

    def reached(self, value: float) -> bool:
        """Return True if a validation metric meets the target (a NaN never does)."""
        return value >= self.target if self.maximize else value <= self.target


@dataclass(frozen=True, kw_only=True)
class Task(Problem):
    """A training problem, complete but for the optimizer, the batch size and the seed.

    Args:
        train, validation, test: disjoint splits, in memory (``Split``) or streamed (``Stream``); selection looks at
            ``validation``, ``test`` is read once at the end.
        build_model: makes a freshly initialised model from torch's global generator. It is called as
            ``model(inputs)``.
        loss: ``(outputs, targets) -> scalar``, the mean over the examples.
        metric: ``(outputs, targets) -> tensor``, the mean over the examples of one or more numbers.
        finish: turns the metric's mean over a whole split into the one number that counts. Default: it is that number.
            An F1 score, for instance, is no mean of anything, but ``metric`` may give the mean counts of true
            positives, false positives and false negatives, and ``finish`` the score; perplexity is the exponential of a
            mean.
        augment: ``(inputs, generator) -> inputs``, what is random about the training inputs; on the device, once per
            micro-batch. All randomness comes from the generator.
        schedule: learning-rate schedule over a run. Default: cosine with a warm-up over 5 % of the steps.
        clip: the gradient's largest norm, above which it is scaled down; None: no clipping.
        micro_batch: the most examples of one backward pass unless the user says otherwise.
        drop_last: whether an epoch leaves out its last examples, which do not fill a batch. Default: True.
        channels_last: whether model and inputs of four dimensions are laid out so: True, False, or "cpu": there alone.
    """

    train: Split | Stream
    validation: Split | Stream
    test: Split | Stream
    build_model: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Tensor]
    metric: Callable[[Any, Any], Tensor]
    finish: Callable[[Tensor], float] | None = None
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine"))
    clip: float | None = None
    micro_batch: int = MICRO_BATCH
    drop_last: bool = True
    channels_last: bool | Literal["cpu"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is not None and self.clip <= 0:
            raise LabError(f"task {self.name!r}: clip must be above 0, not {self.clip}; leave it out to clip nothing")
        for name in ("train", "validation", "test"):
            if len(getattr(self, name)) < 1:
                raise LabError(f"task {self.name!r}: {name} holds no example")

    def steps(self, batch_size: int, epochs: int) -> int:
        """Return the optimizer steps of a run."""
        return epochs * (len(self.train) // batch_size if self.drop_last else -(-len(self.train) // batch_size))

    def laid_out(self, device: torch.device) -> torch.memory_format:
        """Return the memory format of model and inputs on a device."""
        channels_last = device.type == "cpu" if self.channels_last == "cpu" else self.channels_last
        return torch.channels_last if channels_last else torch.preserve_format

    def score(self, means: Tensor) -> float:
        """The metric of a whole split.

        Args:
            means: what ``metric`` gave, averaged over the split's examples.

        Returns:
            The number; NaN where a mean is not finite.
        """
        if self.finish is None:
            return means.item()
        return self.finish(means) if bool(means.isfinite().all()) else math.nan
