"""The optimizers of this package in timm's registry, for ``--opt alto`` and ``create_optimizer_v2``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from valleys.adaptor import ESGD, EAdam, EAdamW
from valleys.alto import ALTO, Lamb

__all__ = ["NAMES", "register"]

NAMES = ("alto", "valleyslamb", "esgd", "eadam", "eadamw")
"""What the optimizers are called in timm, which takes what follows the last underscore of a name for the name."""


def register() -> tuple[str, ...]:
    """Adds ALTO, Lamb, ESGD, EAdam and EAdamW to timm's registry of optimizers.

    timm puts norms and biases into a group without weight decay. For ``alto`` and ``valleyslamb`` a group whose tensors
    all have at most one dimension gets ``layer_adaptation=False`` as well, unless it says otherwise, as with
    :func:`valleys.param_groups`. Options beyond timm's own arguments, such as ``alpha``, are given as keywords
    (``--opt-kwargs alpha=-5 beta=0.99``). timm's default weight decay of 0 holds.

    Returns:
        The names: alto, valleyslamb, esgd, eadam, eadamw. Calling it twice does no harm.

    Raises:
        ImportError: timm, or torchvision, which timm imports, is not there; or timm is older than 1.0.10, which has
            no registry.

    Example:
        >>> import valleys.integrations.timm
        >>> valleys.integrations.timm.NAMES
        ('alto', 'valleyslamb', 'esgd', 'eadam', 'eadamw')

    Source: ours.
    """
    try:
        from timm.optim import OptimInfo
        from timm.optim._optim_factory import default_registry
    except ImportError as error:
        raise ImportError(
            f"registering with timm needs timm>=1.0.10 and torchvision ({error}); pip install timm torchvision"
        ) from error
    entries: list[tuple[str, Callable[..., Optimizer], str, dict[str, Any]]] = [
        ("alto", _by_layers(ALTO), "LAMB with E: large batches along valleys", {"has_betas": True}),
        ("valleyslamb", _by_layers(Lamb), "LAMB, the baseline of alto", {"has_betas": True}),
        ("esgd", ESGD, "SGD with E", {"has_momentum": True, "has_eps": False}),
        ("eadam", EAdam, "Adam with E", {"has_betas": True}),
        ("eadamw", EAdamW, "AdamW with E", {"has_betas": True}),
    ]
    known = set(default_registry.list_optimizers())
    for name, make, description, traits in entries:
        if name not in known:
            default_registry.register(OptimInfo(name=name, opt_class=make, description=description, **traits))
    return NAMES


def _by_layers(cls: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """``cls`` with the layer ratio turned off in groups that timm made of norms and biases."""

    @functools.wraps(cls, updated=())
    def make(params: Any, **options: Any) -> Optimizer:
        groups = list(params)
        if groups and all(isinstance(group, dict) for group in groups):
            groups = [_without_ratio(group) if _is_flat(group) else group for group in groups]
        return cls(groups, **options)

    return make


def _without_ratio(group: dict[str, Any]) -> dict[str, Any]:
    return {"layer_adaptation": False, **group}


def _is_flat(group: dict[str, Any]) -> bool:
    params = group["params"]
    return all(param.ndim <= 1 for param in ([params] if isinstance(params, Tensor) else params))
