"""The sums of layers that do not lie in one tensor, added up over the parts of a parameter and over ranks.

Every rank counts the layers of all parameters of a mesh, with a gradient or not, so that all ranks send the same number
of sums in the same order: one all-reduce per mesh. A step inside backward counts those of its parameter alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._engine.block_memory import Pattern, layer_count, patterns
from valleys._engine.dtensor import add_up, fail_unless, is_sharded, is_uninitialized, mesh_dims
from valleys._engine.options import is_adapted
from valleys.kernels.constants import constant
from valleys.kernels.ratio import sum_dtype

_stepped: ContextVar[Tensor | None] = ContextVar("_stepped", default=None)


@contextmanager
def stepping(param: Tensor) -> Iterator[None]:
    """Make each step in here one of ``param`` alone, which all ranks that hold a part of it make at the same time."""
    token = _stepped.set(param)
    try:
        yield
    finally:
        _stepped.reset(token)


class Pool:
    """Layers whose sums are added up together: those of one mesh, or all others of one device."""

    def __init__(self, device: torch.device, mesh: Any = None) -> None:
        self.device, self.mesh, self.dims = device, mesh, ()  # type: tuple[torch.device, Any, tuple[int, ...]]
        self.holders: list[int] = []  # how many ranks hold parts of each layer
        self.present: list[int] = []  # layers this rank holds a part of, if only an empty one
        self.sums = torch.empty(0, device=device)

    def start(self) -> None:
        """Begins a step."""
        self.sums = torch.zeros(4, len(self.holders), dtype=sum_dtype(self.device), device=self.device)

    def add(self, layers: tuple[int, ...], sums: Tensor) -> None:
        """Adds the sums of parts of these layers."""
        self.sums[:3].index_add_(1, _index(layers, self.device), sums.to(self.device))

    def of(self, layers: tuple[int, ...], device: torch.device) -> Tensor:
        """The sums of these layers, for tensors of that device."""
        return self.sums[:3, _index(layers, self.device)].to(device)

    def add_up(self) -> None:
        """Add up over the ranks; raise where some have a gradient for a layer and others none."""
        if not self.dims or not self.holders:
            return
        self.sums[3, _index(tuple(self.present), self.device)] = 1
        self.sums = add_up(self.sums, self.mesh, self.dims)
        holders, expected = self.sums[3], _index(tuple(self.holders), self.device)
        fail_unless(
            ((holders == 0) | (holders == expected)).all(),
            "a sharded parameter has a gradient on some ranks and none on others, so that its layer's norm is unknown; "
            "give it a gradient (zeros will do) on all of them, or on none",
        )


class Place(NamedTuple):
    """Place of a parameter's sums."""

    pool: Pool
    counted: bool  # by this rank: of replicas one does
    first: int | None  # number of its first layer in the pool; None if it has no ratio


class Pools:
    """All pools of a step."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        self._places: dict[Tensor, Place] = {}
        self._meshes: dict[Any, Pool] = {}
        self._devices: dict[torch.device, Pool] = {}
        members = [
            (group, param, mesh_dims(param) if is_sharded(param) else None)
            for group, param in _counted(groups)
            if is_sharded(param) or (group["blocks"] and not is_uninitialized(param))
        ]
        for _, param, own in members:
            if own is not None:
                pool = self._mesh(param)
                if not set(own) <= set(pool.dims):
                    pool.dims = tuple(sorted({*pool.dims, *own}))
        for group, param, own in members:
            if own is not None:
                self._place(param, group, self._mesh(param), own)
            elif is_adapted(param, group):
                if param.device not in self._devices:
                    self._devices[param.device] = Pool(param.device)
                self._place(param, group, self._devices[param.device], ())
        for pool in self._all():
            pool.start()

    def _mesh(self, param: Any) -> Pool:
        mesh = param.device_mesh
        if mesh not in self._meshes:
            # Sums of parameters that are offloaded to the CPU start from there.
            device = torch.device("cpu" if param.device.type == "cpu" else mesh.device_type)
            self._meshes[mesh] = Pool(device, mesh)
        return self._meshes[mesh]

    def _place(self, param: Tensor, group: dict[str, Any], pool: Pool, own: tuple[int, ...]) -> None:
        counted = own == pool.dims or all(pool.mesh.get_local_rank(d) == 0 for d in pool.dims if d not in own)
        if not is_adapted(param, group):
            self._places[param] = Place(pool, counted, None)
            return
        first, count = len(pool.holders), layer_count(patterns(group["blocks"], param.shape))
        self._places[param] = Place(pool, counted, first)
        pool.holders += [math.prod(pool.mesh.size(d) for d in own)] * count
        if param.grad is not None and counted:
            pool.present += range(first, first + count)

    def place(self, param: Tensor) -> Place | None:
        """A parameter's place; None if it is whole, here and one layer."""
        return self._places.get(param)

    def add_up(self) -> None:
        """Adds up all pools; one all-reduce for each mesh."""
        for pool in self._all():
            pool.add_up()

    def totals(self, sums: Sequence[tuple[int, Pool | None, Tensor]], count: int) -> list[Tensor]:
        """Add numbers up over the ranks; one all-reduce for each mesh.

        A sum is: which of the ``count`` totals it belongs to, the pool over whose ranks to add, a 0-dimensional tensor.
        """
        totals: list[list[Tensor]] = [[] for _ in range(count)]
        for which, pool, value in sums:
            if pool is None or not pool.dims:
                totals[which].append(value)
        for pool in self._meshes.values():
            if pool.dims:
                column = torch.zeros(count, dtype=sum_dtype(pool.device), device=pool.device)
                for which, other, value in sums:
                    if other is pool:
                        column[which] += value.to(pool.device)
                for which, value in enumerate(add_up(column, pool.mesh, pool.dims).unbind()):
                    totals[which].append(value)
        return [_total(values) for values in totals]

    def _all(self) -> list[Pool]:
        return [*self._meshes.values(), *self._devices.values()]


def layer_sums(values: Tensor, blocks: tuple[Pattern, ...], first: Sequence[int]) -> Tensor:
    """Add up the squares of a tensor, or of a shard that starts at ``first``, over each layer of its parameter."""
    dims = sorted(pattern.dim for pattern in blocks)
    rest = [dim for dim in range(values.dim()) if dim not in dims]
    dtype = sum_dtype(values.device)
    norms = torch.linalg.vector_norm(values, dim=rest, dtype=dtype) if rest else values.to(dtype)
    sums = norms.square()
    for dim, sizes in blocks:
        axis, device = dims.index(dim), values.device
        layers = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
        index = layers[torch.arange(first[dim], first[dim] + values.shape[dim], device=device) % len(layers)]
        shape = [*sums.shape[:axis], len(sizes), *sums.shape[axis + 1 :]]
        sums = torch.zeros(shape, dtype=dtype, device=device).index_add_(axis, index, sums)
    return sums.permute([dims.index(pattern.dim) for pattern in blocks]).reshape(-1)


def over_ranks(sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Add up over the ranks the sums (rows, layers) of each parameter that is sharded; one all-reduce per mesh."""
    meshes: dict[Any, list[Tensor]] = {}
    for param in sums:
        if is_sharded(param):
            meshes.setdefault((param.device_mesh, mesh_dims(param)), []).append(param)  # type: ignore[attr-defined]
    totals = dict(sums)
    for (mesh, dims), params in meshes.items():
        counts = [sums[param].shape[1] for param in params]
        total = add_up(torch.cat([sums[param] for param in params], dim=1), mesh, dims)
        totals.update(zip(params, total.split(counts, dim=1), strict=True))
    return totals


def _counted(groups: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], Tensor]]:
    """Return the parameters that take part in a step, with their groups."""
    pairs = [(group, param) for group in groups for param in group["params"]]
    # A hook of the step may call another optimizer, to which the parameter does not belong.
    return [pair for pair in pairs if pair[1] is _stepped.get()] or pairs


def _total(values: list[Tensor]) -> Tensor:
    if not values:
        return torch.zeros((), device="cpu")
    device = values[0].device
    return torch.stack([x.to(device, sum_dtype(device)) for x in values]).sum()


def _index(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return constant(numbers, torch.int64, device)
