"""Find an optimizer by its name, or by ``module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from valleys.hyperparameters import LARGE_BATCH
from valleys.lab.errors import LabError, place, pointing, unknown
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.optimizers.table import entries

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def names() -> list[str]:
    """The names that ``resolve`` knows, beside ``module:callable``."""
    return list(entries(LARGE_BATCH))


def resolve(name: str, batch_size: int = LARGE_BATCH) -> OptimizerSpec:
    """Find an optimizer: one of ``names()``, or ``module:callable``, where the current folder's modules count too.

    The callable gets the list of the model's parameters and the tuned values by name: ``callable(params, lr=...)`` with
    lr between 1e-4 and 1, or, if it has an attribute ``search_space``, the names in it. That is a dictionary of
    ``Range`` objects or (low, high) pairs, which are logarithmic. A callable whose first parameter is called
    ``named_parameters`` gets the list of the model's (name, parameter) pairs.

    Raises:
        LabError: no such name, module or callable; a callable that is no optimizer, needs a closure, or does not take
            the values; a bad ``search_space``; a package of the extra ``lab`` that is not installed.

    Example:
        >>> sorted(resolve("alto").space)
        ['lr', 'momentum', 'weight_decay']
        >>> print(resolve("torch.optim:Adagrad").space["lr"])
        0.0001 to 1 (log)
    """
    if ":" in name:
        with pointing(own=f"optimizer {name!r}"):
            return _from_module(name)
    table = entries(batch_size)
    if name not in table:
        raise unknown("optimizer", name, list(table), remedy=", or module:callable")
    entry = table[name]
    package = entry.constructor.partition(".")[0]
    if find_spec(package) is None:
        raise LabError(f"{name} needs the package {package}; pip install 'valleys[lab]'")
    return OptimizerSpec(
        name,
        entry.build,
        entry.space,
        base=entry.base,
        closure=entry.closure,
        own_schedule=entry.own_schedule,
        line=entry.line,
        about=entry.about,
        source=entry.source,
    )


@contextmanager
def importing(folder: Path) -> Iterator[None]:
    """Look for modules in a folder first and, from then on, last: none of its files takes a library's place."""
    text = str(folder)
    sys.path.insert(0, text)
    try:
        yield
    finally:
        sys.path.remove(text)
        sys.path += [text] if text not in sys.path else []


def _from_module(name: str) -> OptimizerSpec:
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise LabError(f"optimizer {name!r} is not of the form module:callable, such as torch.optim:Adam")
    try:
        with importing(Path.cwd()):  # as `python -m` has it
            module = importlib.import_module(module_name)
    except ImportError as error:
        if place(error):
            raise
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
    _check_class(name, make)
    space = _own_space(name, make)
    method = "named_parameters" if _first_parameter(make) == "named_parameters" else "parameters"

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        from torch.optim import Optimizer

        optimizer = make(list(getattr(model, method)()), **values)
        if not isinstance(optimizer, Optimizer):
            raise LabError(
                f"optimizer {name!r} returned a {type(optimizer).__name__}; it must return a torch.optim.Optimizer"
            )
        return optimizer

    def line(values: Mapping[str, float], plan: Plan) -> str:
        words = [f"{key}={value!r}" for key, value in values.items()]
        return f"{module_name}.{attribute}({', '.join([f'list(model.{method}())', *words])})"

    return OptimizerSpec(name, build, space, line=line)


def _check_class(name: str, make: Callable[..., object]) -> None:
    """Refuse a class whose objects cannot be trained with."""
    from torch.optim import Optimizer

    if not isinstance(make, type):
        return
    if not issubclass(make, Optimizer):
        raise LabError(f"optimizer {name!r} is a class, but no torch.optim.Optimizer; name one, or a function")
    closure = inspect.signature(make.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise LabError(
            f"optimizer {name!r} evaluates the loss as often as it likes in a step (its closure), which could not be "
            "compared at equal cost; choose one that steps from a given gradient, such as sgd"
        )


def _first_parameter(make: Callable[..., object]) -> str | None:
    try:
        return next(iter(inspect.signature(make).parameters), None)
    except ValueError:  # some builtins have no signature to look at
        return None


def _own_space(name: str, make: Callable[..., object]) -> dict[str, Range]:
    attribute = getattr(make, "search_space", {"lr": (1e-4, 1.0)})
    try:
        space = {key: value if isinstance(value, Range) else Range(*value) for key, value in attribute.items()}
        if not all(isinstance(key, str) for key in space):
            raise TypeError
    except (AttributeError, TypeError) as error:
        raise LabError(
            f"optimizer {name!r}: search_space must be a dictionary from names to (low, high) or Range, "
            f"got {attribute!r}"
        ) from error
    except LabError as error:
        raise LabError(f"optimizer {name!r}: {error}") from error
    try:
        inspect.signature(make).bind([], **dict.fromkeys(space, 0.0))
    except ValueError:  # as above
        pass
    except TypeError as error:
        raise LabError(f"optimizer {name!r} cannot be called with (params, {', '.join(space)}): {error}") from error
    return space


_SHOWN = 12  # names in an error message
