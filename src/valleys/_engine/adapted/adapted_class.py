"""The class an adapted optimizer gets: a subclass of its own, made on the fly, with E's step and E's state.

E's buffer lies in ``optimizer.state[param]`` like any state, so that whoever resets, moves, counts or drops states
finds it there. The base never sees it: an entry that is not empty means to many optimizers that they have made theirs.

The subclass derives from the optimizer's class alone, because assigning ``__class__`` fails with a second base
("object layout differs") for every optimizer that inherits ABC; the methods are therefore written into it.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.optim import Optimizer

from valleys._engine.adapted.explore_buffer import (
    KINDS,
    STORED,
    Memory,
    check_explore_group,
    new_memory,
    put_back,
    take_out,
)
from valleys._engine.adapted.fused_adam import step_jointly
from valleys._engine.adapted.gradient_swap import adapted_gradients
from valleys._engine.checkpoint.base_states import base_kinds, base_options
from valleys._engine.checkpoint.checks import check_saved
from valleys._engine.checkpoint.dcp_probe import Probed, is_probe
from valleys._engine.state import BUFFER, load_keeping_dtype

_classes: dict[type[Optimizer], type[Optimizer]] = {}


def adapted_class(base: type[Optimizer]) -> type[Optimizer]:
    """The adapted subclass of ``base``; the same one every time, so that pickled optimizers find it again."""
    if base not in _classes:
        namespace = {"__doc__": f"{base.__name__} with E; see valleys.adapt.", "__module__": base.__module__}
        register(type(f"E{base.__name__}", (base,), namespace))
    return _classes[base]


def register(cls: type[Optimizer]) -> None:
    """Write E's methods into ``cls``, which from then on is the adapted class of its base."""
    base: Any = cls.__bases__[0]
    for name, method in {"adapted_from": base, **_METHODS}.items():
        setattr(cls, name, method)
    _classes[base] = cls


def activate(
    optimizer: Any, alpha: float, beta: float, inplace: bool, state_dtype: torch.dtype | str | None, seed: int
) -> None:
    """Give an object of an adapted class its options and its empty buffers."""
    options: dict[str, Any] = {"explore_alpha": alpha, "explore_beta": beta}
    if state_dtype is not None:
        options.update(explore_state_dtype=state_dtype, explore_seed=seed)
    optimizer.defaults.update(options)
    for group in optimizer.param_groups:
        for name, value in options.items():
            group.setdefault(name, value)
        check_explore_group(group)
    # A base that has its states already shows them to torch.distributed.checkpoint without a step: so must E.
    for group in optimizer.param_groups:
        for param in group["params"]:
            if group["explore_alpha"] != 0 and optimizer.state.get(param):
                optimizer.state[param].update(new_memory(param, group))
    optimizer._explore_probed = None
    optimizer._explore_inplace = inplace
    optimizer._patch_step_function()


def release_step(optimizer: Optimizer) -> bool:
    """Remove the ``step`` that a scheduler put on the object, which would bypass the adapted class; True if it did."""
    step = vars(optimizer).get("step")
    if step is None:
        return False
    if not hasattr(step, "_wrapped_by_lr_sched"):
        raise RuntimeError(
            f"{type(optimizer).__name__}.step was replaced on the object (by {getattr(step, '__module__', step)}), and "
            "adapting would be bypassed; adapt the optimizer first"
        )
    del optimizer.step
    return True


def track_step(optimizer: Optimizer) -> None:
    """Puts back what a scheduler needs to see that ``step`` was called before ``scheduler.step``."""
    reference = weakref.ref(optimizer)
    function = type(optimizer).step

    @functools.wraps(function)
    def step(*args: Any, **kwargs: Any) -> Any:
        target: Any = reference()
        target._opt_called = True
        return function(target, *args, **kwargs)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = step  # type: ignore[method-assign]


def _warn_without_buffers(state: dict[Any, Any], groups: list[dict[str, Any]]) -> None:
    numbers = [number for group in groups if group["explore_alpha"] != 0 for number in group["params"]]
    lacking = [number for number in numbers if state.get(number) and state[number].keys().isdisjoint(STORED[:2])]
    if lacking:
        which = "" if len(lacking) == len([n for n in numbers if state.get(n)]) else f" for the parameters {lacking}"
        warnings.warn(
            f"the state dict has no {BUFFER!r}{which}: it was saved by an optimizer without E; its memory starts empty",
            stacklevel=5,
        )


def _rebuild(base: type[Optimizer]) -> Optimizer:
    cls = adapted_class(base)
    return cls.__new__(cls)


class _Evaluated:
    """A closure that was run before adapting; it returns that loss, provided nothing moved since."""

    def __init__(self, optimizer: Optimizer, loss: Any) -> None:
        self.loss = loss
        self.name = type(optimizer).__name__
        self.params = [param for group in optimizer.param_groups for param in group["params"]]
        self.versions = [param._version for param in self.params]
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        if self.calls > 1 or self.versions != [param._version for param in self.params]:
            raise RuntimeError(
                f"{self.name}.step evaluates the closure again, at another point or a second time; E adapts one "
                "gradient per step, so this optimizer cannot be adapted"
            )
        return self.loss


@contextmanager
def _without_scale(optimizer: Any) -> Iterator[None]:
    """Hides a GradScaler's scale from the base: the gradients it gets are unscaled."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        yield
        return
    optimizer.grad_scale = None
    try:
        yield
    finally:
        optimizer.grad_scale = scale


# --- the methods of every adapted class; ``adapted_from`` is its base ------------------------------------------------


def _step(self: Any, closure: Callable[[], Any] | None = None, **options: Any) -> Any:
    evaluated = None
    if closure is not None:
        with torch.enable_grad():
            evaluated = _Evaluated(self, closure())
    if self._explore_probed is not None:
        self._explore_probed.take_back(self)
    self._explore_probed = Probed(self) if not self.state and is_probe() else None
    memory = take_out(self.state)
    try:
        result = _step_with(self, memory, evaluated, options)
    finally:
        put_back(self.state, memory)
    if self._explore_probed is not None:
        self._explore_probed.finish(self)
    return result if evaluated is None else evaluated.loss


def _step_with(self: Any, memory: Memory, evaluated: _Evaluated | None, options: dict[str, Any]) -> Any:
    """A step while E's memory is out of the state."""
    if step_jointly(self, memory):
        return None
    # The base's own function, without its hooks: those of this object fire around ``step``.
    step: Any = self.adapted_from.step
    base_step = step.__wrapped__ if getattr(step, "hooked", False) else step
    with adapted_gradients(self, memory) as adapted, _without_scale(self) if adapted else nullcontext():
        return base_step(self, **options) if evaluated is None else base_step(self, evaluated, **options)


def _add_param_group(self: Any, param_group: dict[str, Any]) -> None:
    self.adapted_from.add_param_group(self, param_group)
    # Still missing while the base's constructor adds the first groups.
    if "explore_alpha" in self.defaults:
        try:
            check_explore_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise


def _load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
    base = self.adapted_from

    def complete(incoming: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint of the plain optimizer lacks E's options: they stay as they are."""
        options = base_options(self, base)
        check_saved(self, incoming, lambda group, param: {**base_kinds(base, group, param), **KINDS}, options)
        mine = [{k: v for k, v in group.items() if k.startswith("explore_")} for group in self.param_groups]
        groups = [{**own, **group} for own, group in zip(mine, incoming["param_groups"], strict=True)]
        for group in groups:
            check_explore_group(group)
        _warn_without_buffers(incoming["state"], groups)
        return {**incoming, "param_groups": groups}

    load_keeping_dtype(self, functools.partial(base.load_state_dict, self), state_dict, STORED, complete)
    self._explore_probed = None


def _setstate(self: Any, state: dict[str, Any]) -> None:
    memory = take_out(state.get("state", {}))
    try:
        self.adapted_from.__setstate__(self, state)
    finally:
        put_back(state.get("state", {}), memory)


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    state = self.adapted_from.__getstate__(self)
    return _rebuild, (self.adapted_from,), {**state, "_explore_probed": None, "_explore_inplace": self._explore_inplace}


_METHODS = {
    "step": _step,
    "add_param_group": _add_param_group,
    "load_state_dict": _load_state_dict,
    "__setstate__": _setstate,
    "__reduce_ex__": _reduce,
}
