"""The optimizers of this package in timm's registry, for ``--opt alto`` and ``create_optimizer_v2``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from valleys.adaptor import ESGD, EAdam, EAdamW
from valleys.alto import ALTO, Lamb

__all__ = ["NAMES", "register"]

NAMES = ("alto", "valleyslamb", "esgd", "eadam", "eadamw")
"""Names of the optimizers in timm, which takes what follows the last underscore of a name for the name."""


def register() -> tuple[str, ...]:
    """Adds ALTO, Lamb, ESGD, EAdam and EAdamW to timm's registry of optimizers.

    timm puts norms and biases into a group without weight decay; ``alto`` and ``valleyslamb`` give them no trust ratio
    either, as :class:`valleys.ALTO` does by default. Options beyond timm's own arguments, such as ``alpha``, are given
    as keywords (``--opt-kwargs alpha=-5 beta=0.99``). timm's default weight decay of 0 holds.

    Returns:
        The names alto, valleyslamb, esgd, eadam, eadamw. Calling it twice does no harm.

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
        ("alto", ALTO, "LAMB with E: large batches along valleys", {"has_betas": True}),
        ("valleyslamb", Lamb, "LAMB, the baseline of alto", {"has_betas": True}),
        ("esgd", ESGD, "SGD with E", {"has_momentum": True, "has_eps": False}),
        ("eadam", EAdam, "Adam with E", {"has_betas": True}),
        ("eadamw", EAdamW, "AdamW with E", {"has_betas": True}),
    ]
    names = set(default_registry.list_optimizers())
    for name, make, description, traits in entries:
        if name not in names:
            default_registry.register(OptimInfo(name=name, opt_class=make, description=description, **traits))
    return NAMES
