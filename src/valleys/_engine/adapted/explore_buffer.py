"""E's memory of an adapted optimizer: what it is, and how it leaves the state for the time of the base's step."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from valleys._engine.checkpoint.checks import Kind
from valleys._engine.eight_bit import EIGHT_BIT
from valleys._engine.options import check_precision
from valleys._engine.state import BUFFER, CPU, EXPLORE_STEP, count_tensor, new_state, stored_names
from valleys.hyperparameters import check_explore

KINDS = {BUFFER: Kind.BUFFER, EXPLORE_STEP: Kind.COUNT}

STORED = (*stored_names([BUFFER]), EXPLORE_STEP)

# E's states by parameter: the buffer and, if it is rounded stochastically, the count of its steps.
Memory = dict[Any, dict[str, Tensor]]


def check_explore_group(group: dict[str, Any]) -> None:
    """Raise on the first of E's options out of range."""
    check_explore(group["explore_alpha"], group["explore_beta"], alpha_name="explore_alpha", beta_name="explore_beta")
    if "explore_state_dtype" in group:
        check_precision(group["explore_state_dtype"], group["explore_seed"])


def new_memory(param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """An empty memory of a parameter."""
    dtype = group.get("explore_state_dtype")
    states = new_state(param, dtype, BUFFER)
    if dtype in (torch.bfloat16, EIGHT_BIT):
        states[EXPLORE_STEP] = count_tensor(0, param.device if group.get("capturable") else CPU)
    return states


def take_out(state: MutableMapping[Any, Any]) -> Memory:
    """Remove E's states from an optimizer's, and entries that hold nothing else; ``put_back`` undoes it."""
    memory: Memory = {}
    for param, entry in list(state.items()):
        if isinstance(entry, dict) and not entry.keys().isdisjoint(stored_names([BUFFER])):
            memory[param] = {name: entry.pop(name) for name in STORED if name in entry}
            if not entry:
                del state[param]
    return memory


def put_back(state: MutableMapping[Any, Any], memory: Memory) -> None:
    """Add E's states to an optimizer's."""
    for param, states in memory.items():
        state.setdefault(param, {}).update(states)
