"""What an optimizer is to the lab, and how it is found by name."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError, unknown

__all__ = ["LARGE", "OptimizerSpec", "Plan", "Range", "names", "resolve"]

LARGE = 1024
"""The batch size from which the paper's rule for alpha and beta1 is that of large batches."""


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
class Plan:
    """What an optimizer may know of the run that it is built for.

    Args:
        batch_size: examples per optimizer step.
        steps: optimizer steps of the whole run.
    """

    batch_size: int
    steps: int


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as the lab uses it.

    Args:
        name: in tables and on the command line.
        build: makes it from a model, values of ``space``, and the plan of the run.
        space: what is tuned.
    """

    name: str
    build: Callable[[nn.Module, Mapping[str, float], Plan], Optimizer]
    space: Mapping[str, Range]


def names() -> list[str]:
    """The names that ``resolve`` knows, beside ``module:callable``."""
    from valleys.lab.optimizers.table import known

    return list(known(LARGE))


def resolve(name: str, batch_size: int = LARGE) -> OptimizerSpec:
    """Find an optimizer.

    Args:
        name: one of ``names()``, or ``module:callable``, where the current folder's modules count too. The callable
            gets the list of the model's parameters and the tuned values by name: ``callable(params, lr=...)`` with lr
            between 1e-4 and 1, or, if it has an attribute ``search_space``, the names in it. That is a dictionary of
            ``Range`` objects or (low, high) pairs, which are logarithmic.
        batch_size: examples per step, on which the search spaces of the paper's rules depend. Default: 1024.

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
    from valleys.lab.optimizers.table import THEIRS, known

    if ":" in name:
        return _from_module(name)
    table = known(batch_size)
    if name not in table:
        raise unknown("optimizer", name, list(table), remedy=", or module:callable")
    if name in THEIRS and find_spec("pytorch_optimizer") is None:
        raise LabError(f"{name} needs the package pytorch_optimizer; pip install 'valleys[lab]'")
    entry = table[name]

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        from valleys import param_groups

        return entry.make(param_groups(model, weight_decay=entry.decay), values, plan)

    return OptimizerSpec(name, build, entry.space)


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

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
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
