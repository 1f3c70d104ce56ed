"""Schedules of alpha during training, in the manner of ``torch.optim.lr_scheduler``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch.optim import Optimizer

from valleys.hyperparameters import check_explore, check_range

__all__ = ["AlphaSchedule"]

_NAMES = ("sqrt", "linear", "cosine")
_COUNT = "alpha_epoch"  # option of a group that holds ``last_epoch``, so that it is in the optimizer's state dict


class AlphaSchedule:
    r"""Changes alpha, the strength of E, from step to step.

    .. math::
        \alpha_k = \frac{\alpha}{\sqrt{k}}, \qquad
        \alpha_k = \alpha + (\alpha_{end} - \alpha)\,\frac{t}{T}, \qquad
        \alpha_k = \alpha_{end} + (\alpha - \alpha_{end})\,\frac{1 + \cos(\pi t / T)}{2}, \qquad
        \alpha_k = \alpha\, f(k - 1)

    for "sqrt", "linear", "cosine" and a function f, at the optimizer's step k = 1, 2, ... with t = min(k - 1, T). Each
    parameter group starts from its own alpha, which the group keeps as ``initial_alpha``; a group that is added later
    follows from the next ``step`` on. Call ``step()`` after every ``optimizer.step()``; a scheduler of the learning
    rate may work beside it.

    The one-buffer form of E stays exact: a_k = (1 - beta)(g_k - s_{k-1}) has no alpha in it. An adapted optimizer keeps
    no buffer while alpha is 0 from the start; its memory begins at the first alpha that is not 0.

    Args:
        optimizer: :class:`valleys.ALTO`, or an optimizer adapted by :func:`valleys.adapt`.
        schedule: "sqrt", the decay of the paper's Theorem 2, "linear", "cosine", or a function of the number of steps
            made (0 at first) that returns a factor of alpha. Default: "sqrt".
        end: alpha at the end of "linear" and "cosine", for all groups, or one number for each. Default: 0, E off.
        total_steps: T, at least 1: steps until alpha is ``end``, where it stays; for "linear" and "cosine".
            Default: None.
        last_epoch: steps made, less one; -1 begins. Else the groups must have ``initial_alpha``. Default: -1.
        automatic: call ``step`` after every step of the optimizer by a hook, and count in its groups, so that its own
            state dict is all that a checkpoint needs; for training loops that know no second scheduler. Do not call
            ``step`` then. Default: False.

    Raises:
        TypeError: no optimizer with an alpha; a schedule that is neither a known name nor callable.
        ValueError: ``end`` or ``total_steps`` missing, superfluous or out of range; an alpha that breaks
            ``|alpha| * (1 - beta) < 1``, here or in ``step``, which then changes nothing.
        KeyError: ``last_epoch`` above -1 and no ``initial_alpha`` in a group.
        RuntimeError: a group with ``capturable=True``: a CUDA graph would keep the alpha that it was captured with.

    Example:
        >>> import torch, valleys
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = valleys.ALTO([weight], lr=1e-2, alpha=-6.0, beta=0.99)
        >>> schedule = valleys.AlphaSchedule(optimizer, "linear", end=0.0, total_steps=3)
        >>> for _ in range(4):
        ...     print(schedule.get_last_alpha())
        ...     weight.grad = torch.ones(2, 2)
        ...     optimizer.step()
        ...     schedule.step()
        [-6.0]
        [-4.0]
        [-2.0]
        [0.0]

    Source: Zhao et al. 2025 (arXiv 2510.27153), Theorem 2, for "sqrt"; the others are ours.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Literal["sqrt", "linear", "cosine"] | Callable[[int], float] = "sqrt",
        *,
        end: float | Sequence[float] = 0.0,
        total_steps: int | None = None,
        last_epoch: int = -1,
        automatic: bool = False,
    ) -> None:
        self._alpha, self._beta = _options_of(optimizer)
        _check(schedule, end, total_steps)
        self.optimizer = optimizer
        self.schedule = schedule
        self.end = end
        self.total_steps = total_steps
        self.automatic = automatic
        if last_epoch != -1 and any("initial_alpha" not in group for group in optimizer.param_groups):
            raise KeyError(f"last_epoch={last_epoch} needs 'initial_alpha' in every group; load the state dict first")
        self._last_epoch = last_epoch
        self._set(max(last_epoch, self.last_epoch - 1) + 1 if automatic else last_epoch + 1)
        if automatic:
            optimizer.register_step_post_hook(lambda *_: self._set(self.last_epoch + 1))

    @property
    def last_epoch(self) -> int:
        """The number of steps made."""
        count: int = (
            self.optimizer.param_groups[0].get(_COUNT, self._last_epoch) if self.automatic else self._last_epoch
        )
        return count

    def step(self) -> None:
        """Set the groups' alphas for the next step of the optimizer."""
        if self.automatic:
            raise RuntimeError("step: automatic=True calls it after every step of the optimizer; leave the call out")
        self._set(self.last_epoch + 1)

    def get_last_alpha(self) -> list[float]:
        """Return the groups' present alphas."""
        return [group[self._alpha] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, of plain Python types; a function is not part of it.

        The groups' alphas are in the optimizer's own state dict.
        """
        schedule = self.schedule if isinstance(self.schedule, str) else None
        return {"schedule": schedule, "end": self.end, "total_steps": self.total_steps, "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was saved, and set the groups' alphas so, before or after the optimizer loads.

        Args:
            state_dict: the result of ``state_dict``.

        Raises:
            ValueError: saved by a schedule of another kind, or values out of range. Nothing is changed then.
        """
        saved, own = state_dict["schedule"], self.schedule
        if saved != self.state_dict()["schedule"]:
            raise ValueError(f"the state dict is of the schedule {saved or 'function'!r}, and this one is {own!r}")
        before = self.end, self.total_steps
        _check(own, state_dict["end"], state_dict["total_steps"])
        self.end, self.total_steps = state_dict["end"], state_dict["total_steps"]
        try:
            self._set(state_dict["last_epoch"])
        except (RuntimeError, ValueError):
            self.end, self.total_steps = before
            raise

    def _set(self, epoch: int) -> None:
        """Set the alphas for a number of steps made, all of them or, after an error, none."""
        groups = self.optimizer.param_groups
        ends = list(self.end) if isinstance(self.end, Sequence) else [self.end] * len(groups)
        if len(ends) != len(groups):
            raise ValueError(f"end has {len(ends)} numbers for {len(groups)} parameter groups; give one for each")
        alphas = []
        for group, end in zip(groups, ends, strict=True):
            if group.get("capturable"):
                raise RuntimeError(
                    "AlphaSchedule: a group has capturable=True, and a CUDA graph would keep the alpha that it was "
                    "captured with; set capturable=False, or leave alpha constant"
                )
            alphas.append(self._value(group.get("initial_alpha", group[self._alpha]), end, epoch))
            for alpha in (alphas[-1], end):  # the values between are in range, too
                check_explore(alpha, group[self._beta], alpha_name=self._alpha, beta_name=self._beta)
        for group, alpha in zip(groups, alphas, strict=True):
            group.setdefault("initial_alpha", group[self._alpha])
            group[self._alpha] = alpha
            if self.automatic:
                group[_COUNT] = epoch
        self._last_epoch = epoch

    def _value(self, alpha: float, end: float, epoch: int) -> float:
        if callable(self.schedule):
            return float(alpha * self.schedule(epoch))
        if self.schedule == "sqrt":
            return alpha / math.sqrt(epoch + 1)
        assert self.total_steps is not None
        if epoch >= self.total_steps:
            return end
        share = epoch / self.total_steps
        return alpha + (end - alpha) * (share if self.schedule == "linear" else (1 - math.cos(math.pi * share)) / 2)


def _options_of(optimizer: Any) -> tuple[str, str]:
    """The names of alpha and beta in the groups; RMSprop and others have an alpha of another meaning."""
    groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else []
    if groups and all("explore_alpha" in group for group in groups):
        return "explore_alpha", "explore_beta"
    if groups and all("accelerate" in group for group in groups):
        return "alpha", "beta"
    raise TypeError(
        f"optimizer must be valleys.ALTO or adapted by valleys.adapt, got {type(optimizer).__name__}, which has no E; "
        "adapt it first"
    )


def _check(schedule: object, end: Any, total_steps: Any) -> None:
    if not callable(schedule) and not (isinstance(schedule, str) and schedule in _NAMES):
        raise TypeError(f"schedule must be one of {_NAMES} or a function of the number of steps, got {schedule!r}")
    ends = end if isinstance(end, Sequence) and not isinstance(end, str) else [end]
    for number in ends:
        check_range("end", number, -math.inf, remedy="0 switches E off")
    bounded = schedule in ("linear", "cosine")
    if not bounded and (total_steps is not None or any(number != 0 for number in ends)):
        raise ValueError(f"total_steps and end have no effect on the schedule {schedule!r}; leave them unset")
    if bounded and (not isinstance(total_steps, int) or isinstance(total_steps, bool) or total_steps < 1):
        raise ValueError(f"total_steps must be an integer of 1 or more for {schedule!r}, got {total_steps!r}")
