"""The options of ALTO and Lamb: checks, with errors that say what to do, and their form for the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from valleys._engine.block_memory import patterns
from valleys._engine.dtensor import is_sharded, is_uninitialized, mesh_dims
from valleys._engine.eight_bit import EIGHT_BIT, is_quantized
from valleys._engine.state import state_dtype
from valleys.hyperparameters import check_explore, check_range
from valleys.kernels import Rule
from valleys.kernels.choice import FUSED

_ACCELERATED = ("momentum", "second_moment")
AFTER_MOMENTUM = "after_momentum"
_MATRICES = "matrices"
_SWITCHES = (
    "bias_correction",
    "decay_vectors",
    "maximize",
    "capturable",
    "differentiable",
    "stochastic_rounding",
    "error_correction",
    "skip_nonfinite",
)
_STATE_DTYPES = (torch.float32, torch.bfloat16, EIGHT_BIT)


def is_adapted(param: Tensor, group: dict[str, Any]) -> bool:
    """Return True for a parameter that has a trust ratio, by its own dimensions and not those of a shard."""
    choice = group["layer_adaptation"]
    return param.dim() >= 2 if choice == _MATRICES else bool(choice)


def rounds_stochastically(param: Tensor, group: dict[str, Any]) -> bool:
    """Return True where the parameter or its states are rounded stochastically."""
    narrow = torch.bfloat16 in (group["state_dtype"], param.dtype)
    return group["stochastic_rounding"] and (narrow or has_codes(param, group))


def is_corrected(param: Tensor, group: dict[str, Any]) -> bool:
    """Return True for a bfloat16 parameter with 8 bits more."""
    return group["error_correction"] and param.dtype == torch.bfloat16  # type: ignore[no-any-return]


def has_codes(param: Tensor, group: dict[str, Any]) -> bool:
    """Return True for a parameter whose states are in 8 bits."""
    return is_quantized(param, group["state_dtype"], group["blocks"])


def kernel_dtype(param: Tensor, group: dict[str, Any]) -> torch.dtype:
    """The dtype of a parameter's states as kernels know it; see ``Quantized.dtype``."""
    return torch.int8 if has_codes(param, group) else state_dtype(param, group["state_dtype"])


def rule_of(group: dict[str, Any], adapted: bool = True) -> Rule:
    """A group's options as the kernels take them, for its parameters with a trust ratio or for those without one.

    Lamb's are ALTO's at alpha = 0.
    """
    explores = "alpha" in group
    beta2, beta3 = group["betas"]
    alpha, beta1 = (group["alpha"], group["beta"]) if explores else (0.0, 0.0)
    after_momentum = explores and group["accelerate"] == AFTER_MOMENTUM
    accelerate = group["accelerate"] if explores and not after_momentum else ()
    decays = adapted or group["layer_adaptation"] != _MATRICES or group["decay_vectors"]
    return Rule(
        lr=group["lr"],
        alpha=alpha,
        beta1=beta1,
        beta2=beta2,
        beta3=beta3,
        eps=group["eps"],
        weight_decay=group["weight_decay"] if decays else 0.0,
        trust_eps=group["trust_eps"],
        norm_eps=group["norm_eps"],
        bias_correction=group["bias_correction"],
        layer_adaptation=adapted,
        trust_clip=_trust_clip(group["trust_clip"]),
        accelerate_momentum="momentum" in accelerate,
        accelerate_second_moment="second_moment" in accelerate,
        maximize=group["maximize"],
        capturable=group["capturable"],
        stochastic_rounding=group["stochastic_rounding"],
        after_momentum=after_momentum,
    )


def _trust_clip(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value if isinstance(value, (tuple, list)) else (0.0, value)
    return float(low), float(high)


def check_group(group: dict[str, Any], explores: bool) -> None:
    """Raises on the first option out of range, naming it, its value, the range and the remedy."""
    for index, (moment, beta) in enumerate(zip(("first", "second"), _two(group["betas"], explores), strict=True)):
        remedy = f"it is the {moment} moment's decay rate, like 0.9"
        check_range(f"betas[{index}]", beta, 0.0, 1.0, high_open=True, remedy=remedy)
    check_range("lr", group["lr"], 0.0, remedy="a usual value is 1e-2")
    for name in ("eps", "weight_decay", "trust_eps", "norm_eps"):
        check_range(name, group[name], 0.0, remedy="0 turns it off")
    _check_trust_clip(group["trust_clip"])
    if group["max_grad_norm"] is not None:
        check_range("max_grad_norm", group["max_grad_norm"], 0.0, low_open=True, remedy="None turns clipping off")
    if explores:
        check_explore(group["alpha"], group["beta"])
        accelerate = group["accelerate"]
        if isinstance(accelerate, (tuple, list)):
            valid = all(_is_of(name, _ACCELERATED) for name in accelerate)
        else:
            valid = isinstance(accelerate, str) and accelerate == AFTER_MOMENTUM
        if not valid:
            raise ValueError(
                f"accelerate must be a tuple of names out of {_ACCELERATED}, or {AFTER_MOMENTUM!r}, got "
                f"{accelerate!r}; () turns E off"
            )
    else:
        for name in ("alpha", "beta"):
            if name in group:
                raise ValueError(f"{name}={group[name]!r} has no effect on Lamb; use ALTO, which is Lamb with E")
    if not _is_of(group["layer_adaptation"], (_MATRICES, True, False)):
        raise ValueError(
            f"layer_adaptation must be 'matrices', True or False, got {group['layer_adaptation']!r}; 'matrices' gives "
            "a trust ratio to tensors of two or more dimensions, True to all, False to none"
        )
    for name in _SWITCHES:
        if not _is_of(group.get(name, False), (True, False)):
            raise ValueError(f"{name} must be True or False, got {group[name]!r}")
    _check_backend(group)
    _check_precision(group)


def _two(betas: Any, explores: bool) -> tuple[Any, ...]:
    """The decay rates of the moments, whatever kind of sequence they come in."""
    try:
        numbers = () if isinstance(betas, str) else tuple(betas)
    except TypeError:
        numbers = ()
    if len(numbers) == 3 and explores:
        raise ValueError(
            f"betas must be 2 numbers, the moments' decay rates, got {betas!r}; E's memory has an option of its own: "
            f"betas=({numbers[1]}, {numbers[2]}), beta={numbers[0]}"
        )
    if len(numbers) != 2:
        raise ValueError(f"betas must be 2 numbers, the decay rates of the moments like (0.9, 0.99), got {betas!r}")
    return numbers


def check_parameters(group: dict[str, Any]) -> None:
    """Raises if an option does not fit one of the group's parameters, saying which and why."""
    for param in group["params"]:
        if not is_uninitialized(param):
            patterns(group["blocks"], param.shape)
        if is_sharded(param):
            check_sharded(param, group)
    if group["blocks"] is not None and group["differentiable"]:
        raise RuntimeError(
            "blocks exclude differentiable=True, which sees whole parameters only; leave one of them unset"
        )
    if group["blocks"] is not None and group.get("accelerate") == AFTER_MOMENTUM:
        raise RuntimeError(f"accelerate={AFTER_MOMENTUM!r} is for whole parameters; leave blocks unset")


def check_sharded(param: Tensor, group: dict[str, Any]) -> None:
    """Raises if the group asks for what a DTensor cannot have, or no rank knows its value."""
    mesh_dims(param)
    what = f"a parameter of shape {tuple(param.shape)} is a DTensor"
    if group["differentiable"]:
        raise RuntimeError(f"differentiable=True is for whole parameters, and {what}; leave it unset")
    if group.get("accelerate") == AFTER_MOMENTUM:
        raise RuntimeError(f"accelerate={AFTER_MOMENTUM!r} is for whole parameters, and {what}; leave it unset")


def _is_of(value: object, allowed: tuple[object, ...]) -> bool:
    # A tensor's == is one answer per element.
    return not isinstance(value, Tensor) and value in allowed


def _check_trust_clip(value: Any) -> None:
    if value is None:
        return
    bounds = value if isinstance(value, (tuple, list)) else (0.0, value)
    if len(bounds) != 2:
        raise ValueError(f"trust_clip must be None, an upper bound or (low, high), got {value!r}")
    check_range("trust_clip's lower bound", bounds[0], 0.0, remedy="0 means none")
    check_range("trust_clip's upper bound", bounds[1], bounds[0], remedy="it must not be below the lower one")


def _check_backend(group: dict[str, Any]) -> None:
    fused = group["fused"]
    if not _is_of(fused, (None, True, False, *FUSED)):
        raise ValueError(f"fused must be None, True, False or the name of a backend out of {FUSED}, got {fused!r}")
    if not _is_of(group["foreach"], (None, True, False)):
        raise ValueError(f"foreach must be None, True or False, got {group['foreach']!r}")
    if fused and group["foreach"]:
        raise RuntimeError("fused and foreach cannot both be on: they are two implementations; leave one unset")
    if fused and group.get("accelerate") == AFTER_MOMENTUM:
        raise RuntimeError(
            f"fused={fused!r} excludes accelerate={AFTER_MOMENTUM!r}, which foreach alone can update; leave fused=None"
        )
    if group["differentiable"] and (group["foreach"] or group["capturable"] or fused):
        raise RuntimeError(
            "differentiable=True excludes foreach=True, fused=True and capturable=True: autograd needs the "
            "out-of-place update; leave them unset"
        )


def check_precision(state_dtype: object, seed: object) -> None:
    """Raises unless states can be kept in ``state_dtype`` and ``seed`` is a 32-bit number."""
    if not _is_of(state_dtype, (None, *_STATE_DTYPES)):
        raise ValueError(
            f"state_dtype must be None or out of {_STATE_DTYPES}, got {state_dtype!r}; float16 has too small a range "
            "for squares of gradients"
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer in [0, 2**32), got {seed!r}; it seeds the stochastic rounding")


def _check_precision(group: dict[str, Any]) -> None:
    check_precision(group["state_dtype"], group["seed"])
    if group["differentiable"] and (group["state_dtype"] is not None or group["error_correction"]):
        raise RuntimeError(
            "differentiable=True excludes state_dtype and error_correction: autograd cannot follow the rounding; leave "
            "them unset"
        )
