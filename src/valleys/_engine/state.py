"""Loading a state dict without torch's cast of every state to its parameter's dtype."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys._engine.dtensor import placed_like
from valleys._engine.eight_bit import CODE, EIGHT_BIT, SCALE, in_float32, is_quantized, new_codes, scales_shape

CPU = torch.device("cpu")

BUFFER = "explore_exp_avg"  # the state with E's memory
# States that are int64 counts: of steps rounded stochastically, see ``kernels.rounding.keys``; of steps left out by
# ``skip_nonfinite``; of steps in which E's buffer of an adapted optimizer was rounded stochastically.
ROUNDING_STEP, SKIPPED_STEPS, EXPLORE_STEP = "rounding_step", "skipped_steps", "explore_step"
CORRECTION = "correction"  # 8 bits more of a bfloat16 parameter, int8
_COUNTS = (ROUNDING_STEP, SKIPPED_STEPS, EXPLORE_STEP)

State = dict[Any, Any]


def state_dtype(param: Tensor, wanted: torch.dtype | str | None = None) -> torch.dtype:
    """The dtype of a parameter's states: its own, but float32 for half precision, where an EMA would stall.

    ``wanted``, the option ``state_dtype``, overrides that for real parameters and raises for complex ones.
    """
    if wanted is not None:
        if param.is_complex():
            raise RuntimeError(
                f"state_dtype={wanted} is for real parameters, and one of shape {tuple(param.shape)} is complex; "
                "put it into a group with state_dtype=None"
            )
        return torch.float32 if isinstance(wanted, str) else wanted
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


def new_state(param: Tensor, wanted: torch.dtype | str | None, name: str, blocks: Any = None) -> dict[str, Tensor]:
    """Zeros for one state of ``param``: a tensor of its name or, in 8 bits, two."""
    dtype = state_dtype(param, wanted)
    if is_quantized(param, wanted, blocks):
        return new_codes(param, name)
    return {name: torch.zeros_like(param, dtype=dtype, requires_grad=False)}


def stored_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names under which states may be found in an optimizer, in floating point or in 8 bits."""
    return tuple(name + suffix for name in names for suffix in ("", CODE, SCALE))


def step_tensor(value: Any, device: torch.device | None = None) -> Tensor:
    """A count of steps as torch keeps it: float64 under a default dtype of float64, else float32.

    ``value`` itself, where it is such a tensor on ``device`` (None: the CPU) already.
    """
    device = device or CPU
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        if value.dtype in (torch.float32, torch.float64):
            return value if value.dim() == 0 and value.device == device else value.reshape(()).to(device)
    elif not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"state 'step' must be a number or a tensor of one, got {value!r}; {REMEDY}")
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=device).reshape(())


def count_tensor(value: Any, device: torch.device) -> Tensor:
    """A count of steps as an int64: a tensor that is one already, or a new one."""
    if isinstance(value, Tensor) and value.dtype == torch.int64 and value.device == device and value.dim() == 0:
        return value
    return torch.as_tensor(value, device=device).to(torch.int64, copy=True).reshape(())


REMEDY = "delete optimizer.state[parameter] to start its states afresh"


def load_keeping_dtype(
    optimizer: Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    keys: Collection[str],
    complete: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Call ``load``, but install the states named ``keys`` here, in their own dtype and on the right device.

    ``load`` is the base class's bound ``load_state_dict``, which must call torch's hooks. It never sees those states:
    some classes read their argument again after torch has loaded it. Temporary hooks at both ends of the chain let the
    user's pre-hooks see and replace the whole dictionary, which ``complete`` then changes and checks, and the user's
    post-hooks find everything in place; each fires once. After an error the optimizer is as it was.
    """
    whole = isinstance(state_dict, dict) and isinstance(state_dict.get("state"), dict)
    visible, hidden = _split(state_dict["state"], keys) if whole else ({}, {})
    entries: list[tuple[Tensor, State]] = []
    success = False

    def reveal(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
        if not whole:
            return state_dict
        state = incoming["state"]
        return {**incoming, "state": {**state, **{i: {**state.get(i, {}), **entry} for i, entry in hidden.items()}}}

    def strip(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
        incoming = complete(incoming)
        rest, buffers = _split(incoming["state"], keys)
        # Copies, as torch itself would alias the tensors of the dictionary; made before anything is changed.
        for own, group in zip(optimizer.param_groups, incoming["param_groups"], strict=True):
            for param, index in zip(own["params"], group["params"], strict=True):
                if index in buffers:
                    entries.append((param, _copies(buffers[index], param, group)))
        return {**incoming, "state": rest}

    def restore(_: Optimizer) -> None:
        nonlocal success
        for param, states in entries:
            optimizer.state[param].update(states)
        success = True

    handles = [
        optimizer.register_load_state_dict_pre_hook(reveal, prepend=True),
        optimizer.register_load_state_dict_pre_hook(strip),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    before = dict(vars(optimizer))
    try:
        load({**state_dict, "state": visible} if whole else {"state": {}, "param_groups": []})
        if not success:
            raise RuntimeError(
                f"{type(optimizer).__name__}.load_state_dict ignores the hooks of torch.optim.Optimizer, so the states "
                f"{sorted(keys)} could not be loaded; load into the optimizer before adapting it"
            )
        # Classes that read their argument again have dropped what they did not find in it.
        for param, states in entries:
            for name, value in states.items():
                optimizer.state[param].setdefault(name, value)
    except BaseException:
        # torch replaces state and groups and never changes the old ones.
        vars(optimizer).clear()
        vars(optimizer).update(before)
        raise
    finally:
        for handle in handles:
            handle.remove()


def _copies(states: State, param: Tensor, group: dict[str, Any]) -> State:
    """Copies of the states of ``param`` where the next step looks for them."""
    if not is_quantized(param, EIGHT_BIT, group.get("blocks")):
        states = in_float32(states)  # the checkpoint of a model that was sharded otherwise
    device = param.device if group.get("capturable") else CPU
    copies: State = {}
    for name, value in states.items():
        if name == "step":
            copies[name] = step_tensor(value, device).clone()
        else:
            shape = scales_shape(param) if name.endswith(SCALE) else param.shape
            copies[name] = count_tensor(value, device).clone() if name in _COUNTS else placed_like(value, param, shape)
    return copies


def _split(state: State, keys: Collection[str]) -> tuple[State, State]:
    """The state without ``keys``, and ``keys`` alone; entries left empty are dropped from both."""
    rest: State = {}
    buffers: State = {}
    for index, entry in state.items():
        if not isinstance(entry, dict):
            rest[index] = entry
            continue
        rest[index] = {key: value for key, value in entry.items() if key not in keys}
        buffers[index] = {key: value for key, value in entry.items() if key in keys}
    return {i: e for i, e in rest.items() if e != {}}, {i: e for i, e in buffers.items() if e}
