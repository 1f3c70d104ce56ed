"""Moments and step counts out of the checkpoint of another optimizer, as a state dict of ALTO or Lamb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys._engine.eight_bit import CODE, in_float32
from valleys._engine.state import BUFFER

_MOMENTS = ("exp_avg", "exp_avg_sq")
_AUTHORS = ("prev_grad", "exp_grad_diff")


def is_without_e(saved: Any) -> bool:
    """Return True for the state dict of an optimizer with two moments and without E: Adam, AdamW, LAMB."""
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        return False
    groups, entries = saved.get("param_groups"), [entry for entry in saved["state"].values() if entry]
    if not isinstance(groups, list) or not groups or not entries:
        return False
    return all(map(_is_plain_group, groups)) and all(
        isinstance(entry, dict) and set(_MOMENTS) <= (names := _names(entry)) and BUFFER not in names
        for entry in entries
    )


def _names(entry: dict[Any, Any]) -> set[str]:
    """Names of states, whatever form they are stored in."""
    return {str(key).removesuffix(CODE) for key in entry}


def _is_plain_group(group: Any) -> bool:
    if not isinstance(group, dict) or "alpha" in group or not isinstance(group.get("params"), list):
        return False
    betas = group.get("betas")
    return isinstance(betas, (tuple, list)) and len(betas) == 2


def moments_of(
    optimizer: Optimizer, saved: dict[str, Any], parameters: Sequence[Tensor] | None = None
) -> dict[str, Any]:
    """A state dict with the moments and step counts of ``saved`` and the options of ``optimizer``.

    ``parameters`` are in the order in which that optimizer had them; None: by name where both have names, else in the
    order of ``optimizer``.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    saved_params = _order(optimizer, saved, parameters, params)
    explores = "alpha" in optimizer.defaults
    state: dict[int, dict[str, Any]] = {}
    numbers = {parameter: number for number, parameter in enumerate(params)}
    for group in saved["param_groups"]:
        for index in group["params"]:
            entry = saved["state"].get(index)
            if not entry:
                continue
            parameter, entry = saved_params[index], in_float32(entry)
            _check(index, entry, parameter)
            moments = {name: entry[name] for name in _MOMENTS}
            moments["step"] = torch.tensor(float(_step(index, entry, group)))
            if explores:
                moments[BUFFER] = _buffer(entry, group)
            state[numbers[parameter]] = moments
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def _order(
    optimizer: Optimizer, saved: dict[str, Any], parameters: Sequence[Tensor] | None, params: list[Tensor]
) -> dict[int, Tensor]:
    """The parameter of each of the checkpoint's numbers."""
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    if len(set(indices)) < len(indices) or not set(saved["state"]) <= set(indices):
        raise ValueError("saved: its groups list a parameter twice, or not at all that has states; it is damaged")
    if parameters is not None:
        order = list(parameters)
        if set(order) != set(params):
            raise ValueError(
                f"parameters: {len(order)} tensors that are not the optimizer's {len(params)}; give all of them, each "
                "once, in the order of the old optimizer"
            )
    elif (names := _by_name(optimizer, saved)) is not None:
        order = names
    else:
        order = params
        sizes = [
            [len(group["params"]) for group in groups] for groups in (saved["param_groups"], optimizer.param_groups)
        ]
        if len(indices) == len(params) and sizes[0] != sizes[1]:
            raise ValueError(
                f"saved: its groups have {sizes[0]} parameters and the optimizer's {sizes[1]}, so their order may "
                "differ; make both with named parameters, or say the order: "
                "valleys.integrations.migration.load_moments(optimizer, saved, list(model.parameters()))"
            )
    if len(indices) != len(order):
        raise ValueError(
            f"saved: it has {len(indices)} parameters and the optimizer {len(order)}; load the same model's"
        )
    return dict(zip(indices, order, strict=True))


def _by_name(optimizer: Optimizer, saved: dict[str, Any]) -> list[Tensor] | None:
    """Our parameters in the checkpoint's order, if all have the same names there and here."""
    saved_params = [name for group in saved["param_groups"] for name in group.get("param_names") or ()]
    params = {
        name: param
        for group in optimizer.param_groups
        for name, param in zip(group.get("param_names") or (), group["params"], strict=False)
    }
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    if len(saved_params) != count or len(params) != count or set(saved_params) != set(params):
        return None
    return [params[name] for name in saved_params]


def _check(index: int, entry: dict[str, Any], parameter: Tensor) -> None:
    for name in _MOMENTS:
        if name not in entry:
            raise ValueError(
                f"saved: parameter {index} has no {name!r} but {sorted(entry)}; moments come from Adam, AdamW, LAMB "
                "or ALTO"
            )
        if not isinstance(entry[name], Tensor):
            raise ValueError(f"saved: {name!r} of parameter {index} must be a tensor, got {entry[name]!r}")
        if entry[name].shape != parameter.shape:
            raise ValueError(
                f"saved: {name!r} of parameter {index} has the shape {tuple(entry[name].shape)}, the parameter "
                f"{tuple(parameter.shape)}; give the old order by parameters="
            )


def _step(index: int, entry: dict[str, Any], group: dict[str, Any]) -> float:
    """Kept with the state, or, by apex, timm and pytorch_optimizer, with the group."""
    for place in (entry, group):
        if "step" in place:
            try:
                return float(place["step"])
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"saved: 'step' of parameter {index} must be a number, got {place['step']!r}"
                ) from error
    raise ValueError(
        f"saved: neither parameter {index} nor its group has a 'step'; add the number of steps to the group"
    )


def _buffer(entry: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if BUFFER in entry:
        average: Tensor = entry[BUFFER]
        return average
    if not all(name in entry for name in _AUTHORS):
        return torch.zeros_like(entry["exp_avg"])
    beta1 = group["betas"][0]
    last, a = (entry[name] for name in _AUTHORS)
    buffer: Tensor = last - a * (beta1 / (1 - beta1))
    return buffer
