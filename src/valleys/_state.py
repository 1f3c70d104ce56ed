"""Loading a state dict without torch's cast of every state to its parameter's dtype."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys.distributed import placed_like

__all__ = ["EIGHT_BIT", "eight_bit", "load_keeping_dtype", "new_state", "state_dtype"]

# torchao's blocks of 256 elements with one scale each.
EIGHT_BIT, _BLOCK = "8bit", 256

State = dict[Any, Any]


def state_dtype(param: Tensor, wanted: torch.dtype | str | None = None) -> torch.dtype:
    """The dtype of a parameter's states: its own, but float32 for half precision, where an EMA would stall.

    Args:
        param: the parameter.
        wanted: the option ``state_dtype``, which overrides that for real parameters.

    Raises:
        RuntimeError: ``wanted`` for a complex parameter.
    """
    if wanted is not None:
        if param.is_complex():
            raise RuntimeError(
                f"state_dtype={wanted} is for real parameters, and one of shape {tuple(param.shape)} is complex; "
                "put it into a group with state_dtype=None"
            )
        return torch.float32 if isinstance(wanted, str) else wanted
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


def eight_bit() -> Any:
    """Class torchao keeps 8-bit states in.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchao speaks of its own future when it is imported
            from torchao.optim.subclass_8bit import OptimState8bit
    except ImportError as error:
        raise ImportError(f"state_dtype={EIGHT_BIT!r} needs torchao; install valleys[torchao]") from error
    return OptimState8bit


def new_state(param: Tensor, wanted: torch.dtype | str | None, signed: bool) -> Tensor:
    """Zeros for one state of ``param``.

    Args:
        param: the parameter.
        wanted: the option ``state_dtype``.
        signed: whether the state takes negative values.

    Returns:
        A tensor like ``param``; with "8bit" a torchao one, unless ``param`` is too small for it to be worth it, or of a
        size or layout that its blocks do not fit.
    """
    dtype = state_dtype(param, wanted)
    if wanted == EIGHT_BIT and param.numel() >= 4096 and param.numel() % _BLOCK == 0 and param.is_contiguous():
        zeros: Tensor = eight_bit().zeros(param.shape, signed, _BLOCK, param.device)
        return zeros
    return torch.zeros_like(param, dtype=dtype, requires_grad=False)


def load_keeping_dtype(
    optimizer: Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    keys: Collection[str],
    install: Callable[[list[tuple[Tensor, State]]], None],
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda state_dict: state_dict,
) -> None:
    """Calls ``load``, but hands the states named ``keys`` to ``install``, in their own dtype on the right device.

    ``load`` never sees those states: some classes read their argument again after torch has loaded it. Temporary hooks
    at both ends of the chain let the user's pre-hooks see and replace the whole dictionary, and the user's post-hooks
    find everything in place; each fires once.

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
    visible, hidden = _split(state_dict["state"], keys)
    taken: list[State] = []
    done = False

    def reveal(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
        state = incoming["state"]
        return {**incoming, "state": {**state, **{i: {**state.get(i, {}), **entry} for i, entry in hidden.items()}}}

    def strip(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
        incoming = complete(incoming)
        rest, ours = _split(incoming["state"], keys)
        taken.extend(ours.get(index, {}) for group in incoming["param_groups"] for index in group["params"])
        return {**incoming, "state": rest}

    def restore(_: Optimizer) -> None:
        nonlocal done
        params = [param for group in optimizer.param_groups for param in group["params"]]
        # Copies: torch itself would alias the tensors of the dictionary.
        install(
            [
                (param, {key: placed_like(value, param) for key, value in states.items()})
                for param, states in zip(params, taken, strict=True)
            ]
        )
        done = True

    handles = [
        optimizer.register_load_state_dict_pre_hook(reveal, prepend=True),
        optimizer.register_load_state_dict_pre_hook(strip),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    try:
        load({**state_dict, "state": visible})
    finally:
        for handle in handles:
            handle.remove()
    if not done:
        raise RuntimeError(
            f"{type(optimizer).__name__}.load_state_dict ignores the hooks of torch.optim.Optimizer, so the states "
            f"{sorted(keys)} could not be loaded; load into the optimizer before adapting it"
        )


def _split(state: State, keys: Collection[str]) -> tuple[State, State]:
    """The state without ``keys``, and ``keys`` alone; entries left empty are dropped from both."""
    rest: State = {}
    ours: State = {}
    for index, entry in state.items():
        if not isinstance(entry, dict):
            rest[index] = entry
            continue
        rest[index] = {key: value for key, value in entry.items() if key not in keys}
        ours[index] = {key: value for key, value in entry.items() if key in keys}
    return {i: e for i, e in rest.items() if e != {}}, {i: e for i, e in ours.items() if e}
