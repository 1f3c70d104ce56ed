"""The step inside backward: each parameter moves as soon as its gradient is complete, and the gradient is let go."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from valleys._engine.dtensor import is_sharded

__all__ = ["Released", "release_gradients"]


class Released:
    """Handle of ``release_gradients``.

    Args:
        handles: of the hooks.
    """

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Ends it: gradients stay, and ``optimizer.step`` makes the step again."""
        for handle in self._handles:
            handle.remove()


def release_gradients(optimizer: Optimizer) -> Released:
    r"""Let every backward pass make the optimizer's step, one parameter at a time, and free each gradient after it.

    .. math:: \theta^{(i)}_k = step(\theta^{(i)}_{k-1}, g^{(i)}) \text{ as soon as } g^{(i)} \text{ is known}

    The same update as ``backward`` and then ``step``, bit for bit, for any optimizer that looks at one parameter at a
    time: ALTO's and LAMB's ratio needs no more than its own layer. Instead of all gradients only the largest ones are
    in memory. After it ``optimizer.step`` and ``zero_grad`` find nothing to do; leave them, a scheduler counts on them.
    Every ``backward`` is a step: no gradient accumulation, no clipping or unscaling of gradients in between. The
    optimizer's step hooks run once per parameter.

    Args:
        optimizer: ALTO, Lamb, an adapted optimizer or another of torch.optim, with parameters that are whole and on one
            rank.

    Returns:
        A handle whose ``remove`` ends it.

    Raises:
        RuntimeError: the step needs more than one parameter (``max_grad_norm``), or more than one rank (DTensors, DDP);
            parameters on several devices; gradients that are there already; an ``AlphaSchedule`` that is automatic.

    Example:
        >>> import torch, valleys
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = valleys.ALTO(model.parameters(), lr=1e-2)
        >>> released = valleys.release_gradients(optimizer)
        >>> model(torch.ones(4, 2)).square().mean().backward()  # the step is made here
        >>> model.weight.grad is None
        True

    Source: ours; after LOMO (Lv et al. 2023, arXiv 2306.09782) and torch's post-accumulate hooks.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    if any(param.grad is not None for param in params):
        raise RuntimeError("release_gradients: there are gradients of an earlier backward; call zero_grad() first")
    # Autograd has a thread per device, and one must not see the gradients of another's parameters.
    if len({param.device for param in params}) > 1:
        raise RuntimeError("release_gradients: the parameters lie on several devices; call optimizer.step() as usual")
    for group in optimizer.param_groups:
        if group.get("max_grad_norm") is not None:
            raise RuntimeError(
                f"release_gradients: max_grad_norm={group['max_grad_norm']} needs all gradients at once; leave it None"
            )
        if "alpha_epoch" in group:
            raise RuntimeError(
                "release_gradients: AlphaSchedule(automatic=True) counts the optimizer's steps, and each parameter now "
                "has one of its own; build the schedule without automatic, and call its step"
            )
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if any(map(is_sharded, params)) or (distributed and torch.distributed.get_world_size() > 1):
        raise RuntimeError(
            "release_gradients: with several ranks a gradient is complete only after backward, when it has been "
            "averaged; call optimizer.step() as usual"
        )
    reference = weakref.ref(optimizer)
    return Released([param.register_post_accumulate_grad_hook(_hook(reference)) for param in params])


def _hook(reference: Callable[[], Any]) -> Callable[[Tensor], None]:
    def step(param: Tensor) -> None:
        optimizer = reference()
        if optimizer is not None:
            # No other parameter has a gradient now: this steps the one that does.
            optimizer.step()
            param.grad = None

    return step
