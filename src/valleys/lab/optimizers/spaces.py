"""Ranges that the optimizers of a family share, and what their constructors get of a point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from valleys.lab.optimizers.spec import Plan, Range

Values = Mapping[str, float]
"""Tuned values by name."""

MEANING = {
    "lr": "learning rate: size of a step, before the schedule",
    "momentum": "decay per step of the gradient's average",
    "weight_decay": "share of a weight that is added to its update or gradient",
    "c": "mixing share of E, alpha (1 - beta)",
    "memory": "steps over which E's average reaches, 1 / (1 - beta)",
}
"""Meaning of a hyperparameter's name, in every optimizer."""

MOMENTUM = Range(0.7, 0.97, "reverse-log")
"""Momentum of most optimizers."""


def space(lr: tuple[float, float], weight_decay: tuple[float, float], momentum: Range = MOMENTUM) -> dict[str, Range]:
    """Return the three ranges that almost every optimizer has; the lowest eighth of the weight decay is none."""
    return {"lr": Range(*lr), "momentum": momentum, "weight_decay": Range(*weight_decay, zero=1 / 8)}


SGD = space((1e-2, 1.0), (1e-5, 1e-2))
"""Family of SGD, whose weight decay is part of the gradient."""

ADAM = space((3e-4, 3e-2), (1e-5, 1e-2))
"""Family of Adam, whose weight decay is part of the gradient."""

ADAMW = space((3e-4, 3e-2), (1e-3, 1.0))
"""Family of AdamW, whose weight decay is times the learning rate."""

LAMB = space((3e-3, 0.3), (1e-4, 0.1))
"""Family of LAMB, whose weight decay is part of the update that the trust ratio scales."""

TUNED = {"c": Range(-0.95, 0.95, "linear"), "memory": Range(1.01, 500.0)}
"""Ranges of E where it is tuned."""


def sgd(values: Values, plan: Plan) -> dict[str, Any]:
    """Return the arguments of SGD."""
    return {"lr": values["lr"], "momentum": values["momentum"], "nesterov": True}


def betas(*others: float) -> Callable[[Values, Plan], dict[str, Any]]:
    """Return a function that gives the arguments of an optimizer of Adam's kind: betas = (momentum, others)."""
    return lambda values, plan: {"lr": values["lr"], "betas": (values["momentum"], *others)}
