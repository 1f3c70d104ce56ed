"""An entry of the lab's table: one description from which both the optimizer and the Python line for it are made."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from valleys.lab.optimizers.spec import Plan, Range

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Arguments = Callable[[Mapping[str, float], Plan], dict[str, Any]]

PARAMETERS = {
    "groups": "valleys.param_groups(model, weight_decay={weight_decay!r})",
    "all": "model.parameters()",
    "model": "model",
}
"""First argument of an optimizer: groups of which weights alone decay; all parameters alike; the model itself."""


@dataclass(frozen=True)
class Entry:
    """An optimizer that the lab knows by name."""

    about: str  # what it is and how it is built, in a sentence or two
    constructor: str  # the callable, such as ``torch.optim.SGD``
    # Its keyword arguments, of tuned values and the plan of the run. A value that is a string with a dot names a class
    # by its module, such as ``torch.optim.SGD``.
    arguments: Arguments
    space: Mapping[str, Range]  # range of each tuned hyperparameter
    source: str  # paper and implementation
    base: str | None = None  # name of the optimizer that it adapts by E; None: it adapts none
    parameters: str = "groups"  # one of ``PARAMETERS``. With "groups" the weight decay is theirs, else the arguments'
    alpha_schedule: str | None = None  # of :class:`valleys.AlphaSchedule`; None: alpha is constant
    closure: bool = False  # as the next, see ``OptimizerSpec``
    own_schedule: bool = False
    # Classes, by module and name, whose objects its state holds beside tensors: checkpoints may load them.
    holds: tuple[str, ...] = ()

    def build(self, model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        """Make the optimizer."""
        import torch

        import valleys

        first: dict[str, Callable[[], Any]] = {
            "groups": lambda: valleys.param_groups(model, weight_decay=values["weight_decay"]),
            "all": model.parameters,
            "model": lambda: model,
        }
        arguments = {name: _imported(value) for name, value in self.arguments(values, plan).items()}
        torch.serialization.add_safe_globals([_imported(name) for name in self.holds])
        optimizer: Optimizer = _imported(self.constructor)(first[self.parameters](), **arguments)
        if self.alpha_schedule is not None:
            # Steps by a hook, and its count is in the groups: in the checkpoints of any loop.
            valleys.AlphaSchedule(optimizer, self.alpha_schedule, automatic=True)  # type: ignore[arg-type]
        return optimizer

    def line(self, values: Mapping[str, float], plan: Plan) -> str:
        """Return the Python expression that makes the same optimizer of ``model``; see ``modules`` for its imports."""
        first = PARAMETERS[self.parameters].format(weight_decay=values.get("weight_decay"))
        words = [f"{name}={_word(value)}" for name, value in self.arguments(values, plan).items()]
        line = f"{self.constructor}({', '.join([first, *words])})"
        schedule = self.alpha_schedule
        return line if schedule is None else f"valleys.AlphaSchedule({line}, {schedule!r}, automatic=True).optimizer"


def modules(line: str) -> list[str]:
    """Return the modules that an expression of dotted names needs, in order.

    Example:
        >>> modules("pytorch_optimizer.SAM(model.parameters(), base_optimizer=torch.optim.SGD)")
        ['pytorch_optimizer', 'torch.optim']
    """
    names = {ast.unparse(node.value) for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Attribute)}
    names = {name for name in names if name.replace(".", "").isidentifier()} - {"model"}  # no calls
    return sorted(name for name in names if not any(other.startswith(f"{name}.") for other in names))


def _imported(value: Any) -> Any:
    """Return the object that a dotted name stands for, and anything else as it is."""
    if not isinstance(value, str) or "." not in value:
        return value
    return pkgutil.resolve_name(value)


def _word(value: Any) -> str:
    if isinstance(value, str) and "." in value:
        return value
    word = repr(value)
    ast.literal_eval(word)  # what a reader copies must be Python
    return word
