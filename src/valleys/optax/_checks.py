"""Checks of hyperparameters, with the messages of the torch side; values that jax traces pass unread."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from valleys._engine.options import AFTER_MOMENTUM, check_group
from valleys.hyperparameters import check_explore, check_range

_STATE_DTYPES = ("float32", "bfloat16")

# Legal values in place of those that nobody can read yet, and of options that exist on the torch side alone.
_NEUTRAL = {
    "lr": 0.0,
    "eps": 0.0,
    "weight_decay": 0.0,
    "trust_eps": 0.0,
    "norm_eps": 0.0,
    "layer_adaptation": False,
    "trust_clip": None,
    "max_grad_norm": None,
    "fused": None,
    "foreach": None,
    "differentiable": False,
    "state_dtype": None,
    "seed": 0,
}


def is_known(value: Any) -> bool:
    """Return True if ``value`` can be read now: neither a schedule nor an array of jax, traced or on a device."""
    return not callable(value) and not isinstance(value, jax.Array)


def check_adapt(alpha: Any, beta: Any, alpha_name: str = "alpha", beta_name: str = "beta") -> None:
    """Raises ValueError unless E's two hyperparameters, as far as they are known, are in range."""
    _refuse_schedules({beta_name: beta})
    # 0 is in range beside anything.
    check_explore(
        _number(alpha) if is_known(alpha) and is_known(beta) else 0.0,
        _number(beta) if is_known(beta) else 0.0,
        alpha_name=alpha_name,
        beta_name=beta_name,
    )
    if is_known(alpha):
        check_range(alpha_name, _number(alpha), -np.inf, remedy="0 switches E off")


def check_layerwise(trust_eps: Any, norm_eps: Any, trust_clip: Any, axis_name: Any) -> None:
    """Raises unless the ratio's options, as far as they are known, are in range."""
    values = {"trust_eps": trust_eps, "norm_eps": norm_eps}
    _refuse_schedules({**values, "trust_clip": trust_clip})
    group = {name: _number(value) for name, value in values.items() if is_known(value)}
    check_group({**_NEUTRAL, **group, "betas": (0.0, 0.0), "trust_clip": _known_clip(trust_clip)}, explores=False)
    if callable(axis_name):
        raise ValueError(f"axis_name must be None, the name of a mapped axis or a tuple of names, got {axis_name!r}")


def check_options(
    learning_rate: Any, betas: Any, options: dict[str, Any], explore: tuple[Any, Any] | None = None
) -> None:
    """Raise if a known option of ``alto``, or without ``explore`` (alpha, beta) of ``lamb``, is out of range."""
    if is_known(learning_rate):
        check_range("learning_rate", _number(learning_rate), 0.0, remedy="a usual value is 1e-2")
    _refuse_schedules({"eps": options["eps"]})
    if isinstance(betas, (tuple, list)):
        _refuse_schedules({f"betas[{index}]": beta for index, beta in enumerate(betas)})
        betas = tuple(_number(beta) if is_known(beta) else 0.0 for beta in betas)
    values = {name: _number(value) for name, value in options.items() if is_known(value)}
    group = {**_NEUTRAL, **values, "betas": betas}
    check_group({**group, "alpha": 0.0, "beta": 0.0} if explore else group, explore is not None)
    if explore:
        check_adapt(*explore)
        if options["accelerate"] == AFTER_MOMENTUM:
            raise ValueError(
                f"accelerate={AFTER_MOMENTUM!r} is for valleys.ALTO alone; name moments, or leave it unset"
            )


def check_state_dtype(value: Any, name: str = "state_dtype") -> Any:
    """The dtype for states, or None; other values raise."""
    if value is None:
        return None
    try:
        dtype = None if isinstance(value, jax.Array) else jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in _STATE_DTYPES:
        raise ValueError(
            f"{name} must be None or out of {_STATE_DTYPES}, got {value!r}; float16 has too small a range for squares "
            f'of gradients, and inject_hyperparams needs static_args="{name}"'
        )
    return dtype


def trust_bounds(value: Any) -> tuple[Any, Any] | None:
    """``trust_clip`` as (low, high)."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, (tuple, list)) else (0.0, value)


def _refuse_schedules(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if callable(value):
            raise ValueError(
                f"{name} must be a number, got {value!r}; learning_rate, alpha and weight_decay may be schedules, "
                "anything else under optax.inject_hyperparams"
            )


def _known_clip(value: Any) -> Any:
    if value is None or not is_known(value):
        return None
    if isinstance(value, (tuple, list)):
        return tuple(_number(x) for x in value) if all(is_known(x) for x in value) else None
    return _number(value)


def _number(value: Any) -> Any:
    """A numpy scalar or 0-dimensional array as the Python number it holds."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0 else value
