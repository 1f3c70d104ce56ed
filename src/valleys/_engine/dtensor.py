"""Sharded parameters: the ranks that hold parts of a layer, and sums over them.

Only DTensors say how they are sharded. Flat shards (FSDP1, ZeRO) do not, and are refused where a norm is asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Tensor

from valleys.kernels.rounding import mix

_groups: dict[Any, tuple[Any, Any]] = {}


def is_sharded(tensor: object) -> bool:
    """Return True for a DTensor, a replicated one too."""
    # Not isinstance: whoever has no DTensor need not import them.
    return hasattr(tensor, "placements")


def is_uninitialized(param: Tensor) -> bool:
    """Return True for a parameter to which a lazy module has yet to give its shape."""
    return torch.nn.parameter.is_lazy(param)


def placements(tensor: object) -> Any:
    """Return the placements of a DTensor; None for others."""
    return getattr(tensor, "placements", None)


def local(tensor: Any) -> Tensor:
    """Return this rank's part of a DTensor; another tensor itself."""
    if not is_sharded(tensor):
        return tensor  # type: ignore[no-any-return]
    shard = tensor.to_local().data
    return shard.wait() if hasattr(shard, "wait") else shard  # type: ignore[no-any-return]


def aligned(grad: Any, param: Any) -> Tensor:
    """A gradient sharded as its parameter is; a Partial one is summed up over the ranks."""
    if is_sharded(grad) and is_sharded(param) and grad.placements != param.placements:
        if grad.device_mesh != param.device_mesh:
            raise RuntimeError(
                f"a parameter of shape {tuple(param.shape)} lies on {param.device_mesh} and its gradient on "
                f"{grad.device_mesh}; redistribute the gradient"
            )
        return grad.redistribute(placements=param.placements)  # type: ignore[no-any-return]
    return grad  # type: ignore[no-any-return]


def wrapped_like(shard: Tensor, like: Any) -> Tensor:
    """A DTensor with this shard on this rank, sharded as ``like`` is."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        shard, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def placed_like(value: Any, param: Any, shape: torch.Size) -> Tensor:
    """A copy of a state of ``param``, on its device and sharded as it is; each rank must have the same or its shard.

    ``shape`` is that of the whole state.
    """
    if is_sharded(param) and not is_sharded(value) and value.shape == shape:
        from torch.distributed.tensor import distribute_tensor

        moved = value.detach().to(param.device)
        return distribute_tensor(moved, param.device_mesh, param.placements, src_data_rank=None).clone()
    if is_sharded(value) and not is_sharded(param):
        value = value.full_tensor()
    elif is_sharded(value) and value.placements != param.placements:
        value = value.redistribute(param.device_mesh, param.placements)
    return value.detach().to(param.device, copy=True)  # type: ignore[no-any-return]


def mesh_dims(param: Any) -> tuple[int, ...]:
    """The dimensions of its mesh over which a parameter is sharded, those of one rank left out."""
    dims = _mesh_dims(param.device_mesh, tuple(param.placements))
    if dims is None:
        raise RuntimeError(
            f"a parameter of shape {tuple(param.shape)} is placed as {param.placements}, and no rank knows the value "
            "of a Partial one; redistribute it to Shard or Replicate"
        )
    return dims


@functools.lru_cache(maxsize=256)
def _mesh_dims(mesh: Any, placed: tuple[Any, ...]) -> tuple[int, ...] | None:
    """None if something is Partial. Cached: it is asked for every parameter at every step."""
    if any(placement.is_partial() for placement in placed):
        return None
    return tuple(i for i, p in enumerate(placed) if not p.is_replicate() and mesh.size(i) > 1)


def first_index(param: Any) -> tuple[int, ...]:
    """The index in the whole parameter of the first element that this rank holds."""
    if not is_sharded(param):
        return (0,) * int(param.dim())
    chunks: list[Any] = param.__create_chunk_list__()
    if len(chunks) != 1 or tuple(chunks[0].sizes) != tuple(local(param).shape):
        raise RuntimeError(
            f"a parameter of shape {tuple(param.shape)} placed as {param.placements} is not held as one rectangle, and "
            "its blocks cannot be found; leave blocks=None"
        )
    return tuple(int(offset) for offset in chunks[0].offsets)


def random_place(param: Any, salt: int, order: Sequence[int]) -> tuple[int, int]:
    """Salt and start of a shard's random bits; replicas get the same, and a whole tensor's shards the whole's.

    ``salt`` is the whole parameter's, ``order`` that of the shard's dimensions in memory.
    """
    if not is_sharded(param) or not param.dim():
        return salt, 0
    first, shape = first_index(param), local(param).shape
    if any(size != whole for d, (size, whole) in enumerate(zip(shape, param.shape, strict=True)) if d != order[0]):
        # Not a range of the whole's elements: bits of its own rather than another shard's.
        for index in first:
            salt = mix(salt + index + 1)
        return salt, 0
    return salt, first[order[0]] * math.prod(shape[d] for d in order[1:])


def add_up(sums: Tensor, mesh: Any, dims: tuple[int, ...]) -> Tensor:
    """The sum over all ranks along some dimensions of a mesh, in one all-reduce; nothing is sent for none."""
    if not dims:
        return sums
    import torch.distributed as dist

    group = _group(mesh, dims)
    # Parameters offloaded to the CPU have a mesh of accelerators.
    device_sums = sums if sums.device.type == mesh.device_type else sums.to(mesh.device_type)
    dist.all_reduce(device_sums, group=group)
    return device_sums.to(sums.device)


def _group(mesh: Any, dims: tuple[int, ...]) -> Any:
    """The ranks along ``dims``; made once per mesh, by all of them together."""
    import torch.distributed as dist

    if len(dims) == 1:
        return mesh.get_group(dims[0])
    # The default group is another object once it was destroyed and made again.
    world, group = _groups.get((mesh, dims), (None, None))
    if world is not dist.group.WORLD:
        rest = [d for d in range(mesh.ndim) if d not in dims]
        rows = mesh.mesh.permute(*rest, *dims).reshape(-1, math.prod(mesh.size(d) for d in dims))
        ranks = next(row for row in rows.tolist() if dist.get_rank() in row)
        if sorted(ranks) == list(range(dist.get_world_size())):
            group = dist.group.WORLD
        else:
            group = dist.new_group(ranks, use_local_synchronization=True)
        _groups[mesh, dims] = dist.group.WORLD, group
    return group


def refuse_flat(param: Any, shapes: Set[tuple[int, ...]], optimizer: str) -> None:
    """Raise for one rank's part of many parameters laid end to end, of which no layer has a norm.

    FSDP1's and DeepSpeed's are such, what took another parameter's place in a group (``shapes`` are those the optimizer
    was given), and shards of Megatron's tensor parallelism.
    """
    kind = None
    if getattr(param, "_fsdp_flattened", False):
        kind = "one of FSDP1's flat parameters"
    elif hasattr(param, "ds_id") or hasattr(param, "ds_tensor"):
        kind = "one of DeepSpeed ZeRO-3's partitions"
    elif getattr(param, "tensor_model_parallel", False):
        kind = "a part of one of Megatron's tensor-parallel parameters (tensor_model_parallel is set)"
    elif type(param).__name__ == "ShardedTensor":
        kind = "a ShardedTensor"
    elif param.dim() == 1 and tuple(param.shape) not in shapes:
        kind = "not among the parameters the optimizer was made for: a flat partition (DeepSpeed ZeRO, Megatron)?"
    if kind is not None:
        raise RuntimeError(
            f"{optimizer}: a tensor of shape {tuple(param.shape)} is {kind}; its norm is not a layer's. Shard with "
            "torch's fully_shard (FSDP2) or parallelize_module, whose parameters keep their shape; or keep them whole "
            "(DDP, ZeroRedundancyOptimizer); or adapt an elementwise optimizer, such as valleys.EAdamW. A parameter "
            "of your own comes by add_param_group, and one that is whole on one rank has tensor_model_parallel=False"
        )


def fail_unless(condition: Tensor, message: str) -> None:
    """Raises RuntimeError on the CPU; on a device the error comes later, without waiting for it now."""
    torch._assert_async(condition, message)
