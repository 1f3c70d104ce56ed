"""The moments of Alg. 2, each fed with E's gradient or the plain one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valleys.optax._checks import is_known
from valleys.optax._precision import computing_dtype, map_gradients, real_dtype, zeros_like


class MomentsState(NamedTuple):
    """E's state and the moments after ``count`` steps."""

    count: Any  # int32, shape ()
    explore: Any  # E's state; empty without E
    mu: Any  # first moment, a tree like the parameters
    nu: Any  # second moment, a tree like the parameters; a complex one holds a square for each part


def scale_by_moments(
    explore: Any,
    b2: Any,
    b3: Any,
    eps: Any,
    *,
    bias_correction: bool = True,
    accelerate: tuple[str, ...] = ("momentum", "second_moment"),
    mu_dtype: Any = None,
) -> Any:
    r"""The direction of Alg. 2 before weight decay: mh / (sqrt(vh) + eps).

    .. math::
        m = b_2 m + (1-b_2) \tilde g, \quad v = b_3 v + (1-b_3) \tilde g^2, \quad
        \hat m = m / (1 - b_2^k), \quad \hat v = v / (1 - b_3^k)

    ``explore`` makes g~ of g, and the moments out of ``accelerate`` see it; the others see g.
    """
    explore = optax.with_extra_args_support(explore)

    def init(params: Any) -> MomentsState:
        mu, nu = zeros_like(params, mu_dtype), zeros_like(params)
        return MomentsState(count=jnp.zeros([], jnp.int32), explore=explore.init(params), mu=mu, nu=nu)

    def update(updates: Any, state: MomentsState, params: Any = None, **extra: Any) -> tuple[Any, MomentsState]:
        explored, memory = explore.update(updates, state.explore, params, **extra)
        for_m, for_v = (explored if name in accelerate else updates for name in ("momentum", "second_moment"))
        k = optax.safe_increment(state.count)
        m = map_gradients(lambda g, m: m if g is None else _ema(m, g, b2), for_m, state.mu)
        v = map_gradients(
            lambda g, v: v if g is None else _by_parts(lambda v, g: _ema(v, g * g, b3), v, g), for_v, state.nu
        )

        def direction(m: Any, v: Any) -> Any:
            mh, vh = m, v
            if bias_correction:
                mh, vh = m / _correction(b2, k, m.dtype), v / _correction(b3, k, v.dtype)
            return mh / (jnp.sqrt(vh) + jnp.asarray(eps, v.dtype))

        scaled = map_gradients(lambda g, m, v: None if g is None else _by_parts(direction, m, v), updates, m, v)
        mu, nu = (jax.tree.map(lambda x, old: x.astype(old.dtype), *pair) for pair in ((m, state.mu), (v, state.nu)))
        return scaled, MomentsState(count=k, explore=memory, mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _ema(x: Any, y: Any, decay: Any) -> Any:
    """x + (1 - decay)(y - x); of known decays 1 - decay is a Python number, exact to float64."""
    dtype = computing_dtype(x, y)
    x, y = x.astype(dtype), y.astype(dtype)
    return x + (1 - (decay if is_known(decay) else jnp.asarray(decay, real_dtype(dtype)))) * (y - x)


def _correction(decay: Any, k: Any, dtype: Any) -> Any:
    """1 - decay^k, which would cancel in float32 for a decay near 1."""
    if is_known(decay) and decay == 0:
        return 1.0
    log = math.log(decay) if is_known(decay) else jnp.log(jnp.asarray(decay, dtype))
    return -jnp.expm1(k.astype(dtype) * log)


def _by_parts(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function`` of the real and of the imaginary parts, as torch.optim treats complex numbers."""
    if not jnp.iscomplexobj(arrays[0]):
        return function(*arrays)
    return jax.lax.complex(function(*(x.real for x in arrays)), function(*(x.imag for x in arrays)))
