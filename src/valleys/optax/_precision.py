"""Precision of the arithmetic and the states: float32 or better, whatever the parameters have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def computing_dtype(*arrays: Any) -> Any:
    """The dtype that arithmetic on ``arrays`` takes place in: theirs, and at least float32."""
    dtype: Any = jnp.float32
    for array in arrays:
        dtype = jnp.promote_types(dtype, array.dtype)
    return dtype


def real_dtype(dtype: Any) -> Any:
    """The dtype of the parts of a complex number; a real dtype is its own."""
    return jnp.finfo(dtype).dtype


def zeros_like(params: Any, wanted: Any = None) -> Any:
    """States for ``params``, with their shapes and shardings.

    Their dtype is ``wanted``, or the parameter's, but float32 for half precision, where an EMA would stall.
    """

    def zeros(param: Any) -> Any:
        if wanted is not None and jnp.iscomplexobj(param):
            raise ValueError(
                f"state_dtype={jnp.dtype(wanted).name} is for real parameters, and one of shape {jnp.shape(param)} is "
                "complex; leave state_dtype=None"
            )
        return jnp.zeros_like(param, dtype=computing_dtype(param) if wanted is None else wanted)

    return jax.tree.map(zeros, params)


def map_gradients(function: Callable[..., Any], updates: Any, *rest: Any) -> Any:
    """``jax.tree.map`` that hands a missing gradient, None, to ``function`` as well."""
    return jax.tree.map(function, updates, *rest, is_leaf=lambda x: x is None)


def in_full_precision(inner: Any) -> Any:
    """``inner`` fed with float32 in place of half precision; its updates have the gradients' dtypes."""
    inner = optax.with_extra_args_support(inner)

    def widen(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(computing_dtype(x)), tree)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        wide, state = inner.update(widen(updates), state, None if params is None else widen(params), **extra)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), wide, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
