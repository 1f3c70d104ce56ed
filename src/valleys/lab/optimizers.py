"""Optimizers by name, each with the space it is tuned in.

Every space has two dimensions, so that equal numbers of trials are equally thorough: the learning rate over two
decades, and the memory of the method's main average (for the adapted ones, of E), as 1 minus its decay. Adagrad forgets
nothing; the start of its accumulator takes that place. Everything else is at the method's defaults: weight decay at
that of its constructor, on weights only (norms and biases have none), and alpha of E at -5, the paper's value for
batches of 1,024 and more.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError, unknown

__all__ = ["OptimizerSpec", "Range", "names", "resolve"]


@dataclass(frozen=True)
class Range:
    """The values that tuning tries for one hyperparameter.

    Args:
        low: smallest value.
        high: largest value.
        log: whether their logarithms are spread evenly. Default: True.

    Raises:
        LabError: the ends are no finite numbers, in the wrong order, or not above 0 on a logarithmic range.
    """

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        numbers = all(isinstance(end, (int, float)) and math.isfinite(end) for end in (self.low, self.high))
        if not numbers or self.low > self.high or (self.log and self.low <= 0):
            raise LabError(
                f"the range from {self.low!r} to {self.high!r} is none: both ends must be finite, low <= high"
                + (", and low > 0 since it is logarithmic" if self.log else "")
            )


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as the lab uses it.

    Args:
        name: in tables and on the command line.
        build: makes it from a model and values of ``space``.
        space: what is tuned.
    """

    name: str
    build: Callable[[nn.Module, Mapping[str, float]], Optimizer]
    space: Mapping[str, Range]


def names() -> list[str]:
    """The names that ``resolve`` knows, beside ``module:callable``."""
    return list(_REGISTRY)


def resolve(name: str) -> OptimizerSpec:
    """Find an optimizer.

    Args:
        name: one of ``names()``, or ``module:callable``, where the current folder's modules count too. The callable
            gets the list of the model's parameters and the tuned values by name: ``callable(params, lr=...)`` with lr
            between 1e-4 and 1, or, if it has an attribute ``search_space``, the names in it. That is a dictionary of
            ``Range`` objects or (low, high) pairs, which are logarithmic.

    Returns:
        Its specification.

    Raises:
        LabError: no such name, module or callable; a callable that does not take the values, or a bad
            ``search_space``; a package of the extra ``lab`` that is not installed.

    Example:
        >>> sorted(resolve("alto").space)
        ['lr', 'one_minus_beta1']
        >>> resolve("torch.optim:Adagrad").space["lr"]
        Range(low=0.0001, high=1.0, log=True)
    """
    if ":" in name:
        return _from_module(name)
    if name not in _REGISTRY:
        raise unknown("optimizer", name, names(), remedy=", or module:callable")
    if name in _THEIRS and find_spec("pytorch_optimizer") is None:
        raise LabError(f"{name} needs the package pytorch_optimizer; pip install 'valleys[lab]'")
    make, space, decay = _REGISTRY[name]

    def build(model: nn.Module, values: Mapping[str, float]) -> Optimizer:
        from valleys import param_groups

        return make(param_groups(model, weight_decay=decay), values)

    return OptimizerSpec(name, build, space)


def _from_module(name: str) -> OptimizerSpec:
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise LabError(f"optimizer {name!r} is not of the form module:callable, such as torch.optim:Adam")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise LabError(
            f"optimizer {name!r}: the module {module_name} cannot be imported ({error}); install it or run this in its "
            "folder"
        ) from error
    make = getattr(module, attribute, None)
    if make is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"callable of {module_name}", attribute, sorted(public)[:_SHOWN])
    if not callable(make):
        raise LabError(f"optimizer {name!r}: {attribute} is a {type(make).__name__}, which cannot be called")
    space = _own_space(name, make)

    def build(model: nn.Module, values: Mapping[str, float]) -> Optimizer:
        optimizer = make(list(model.parameters()), **values)
        if not isinstance(optimizer, Optimizer):
            raise LabError(
                f"optimizer {name!r} returned a {type(optimizer).__name__}; it must return a torch.optim.Optimizer"
            )
        return optimizer

    return OptimizerSpec(name, build, space)


def _own_space(name: str, make: Callable[..., object]) -> dict[str, Range]:
    given = getattr(make, "search_space", {"lr": (1e-4, 1.0)})
    try:
        space = {key: value if isinstance(value, Range) else Range(*value) for key, value in given.items()}
    except (AttributeError, TypeError) as error:
        raise LabError(
            f"optimizer {name!r}: search_space must be a dictionary of (low, high) pairs, got {given!r}"
        ) from error
    try:
        inspect.signature(make).bind([], **dict.fromkeys(space, 0.0))
    except ValueError:  # some builtins have no signature to look at
        pass
    except TypeError as error:
        raise LabError(f"optimizer {name!r} cannot be called with (params, {', '.join(space)}): {error}") from error
    return space


_SHOWN = 12  # names in an error message
_THEIRS = ("adabelief", "adan", "mars", "lion")

_Make = Callable[[list[dict[str, Any]], Mapping[str, float]], Optimizer]
_MOMENTUM = Range(0.03, 0.3)
_EXPLORE = Range(0.001, 0.1)


def _with_betas(cls: Callable[..., Optimizer], *others: float) -> _Make:
    """An optimizer of Adam's kind: betas = (tuned, others)."""
    return lambda groups, v: cls(groups, lr=v["lr"], betas=(1 - v["one_minus_beta1"], *others))


def _theirs(name: str, *others: float) -> _Make:
    """An optimizer of Adam's kind from the package pytorch_optimizer."""

    def make(groups: list[dict[str, Any]], values: Mapping[str, float]) -> Optimizer:
        import pytorch_optimizer

        return _with_betas(getattr(pytorch_optimizer, name), *others)(groups, values)

    return make


def _mars(groups: list[dict[str, Any]], values: Mapping[str, float]) -> Optimizer:
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


def _ours(name: str, options: Callable[[Mapping[str, float]], dict[str, Any]]) -> _Make:
    def make(groups: list[dict[str, Any]], values: Mapping[str, float]) -> Optimizer:
        import valleys

        optimizer: Optimizer = getattr(valleys, name)(groups, lr=values["lr"], **options(values))
        return optimizer

    return make


def _sgd(groups: list[dict[str, Any]], values: Mapping[str, float]) -> Optimizer:
    return torch.optim.SGD(groups, lr=values["lr"], momentum=1 - values["one_minus_momentum"], nesterov=True)


def _adam_space(memory: Range = _MOMENTUM, low: float = 3e-4) -> dict[str, Range]:
    return {"lr": Range(low, 100 * low), "one_minus_beta1": memory}


_SGD_LR, _LAMB_LR = Range(1e-2, 1.0), Range(3e-3, 0.3)

# name -> (constructor, space, weight decay: the method's default)
_REGISTRY: dict[str, tuple[_Make, dict[str, Range], float]] = {
    "sgd": (_sgd, {"lr": _SGD_LR, "one_minus_momentum": _MOMENTUM}, 0.0),
    "adam": (_with_betas(torch.optim.Adam, 0.999), _adam_space(), 0.0),
    "adamw": (_with_betas(torch.optim.AdamW, 0.999), _adam_space(), 0.01),
    "nadam": (_with_betas(torch.optim.NAdam, 0.999), _adam_space(), 0.0),
    "radam": (_with_betas(torch.optim.RAdam, 0.999), _adam_space(), 0.0),
    "rmsprop": (
        lambda groups, v: torch.optim.RMSprop(groups, lr=v["lr"], alpha=1 - v["one_minus_alpha"]),
        {"lr": Range(1e-4, 1e-2), "one_minus_alpha": Range(0.003, 0.3)},
        0.0,
    ),
    "adagrad": (
        lambda groups, v: torch.optim.Adagrad(groups, lr=v["lr"], initial_accumulator_value=v["initial_accumulator"]),
        {"lr": Range(1e-3, 0.1), "initial_accumulator": Range(1e-6, 1e-1)},
        0.0,
    ),
    "lamb": (
        _ours("Lamb", lambda v: {"betas": (1 - v["one_minus_beta2"], 0.999)}),
        {"lr": _LAMB_LR, "one_minus_beta2": _MOMENTUM},
        0.01,
    ),
    "alto": (
        _ours("ALTO", lambda v: {"betas": (1 - v["one_minus_beta1"], 0.9, 0.99), "alpha": -5.0}),
        {"lr": _LAMB_LR, "one_minus_beta1": _EXPLORE},
        1e-4,
    ),
    "esgd": (
        _ours("ESGD", lambda v: {"beta": 1 - v["one_minus_beta"], "nesterov": True}),
        {"lr": _SGD_LR, "one_minus_beta": _EXPLORE},
        0.0,
    ),
    "eadam": (
        _ours("EAdam", lambda v: {"beta": 1 - v["one_minus_beta"]}),
        {"lr": Range(3e-4, 3e-2), "one_minus_beta": _EXPLORE},
        0.0,
    ),
    "eadamw": (
        _ours("EAdamW", lambda v: {"beta": 1 - v["one_minus_beta"]}),
        {"lr": Range(3e-4, 3e-2), "one_minus_beta": _EXPLORE},
        0.01,
    ),
    "adabelief": (_theirs("AdaBelief", 0.999), _adam_space(), 0.0),
    "adan": (_theirs("Adan", 0.92, 0.99), _adam_space(Range(0.006, 0.06)), 0.0),
    "mars": (_mars, _adam_space(), 0.0),
    "lion": (_theirs("Lion", 0.99), _adam_space(low=3e-5), 0.0),
}
