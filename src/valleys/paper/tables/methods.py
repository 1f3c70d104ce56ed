"""The paper's optimizers with fixed hyperparameters.

All of them, as the paper's algorithms are written, treat every parameter tensor alike: biases and norms have weight
decay, and in ALTO and LAMB (``layer_adaptation=True``) a ratio of their own. (ALTO and Lamb leave both out by default.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from valleys.hyperparameters import suggest
from valleys.lab.errors import LabError
from valleys.lab.optimizers.spec import OptimizerSpec, Plan
from valleys.paper.tables.model import Method

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def _of_package(package: str, name: str, **fixed: Any) -> Callable[..., Optimizer]:
    def make(params: list[nn.Parameter], **options: Any) -> Optimizer:
        optimizer: Optimizer = getattr(import_module(package), name)(params, **{**fixed, **options})
        return optimizer

    return make


MAKERS: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": _of_package("torch.optim", "SGD"),
    "adam": _of_package("torch.optim", "Adam"),
    "adamw": _of_package("torch.optim", "AdamW"),
    "adabelief": _of_package("pytorch_optimizer", "AdaBelief"),
    "adan": _of_package("pytorch_optimizer", "Adan"),
    "lion": _of_package("pytorch_optimizer", "Lion"),
    "lamb": _of_package("valleys", "Lamb", layer_adaptation=True),
    "alto": _of_package("valleys", "ALTO", layer_adaptation=True),
    "esgd": _of_package("valleys", "ESGD"),
    "eadam": _of_package("valleys", "EAdam"),
    "eadamw": _of_package("valleys", "EAdamW"),
}
"""``make(parameters, **options)`` by kind."""

_PYTORCH_OPTIMIZER = ("adabelief", "adan", "lion")

_E: Mapping[str, object] = {"alpha": None, "beta": None}  # by the paper's rule

_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-4},
    "adam": {"betas": (0.9, 0.999)},
    "adamw": {"betas": (0.9, 0.999), "weight_decay": 0.01},
    "adabelief": {"betas": (0.9, 0.999)},
    "adan": {"betas": (0.98, 0.92, 0.99)},
    "lion": {"betas": (0.9, 0.99)},
    "lamb": {"betas": (0.9, 0.999), "weight_decay": 1e-4},
    "alto": {"betas": (0.9, 0.99), **_E, "weight_decay": 1e-4},
    # Alg. 3 has the momentum 0.9 of the paper's other methods as beta2.
    "esgd": {"momentum": 0.9, **_E, "weight_decay": 1e-4},
    "eadam": {"betas": (0.9, 0.999), **_E},
    "eadamw": {"betas": (0.9, 0.999), "weight_decay": 0.01, **_E},
}

_OPTIONS = {*(name for options in _DEFAULTS.values() for name in options)}
_OPTIONS |= {"accelerate", "bias_correction", "layer_adaptation"}


def method(
    optimizer: str,
    lr: float,
    batch_size: int | None = None,
    *,
    name: str | None = None,
    ours: str = "",
    **changes: object,
) -> Method:
    """Return one of the paper's optimizers (SGD, ..., EAdamW) with all its hyperparameters.

    From the batch size the paper's rule has alpha and beta, where ``changes`` has not. An option that is None is the
    optimizer's own default. ``ours`` says what is our choice, beyond the note ``ours`` of all tables.

    Raises:
        ValueError: an unknown optimizer or option, or an optimizer with E without alpha, beta or a batch size.

    Example:
        >>> method("LAMB", 0.01).describe()
        'lr=0.01, betas=(0.9, 0.999), weight_decay=0.0001'
        >>> method("ALTO", 0.01, 128, beta=0.1).describe()
        'lr=0.01, betas=(0.9, 0.99), alpha=0.5, beta=0.1, weight_decay=0.0001'
    """
    kind = optimizer.lower()
    if kind not in _DEFAULTS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose one of {', '.join(_DEFAULTS)}")
    unknown = sorted(set(changes) - _OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} of {optimizer}; there are {', '.join(sorted(_OPTIONS))}")
    options = {"lr": lr, **_DEFAULTS[kind], **changes}
    if "alpha" in options and batch_size is not None:
        # The paper's "1K" is 1,000 where its batch is; the package's rule turns at 1,024.
        rule = suggest(math.ceil(1.024 * batch_size))
        options |= {key: value for key, value in rule.items() if options[key] is None}
    if "alpha" in options and None in (options["alpha"], options["beta"]):
        raise ValueError(f"{optimizer} needs alpha and beta, or a batch size for the paper's rule")
    pairs = tuple((key, value) for key, value in options.items() if value is not None)
    return Method(optimizer if name is None else name, kind, pairs, ours)


def spec(chosen: Method, exclude_norms: bool = False) -> OptimizerSpec:
    """Return a method as the lab runs it, with nothing left to tune; raise LabError if its package is missing.

    Norms and biases can be left without weight decay and ratio, as in the authors' package.

    Example:
        >>> spec(method("Adam", 0.01)).space
        {}
    """
    if chosen.kind in _PYTORCH_OPTIMIZER and find_spec("pytorch_optimizer") is None:
        raise LabError(f"{chosen.name} needs the package pytorch_optimizer; pip install 'valleys[lab]'")

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        from valleys.groups import param_groups

        options: dict[str, Any] = dict(chosen.options)
        parameters: list[Any] = list(model.parameters())
        if exclude_norms:
            adapted = options.get("layer_adaptation", True)
            parameters = param_groups(model, weight_decay=options.get("weight_decay", 0.0))
            parameters = [{**one, "layer_adaptation": one["layer_adaptation"] and adapted} for one in parameters]
        return MAKERS[chosen.kind](parameters, **options)

    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.options}
    settings |= {"exclude_norms": True} if exclude_norms else {}
    return OptimizerSpec(chosen.name, build, {}, settings={"kind": chosen.kind, **settings})
