"""The step that torch.distributed.checkpoint makes to learn a fresh optimizer's states; it must not count as one."""

from __future__ import annotations

import sys

import torch

__all__ = ["is_probe"]


def is_probe() -> bool:
    """Whether ``step`` was called by ``get_optimizer_state_dict`` or ``set_optimizer_state_dict``.

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
