"""The layerwise ratio around any gradient transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valleys.optax._checks import check_layerwise, trust_bounds
from valleys.optax._precision import computing_dtype, map_gradients, real_dtype


class LayerwiseState(NamedTuple):
    """The ratio has no state of its own."""

    inner_state: Any


def layerwise(
    inner: Any,
    *,
    trust_eps: Any = 1e-6,
    norm_eps: Any = 1e-10,
    trust_clip: Any = None,
    mask: Any = None,
    axis_name: Any = None,
) -> Any:
    r"""Multiplies every leaf r of ``inner``'s updates by its layer's ratio.

    .. math::
        \frac{\phi(|\theta|)}{|r| + \epsilon_2 \phi(|\theta|)}, \qquad \phi(x) = x + \epsilon_3

    but 1 where theta or r is exactly zero, and at most 1 where the gradient is exactly zero. For that it is a wrapper
    and no link of a chain: a link sees ``inner``'s updates and not the gradient. Norms are l2, in float32 or better.
    Under ``jit`` they are those of whole arrays, sharded or not; inside ``shard_map`` a device sees its own
    part, and ``axis_name`` adds the parts up.

    Args:
        inner: transformation that makes r, weight decay included, of the gradient.
        trust_eps: eps2, >= 0. Default: 1e-6.
        norm_eps: eps3, >= 0. Default: 1e-10.
        trust_clip: bounds of the ratio, ``(low, high)`` or the upper one. Default: None, no bounds.
        mask: tree of bools like the parameters, or a prefix of it, or a function that makes one of the parameters;
            where it is False, r passes as it is; a module of bools is a tree. Default: None, everywhere True.
        axis_name: inside ``shard_map``: name or tuple of names of the axes that parameters are cut along. A replicated
            parameter's two norms grow alike, so that its ratio stays what it is, but for eps3. Default: None.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` that needs the parameters in ``update``.

    Raises:
        ValueError: an option out of range; ``update`` without parameters.

    Example:
        >>> import jax.numpy as jnp, optax, valleys.optax
        >>> lars = optax.chain(valleys.optax.layerwise(optax.trace(0.9), trust_eps=0.0), optax.scale(-0.1))
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = lars.update(jnp.array([0.0, 7.0]), lars.init(params), params)
        >>> updates  # a step of length 0.1 |params| along the gradient
        Array([-0. , -0.5], dtype=float32)

    Source: You et al. 2019 (arXiv 1904.00962); phi and eps2: Zhao et al. 2025 (arXiv 2510.27153); exceptions: ours.
    """
    check_layerwise(trust_eps, norm_eps, trust_clip, axis_name)
    inner, mask = optax.with_extra_args_support(inner), as_mask(mask)
    bounds = trust_bounds(trust_clip)
    axes = () if axis_name is None else axis_name if isinstance(axis_name, tuple) else (axis_name,)

    def init(params: Any) -> LayerwiseState:
        return LayerwiseState(inner.init(params))

    def update(updates: Any, state: LayerwiseState, params: Any = None, **extra: Any) -> tuple[Any, LayerwiseState]:
        if params is None:
            raise ValueError("the layerwise ratio needs the parameters; call update(gradients, state, params)")
        r, inner_state = inner.update(updates, state.inner_state, params, **extra)
        leaves = chosen_leaves(mask, r, params)
        sums = map_gradients(lambda r, w, g, on: _sums(r, w, g) if on else None, r, params, updates, leaves)
        for axis in axes:  # one by one, as a layer may be cut along some of them and replicated along others
            sums = jax.lax.psum(sums, axis)
        scaled = map_gradients(
            lambda r, total: r if total is None else _scale(r, total, trust_eps, norm_eps, bounds), r, sums
        )
        return scaled, LayerwiseState(inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def as_mask(mask: Any) -> Any:
    """Return a mask that optax reads as here: a module of bools is a tree, all else that can be called a function."""
    if not callable(mask):
        return mask
    leaves = [] if isinstance(mask, jax.tree_util.Partial) else jax.tree.leaves(mask)
    is_tree = bool(leaves) and all(getattr(leaf, "dtype", type(leaf)) in (bool,) for leaf in leaves)
    return lambda params: mask if is_tree else mask(params)


def chosen_leaves(mask: Any, r: Any, params: Any) -> Any:
    """Bools like ``r``: what a mask says about each leaf, False where the leaf is missing."""
    tree = mask(params) if callable(mask) else True if mask is None else mask
    return jax.tree.map(lambda on, part: map_gradients(lambda x: bool(on) and x is not None, part), tree, r)


def _sums(r: Any, w: Any, g: Any) -> Any:
    """Return the sums over the parts of a layer, shape (3,): |w|^2, |r|^2, and the number of parts with a gradient."""
    dtype = real_dtype(computing_dtype(r, w))
    squares = [jnp.sum(jnp.square(jnp.abs(x.astype(computing_dtype(x)))), dtype=dtype) for x in (w, r)]
    return jnp.stack([*squares, jnp.any(g != 0).astype(dtype)])


def _scale(r: Any, sums: Any, eps2: Any, eps3: Any, bounds: tuple[Any, Any] | None) -> Any:
    """r times phi(|w|) / (|r| + eps2 phi(|w|)), with the two exceptions."""
    w_norm, r_norm, moving = jnp.sqrt(sums[0]), jnp.sqrt(sums[1]), sums[2] != 0
    phi = w_norm + eps3
    ratio = phi / (r_norm + eps2 * phi)
    if bounds is not None:
        ratio = jnp.clip(ratio, *bounds)
    ratio = jnp.where((w_norm == 0) | (r_norm == 0), 1.0, ratio)
    ratio = jnp.where(moving, ratio, jnp.minimum(ratio, 1.0))
    return (r.astype(computing_dtype(r)) * ratio).astype(r.dtype)
