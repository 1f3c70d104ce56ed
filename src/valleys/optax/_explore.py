"""E as a gradient transformation, in one buffer."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from valleys.optax._checks import check_adapt, check_state_dtype, is_known
from valleys.optax._precision import computing_dtype, map_gradients, real_dtype, zeros_like


class AdaptState(NamedTuple):
    """E's memory after ``count`` steps."""

    count: Any  # int32, shape ()
    s: Any  # EMA of the gradient, a tree like the parameters


def adapt(alpha: Any = -5.0, beta: Any = 0.99, *, state_dtype: Any = None) -> Any:
    r"""E: hands on g + alpha a in place of the gradient g; put it before any optimizer with ``optax.chain``.

    .. math::
        \tilde g_k = g_k + \alpha (1-\beta)(g_k - s_{k-1}), \qquad s_k = \beta s_{k-1} + (1-\beta) g_k, \qquad s_0 = 0,

    which is the paper's :math:`g_k + \alpha a_k` with one buffer instead of two, while beta is constant; alpha may
    change. If beta does, s is still the EMA of the gradient, where the paper's a_k would carry the old values.

    A missing gradient (None) moves no buffer. Complex gradients need nothing special: E is linear.

    Args:
        alpha: strength of E; below 0 explores, above 0 exploits. A number with ``|alpha| * (1 - beta) < 1``, a
            function of the step (an optax schedule, which sees 0 first), or an array. Only numbers can be checked.
            The number 0 turns E off: gradients pass bit for bit and nothing is kept; a 0 that comes from a schedule or
            an array passes them, too, while s goes on. Default: -5, the paper's large-batch rule.
        beta: memory of E, in [0, 1): a number or an array. Default: 0.99.
        state_dtype: dtype of s: None (the parameter's, but float32 for half precision), "float32", or "bfloat16",
            rounded to nearest. Default: None.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its updates have the gradients' dtypes.

    Raises:
        ValueError: alpha, beta or state_dtype out of range.

    Example:
        >>> import jax.numpy as jnp, optax, valleys.optax
        >>> optimizer = optax.chain(valleys.optax.adapt(alpha=-5.0, beta=0.99), optax.sgd(1.0))
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, state = optimizer.update(jnp.array([1.0, -1.0]), optimizer.init(params), params)
        >>> updates  # the first step: s = 0, so g~ = (1 - 0.05) g
        Array([-0.95,  0.95], dtype=float32)

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 5; one buffer instead of two: ours.
    """
    check_adapt(alpha, beta)
    dtype = check_state_dtype(state_dtype)
    if is_known(alpha) and alpha == 0:
        return optax.with_extra_args_support(optax.identity())

    def init(params: Any) -> AdaptState:
        return AdaptState(count=jnp.zeros([], jnp.int32), s=zeros_like(params, dtype))

    def update(updates: Any, state: AdaptState, params: Any = None, **extra: Any) -> tuple[Any, AdaptState]:
        del params, extra
        strength = alpha(state.count) if callable(alpha) else alpha
        explored = map_gradients(lambda g, s: _explored(g, s, strength, beta), updates, state.s)
        s = map_gradients(lambda g, s: _remembered(g, s, beta), updates, state.s)
        return explored, AdaptState(count=optax.safe_increment(state.count), s=s)

    return optax.GradientTransformationExtraArgs(init, update)


def _explored(g: Any, s: Any, alpha: Any, beta: Any) -> Any:
    """g + c (g - s) with c = alpha (1 - beta)."""
    if g is None:
        return None
    dtype = computing_dtype(g, s)
    if is_known(alpha) and is_known(beta):
        c = alpha * (1 - beta)
    else:
        c = jnp.asarray(alpha, real_dtype(dtype)) * (1 - jnp.asarray(beta, real_dtype(dtype)))
    wide = g.astype(dtype)
    explored = (wide + c * (wide - s.astype(dtype))).astype(g.dtype)
    # g + 0 (g - s) would lose the sign of a zero, and everything once s has overflowed.
    return explored if is_known(c) else jnp.where(c == 0, g, explored)


def _remembered(g: Any, s: Any, beta: Any) -> Any:
    """s + (1 - beta)(g - s)."""
    if g is None:
        return s
    dtype = computing_dtype(g, s)
    forget = 1 - (beta if is_known(beta) else jnp.asarray(beta, real_dtype(dtype)))
    wide = s.astype(dtype)
    return (wide + forget * (g.astype(dtype) - wide)).astype(s.dtype)
