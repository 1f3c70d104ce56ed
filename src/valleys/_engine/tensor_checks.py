"""Checks of tensors before their addresses reach a kernel: shapes, devices and memory are those of the parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._engine.dtensor import is_sharded, local, placements
from valleys._engine.eight_bit import CODE, SCALE, is_stored, scales_shape
from valleys._engine.state import CORRECTION

GRADIENT = "gradient"


class Position(NamedTuple):
    """Position of a parameter in an optimizer, for an error message."""

    optimizer: str  # name of its class
    group: dict[str, Any]
    place: int

    def __str__(self) -> str:
        names = self.group.get("param_names") or ()
        has_name = self.place < len(names)
        return f"parameter {names[self.place]!r}" if has_name else f"parameter {self.place} of its group"


def check_tensors(
    optimizer: Any, group: dict[str, Any], index: int, state: Mapping[str, Any], names: Sequence[str]
) -> bool:
    """Raise unless a parameter's gradient and named states have its shape, its device and its sharding, and memory.

    Returns:
        True if all of them are ordinary: no other class of tensor, none whose memory does not hold its values.
    """
    param = group["params"][index]
    if not torch.compiler.is_compiling() and type(param) in _ORDINARY and param.data_ptr() and not param.is_neg():
        # The usual case at once: this runs for every tensor at every step.
        shape, device, dtype = param.shape, param.device, param.dtype
        ordinary = not dtype.is_complex and _fits(param.grad, shape, device)
        for name in names:
            value: Any = state.get(name)
            fits = _fits(value, shape, device) and (name != CORRECTION or value.dtype == torch.int8)
            if not (ordinary and (fits or _codes_fit(state, name, param))):
                break
        else:
            if ordinary:
                return True
    _check(optimizer, group, index, GRADIENT, param.grad)
    for name in names:
        if is_stored(state, name):
            _check(optimizer, group, index, name + CODE, state.get(name + CODE))
            _check_codes(optimizer, group, index, name, state)
        else:
            _check(optimizer, group, index, name, state.get(name))
        if name == CORRECTION and state[name].dtype != torch.int8:
            position, dtype = Position(type(optimizer).__name__, group, index), state[name].dtype
            raise ValueError(
                f"{position.optimizer}: state {name!r} of {position} is {dtype} and not torch.int8; {_AFRESH}"
            )
    return False


def check_values(values: Mapping[Tensor, Tensor], params: Sequence[Tensor]) -> None:
    """Raise unless values for parameters, by parameter, are for some of these and have their shape and sharding."""
    own = set(params)
    for param, value in values.items():
        if param not in own:
            raise ValueError(
                f"parameters: a tensor of shape {tuple(param.shape)} is not one of this optimizer; leave it out"
            )
        if value.shape != param.shape:
            raise ValueError(
                f"parameters: the value of a parameter of shape {tuple(param.shape)} has the shape "
                f"{tuple(value.shape)}; give a copy that was made before the step"
            )
        if placements(value) != placements(param):
            raise ValueError(
                f"parameters: the value of a parameter of shape {tuple(param.shape)} is placed as "
                f"{placements(value)} and the parameter as {placements(param)}; give a clone of the parameter"
            )


_ORDINARY = (Tensor, torch.nn.Parameter)


def _fits(tensor: Any, shape: Any, device: Any) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.shape == shape
        and tensor.device == device
        and tensor.data_ptr() != 0
        and not tensor.is_neg()
        and not tensor.dtype.is_complex
    )


def _codes_fit(state: Mapping[str, Any], name: str, param: Tensor) -> bool:
    """The same for a state in 8 bits; False if it is not."""
    codes, scales = state.get(name + CODE), state.get(name + SCALE)
    return (
        codes is not None
        and scales is not None
        and _fits(codes, param.shape, param.device)
        and _fits(scales, scales_shape(param), param.device)
        and codes.dtype.itemsize == 1
        and scales.dtype == torch.float32
        and codes.is_contiguous()
        and scales.is_contiguous()
    )


def _check(optimizer: Any, group: dict[str, Any], index: int, name: str, tensor: Any) -> None:
    """The same for one tensor of any kind, with the message."""
    param, position = group["params"][index], Position(type(optimizer).__name__, group, index)
    subject = f"{position.optimizer}: {'the gradient' if name == GRADIENT else f'state {name!r}'} of {position}"
    remedy = _BACKWARD if name == GRADIENT else _AFRESH
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{subject} is {tensor!r}, not a tensor; {remedy}")
    if tensor.shape != param.shape:
        resized = "" if name == GRADIENT else "give it the parameter's shape after resizing one, or "
        raise ValueError(
            f"{subject} has the shape {tuple(tensor.shape)}, and the parameter {tuple(param.shape)}; {resized}{remedy}"
        )
    if tensor.device != param.device:
        raise ValueError(
            f"{subject} lies on {tensor.device}, and the parameter on {param.device}; bring back what was offloaded, "
            "or move it, before the step"
        )
    if tensor.is_complex() != param.is_complex():
        raise ValueError(f"{subject} is {tensor.dtype}, and the parameter {param.dtype}; {remedy}")
    if is_sharded(param) or is_sharded(tensor):
        _check_sharding(subject, param, name, tensor)
    for what, each in ((subject, tensor), (f"{position.optimizer}: {position}", param)):
        if not _has_memory(each):
            raise ValueError(f"{what} has a shape and no memory; {_RESTORE}")


def _check_codes(optimizer: Any, group: dict[str, Any], index: int, name: str, state: Mapping[str, Any]) -> None:
    """Raise unless a state in 8 bits has the right dtypes, memory without gaps, and scales."""
    param, position = group["params"][index], Position(type(optimizer).__name__, group, index)
    for part, shape, dtypes in (
        (name + CODE, param.shape, (torch.int8, torch.uint8)),
        (name + SCALE, scales_shape(param), (torch.float32,)),
    ):
        subject, value = f"{position.optimizer}: state {part!r} of {position}", state[part]
        if not isinstance(value, Tensor):
            raise ValueError(f"{subject} is {value!r}, not a tensor; {_AFRESH}")
        if value.shape != shape or value.dtype not in dtypes or value.device != param.device:
            raise ValueError(
                f"{subject} is {value.dtype} of shape {tuple(value.shape)} on {value.device}, and must be {dtypes[0]} "
                f"of shape {tuple(shape)} on {param.device}; {_AFRESH}"
            )
        if is_sharded(param) or is_sharded(value):
            _check_sharding(subject, param, part, value)
        if not local(value).is_contiguous():
            raise ValueError(f"{subject} has gaps in memory; {_AFRESH}")
        if not _has_memory(value):
            raise ValueError(f"{subject} has a shape and no memory; {_RESTORE}")


_AFRESH = "delete optimizer.state[parameter] to start its states afresh"
_BACKWARD = "call zero_grad and backward again after resizing a parameter"
_RESTORE = "its storage was freed or offloaded, bring it back before the step"


def _check_sharding(subject: str, param: Any, name: str, tensor: Any) -> None:
    """A gradient sharded otherwise is redistributed; a state would be read as if it were the parameter's shard."""
    alike = is_sharded(tensor) == is_sharded(param)
    if alike and name != GRADIENT:
        alike = placements(tensor) == placements(param) and tensor.device_mesh == param.device_mesh
    if not alike:
        kinds = [f"a DTensor placed as {placements(x)}" if is_sharded(x) else "no DTensor" for x in (tensor, param)]
        raise ValueError(
            f"{subject} is {kinds[0]}, and the parameter is {kinds[1]}; shard both alike, or load the "
            "states with torch.distributed.checkpoint"
        )


def _has_memory(tensor: Tensor) -> bool:
    # Meta tensors have none.
    if type(tensor) not in _ORDINARY or torch.compiler.is_compiling() or tensor.device.type not in ("cpu", "cuda"):
        return True
    return tensor.data_ptr() != 0 or tensor.numel() == 0 or tensor._is_zerotensor()
