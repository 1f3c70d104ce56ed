"""From parameters and their state to the lists of tensors that a kernel takes, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._engine.block_memory import Part, Pattern, parts
from valleys._engine.dtensor import aligned, first_index, is_sharded, local, random_place, wrapped_like
from valleys._engine.eight_bit import dequantized, is_stored, matrix, quantized, segment_views, segments_of
from valleys._engine.layer_norms import Place, Pool, layer_sums
from valleys._engine.state import CORRECTION, ROUNDING_STEP
from valleys.kernels import Needs, Rule, Tensors, wide_dtype
from valleys.kernels.choice import Backend, select
from valleys.kernels.foreach import Piece, coefficients, direction
from valleys.kernels.layout import Layout, is_lazy, is_plain, layout, materialized, ordered, put_back
from valleys.kernels.quantization import Quantized
from valleys.kernels.rounding import Corrected, keys

_USUAL = {Tensor, torch.nn.Parameter}


class Row(NamedTuple):
    """One parameter, or this rank's shard, as a kernel sees it: every tensor contiguous, elements in the same order."""

    target: Tensor  # the user's parameter or shard (a complex one as a real view)
    order: Layout  # of its dimensions in memory
    param: Tensor  # ``target`` itself, a view of it, or a copy if its memory has gaps
    grad: Tensor
    states: list[Any]  # in the order of their names: tensors or, in 8 bits, ``Quantized`` matrices
    step: Tensor  # steps made
    rounding_step: Tensor | None  # the same as an integer, for random bits; None if nothing is rounded by them
    salt: int  # as ``start``, see :mod:`valleys.kernels.rounding`
    start: int = 0
    place: Place | None = None  # where its sums go; None if it is one layer by itself
    parts: tuple[Part, ...] | None = None  # its layers in memory, if it holds several
    correction: Tensor | None = None  # 8 bits more of the parameter
    owner: tuple[Tensor, Tensor] | None = None  # a parameter whose memory does not hold its values, and ``target``

    @classmethod
    def of(
        cls, param: Tensor, state: dict[str, Any], names: Sequence[str], dtype: torch.dtype, salt: int, ordinary: bool
    ) -> Row:
        """Gather ``param``, its gradient and the states called ``names``; ``ordinary`` is what ``check_tensors`` said.

        A state whose dtype is not ``dtype``, or whose strides are no longer the parameter's, is replaced in ``state``.
        """
        if dtype == torch.int8:
            return cls._of_codes(param, state, names, salt, ordinary)
        if is_sharded(param):
            return cls._of_shard(param, state, names, dtype, salt)
        assert param.grad is not None
        return cls._of(param, param.grad, state, names, dtype, salt, ordinary)

    @classmethod
    def _of_shard(cls, param: Any, state: dict[str, Any], names: Sequence[str], dtype: torch.dtype, salt: int) -> Row:
        shards = {**state, **{name: local(state[name]) for name in names}}
        before = dict(shards)
        row = cls._of(local(param), local(aligned(param.grad, param)), shards, names, dtype, salt)
        state.update({name: wrapped_like(shards[name], param) for name in names if shards[name] is not before[name]})
        order = row.order if row.order is not None else tuple(range(row.target.dim()))
        if row.rounding_step is not None:
            salt, start = random_place(param, salt, order)
            row = row._replace(salt=salt, start=start)
        return row

    @classmethod
    def _of_codes(cls, param: Any, state: dict[str, Any], names: Sequence[str], salt: int, ordinary: bool) -> Row:
        """A row of states in 8 bits, whose blocks lie in the order of the dimensions, whatever order memory has."""
        step, count = state["step"], state.get(ROUNDING_STEP)
        # The usual case at once: this runs for every tensor at every step.
        if ordinary and param.is_contiguous() and param.grad.is_contiguous():
            return cls(param, None, param, param.grad, [quantized(state, name) for name in names], step, count, salt)
        value = local(param)
        target, order = materialized(value.detach()), tuple(range(value.dim()))
        grad = materialized(local(aligned(param.grad, param)))
        states = [quantized(state, name) for name in names]
        owner = None if target.data_ptr() == value.data_ptr() else (value, target)
        salt, start = (salt, 0) if count is None else random_place(param, salt, order)
        tensors = ordered(target, order), ordered(grad, order)
        return cls(target, order, *tensors, states, step, count, salt, start, owner=owner)

    @classmethod
    def _of(
        cls,
        param: Tensor,
        grad: Tensor,
        state: dict[str, Any],
        names: Sequence[str],
        dtype: torch.dtype,
        salt: int,
        ordinary: bool = False,
    ) -> Row:
        step, count = state["step"], state.get(ROUNDING_STEP)
        # The usual case at once: this runs for every tensor at every step.
        if ordinary and grad.is_contiguous() and param.is_contiguous():
            values = [state[name] for name in names]
            if all(x.dtype == dtype and x.is_contiguous() for x in values):
                return cls(param, None, param, grad, values, step, count, salt)
        if is_lazy(param):
            copy = materialized(param.detach())
            return cls._of(copy, grad, state, names, dtype, salt)._replace(owner=(param, copy))
        target, grad = real(param), materialized(grad)
        order = layout(target)
        for name in names:
            value = state[name]
            if is_plain(value) and (value.dtype != dtype or is_lazy(value) or not _in_order(real(value), order)):
                form = torch.contiguous_format if order is None else torch.preserve_format
                state[name] = torch.empty_like(param, dtype=dtype, memory_format=form, requires_grad=False).copy_(value)
        states = [ordered(real(state[name]), order) for name in names]
        return cls(target, order, ordered(target, order), ordered(real(grad), order), states, step, count, salt)

    def placed(self, param: Tensor, place: Place | None, found: tuple[Pattern, ...]) -> Row:
        """The same row, whose sums go to ``place``, one per layer that the patterns make of ``param``."""
        if not found or place is None or place.first is None:
            return self._replace(place=place)
        shape = tuple(self.target.shape)
        # A complex number's two halves are a dimension of their own, innermost.
        first = (*first_index(param), 0)[: len(shape)]
        order = self.order if self.order is not None else tuple(range(len(shape)))
        return self._replace(place=place, parts=parts(found, shape, first, order))

    def corrected(self, param: Tensor, state: dict[str, Any]) -> Row:
        """The same row with the correction in ``state``, which is brought into the parameter's order in memory."""
        correction = local(state[CORRECTION])
        if not _in_order(correction, self.order):
            form = torch.contiguous_format if self.order is None else torch.preserve_format
            correction = torch.empty_like(local(param), dtype=torch.int8, memory_format=form).copy_(correction)
            state[CORRECTION] = wrapped_like(correction, param) if is_sharded(param) else correction
        return self._replace(correction=ordered(correction, self.order))

    def write_back(self) -> None:
        """Puts the result into the parameter, if the kernel worked on a copy."""
        if self.param is not self.target:
            put_back(self.target, self.order, self.param)
        if self.owner is not None:
            param, copy = self.owner
            param.copy_(copy)


class Bucket(NamedTuple):
    """Tensors for one kernel call, who makes it, and where their sums go."""

    backend: Backend
    rule: Rule
    tensors: Tensors  # of whole parameters or shards, or of their parts
    grads: list[Tensor]  # of the whole parameters or shards
    pool: Pool | None = None  # with whose their sums are added up; None if each is whole
    counted: bool = True  # whether this rank adds its sums
    layers: tuple[int, ...] = ()  # the pool's number for the layer of each tensor; empty if it is one, or has no ratio


def buckets(rows: Sequence[Row], rule: Rule, group: dict[str, Any], explores: bool) -> list[Bucket]:
    """Group rows by device, dtypes and tensor type; without foreach and fused each by itself.

    Empty tensors are left out. With ``explores`` the first state is E's buffer.
    """
    keyed: dict[Any, list[Row]] = {}
    for index, row in enumerate(rows):
        if row.param.numel() == 0:
            continue
        types = {type(row.param), type(row.grad), *map(type, row.states)}
        place = None if row.place is None else (row.place.pool, row.place.counted)
        dtypes = (row.param.dtype, row.grad.dtype, row.step.dtype, row.rounding_step is None, row.correction is None)
        key = (row.param.device, dtypes, None if types <= _USUAL else frozenset(types), place)
        keyed.setdefault(index if _singly(row.param, group) else key, []).append(row)
    return [_bucket(members, rule, group, explores) for members in keyed.values()]


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, which is how torch.optim treats them."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def update_sums(param: Tensor, value: Tensor, state: dict[str, Any], rule: Rule, blocks: tuple[Pattern, ...]) -> Tensor:
    """Sums of each layer of ``param``, or of this rank's shard, as ``ratio.step_lengths`` takes them.

    They are those of the update that is made of ``value`` and of the moments that the last step left.
    """
    moments = [dequantized(state, x) if is_stored(state, x) else state[x] for x in ("exp_avg", "exp_avg_sq")]
    if CORRECTION in state and value is param:
        value = Corrected(local(param).detach(), local(state[CORRECTION])).value()
    theta, m, v = (real(materialized(local(x)).detach()) for x in (value, *moments))
    theta = theta.to(m.device, wide_dtype(theta.dtype))
    tensors = Tensors([theta], [], None, [m], [v], [state["step"]], [], [])
    (r,) = direction(Piece(*tensors[:5], None), [theta], coefficients(tensors, rule, None, None, [0]))
    first = first_index(param) if blocks else ()
    sums = [layer_sums(theta, blocks, first), layer_sums(r, blocks, first)]
    if param.grad is None:
        return torch.stack([*sums, torch.ones_like(sums[0])])
    grad = real(materialized(local(aligned(param.grad, param))))
    return torch.stack([*sums, layer_sums((grad != 0).float(), blocks, first)])


def _bucket(rows: list[Row], rule: Rule, group: dict[str, Any], explores: bool) -> Bucket:
    # The rows of a bucket have tensors of the same types.
    some = rows[0]
    random = some.rounding_step is not None
    corrects = some.correction is not None
    dtypes = some.param.dtype, some.grad.dtype, some.states[0].dtype
    needs = Needs(*dtypes, random, explores, rule.after_momentum, corrects)
    states = [x.codes if isinstance(x, Quantized) else x for x in some.states]
    backend = select([some.param, some.grad, *states], needs, group["foreach"], group["fused"])
    counts = [row.rounding_step for row in rows if row.rounding_step is not None]
    bits = keys([row.salt for row in rows], counts) if counts else [0] * len(rows)
    of_row = dict(zip(map(id, rows), bits, strict=True))
    cut = [piece for row in rows for piece in _pieces(row)]
    columns = [[tensors[i] for _, tensors, _, _ in cut] for i in range(2 + len(some.states) + corrects)]
    corrections = columns.pop() if corrects else None
    tensors = Tensors(
        params=columns[0],
        grads=columns[1],
        explore=columns[2] if explores else None,
        exp_avgs=columns[-2],
        exp_avg_sqs=columns[-1],
        steps=[row.step for row, _, _, _ in cut],
        keys=[of_row[id(row)] for row, _, _, _ in cut],  # type: ignore[arg-type]
        starts=[start for _, _, start, _ in cut],
        corrections=corrections,
    )
    grads = [row.grad for row in rows]
    rule = rule._replace(stochastic_rounding=random)
    if some.place is None:
        return Bucket(backend, rule, tensors, grads)
    layers = tuple(layer for _, _, _, layer in cut if layer is not None)
    return Bucket(backend, rule, tensors, grads, some.place.pool, some.place.counted, layers)


def _pieces(row: Row) -> Iterator[tuple[Row, list[Tensor], int, int | None]]:
    """A row's tensors, or those of each part of it; their place in the random bits and the number of their layer."""
    columns = [row.param, row.grad, *row.states, *([] if row.correction is None else [row.correction])]
    first = None if row.place is None else row.place.first
    if isinstance(row.states[0], Quantized):
        columns = [matrix(x) if isinstance(x, Tensor) else x for x in columns]
    if row.parts is None:
        yield row, columns, row.start, first
        return
    assert first is not None
    start = row.start
    for part in row.parts:
        if isinstance(row.states[0], Quantized):
            for segment in segments_of(part, columns[0].shape[1]):
                yield row, segment_views(segment, columns), start, first + part.layer
                start += segment.rows * segment.length
            continue
        size = (part.length,) if part.rows == 1 else (part.rows, part.length)
        stride = (part.stride, 1)[-len(size) :]
        views = [tensor.as_strided(size, stride, tensor.storage_offset() + part.offset) for tensor in columns]
        yield row, views, start, first + part.layer
        start += part.rows * part.length


def _singly(param: Tensor, group: dict[str, Any]) -> bool:
    """Return True for the for-loop; without fused and foreach torch.optim's default is foreach on accelerators."""
    if group["fused"]:
        return False
    if group["foreach"] is None:
        return group["fused"] is False and param.device.type not in ("cuda", "xpu")
    return not group["foreach"]


def _in_order(tensor: Tensor, order: tuple[int, ...] | None) -> bool:
    return tensor.is_contiguous() if order is None else tensor.permute(order).is_contiguous()
