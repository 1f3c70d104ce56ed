"""The steps of an optimizer as its hooks see them: the pair of positions and gradients around a recorded one."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from valleys.landscape.recorder.positions import Positions
from valleys.landscape.recorder.rows import Row
from valleys.landscape.recorder.sums import plain, products, square_sums, wide

_MOST_WAITING = 64  # rows that are left on the device


class Steps:
    """Measures every n-th step, by hooks on the optimizer; a model gives the parameters' names."""

    def __init__(
        self, optimizer: Optimizer, model: nn.Module | None, every: int, keep_layers: bool, positions: Positions
    ) -> None:
        self._optimizer, self._every, self._keep_layers, self._positions = optimizer, every, keep_layers, positions
        self._known_names = {} if model is None else {p: name for name, p in model.named_parameters()}
        self.count = 0
        self.parameters: list[Tensor] = []
        self.names: list[str] = []
        self.rows: list[Row] = []
        self.pair: tuple[Row, list[Tensor], list[Tensor]] | None = None
        # A step whose next gradient has not come: its row, the negative update, the gradient that made it.
        self._waiting: list[Row] = []
        self._before: tuple[list[Tensor], list[Tensor], list[bool], dict[Tensor, float]] | None = None
        self._counts = self._begun = False
        self._meet()
        self._handles = [
            optimizer.register_step_pre_hook(self._pre),
            optimizer.register_step_post_hook(self._post),
        ]

    def remove(self) -> None:
        """Take the hooks away, and forget a step that is not complete."""
        for handle in self._handles:
            handle.remove()
        self.pair = self._before = None

    def tensors(self) -> list[Tensor]:
        """Return all tensors kept."""
        pair = [] if self.pair is None else [*self.pair[1], *self.pair[2]]
        before = [] if self._before is None else [*self._before[0], *self._before[1]]
        return [*pair, *before, *(values for row in self.rows for values in row.layers.values())]

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors, for :meth:`load_state_dict`."""
        pair = None if self.pair is None else [[x.clone() for x in column] for column in self.pair[1:]]
        return {
            "count": self.count,
            "names": list(self.names),
            "rows": [row.state_dict() for row in self.rows],
            "pair": pair,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.count = state["count"]
        self.rows = [Row.from_state(row, self._keep_layers) for row in state["rows"]]
        self._waiting, self._before, self.pair = [], None, None
        if state["pair"] is not None:
            back, gradients = (
                [x.to(p.device, copy=True) for x, p in zip(column, self.parameters, strict=True)]
                for column in state["pair"]
            )
            self.pair = self.rows[-1], back, gradients

    def _meet(self) -> None:
        """Take in parameters that the optimizer has got since."""
        groups = self._optimizer.param_groups
        if sum(len(group["params"]) for group in groups) == len(self.parameters):
            return
        parameters = set(self.parameters)
        new: list[Tensor] = []
        for number, group in enumerate(groups):
            own = group.get("param_names") or [f"{number}.{i}" for i in range(len(group["params"]))]
            for name, parameter in zip(own, group["params"], strict=True):
                if parameter not in parameters:
                    refuse_shards(parameter)
                    new.append(parameter)
                    self.names.append(self._known_names.get(parameter, name))
        self.parameters += new
        with torch.no_grad():
            self._positions.add([plain(p) for p in new])

    def _pre(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        found_inf = getattr(optimizer, "found_inf", None)
        skipped = found_inf is not None and float(found_inf) != 0
        self._counts = not skipped and not _is_probe(optimizer, kwargs)
        self._begun = False
        if not self._counts:
            return None
        self._meet()
        if self.pair is None and not self._due():
            self._begun = True
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._begin()
            return None
        if len(args) > 1:
            return (args[0], self._around(closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._around(closure)}

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return the closure with its first evaluation recorded: the gradient it leaves is that at theta."""
        versions = [parameter._version for parameter in self.parameters]

        @functools.wraps(closure)
        def watched() -> Any:
            if not self._begun and versions != [parameter._version for parameter in self.parameters]:
                raise RuntimeError(
                    f"{type(self._optimizer).__name__} moves the parameters before it evaluates the closure, so the "
                    "gradient would be that of another point; record its base optimizer instead"
                )
            loss = closure()
            if not self._begun:
                self._begin()
            return loss

        return watched

    def _due(self) -> bool:
        return (self.count + 1) % self._every == 0

    @torch.no_grad()
    def _begin(self) -> None:
        """Record theta and its gradient, before the step."""
        self._begun = True
        gradients = self._gradients()
        if self.pair is not None:
            row, back, before = self.pair
            # A model may have been moved, and a parameter added, since.
            now = gradients[: len(before)]
            turned = _minus([x.to(g.device) for x, g in zip(before, now, strict=True)], now)
            names = ["gradient_norm", "gradient_difference_norm", "inner"]
            inner = products(back, [x.to(u.device) for x, u in zip(turned, back, strict=True)])
            sums = [square_sums(now), square_sums(turned), inner]
            row.put(names, torch.stack(sums))
            self.pair = None
        if self._due():
            theta = [plain(p).clone() for p in self.parameters]
            present = [p.grad is not None for p in self.parameters]
            lrs = {p: float(group["lr"]) for group in self._optimizer.param_groups for p in group["params"]}
            self._before = theta, [g.clone() for g in gradients], present, lrs

    def _post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._counts:
            return
        if not self._begun:
            raise RuntimeError(
                f"{type(optimizer).__name__}.step did not evaluate its closure, so there is no gradient to record; "
                "call it without one after backward"
            )
        self.count += 1
        if self._before is not None:
            self._end(*self._before)
            self._before = None
        if self._positions.due(self.count):
            self._positions.keep(self.count, [plain(p) for p in self.parameters])

    @torch.no_grad()
    def _end(self, old: list[Tensor], gradients: list[Tensor], present: list[bool], lrs: dict[Tensor, float]) -> None:
        """Record, after the step, all that needs no next gradient."""
        theta = [plain(p) for p in self.parameters]
        row = Row(self.count, [lrs[p] for p in self.parameters], self._keep_layers)
        before, of_gradients = square_sums(old), square_sums(gradients)
        ratios = None
        if self._keep_layers:
            ratios = self._trust_ratios(old, present, before)
        # Old minus new, which overwrites what is not needed any more.
        back = _minus([x.to(now.device) for x, now in zip(old, theta, strict=True)], theta)
        names = ["parameter_norm", "parameter_norm_before", "update_norm", "gradient_norm_before", "slope_before"]
        sums = [square_sums(theta), before, square_sums(back), of_gradients, -products(back, gradients)]
        if ratios is not None:
            names.append("trust_ratio")
            sums.append(ratios)
        row.put(names, torch.stack(sums))
        row.put(*self._positions.record(self.count, theta), layered=self._positions.projection is None)
        self.pair = row, back, gradients
        self.rows.append(row)
        self._waiting.append(row)
        if len(self._waiting) > _MOST_WAITING:
            for waiting in self._waiting:
                waiting.fetch()
            self._waiting = [row]

    def _trust_ratios(self, old: list[Tensor], present: list[bool], like: Tensor) -> Tensor | None:
        """One per parameter, in a row as ``like``; NaN for one that was not stepped or has no single ratio."""
        if not hasattr(self._optimizer, "trust_ratios"):
            return None
        stepped = [(p, x) for p, x, steps in zip(self.parameters, old, present, strict=True) if steps]
        ratios = self._optimizer.trust_ratios(
            {p: torch.view_as_complex(x) if p.is_complex() else x for p, x in stepped}
        )
        single = {p: ratios[p].reshape(()).to(like) for p, _ in stepped if p in ratios and ratios[p].numel() == 1}
        missing = like.new_full((), math.nan)
        return torch.stack([single.get(p, missing) for p in self.parameters])

    def _gradients(self) -> list[Tensor]:
        """Return the gradients of the minimized loss: real, dense, unscaled; zeros where there is none."""
        ascending = {p for group in self._optimizer.param_groups if group.get("maximize") for p in group["params"]}
        scale = getattr(self._optimizer, "grad_scale", None)
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is None:
                gradients.append(torch.zeros_like(plain(parameter)))
                continue
            gradient = plain(parameter.grad)
            if scale is not None:
                gradient = wide(gradient) / scale.to(gradient.device)
            gradients.append(-gradient if parameter in ascending else gradient)
        return gradients


def _minus(xs: list[Tensor], ys: list[Tensor]) -> list[Tensor]:
    """Return x - y, in the place of x unless half precision has no room for it."""
    if all(wide(x) is x for x in xs):
        torch._foreach_sub_(xs, ys)
        return xs
    return list(torch._foreach_sub([wide(x) for x in xs], [wide(y) for y in ys]))


def _is_probe(optimizer: Optimizer, kwargs: dict[str, Any]) -> bool:
    """Recognize the step by which torch.distributed.checkpoint makes a fresh optimizer's states.

    It passes ``closure=None`` by name, with learning rates of 0 and gradients of zeros; parameters are whole here.
    """
    if optimizer.state or kwargs != {"closure": None} or any(float(g.get("lr", 0)) for g in optimizer.param_groups):
        return False
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    return all(p.grad is not None and not p.grad.any() for p in parameters)


def refuse_shards(parameter: Tensor) -> None:
    """Raise ValueError for a parameter of which this process holds a part."""
    tensors = sys.modules.get("torch.distributed.tensor")  # whoever has a DTensor has imported it
    if (tensors and isinstance(parameter, tensors.DTensor)) or getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            f"optimizer: a parameter of shape {tuple(parameter.shape)} is sharded over ranks, and the norms of a shard "
            "are not those of the parameter; record a run whose parameters are whole (one process, or DDP)"
        )
