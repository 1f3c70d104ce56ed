"""The step that torch.distributed.checkpoint makes to learn a fresh optimizer's states; it must not count as one."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys._engine.dtensor import is_sharded


def is_probe() -> bool:
    """Return True if ``get_optimizer_state_dict`` or ``set_optimizer_state_dict`` called ``step``.

    They give every parameter a gradient of zeros and a learning rate of 0. The values cannot tell such a step from a
    warm-up's first: a rank's shards may have zeros for gradients where others have not. So the caller must.
    """
    if torch.compiler.is_compiling():
        return False
    frame = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_init_optim_state" and frame.f_globals.get("__name__", "").startswith("torch.distributed."):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class Probed:
    """Traces of such a step in an optimizer that cannot skip it, removed at the first real one."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._before = _options(optimizer)
        self._after: list[dict[str, Any]] = []
        self._left: list[tuple[Tensor, int]] = []

    def finish(self, optimizer: Optimizer) -> None:
        """Notes what is there after the probe."""
        self._after = _options(optimizer)
        self._left = [(tensor, _version(tensor)) for tensor in _tensors(optimizer)]

    def take_back(self, optimizer: Optimizer) -> bool:
        """Empty the state and put back what the probe changed in the groups, unless a checkpoint was read into it."""
        now = _tensors(optimizer)
        if len(now) != len(self._left) or any(
            tensor is not left or _version(tensor) != version
            for tensor, (left, version) in zip(now, self._left, strict=True)
        ):
            return False
        optimizer.state.clear()
        for group, before, after in zip(optimizer.param_groups, self._before, self._after, strict=False):
            for name, value in after.items():
                if group.get(name) is value and before.get(name) is not value:
                    if name in before:
                        group[name] = before[name]
                    else:
                        del group[name]
        return True


def _options(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    return [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]


@torch.no_grad()
def _version(tensor: Any) -> int:
    """Changes with every write; a checkpoint is read into the shards of a DTensor, which count for themselves."""
    return int((tensor.to_local() if is_sharded(tensor) else tensor)._version)
