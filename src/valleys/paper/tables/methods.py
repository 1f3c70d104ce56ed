"""The paper's optimizers with fixed hyperparameters.

All of them, as the paper's algorithms are written, treat every parameter tensor alike: biases and norms have weight
decay, and in ALTO and LAMB a ratio of their own. (The lab's ready-made optimizers leave these two out for them.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from valleys.hyperparameters import suggest
from valleys.lab.errors import LabError
from valleys.lab.optimizers.spec import OptimizerSpec, Plan
from valleys.paper.tables.model import Method

__all__ = ["MAKERS", "OURS", "alto", "method", "spec"]


def _theirs(name: str) -> Callable[..., Optimizer]:
    def make(params: list[nn.Parameter], **options: Any) -> Optimizer:
        import pytorch_optimizer

        optimizer: Optimizer = getattr(pytorch_optimizer, name)(params, **options)
        return optimizer

    return make


def _valleys(name: str) -> Callable[..., Optimizer]:
    def make(params: list[nn.Parameter], **options: Any) -> Optimizer:
        import valleys

        optimizer: Optimizer = getattr(valleys, name)(params, **options)
        return optimizer

    return make


MAKERS: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adabelief": _theirs("AdaBelief"),
    "adan": _theirs("Adan"),
    "lion": _theirs("Lion"),
    "lamb": _valleys("Lamb"),
    "alto": _valleys("ALTO"),
    "esgd": _valleys("ESGD"),
    "eadam": _valleys("EAdam"),
    "eadamw": _valleys("EAdamW"),
}
"""``make(parameters, **options)`` by kind."""

_THEIRS = ("adabelief", "adan", "lion")

_FIXED: Mapping[str, Mapping[str, object]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-4},
    "adam": {"betas": (0.9, 0.999)},
    "adamw": {"betas": (0.9, 0.999), "weight_decay": 0.01},
    "adabelief": {"betas": (0.9, 0.999)},
    "adan": {"betas": (0.98, 0.92, 0.99)},
    "lion": {"betas": (0.9, 0.99)},
    "lamb": {"betas": (0.9, 0.999), "weight_decay": 1e-4},
}

OURS = (
    "Ours, since our notes of the paper do not give them: momentum and weight decay of SGD (0.9, 1e-4), betas and "
    "weight "
    "decay of Adam (0.9, 0.999; 0), AdamW (0.9, 0.999; 0.01), AdaBelief (0.9, 0.999; 0), Adan (0.98, 0.92, 0.99; 0), "
    "Lion (0.9, 0.99; 0) and LAMB (0.9, 0.999; ALTO's 1e-4). Biases and norms are treated like other parameters, as "
    "the "
    "algorithms are written."
)
"""A note for every table that trains networks."""


def method(name: str, lr: float, ours: str = "", **changes: object) -> Method:
    """An optimizer that is not E's.

    Args:
        name: SGD, Adam, AdamW, AdaBelief, Adan, Lion or LAMB.
        lr: learning rate.
        ours: what is our choice, beyond ``OURS``.
        changes: options other than those of ``OURS``.

    Returns:
        The method.

    Example:
        >>> method("LAMB", 0.01).describe()
        'lr=0.01, betas=(0.9, 0.999), weight_decay=0.0001'
    """
    kind = name.lower()
    return Method(name, kind, (("lr", lr), *{**_FIXED[kind], **changes}.items()), ours)


def alto(lr: float, batch_size: int, beta1: float | None = None, ours: str = "", **changes: object) -> Method:
    r"""ALTO by the paper's rule.

    .. math:: \alpha = -5,\ \beta_1 = 0.99 \text{ from batch } 1000 \text{ on, else } \alpha = 0.5,\ \beta_1 = 0.01

    Args:
        lr: learning rate.
        batch_size: examples per step.
        beta1: E's memory, where the table has its own.
        ours: what is our choice.
        changes: further options; ``alpha`` replaces the rule's.

    Returns:
        The method.

    Example:
        >>> alto(0.01, 128, beta1=0.1).describe()
        'lr=0.01, betas=(0.9, 0.99), alpha=0.5, beta=0.1, weight_decay=0.0001'
    """
    # The paper's "1K" is 1,000 where its batch is; the package's rule turns at 1,024.
    rule = suggest(max(batch_size, 1024) if batch_size >= 1000 else batch_size)
    if beta1 is not None:
        rule["beta"] = beta1
    options = {"lr": lr, "betas": (0.9, 0.99), **rule, "weight_decay": 1e-4, **changes}
    return Method("ALTO", "alto", tuple(options.items()), ours)


def spec(chosen: Method, name: str | None = None) -> OptimizerSpec:
    """A method as the lab runs it: nothing is left to tune.

    Args:
        chosen: the method.
        name: its name in the comparison; default: its own.

    Returns:
        The specification, with an empty space.

    Raises:
        LabError: its package is not installed.

    Example:
        >>> spec(method("Adam", 0.01)).space
        {}
    """
    if chosen.kind in _THEIRS and find_spec("pytorch_optimizer") is None:
        raise LabError(f"{chosen.name} needs the package pytorch_optimizer; pip install 'valleys[lab]'")

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        return MAKERS[chosen.kind](list(model.parameters()), **dict(chosen.options))

    return OptimizerSpec(chosen.name if name is None else name, build, {})


def root_scaled(lr: float, batch_size: int, base: int) -> float:
    r"""A learning rate by the square root of the batch size, :math:`\eta \sqrt{B / B_0}`."""
    return lr * math.sqrt(batch_size / base)
