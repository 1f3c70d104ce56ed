"""Checks of tensors before their addresses reach a kernel: shapes, devices and memory are those of the parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys.distributed import is_sharded, placements

__all__ = ["GRADIENT", "Position", "check_tensors"]

GRADIENT = "gradient"


class Position(NamedTuple):
    """Position of a parameter in an optimizer, for an error message.

    Args:
        optimizer: name of its class.
        group: the parameter group.
        index: position in the group.
    """

    optimizer: str
    group: dict[str, Any]
    index: int

    def __str__(self) -> str:
        names = self.group.get("param_names")
        known = names is not None and self.index < len(names)
        return f"parameter {names[self.index]!r}" if known else f"parameter {self.index} of its group"


def check_tensors(position: Position, param: Tensor, tensors: Iterable[tuple[str, Any]]) -> None:
    """Raise unless every tensor has the shape, the device and the sharding of its parameter, and memory.

    Args:
        position: of the parameter.
        param: the parameter.
        tensors: the names and values of its gradient and its states.

    Raises:
        ValueError: one has not; the message names parameter, tensor, both shapes or devices, and the remedy.
    """
    shape, device, sharded = param.shape, param.device, is_sharded(param)
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{_subject(position, name)} is {tensor!r}, not a tensor; {_AFRESH}")
        if tensor.shape != shape:
            raise ValueError(
                f"{_subject(position, name)} has the shape {tuple(tensor.shape)}, and the parameter {tuple(shape)}; "
                + (_BACKWARD if name == GRADIENT else f"give it the parameter's shape after resizing one, or {_AFRESH}")
            )
        if tensor.device != device:
            raise ValueError(
                f"{_subject(position, name)} lies on {tensor.device}, and the parameter on {device}; bring back "
                "what was offloaded, or move it, before the step"
            )
        if tensor.is_complex() != param.is_complex():
            raise ValueError(
                f"{_subject(position, name)} is {tensor.dtype}, and the parameter {param.dtype}; "
                + (_BACKWARD if name == GRADIENT else _AFRESH)
            )
        if sharded or is_sharded(tensor):
            _check_sharding(position, param, name, tensor)
        if not _has_memory(tensor):
            raise ValueError(f"{_subject(position, name)} has a shape and no memory; {_RESTORE}")
    if not _has_memory(param):
        raise ValueError(f"{position.optimizer}: {position} has a shape and no memory; {_RESTORE}")


_AFRESH = "delete optimizer.state[parameter] to start its states afresh"
_BACKWARD = "call zero_grad and backward again after resizing a parameter"
_RESTORE = "its storage was freed or offloaded, bring it back before the step"


def _subject(position: Position, name: str) -> str:
    what = "the gradient" if name == GRADIENT else f"state {name!r}"
    return f"{position.optimizer}: {what} of {position}"


def _check_sharding(position: Position, param: Any, name: str, tensor: Any) -> None:
    """A gradient sharded otherwise is redistributed; a state would be read as if it were the parameter's shard."""
    alike = is_sharded(tensor) == is_sharded(param)
    if alike and name != GRADIENT:
        alike = placements(tensor) == placements(param) and tensor.device_mesh == param.device_mesh
    if not alike:
        kinds = [f"a DTensor placed as {placements(x)}" if is_sharded(x) else "no DTensor" for x in (tensor, param)]
        raise ValueError(
            f"{_subject(position, name)} is {kinds[0]}, and the parameter is {kinds[1]}; shard both alike, or load the "
            "states with torch.distributed.checkpoint"
        )


def _has_memory(tensor: Tensor) -> bool:
    # Of other classes nobody reads an address, and meta tensors have none.
    if type(tensor) not in _ORDINARY or torch.compiler.is_compiling() or tensor.device.type not in ("cpu", "cuda"):
        return True
    return tensor.data_ptr() != 0 or tensor.numel() == 0 or tensor._is_zerotensor()


_ORDINARY = (Tensor, torch.nn.Parameter)
