"""Checks of a state dict before the first change: its groups, its parameters, and every state it must hold."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys._engine.dtensor import is_uninitialized
from valleys._engine.eight_bit import CODE, SCALE, scales_shape
from valleys._engine.tensor_checks import Position


class Kind(enum.Enum):
    """Kind of a state; an entry that holds anything must hold all that are required."""

    STEP = "a count of steps, required"
    MOMENT = "a tensor of the parameter's shape, required"
    BUFFER = "a tensor of the parameter's shape, optional"
    MOMENTUM = "a tensor of the parameter's shape or None, required"
    TENSOR = "a tensor of a shape of its own, required"
    NUMBER = "a number or a tensor of one, required"
    ANY = "anything, required"
    COUNT = "a count, optional"
    CORRECTION = "8 bits more of a bfloat16 parameter, int8, optional"


_OPTIONAL = (Kind.BUFFER, Kind.COUNT, Kind.CORRECTION)
_COUNTS = (Kind.STEP, Kind.COUNT)
_REMEDY = (
    "load the checkpoint of the same model and optimizer; "
    "load_moments of valleys.integrations.migration takes over other optimizers' moments"
)


def check_saved(
    optimizer: Optimizer,
    saved: Any,
    kinds: Callable[[dict[str, Any], Tensor], dict[str, Kind]],
    options: Iterable[str],
) -> None:
    """Raise a ValueError that names the parameter and the state, unless the state dict ``saved`` can be loaded whole.

    ``kinds`` gives the states of a parameter of a saved group, by name; a group must have ``options``.
    """
    name = type(optimizer).__name__
    groups = _groups(name, optimizer, saved, options)
    numbers = Counter(number for group in groups for number in group["params"])
    for number, times in numbers.items():
        if times > 1:
            raise ValueError(f"{name}: the state dict lists parameter {number!r} {times} times; {_REMEDY}")
    for number in saved["state"]:
        if isinstance(number, int) and number not in numbers:
            raise ValueError(
                f"{name}: the state dict has states of parameter {number}, which no group lists; {_REMEDY}"
            )
    for group, position, param, number in _parameters(name, optimizer, groups):
        state_kinds = kinds(group, param)
        entry = saved["state"].get(number, {})
        if not isinstance(entry, dict):
            raise ValueError(f"{name}: the states of {position} are {entry!r}, not a dictionary; {_REMEDY}")
        if entry:
            _check_entry(position, param, entry, state_kinds)


def _groups(name: str, optimizer: Optimizer, saved: Any, options: Iterable[str]) -> list[dict[str, Any]]:
    """The saved parameter groups, once they are known to match the optimizer's."""
    parts = {"state": dict, "param_groups": list}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), kind) for key, kind in parts.items()):
        raise ValueError(
            f"{name}: a state dict is a dictionary with 'state', a dictionary, and 'param_groups', a list; got "
            f"{type(saved).__name__}" + (f" with {sorted(map(str, saved))}" if isinstance(saved, dict) else "")
        )
    groups: list[dict[str, Any]] = saved["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"{name}: the state dict has a different number of parameter groups, {len(groups)} and not "
            f"{len(optimizer.param_groups)}; make the optimizer with the groups it was saved with"
        )
    for index, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            raise ValueError(f"{name}: parameter group {index} of the state dict has no list 'params'; {_REMEDY}")
        if len(group["params"]) != len(own["params"]):
            raise ValueError(
                f"{name}: parameter group {index} of the state dict has {len(group['params'])} parameters, and the "
                f"optimizer's parameter group {len(own['params'])}; {_REMEDY}"
            )
        missing = [option for option in options if option not in group]
        if missing:
            raise ValueError(f"{name}: parameter group {index} of the state dict has no {missing[0]!r}; {_REMEDY}")
    return groups


def _parameters(
    name: str, optimizer: Optimizer, groups: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Position, Tensor, Any]]:
    """Each parameter with its saved group, its position, and its number in the state dict."""
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        for index, (param, number) in enumerate(zip(own["params"], group["params"], strict=True)):
            yield group, Position(name, own, index), param, number


def _check_entry(position: Position, param: Tensor, entry: Any, kinds: dict[str, Kind]) -> None:
    for name, kind in kinds.items():
        if kind in (Kind.MOMENT, Kind.BUFFER) and name + CODE in entry:
            _check_codes(position, param, entry, name)
        elif name not in entry:
            if kind not in _OPTIONAL:
                raise ValueError(
                    f"{position.optimizer}: the state dict has no {name!r} for {position} but "
                    f"{sorted(map(str, entry))}, as another kind of optimizer saves it; {_REMEDY}"
                )
        else:
            _check_state(position, param, name, entry[name], kind)


def _check_state(position: Position, param: Tensor, name: str, value: Any, kind: Kind) -> None:
    subject = f"{position.optimizer}: state {name!r} of {position}"
    if kind in _COUNTS or kind is Kind.NUMBER:
        number = _number(value)
        counts = number is not None and math.isfinite(number) and number >= 0 and number == int(number)
        if number is None or (kind in _COUNTS and not counts):
            what = "a whole number of at least 0" if kind in _COUNTS else "a number"
            raise ValueError(f"{subject} must be {what}, got {_shown(value)}; {_REMEDY}")
    elif kind is not Kind.ANY and (value is not None or kind is not Kind.MOMENTUM):
        _check_tensor(subject, param, value, kind)


def _check_codes(position: Position, param: Tensor, entry: dict[str, Any], name: str) -> None:
    for part, dtypes in ((name + CODE, (torch.int8, torch.uint8)), (name + SCALE, (torch.float32,))):
        subject, value = f"{position.optimizer}: state {part!r} of {position}", entry.get(part)
        if not isinstance(value, Tensor) or value.dtype not in dtypes or value.layout != torch.strided:
            raise ValueError(f"{subject} must be a tensor of {dtypes[0]}, got {_shown(value)}; {_REMEDY}")
        if not is_uninitialized(param):
            shape = scales_shape(param) if part.endswith(SCALE) else param.shape
            if value.shape != shape:
                raise ValueError(
                    f"{subject} has the shape {tuple(value.shape)} and not {tuple(shape)}, which fits a parameter of "
                    f"shape {tuple(param.shape)}; {_REMEDY}"
                )


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1 and value.layout == torch.strided:
        value = None if value.is_complex() else value.item()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    if isinstance(value, Tensor) and (value.dim() or value.layout != torch.strided):
        return f"a tensor of shape {tuple(value.shape)} and layout {value.layout}"
    return repr(value)


def _check_tensor(subject: str, param: Tensor, value: Any, kind: Kind) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{subject} must be a tensor, got {value!r}; {_REMEDY}")
    if kind is not Kind.TENSOR and not is_uninitialized(param) and value.shape != param.shape:
        raise ValueError(
            f"{subject} has the shape {tuple(value.shape)}, and the parameter {tuple(param.shape)}; {_REMEDY}, or "
            "resize the parameter first"
        )
    if kind is Kind.CORRECTION:
        if value.dtype != torch.int8 or value.layout != torch.strided:
            raise ValueError(f"{subject} is of {value.dtype} and not torch.int8; {_REMEDY}")
        return
    if not (value.is_floating_point() or value.is_complex()) or value.is_complex() != param.is_complex():
        raise ValueError(f"{subject} is of {value.dtype}, and the parameter of {param.dtype}; {_REMEDY}")
    if value.layout != torch.strided:
        raise ValueError(f"{subject} is a tensor of layout {value.layout}; {_REMEDY}")
