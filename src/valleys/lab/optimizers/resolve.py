"""Find an optimizer by its name, or by ``module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from valleys.hyperparameters import LARGE_BATCH
from valleys.lab.errors import LabError, unknown
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.optimizers.table import PYTORCH_OPTIMIZER, entries

__all__ = ["names", "resolve"]


def names() -> list[str]:
    """The names that ``resolve`` knows, beside ``module:callable``."""
    return list(entries(LARGE_BATCH))


def resolve(name: str, batch_size: int = LARGE_BATCH) -> OptimizerSpec:
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
    if ":" in name:
        return _from_module(name)
    table = entries(batch_size)
    if name not in table:
        raise unknown("optimizer", name, list(table), remedy=", or module:callable")
    if name in PYTORCH_OPTIMIZER and find_spec("pytorch_optimizer") is None:
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
    attribute = getattr(make, "search_space", {"lr": (1e-4, 1.0)})
    try:
        space = {key: value if isinstance(value, Range) else Range(*value) for key, value in attribute.items()}
    except (AttributeError, TypeError) as error:
        raise LabError(
            f"optimizer {name!r}: search_space must be a dictionary of (low, high) pairs, got {attribute!r}"
        ) from error
    try:
        inspect.signature(make).bind([], **dict.fromkeys(space, 0.0))
    except ValueError:  # some builtins have no signature to look at
        pass
    except TypeError as error:
        raise LabError(f"optimizer {name!r} cannot be called with (params, {', '.join(space)}): {error}") from error
    return space


_SHOWN = 12  # names in an error message
