"""Loading a state dict without torch's cast of every state to its parameter's dtype."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["load_keeping_dtype", "state_dtype"]


def state_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's states: its own, but float32 for half precision, where an EMA would stall."""
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


def load_keeping_dtype(
    optimizer: Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    keys: Collection[str],
    install: Callable[[list[tuple[Tensor, dict[str, Tensor]]]], None],
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda state_dict: state_dict,
) -> None:
    """Calls ``load``, but hands the states named ``keys`` to ``install``, in their own dtype on their parameter's device.

    It works through temporary hooks at the inner ends of the chain: the user's pre-hooks see and may replace the whole
    state dict, the user's post-hooks find everything in place, and each fires once.

    Args:
        optimizer: what is loaded into.
        load: the base class's ``load_state_dict``, bound.
        state_dict: what the user passed.
        keys: names of states that must not be cast.
        install: gets every parameter with those of its states that the dictionary holds.
        complete: last change to the dictionary, after the user's pre-hooks.

    Raises:
        RuntimeError: ``load`` ignores the hooks of ``torch.optim.Optimizer``.
    """
    taken: list[dict[str, Tensor]] = []
    done = False

    def strip(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
        incoming = complete(incoming)
        state = incoming["state"]
        taken.extend(
            {key: value for key, value in state.get(index, {}).items() if key in keys}
            for group in incoming["param_groups"]
            for index in group["params"]
        )
        kept = {
            index: {key: value for key, value in entry.items() if key not in keys}
            if isinstance(entry, dict)
            else entry
            for index, entry in state.items()
        }
        # An entry left empty would be one that the base class never made.
        return {**incoming, "state": {index: entry for index, entry in kept.items() if entry != {}}}

    def restore(_: Optimizer) -> None:
        nonlocal done
        params = [param for group in optimizer.param_groups for param in group["params"]]
        # Copies: torch itself would alias the tensors of the dictionary.
        install(
            [
                (param, {key: value.detach().to(param.device, copy=True) for key, value in states.items()})
                for param, states in zip(params, taken, strict=True)
            ]
        )
        done = True

    handles = [
        optimizer.register_load_state_dict_pre_hook(strip),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    try:
        load(state_dict)
    finally:
        for handle in handles:
            handle.remove()
    if not done:
        raise RuntimeError(
            f"{type(optimizer).__name__}.load_state_dict ignores the hooks of torch.optim.Optimizer, so the states "
            f"{sorted(keys)} could not be loaded; load into the optimizer before adapting it"
        )
