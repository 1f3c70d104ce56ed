"""The class an adapted optimizer gets: a subclass of its own, made on the fly, with E's step and E's state.

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
from torch import Tensor
from torch.optim import Optimizer

from valleys._feed import adapted_gradients
from valleys._joint import step_jointly
from valleys._probe import Probed, is_probe
from valleys._state import load_keeping_dtype, new_state
from valleys.hyperparameters import check_explore

__all__ = ["BUFFER", "activate", "adapted_class", "register", "release_step", "track_step"]

BUFFER = "explore_exp_avg"

_classes: dict[type[Optimizer], type[Optimizer]] = {}


def adapted_class(base: type[Optimizer]) -> type[Optimizer]:
    """The adapted subclass of ``base``; the same one every time, so that pickled optimizers find it again."""
    if base not in _classes:
        namespace = {"__doc__": f"{base.__name__} with E; see valleys.adapt.", "__module__": base.__module__}
        register(type(f"E{base.__name__}", (base,), namespace))
    return _classes[base]


def register(cls: type[Optimizer]) -> None:
    """Writes E's methods into ``cls``, which from then on is the adapted class of its base."""
    base = cls.__bases__[0]
    for name, method in _methods(base).items():
        setattr(cls, name, method)
    _classes[base] = cls


def activate(
    optimizer: Any, alpha: float, beta: float, inplace: bool, state_dtype: torch.dtype | None, seed: int
) -> None:
    """Gives an object of an adapted class its options and its empty buffers."""
    options: dict[str, Any] = {"explore_alpha": alpha, "explore_beta": beta}
    if state_dtype is not None:
        # The count and the seed make the random bits of the rounding; a checkpoint takes them along.
        options.update(explore_state_dtype=state_dtype, explore_seed=seed, explore_count=0)
    optimizer.defaults.update(options)
    for group in optimizer.param_groups:
        for name, value in options.items():
            group.setdefault(name, value)
        _check_group(group)
    # A base that has its states already shows them to torch.distributed.checkpoint without a step: so must E.
    optimizer._explore_buffers = {
        param: new_state(param, state_dtype, signed=True)
        for group in optimizer.param_groups
        for param in group["params"]
        if group["explore_alpha"] != 0 and optimizer.state.get(param)
    }
    optimizer._explore_probed = None
    optimizer._explore_inplace = inplace
    optimizer._patch_step_function()


def release_step(optimizer: Optimizer) -> bool:
    """Removes the ``step`` that a scheduler put on the object, which would bypass the adapted class.

    Returns:
        Whether there was one.

    Raises:
        RuntimeError: something other than a torch scheduler replaced ``step``.
    """
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


def _check_group(group: dict[str, Any]) -> None:
    check_explore(group["explore_alpha"], group["explore_beta"], alpha_name="explore_alpha", beta_name="explore_beta")


def _warn_without_buffers(state: dict[Any, Any], groups: list[dict[str, Any]]) -> None:
    active = any(group["explore_alpha"] != 0 for group in groups)
    if active and state and not any(BUFFER in entry for entry in state.values() if isinstance(entry, dict)):
        warnings.warn(
            f"the state dict has no {BUFFER!r}: it was saved by an optimizer without E, whose memory starts empty",
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


def _methods(base: type[Optimizer]) -> dict[str, Any]:
    """E's methods for a subclass of ``base``; closures over ``base``, as ``super()`` needs a class body."""

    def step(self: Any, closure: Callable[[], Any] | None = None, **options: Any) -> Any:
        evaluated = None
        if closure is not None:
            with torch.enable_grad():
                evaluated = _Evaluated(self, closure())
        if self._explore_probed is not None and self._explore_probed.take_back(self):
            self._explore_buffers.clear()
        self._explore_probed = Probed(self) if not self.state and is_probe() else None
        if step_jointly(self):
            if self._explore_probed is not None:
                self._explore_probed.finish(self)
            return None if evaluated is None else evaluated.loss
        # The base's own function, without its hooks: those of this object fire around this one.
        hooked: Any = base.step
        base_step = hooked.__wrapped__ if getattr(hooked, "hooked", False) else hooked
        with adapted_gradients(self) as adapted, _without_scale(self) if adapted else nullcontext():
            result = base_step(self, **options) if evaluated is None else base_step(self, evaluated, **options)
        for param in adapted:
            # Stateless bases leave no entry; torch.distributed.checkpoint takes an empty ``state`` for a fresh
            # optimizer and steps it with zero gradients, which would move the buffers.
            self.state.setdefault(param, {})
        if self._explore_probed is not None:
            self._explore_probed.finish(self)
        return result if evaluated is None else evaluated.loss

    def add_param_group(self: Any, param_group: dict[str, Any]) -> None:
        base.add_param_group(self, param_group)
        # Still missing while the base's constructor adds the first groups.
        if "explore_alpha" in self.defaults:
            try:
                _check_group(self.param_groups[-1])
            except ValueError:
                self.param_groups.pop()
                raise

    def state_dict(self: Any) -> dict[str, Any]:
        def add(_: Optimizer, saved: dict[str, Any]) -> None:
            for group, packed in zip(self.param_groups, saved["param_groups"], strict=True):
                for param, index in zip(group["params"], packed["params"], strict=True):
                    if param in self._explore_buffers:
                        entry = saved["state"].get(index, {})
                        saved["state"][index] = {**entry, BUFFER: self._explore_buffers[param]}

        # First of the post-hooks: the user's find the buffers in place.
        handle = self.register_state_dict_post_hook(add, prepend=True)
        try:
            return base.state_dict(self)
        finally:
            handle.remove()

    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        def complete(incoming: dict[str, Any]) -> dict[str, Any]:
            """A checkpoint of the plain optimizer lacks E's options: they stay as they are."""
            mine = [{k: v for k, v in group.items() if k.startswith("explore_")} for group in self.param_groups]
            if len(mine) != len(incoming["param_groups"]):
                return incoming  # the base says what is wrong
            groups = [{**own, **group} for own, group in zip(mine, incoming["param_groups"], strict=True)]
            for group in groups:
                _check_group(group)
            _warn_without_buffers(incoming["state"], groups)
            return {**incoming, "param_groups": groups}

        def install(states: list[tuple[Tensor, dict[str, Tensor]]]) -> None:
            self._explore_buffers = {param: entry[BUFFER] for param, entry in states if BUFFER in entry}
            self._explore_probed = None

        load = functools.partial(base.load_state_dict, self)
        load_keeping_dtype(self, load, state_dict, (BUFFER,), install, complete)

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        state = {
            **base.__getstate__(self),
            "_explore_buffers": self._explore_buffers,
            "_explore_probed": None,
            "_explore_inplace": self._explore_inplace,
        }
        return _rebuild, (base,), state

    return {
        "adapted_from": base,
        "step": step,
        "add_param_group": add_param_group,
        "state_dict": state_dict,
        "load_state_dict": load_state_dict,
        "__reduce_ex__": reduce,
    }
