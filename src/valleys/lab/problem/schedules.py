"""Learning-rate schedules over a whole run, put together from torch's own schedulers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from valleys.lab.errors import LabError, shortened, typed

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

__all__ = ["KINDS", "Kind", "Schedule"]

Kind = Literal["constant", "step", "cosine", "polynomial", "wsd"]
"""The name of a learning-rate schedule."""

KINDS: tuple[str, ...] = get_args(Kind)
"""The schedules' names."""

_WARM_UP = {"constant": 0.0, "step": 0.0, "cosine": 0.05, "polynomial": 0.05, "wsd": 0.05}


@dataclass(frozen=True)
class Schedule:
    r"""A learning-rate schedule.

    After a linear warm-up to the learning rate, with :math:`u \in [0, 1]` the progress since its end, the factor is

    .. math:: 1,\quad \gamma^{\lfloor d u \rfloor},\quad \tfrac12 (1 + \cos \pi u),\quad (1 - u)^p,\quad
        \min(1, (1 - u) / w)

    for ``constant``, ``step``, ``cosine``, ``polynomial`` and ``wsd`` (warm-up, stable, decay).

    Args:
        kind: which of them.
        warm_up: share of the steps of the linear warm-up, in [0, 1). Default, None: 0.05; none for ``constant`` and
            ``step``.
        gamma: factor at each drop of ``step``, in (0, 1]. Default: 0.1.
        drops: ``step`` divides the run into so many equal parts, 1 to 1000. Default: 4, as in the paper.
        power: exponent of ``polynomial``, above 0. Default: 1, as LAMB's paper.
        decay: share of the steps after the warm-up in which ``wsd`` falls to zero, in (0, 1]. Default: 0.2.

    Raises:
        LabError: naming the argument and what is allowed.

    Example:
        >>> Schedule("step").describe()
        'step: x0.1 after each 1/4 of the run'
    """

    kind: Kind
    warm_up: float | None = None
    gamma: float = 0.1
    drops: int = 4
    power: float = 1.0
    decay: float = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise LabError(f"schedule {shortened(self.kind)}: choose one of {', '.join(KINDS)}")
        typed(self, f"schedule {self.kind!r}: ")
        if self.warm_up is not None and not 0 <= self.warm_up < 1:
            raise LabError(f"warm-up {self.warm_up}: the share of the steps must be at least 0 and below 1")
        if not 0 < self.gamma <= 1:
            raise LabError(f"gamma {self.gamma}: the factor of a drop must be above 0 and at most 1")
        if not 1 <= self.drops <= 1000:
            raise LabError(f"drops {self.drops}: the run is divided into 1 to 1000 parts")
        if self.power <= 0:
            raise LabError(f"power {self.power}: the exponent must be above 0")
        if not 0 < self.decay <= 1:
            raise LabError(f"decay {self.decay}: the share of the steps must be above 0 and at most 1")

    def warm_up_steps(self, total: int) -> int:
        """Return the steps of the warm-up: at least 1 where there is one, and fewer than ``total``."""
        share = _WARM_UP[self.kind] if self.warm_up is None else self.warm_up
        return min(max(1, round(share * total)), total - 1) if share else 0

    def build(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """The scheduler of one run; it is stepped after every optimizer step.

        Args:
            optimizer: a fresh one.
            total: the run's steps, at least 1.

        Returns:
            The scheduler.

        Example:
            >>> import torch
            >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            >>> scheduler = Schedule("polynomial", warm_up=0.25).build(optimizer, 4)
            >>> rates = []
            >>> for _ in range(4):
            ...     rates.append(round(scheduler.get_last_lr()[0], 4))
            ...     optimizer.step()
            ...     scheduler.step()
            >>> rates
            [0.5, 1.0, 0.6667, 0.3333]
        """
        from torch.optim.lr_scheduler import LinearLR, SequentialLR

        warm_up = self.warm_up_steps(total)
        pieces: list[tuple[LRScheduler, int]] = []
        if warm_up:
            pieces.append((LinearLR(optimizer, start_factor=1 / (warm_up + 1), total_iters=warm_up), warm_up))
        pieces += self._main(optimizer, total - warm_up)
        if len(pieces) == 1:
            return pieces[0][0]
        milestones = list(itertools.accumulate(length for _, length in pieces[:-1]))
        return SequentialLR(optimizer, [scheduler for scheduler, _ in pieces], milestones)

    def describe(self) -> str:
        """The schedule in words, for the report."""
        share = _WARM_UP[self.kind] if self.warm_up is None else self.warm_up
        words = {
            "constant": "constant",
            "step": f"step: x{self.gamma:g} after each 1/{self.drops} of the run",
            "cosine": "cosine to 0",
            "polynomial": f"polynomial to 0, power {self.power:g}",
            "wsd": f"stable, then linear to 0 over the last {self.decay:.0%}",
        }[self.kind]
        return words + (f", warm-up over {share:.3g} of the steps" if share else "")

    def _main(self, optimizer: Optimizer, steps: int) -> list[tuple[LRScheduler, int]]:
        """Return the schedulers after the warm-up and their steps."""
        from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, PolynomialLR

        if self.kind == "constant":
            return [(_flat(optimizer), steps)]
        if self.kind == "step":
            drops = [math.ceil(steps * part / self.drops) for part in range(1, self.drops)]
            return [(MultiStepLR(optimizer, drops, gamma=self.gamma), steps)]
        if self.kind == "cosine":
            return [(CosineAnnealingLR(optimizer, T_max=steps), steps)]
        if self.kind == "polynomial":
            return [(PolynomialLR(optimizer, total_iters=steps, power=self.power), steps)]
        falling = max(1, round(self.decay * steps))
        decay = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=falling)
        return [(_flat(optimizer), steps - falling), (decay, falling)] if falling < steps else [(decay, steps)]


def _flat(optimizer: Optimizer) -> LRScheduler:
    from torch.optim.lr_scheduler import ConstantLR

    return ConstantLR(optimizer, factor=1.0, total_iters=0)
