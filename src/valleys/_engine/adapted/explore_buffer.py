"""E's memory of an adapted optimizer: what it is, and how it leaves the state for the time of the base's step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._engine.checkpoint.base_states import SHAPED
from valleys._engine.checkpoint.checks import Kind
from valleys._engine.dtensor import is_sharded, local, random_place
from valleys._engine.eight_bit import EIGHT_BIT, convert, is_quantized, is_stored, quantized
from valleys._engine.options import check_precision
from valleys._engine.state import BUFFER, CPU, EXPLORE_STEP, count_tensor, new_state, state_dtype, stored_names
from valleys._engine.tensor_checks import check_tensors
from valleys.hyperparameters import check_explore
from valleys.kernels.layout import layout, materialized
from valleys.kernels.rounding import keys, salt, signed

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


class Entry(NamedTuple):
    """A parameter with its gradient, its group, and the form that its buffer is to have."""

    param: Tensor
    grad: Tensor
    group: dict[str, Any]
    dtype: torch.dtype  # of the buffer, int8 if it is in 8 bits
    number: int  # among all parameters

    @classmethod
    def of(cls, param: Tensor, group: dict[str, Any], number: int) -> Entry:
        """The entry of a parameter that has a gradient."""
        form = group.get("explore_state_dtype")
        dtype = torch.int8 if is_quantized(param, form) else state_dtype(param, form)
        assert param.grad is not None
        return cls(param, param.grad, group, dtype, number)

    @property
    def alpha(self) -> float:
        """The factor of E's average."""
        return self.group["explore_alpha"]  # type: ignore[no-any-return]

    @property
    def beta(self) -> float:
        """The decay of E's buffer."""
        return self.group["explore_beta"]  # type: ignore[no-any-return]

    @property
    def rounds(self) -> bool:
        """True where the buffer is rounded stochastically."""
        return self.dtype == torch.int8 or self.group.get("explore_state_dtype") == torch.bfloat16


def entries_of(optimizer: Any, memory: Memory) -> Iterator[Entry]:
    """Yield the parameters that have gradients, checked."""
    numbers, shaped = itertools.count(), (BUFFER, *SHAPED.get(type(optimizer).adapted_from, ()))
    for group in optimizer.param_groups:
        check_explore_group(group)
        for index, param in enumerate(group["params"]):
            number = next(numbers)
            if param.grad is None:
                continue
            if param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(optimizer).__name__}: a parameter of shape {tuple(param.shape)} has a sparse gradient, "
                    "which E would make dense; build its layer with sparse=False, or leave it to an optimizer without E"
                )
            states = {**optimizer.state.get(param, {}), **memory.get(param, {})}
            names = [name for name in shaped if states.get(name) is not None or is_stored(states, name)]
            check_tensors(optimizer, group, index, states, names)
            yield Entry.of(param, group, number)


def buffer_of(entry: Entry, memory: Memory) -> Any:
    """E's buffer of a parameter, in the form it is to have: a tensor, or ``Quantized`` in 8 bits."""
    states = memory.setdefault(entry.param, {})
    if states.get(BUFFER) is None and not is_stored(states, BUFFER):
        states.update(new_memory(entry.param, entry.group))
    in_codes = entry.dtype == torch.int8
    convert(entry.param, states, [BUFFER], in_codes)  # a checkpoint, or the model, had another form
    if in_codes:
        return quantized(states, BUFFER)
    if states[BUFFER].dtype != entry.dtype:
        states[BUFFER] = states[BUFFER].to(entry.dtype)
    states[BUFFER] = materialized(states[BUFFER])
    return states[BUFFER]


def keys_of(bucket: list[Entry], memory: Memory) -> list[int] | list[Tensor]:
    """Keys of the random bits of this step, which is counted."""
    salts, starts, counts = [], [], []
    for entry in bucket:
        device = entry.param.device if entry.group.get("capturable") else CPU
        count = count_tensor(memory[entry.param].get(EXPLORE_STEP, 0), device)
        memory[entry.param][EXPLORE_STEP] = count
        bits, start = salt(entry.group["explore_seed"], entry.number), 0
        if is_sharded(entry.param):
            shard = local(entry.param)
            order = None if entry.dtype == torch.int8 else layout(shard)
            bits, start = random_place(entry.param, bits, order or range(shard.dim()))
        salts.append(bits)
        starts.append(start)
        counts.append(count)
    result: list[Any] = [
        key + signed(start) if isinstance(key, Tensor) else (int(key) + start) % 2**32  # type: ignore[call-overload]
        for key, start in zip(keys(salts, counts), starts, strict=True)
    ]
    torch._foreach_add_(counts, 1)
    return result
