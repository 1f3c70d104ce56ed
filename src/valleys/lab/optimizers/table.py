"""The optimizers that the lab knows by name, each with the space it is tuned in.

Every space but those of ``-tuned`` has two dimensions, so that equal numbers of trials are equally thorough: the
learning rate over two decades, and the memory of the method's main average (for the adapted ones, of E), as 1 minus its
decay. Adagrad forgets nothing; the start of its accumulator takes that place. Everything else is at the method's
defaults: weight decay at that of its constructor, on weights only (norms and biases have none).

E comes in three ways. By the paper's rule (``alto``, ``esgd``, ``eadam``, ``eadamw``): alpha -5 and beta1 near 1 for
batches of 1,024 and more, alpha 0.5 and beta1 near 0 below. Strong (``alto-strong``): c = alpha (1 - beta1) = -0.75
with a memory 1 / (1 - beta1) of a quarter of the run; what is tuned is then the momentum. Tuned (``alto-tuned``,
``eadamw-tuned``): c from -0.95 to 0.95 and beta1, a third dimension inside the same number of trials. ``alto-0`` is
ALTO at alpha = 0: LAMB with ALTO's other settings, so that what differs is E alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from valleys.hyperparameters import LARGE_BATCH, suggest
from valleys.lab.optimizers.spec import Plan, Range

__all__ = ["BASES", "PYTORCH_OPTIMIZER", "STRONG_C", "STRONG_MEMORY", "Entry", "entries"]

STRONG_C = -0.75
"""c of strong E: the best in a noisy quadratic model where the noise dominates."""

STRONG_MEMORY = 0.25
"""Memory of strong E, as a share of the run."""

BASES = {
    "alto": ("alto-0", "lamb"),
    "alto-strong": ("alto-0", "lamb"),
    "alto-tuned": ("alto-0", "lamb"),
    "esgd": ("sgd",),
    "eadam": ("adam",),
    "eadamw": ("adamw",),
    "eadamw-tuned": ("adamw",),
}
"""Each adapted optimizer without E; of several, the first that takes part in a comparison.

LAMB as it was published differs from ALTO in more than E: in its weight decay and its second moment's decay.
"""

PYTORCH_OPTIMIZER = ("adabelief", "adan", "mars", "lion")
"""Entries that need the package of this name."""

Groups = list[dict[str, Any]]
Make = Callable[[Groups, Mapping[str, float], Plan], Optimizer]


@dataclass(frozen=True)
class Entry:
    """An entry of the table.

    Args:
        make: builds the optimizer from parameter groups, tuned values and the plan of the run.
        space: range of each tuned hyperparameter.
        decay: weight decay, the method's default.
    """

    make: Make
    space: Mapping[str, Range]
    decay: float = 0.0


_MOMENTUM = Range(0.03, 0.3)
_C = Range(-0.95, 0.95, log=False)
_ANY_MEMORY = Range(0.002, 0.99)
_SGD_LR, _ADAM_LR, _LAMB_LR = Range(1e-2, 1.0), Range(3e-4, 3e-2), Range(3e-3, 0.3)


def entries(batch_size: int) -> dict[str, Entry]:
    """Return all entries, for a batch size.

    Args:
        batch_size: examples per step; the paper's rule for alpha and beta1 turns at 1,024.

    Returns:
        Entries by name.

    Example:
        >>> entries(128)["alto"].space["one_minus_beta1"], entries(1024)["alto"].space["one_minus_beta1"]
        (Range(low=0.5, high=0.99, log=False), Range(low=0.001, high=0.1, log=True))
    """
    memory = Range(0.001, 0.1) if batch_size >= LARGE_BATCH else Range(0.5, 0.99, log=False)
    return {**_plain(), **_adapted(suggest(batch_size)["alpha"], memory)}


def _plain() -> dict[str, Entry]:
    """Optimizers without E."""
    return {
        "sgd": Entry(_sgd, {"lr": _SGD_LR, "one_minus_momentum": _MOMENTUM}),
        "adam": Entry(_with_betas(torch.optim.Adam, 0.999), _adam_space()),
        "adamw": Entry(_with_betas(torch.optim.AdamW, 0.999), _adam_space(), 0.01),
        "nadam": Entry(_with_betas(torch.optim.NAdam, 0.999), _adam_space()),
        "radam": Entry(_with_betas(torch.optim.RAdam, 0.999), _adam_space()),
        "rmsprop": Entry(
            lambda groups, v, plan: torch.optim.RMSprop(groups, lr=v["lr"], alpha=1 - v["one_minus_alpha"]),
            {"lr": Range(1e-4, 1e-2), "one_minus_alpha": Range(0.003, 0.3)},
        ),
        "adagrad": Entry(
            lambda groups, v, plan: torch.optim.Adagrad(
                groups, lr=v["lr"], initial_accumulator_value=v["initial_accumulator"]
            ),
            {"lr": Range(1e-3, 0.1), "initial_accumulator": Range(1e-6, 1e-1)},
        ),
        "adabelief": Entry(_pytorch_optimizer("AdaBelief", 0.999), _adam_space()),
        "adan": Entry(_pytorch_optimizer("Adan", 0.92, 0.99), _adam_space(Range(0.006, 0.06))),
        "mars": Entry(_mars, _adam_space()),
        "lion": Entry(_pytorch_optimizer("Lion", 0.99), _adam_space(low=3e-5)),
        "lamb": Entry(
            _valleys("Lamb", lambda v, plan: {"betas": (1 - v["one_minus_beta2"], 0.999)}),
            {"lr": _LAMB_LR, "one_minus_beta2": _MOMENTUM},
            0.01,
        ),
        "alto-0": Entry(
            _valleys("Lamb", lambda v, plan: {"betas": (1 - v["one_minus_beta2"], 0.99)}),
            {"lr": _LAMB_LR, "one_minus_beta2": _MOMENTUM},
            1e-4,
        ),
    }


def _adapted(alpha: float, memory: Range) -> dict[str, Entry]:
    """Optimizers with E, by the paper's rule, strong, and tuned."""
    return {
        "alto": Entry(
            _valleys("ALTO", lambda v, plan: {"beta": 1 - v["one_minus_beta1"], "alpha": alpha}),
            {"lr": _LAMB_LR, "one_minus_beta1": memory},
            1e-4,
        ),
        "alto-strong": Entry(_valleys("ALTO", _strong), {"lr": _LAMB_LR, "one_minus_beta2": _MOMENTUM}, 1e-4),
        "alto-tuned": Entry(
            _valleys("ALTO", lambda v, plan: {"beta": 1 - v["one_minus_beta1"], "alpha": _alpha(v)}),
            {"lr": _LAMB_LR, "c": _C, "one_minus_beta1": _ANY_MEMORY},
            1e-4,
        ),
        "esgd": Entry(
            _valleys("ESGD", lambda v, plan: {"beta": 1 - v["one_minus_beta"], "alpha": alpha, "nesterov": True}),
            {"lr": _SGD_LR, "one_minus_beta": memory},
        ),
        "eadam": Entry(
            _valleys("EAdam", lambda v, plan: {"beta": 1 - v["one_minus_beta"], "alpha": alpha}),
            {"lr": _ADAM_LR, "one_minus_beta": memory},
        ),
        "eadamw": Entry(
            _valleys("EAdamW", lambda v, plan: {"beta": 1 - v["one_minus_beta"], "alpha": alpha}),
            {"lr": _ADAM_LR, "one_minus_beta": memory},
            0.01,
        ),
        "eadamw-tuned": Entry(
            _valleys("EAdamW", lambda v, plan: {"beta": 1 - v["one_minus_beta1"], "alpha": _alpha(v)}),
            {"lr": _ADAM_LR, "c": _C, "one_minus_beta1": _ANY_MEMORY},
            0.01,
        ),
    }


def _alpha(values: Mapping[str, float]) -> float:
    return values["c"] / values["one_minus_beta1"]


def _strong(values: Mapping[str, float], plan: Plan) -> dict[str, Any]:
    one_minus_beta1 = min(1.0, 1 / (STRONG_MEMORY * plan.steps))
    return {
        "betas": (1 - values["one_minus_beta2"], 0.99),
        "beta": 1 - one_minus_beta1,
        "alpha": STRONG_C / one_minus_beta1,
    }


def _with_betas(cls: Callable[..., Optimizer], *others: float) -> Make:
    """An optimizer of Adam's kind: betas = (tuned, others)."""
    return lambda groups, v, plan: cls(groups, lr=v["lr"], betas=(1 - v["one_minus_beta1"], *others))


def _pytorch_optimizer(name: str, *others: float) -> Make:
    """An optimizer of Adam's kind from the package pytorch_optimizer."""

    def make(groups: Groups, values: Mapping[str, float], plan: Plan) -> Optimizer:
        import pytorch_optimizer

        return _with_betas(getattr(pytorch_optimizer, name), *others)(groups, values, plan)

    return make


def _mars(groups: Groups, values: Mapping[str, float], plan: Plan) -> Optimizer:
    import pytorch_optimizer

    # MARS leaves vectors to an AdamW with settings of its own: the one tuned learning rate must reach them too, and
    # norms and biases have no decay here.
    optimizer: Optimizer = pytorch_optimizer.MARS(
        groups,
        lr=values["lr"],
        betas=(1 - values["one_minus_beta1"], 0.99),
        lr_1d=values["lr"],
        weight_decay_1d=0.0,
    )
    return optimizer


def _valleys(name: str, options: Callable[[Mapping[str, float], Plan], dict[str, Any]]) -> Make:
    def make(groups: Groups, values: Mapping[str, float], plan: Plan) -> Optimizer:
        import valleys

        optimizer: Optimizer = getattr(valleys, name)(groups, lr=values["lr"], **options(values, plan))
        return optimizer

    return make


def _sgd(groups: Groups, values: Mapping[str, float], plan: Plan) -> Optimizer:
    return torch.optim.SGD(groups, lr=values["lr"], momentum=1 - values["one_minus_momentum"], nesterov=True)


def _adam_space(memory: Range = _MOMENTUM, low: float = 3e-4) -> dict[str, Range]:
    return {"lr": Range(low, 100 * low), "one_minus_beta1": memory}
