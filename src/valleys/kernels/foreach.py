"""The update in torch's multi-tensor operations, piece by piece: no synchronisation, any device, bounded temporaries.

``first_pass`` and ``second_pass`` hold the arithmetic; ``compiled`` is made from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys.kernels import Rule, Tensors, wide_dtype
from valleys.kernels.layout import is_plain, is_readable
from valleys.kernels.pieces import batches
from valleys.kernels.quantization import Quantized
from valleys.kernels.ratio import learning_rate, step_lengths, sum_dtype
from valleys.kernels.rounding import Corrected, Noise, bits, round_to_bfloat16

# Elements per piece: on a CPU what its caches hold, elsewhere enough to hide the launches of some twenty kernels.
_CPU_PIECE, _DEVICE_PIECE = 2**18, 2**23

# A hyperparameter: a number, or a tensor on the device that a graph may change.
Number = float | Tensor


class Piece(NamedTuple):
    """Whole tensors, or the same slice of one tensor's parameter, gradient and states; ``noise`` for rounding."""

    params: list[Tensor]
    grads: list[Tensor]
    explore: list[Tensor] | None
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    noise: list[Noise] | None


class Coefficients(NamedTuple):
    """A rule as the factors of the equations, for the tensors of one piece.

    Numbers are 0-dimensional tensors where ``torch.compile`` would otherwise build their values into its graph.
    """

    clip: Tensor | None
    skip: Tensor | None
    maximize: bool
    c: Number
    in_m: bool
    in_v: bool
    forget1: Number
    forget2: Number
    keep3: Number
    forget3: Number
    root: Sequence[Number]
    eps: Sequence[Number]
    weight_decay: Number | None
    lead: Sequence[Number] | None = None  # (1 - beta2^k) c, the factors of g - s beside m, where a enters the update


def alto_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> None:
    """Alg. 2 of the paper, or LAMB where ``tensors.explore`` is None; see :func:`valleys.reference.alto`.

    ``clip`` is a factor on all gradients; where ``skip`` is not zero, nothing changes. Both are 0-dimensional.
    """
    if is_skipped(skip, rule):
        return
    for _, pieces, c in _work(tensors, rule, clip, skip):
        sums, updates = _first_passes(pieces, c, rule.layer_adaptation)
        factors = learning_rate(rule) if sums is None else step_lengths(sums, rule)
        for piece, update in zip(pieces, updates, strict=True):
            second_pass(piece, c, factors, update)


def measure_(tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """The first half of ``alto_``, of tensors that are each a part of a layer: moves the states.

    Returns three rows with a column per tensor, whose sums over a layer's parts are the argument of
    ``ratio.step_lengths``; they mean nothing where ``skip`` is not zero.
    """
    if is_skipped(skip, rule):
        device = tensors.params[0].device
        return torch.zeros(3, len(tensors.params), dtype=sum_dtype(device), device=device)
    sums = [_first_passes(pieces, c, measured=True)[0] for _, pieces, c in _work(tensors, rule, clip, skip)]
    return torch.cat([x for x in sums if x is not None], dim=1)


def apply_(tensors: Tensors, rule: Rule, factors: Tensor, skip: Tensor | None = None) -> None:
    """The second half of ``alto_``: moves the parameters, by a factor per tensor (lr included) times the update."""
    if is_skipped(skip, rule):
        return
    for indices, pieces, c in _work(tensors, rule, None, skip):
        for piece in pieces:
            second_pass(piece, c, factors[indices[0] : indices[-1] + 1])


def first_pass(piece: Piece, c: Coefficients) -> list[Tensor]:
    """Update s, m and v; return the update r."""
    dtype = wide_dtype(piece.params[0].dtype)
    grads = _wide(piece.grads, dtype)
    if c.clip is not None:
        grads = list(torch._foreach_mul(grads, c.clip.to(dtype=dtype, device=grads[0].device)))
    if c.maximize:
        grads = list(torch._foreach_neg(grads))
    for_m = for_v = grads
    lead = None
    if piece.explore is not None:
        s = _changeable(piece.explore, dtype, c.skip)
        adapted = _lerp(grads, s, -c.c)
        if c.lead is not None:
            lead = list(torch._foreach_mul(torch._foreach_sub(grads, s), c.lead))  # type: ignore[arg-type]
        _lerp_(s, grads, c.forget1)
        _store(piece.explore, s, piece.noise, "explore", c.skip)
        for_m, for_v = adapted if c.in_m else grads, adapted if c.in_v else grads
        del s, adapted
    m, v = _changeable(piece.exp_avgs, dtype, c.skip), _changeable(piece.exp_avg_sqs, dtype, c.skip)
    _lerp_(m, for_m, c.forget2)
    # Not a lerp: v + w (g^2 - v) is no number once v is infinite, and beta3 v + w g^2 stays infinite.
    torch._foreach_mul_(v, c.keep3)
    _addcmul_(v, for_v, c.forget3)
    del grads, for_m, for_v
    _store(piece.exp_avgs, m, piece.noise, "exp_avg", c.skip)
    _store(piece.exp_avg_sqs, v, piece.noise, "exp_avg_sq", c.skip)

    return direction(piece, _wide(piece.params, dtype), c, lead)


def measure(piece: Piece, update: list[Tensor]) -> Tensor:
    """Three rows with a column per tensor: the squared norms of theta and r, the largest |g|."""
    params = _wide(piece.params, update[0].dtype)
    rows = (torch._foreach_norm(params), torch._foreach_norm(update), _largest(piece.grads))
    w, r, largest = (torch.stack(list(row)).to(sum_dtype(update[0].device)) for row in rows)
    return torch.stack([w.square(), r.square(), largest])


def second_pass(piece: Piece, c: Coefficients, factors: Tensor | float, update: list[Tensor] | None = None) -> None:
    """theta -= factor * r; ``update`` is r, or None to compute it again."""
    params = _changeable(piece.params, wide_dtype(piece.params[0].dtype), c.skip)
    if update is None:
        update = direction(piece, params, c)
    if isinstance(factors, Tensor):
        torch._foreach_mul_(update, list((-factors).to(update[0].dtype).expand(len(update)).unbind()))
    else:
        torch._foreach_mul_(update, -factors)
    torch._foreach_add_(params, update)
    _store(piece.params, params, piece.noise, "param", c.skip)


def is_skipped(skip: Tensor | None, rule: Rule) -> bool:
    """Return True where the host can read that nothing is to change; elsewhere ``_store`` sees to it."""
    return skip is not None and not rule.capturable and is_readable(skip) and bool(skip.item())


def explore_(
    grads: list[Tensor],
    buffers: list[Tensor],
    outs: list[Tensor],
    *,
    alpha: float,
    beta: float,
    keys: list[int] | list[Tensor] | None = None,
) -> None:
    """E in one buffer: writes g + c (g - s) with c = alpha (1 - beta); s, the buffer, becomes beta s + (1 - beta) g.

    ``outs`` may be ``grads`` themselves. ``keys`` are those of the random bits that round bfloat16 buffers; None rounds
    to nearest.
    """
    for indices, slices in batches([grads, buffers, outs], _piece_size(grads[0])):
        for start, (g, s, out) in slices:
            noise = None if keys is None else [Noise(keys[i], start) for i in indices]
            explore_piece(g, s, out, alpha * (1 - beta), 1 - beta, noise)


def explore_piece(
    grads: list[Tensor], buffers: list[Tensor], outs: list[Tensor], c: Number, forget: Number, noise: list[Noise] | None
) -> None:
    """E for one piece; see ``explore_``."""
    dtype = wide_dtype(grads[0].dtype)
    wide, memory = _wide(grads, dtype), _wide(buffers, dtype)
    adapted = _lerp(wide, memory, -c)
    _lerp_(memory, wide, forget)
    _store(buffers, memory, noise, "explore")
    torch._foreach_copy_(outs, adapted)


def square_sum(tensors: list[Tensor]) -> Tensor:
    """The sum of squares over all tensors, 0-dimensional; squares of float32 numbers overflow float32."""
    norms = torch._foreach_norm(tensors, dtype=sum_dtype(tensors[0].device))
    return torch.stack(list(norms)).square().sum()


def coefficients(
    tensors: Tensors, rule: Rule, clip: Tensor | None, skip: Tensor | None, indices: Sequence[int]
) -> Coefficients:
    """The rule's factors for the tensors at ``indices``."""
    steps = [tensors.steps[i] for i in indices]
    dtype = wide_dtype(tensors.params[0].dtype)
    # m / bc2 / (sqrt(v / bc3) + eps) = m / (sqrt(v) root + eps bc2): one factor and one summand per tensor.
    bc2, bc3 = (_corrections(steps, beta, dtype, rule) for beta in (rule.beta2, rule.beta3))
    return Coefficients(
        clip=clip,
        skip=None if skip is None else skip.to(tensors.params[0].device) != 0,
        maximize=rule.maximize,
        c=rule.alpha * (1 - rule.beta1),
        in_m=rule.accelerate_momentum,
        in_v=rule.accelerate_second_moment,
        forget1=1 - rule.beta1,
        forget2=1 - rule.beta2,
        keep3=rule.beta3,
        forget3=1 - rule.beta3,
        root=[two / three**0.5 for two, three in zip(bc2, bc3, strict=True)],
        eps=[two * rule.eps for two in bc2],
        weight_decay=rule.weight_decay or None,
        lead=[two * rule.alpha * (1 - rule.beta1) for two in bc2] if rule.after_momentum and rule.alpha else None,
    )


def _work(
    tensors: Tensors, rule: Rule, clip: Tensor | None, skip: Tensor | None
) -> Iterator[tuple[list[int], list[Piece], Coefficients]]:
    """Small tensors together, or one large tensor in pieces: their indices, pieces and factors."""
    for indices, slices in batches([*tensors[:5], tensors.corrections], _piece_size(tensors.params[0])):
        pieces = []
        for start, (params, *columns, corrections) in slices:
            if corrections is not None:
                params = [Corrected(*pair) for pair in zip(params, corrections, strict=True)]
            noise = None
            if rule.stochastic_rounding:
                noise = [Noise(tensors.keys[i], tensors.starts[i] + start) for i in indices]
            pieces.append(Piece(*[params, *columns, noise]))
        yield indices, pieces, coefficients(tensors, rule, clip, skip, indices)


def _first_passes(
    pieces: list[Piece], c: Coefficients, measured: bool
) -> tuple[Tensor | None, list[list[Tensor] | None]]:
    """``first_pass`` for the pieces of the same tensors; returns their sums, and for each its update or None."""
    updates: list[list[Tensor] | None] = []
    sums = []
    for piece in pieces:
        update = first_pass(piece, c)
        if measured:
            sums.append(measure(piece, update))
        # Recomputed rather than kept where a tensor comes in several pieces, unless a is part of it.
        updates.append(update if len(pieces) == 1 or c.lead is not None else None)
        del update
    return torch.stack(sums).sum(0) if measured else None, updates


def direction(piece: Piece, params: list[Tensor], c: Coefficients, lead: list[Tensor] | None = None) -> list[Tensor]:
    """r from the moments as they are stored, so that both passes get the same; ``lead`` is alpha a, scaled like m."""
    dtype = params[0].dtype
    m, v = _wide(piece.exp_avgs, dtype), _wide(piece.exp_avg_sqs, dtype)
    denominator = torch._foreach_sqrt(v)
    torch._foreach_mul_(denominator, c.root)  # type: ignore[arg-type]
    torch._foreach_add_(denominator, c.eps)  # type: ignore[arg-type]
    update = list(torch._foreach_div(m if lead is None else torch._foreach_add(lead, m), denominator))
    if c.weight_decay is not None:
        _add_(update, params, c.weight_decay)
    return update


def _lerp(starts: list[Tensor], ends: list[Tensor], weight: Number) -> list[Tensor]:
    if isinstance(weight, Tensor):
        return [torch.lerp(start, end, weight) for start, end in zip(starts, ends, strict=True)]
    return list(torch._foreach_lerp(starts, ends, weight))


def _lerp_(starts: list[Tensor], ends: list[Tensor], weight: Number) -> None:
    if isinstance(weight, Tensor):
        for start, end in zip(starts, ends, strict=True):
            start.lerp_(end, weight)
    else:
        torch._foreach_lerp_(starts, ends, weight)


def _addcmul_(targets: list[Tensor], others: list[Tensor], factor: Number) -> None:
    """Add factor * others^2, multiplied from the left as the other backends do: they overflow at the same numbers."""
    if isinstance(factor, Tensor):
        torch._foreach_addcmul_(targets, torch._foreach_mul(others, factor), others)
    else:
        torch._foreach_addcmul_(targets, others, others, value=factor)


def _add_(targets: list[Tensor], others: list[Tensor], factor: Number) -> None:
    if isinstance(factor, Tensor):
        torch._foreach_add_(targets, torch._foreach_mul(others, factor))
    else:
        torch._foreach_add_(targets, others, alpha=factor)


def _largest(tensors: list[Tensor]) -> list[Tensor]:
    """The largest magnitude in each tensor; not the norm, whose squares underflow."""
    if tensors[0].device.type == "cpu":
        return [tensor.abs().amax() for tensor in tensors]  # ten times as fast as the norm there
    return list(torch._foreach_norm(tensors, math.inf))


def _wide(tensors: list[Any], dtype: torch.dtype) -> list[Tensor]:
    """The tensors themselves where they have the dtype, else copies; of states in 8 bits their values."""
    if isinstance(tensors[0], Quantized):
        return [tensor.dequantize().to(dtype) for tensor in tensors]
    if isinstance(tensors[0], Corrected):
        return [tensor.value() for tensor in tensors]
    return tensors if tensors[0].dtype == dtype else [tensor.to(dtype) for tensor in tensors]


def _changeable(tensors: list[Tensor], dtype: torch.dtype, skip: Tensor | None) -> list[Tensor]:
    """As ``_wide``, but copies where ``_store`` may have to keep the old values."""
    wide = _wide(tensors, dtype)
    return wide if skip is None or wide[0] is not tensors[0] else [tensor.clone() for tensor in wide]


def _store(
    targets: list[Any], values: list[Tensor], noise: list[Noise] | None, role: str, skip: Tensor | None = None
) -> None:
    """Round ``values`` into ``targets``, unless they are the same tensors or ``skip`` is not zero."""
    if targets[0] is values[0]:  # torch.compile of torch 2.9 knows no identity of lists
        return
    if isinstance(targets[0], Quantized):
        _quantize(targets, values, noise, skip)
        return
    if isinstance(targets[0], Corrected):
        for i, (target, value) in enumerate(zip(targets, values, strict=True)):
            target.store(value, None if noise is None else bits(noise[i], role, value), skip)
        return
    if noise is not None and targets[0].dtype == torch.bfloat16:
        values = [round_to_bfloat16(x.float(), bits(place, role, x)) for x, place in zip(values, noise, strict=True)]
    if skip is not None:
        values = [
            torch.where(skip, y.to(x.dtype), x) for x, y in zip(values, _wide(targets, targets[0].dtype), strict=True)
        ]
    if is_plain(targets[0]):
        torch._foreach_copy_(targets, values)
    else:
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)


def _quantize(targets: list[Any], values: list[Tensor], noise: list[Noise] | None, skip: Tensor | None) -> None:
    for i, (target, value) in enumerate(zip(targets, values, strict=True)):
        before = None if skip is None else target.clone()
        target.store(value.float(), None if noise is None else noise[i])
        if before is not None and skip is not None:
            target.codes.copy_(torch.where(skip, before.codes, target.codes))
            target.scales.copy_(torch.where(skip, before.scales, target.scales))


def _corrections(steps: list[Tensor], beta: float, dtype: torch.dtype, rule: Rule) -> Sequence[Any]:
    """1 - beta^k for each tensor's own k, or 1 without bias correction; as numbers unless that would synchronise."""
    if not rule.bias_correction:
        return [1.0] * len(steps)
    if rule.capturable or not all(is_readable(k) for k in steps):
        # 1 - beta^k would cancel in float32 for beta near 1.
        log_beta = math.log(beta) if beta > 0 else -math.inf
        return [-torch.expm1(k.to(dtype) * log_beta) for k in steps]
    return [1 - beta ** k.item() for k in steps]


def _piece_size(tensor: Tensor) -> int:
    return _CPU_PIECE if tensor.device.type == "cpu" else _DEVICE_PIECE
