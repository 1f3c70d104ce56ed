"""Recipes: optimizers as sets of settings, so that two of them can be mixed setting by setting."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pkgutil import resolve_name
from typing import Any

from torch import nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError, unknown
from valleys.lab.optimizers.spaces import ADAMW, LAMB
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range

__all__ = ["Recipe"]

ALTO = "valleys.ALTO"
OFF = "off"
AS_OTHERS, EXCLUDED = "as others", "excluded"
DEFAULTS: Mapping[str, Any] = {
    "beta3": 0.99,
    "layer_adaptation": True,
    "norms_and_biases": AS_OTHERS,
    "clip": None,
    "E": OFF,
}
"""Settings that are no options of ALTO's, or have another default there."""


@dataclass(frozen=True)
class Recipe:
    """An optimizer with all its settings.

    Args:
        name: in tables and on the command line.
        settings: value by name, in JSON's types. See ``recipes``.
        optimizer: its class, such as ``torch.optim.SGD``. Default: ``valleys.ALTO``, which is LAMB where E is off and
            Adam where ``layer_adaptation`` is, too.
        space: range of each hyperparameter. Of ALTO those that differ from the family's, which is LAMB's, AdamW's
            without layer adaptation. Default: none.
    """

    name: str
    settings: Mapping[str, Any]
    optimizer: str = ALTO
    space: Mapping[str, Range] = field(default_factory=dict)


def setting(recipe: Recipe, name: str) -> Any:
    """Return a recipe's value of a setting; where it has none, the default of its optimizer.

    Example:
        >>> setting(Recipe("mine", {"beta3": 0.999}), "beta3"), setting(Recipe("mine", {}), "eps")
        (0.999, 1e-06)
    """
    if name in recipe.settings:
        return recipe.settings[name]
    if recipe.optimizer == ALTO and name in ("alpha", "beta"):
        pair = explore_pair(recipe.settings) or (0.0, None)
        return pair[name == "beta"]
    if recipe.optimizer == ALTO and name in DEFAULTS:
        return DEFAULTS[name]
    parameter = inspect.signature(resolve_name(recipe.optimizer)).parameters.get(name)
    value = None if parameter is None or parameter.default is parameter.empty else parameter.default
    return list(value) if isinstance(value, tuple) else value


def aligned(first: Recipe, last: Recipe) -> tuple[Recipe, Recipe]:
    """Return two recipes of ALTO with E as alpha and beta, two switches, where one of them has it so.

    Where E is off, alpha is 0 and beta, which then has no effect, that of the other recipe.

    Example:
        >>> first, last = aligned(Recipe("lamb", {"E": "off"}), Recipe("mine", {"alpha": -5.0, "beta": 0.99}))
        >>> first.settings
        {'alpha': 0.0, 'beta': 0.99}
    """
    both = first, last
    if not any(recipe.optimizer == ALTO and "alpha" in recipe.settings for recipe in both):
        return both
    pairs = [explore_pair(recipe.settings) for recipe in both]
    beta = next(pair[1] for pair in pairs if pair is not None)
    result = []
    for recipe, pair in zip(both, pairs, strict=True):
        alpha, own = (0.0, beta) if pair is None else pair
        others = {name: value for name, value in recipe.settings.items() if name != "E"}
        result.append(replace(recipe, settings={**others, "alpha": alpha, "beta": own}))
    return result[0], result[1]


def explore_pair(settings: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return alpha and beta; None where E is off."""
    if "alpha" in settings:
        return settings["alpha"], settings["beta"]
    explore = settings.get("E", OFF)
    return None if explore == OFF else (explore[0], explore[1])


def mixed_settings(first: Recipe, last: Recipe, changed: frozenset[str]) -> dict[str, Any]:
    """Return the settings of a recipe between two others: the last one's of ``changed``, else the first one's.

    A setting of ALTO's that has no effect is left out: beta and the moments that E enters, where alpha is 0; what the
    trust ratio is made of, where there is none.

    Example:
        >>> off = Recipe("off", {"alpha": 0.0, "beta": 0.9})
        >>> on = Recipe("on", {"alpha": -5.0, "beta": 0.99})
        >>> mixed_settings(off, on, frozenset({"beta"})) == mixed_settings(off, on, frozenset())
        True
    """
    settings = {
        name: value
        for source, mine in ((first, False), (last, True))
        for name, value in source.settings.items()
        if (name in changed) == mine
    }
    if first.optimizer != ALTO:
        return settings
    pair = explore_pair(settings)
    if pair is None or pair[0] == 0:
        for name in ("alpha", "beta", "accelerate"):
            settings.pop(name, None)
        settings["E"] = OFF
    if settings.get("layer_adaptation") is False:
        for name in ("trust_eps", "norm_eps", "trust_clip"):
            settings.pop(name, None)
    return settings


def recipe_spec(recipe: Recipe, fixed: Mapping[str, float]) -> OptimizerSpec:
    """Return a recipe as the lab runs it; in its space the fixed values are ranges of one value.

    Raises:
        LabError: a fixed value that is no number, or of a hyperparameter that the recipe does not have.

    Example:
        >>> spec = recipe_spec(Recipe("mine", {"beta3": 0.999}), {"lr": 0.05, "momentum": 0.9})
        >>> print(spec.space["lr"], "|", spec.space["weight_decay"])
        0.05 to 0.05 (linear) | 0.0001 to 0.1 (log; the lowest 0.125 of it is 0)
    """
    space: dict[str, Range] = {}
    if recipe.optimizer == ALTO:
        space = dict(LAMB if setting(recipe, "layer_adaptation") else ADAMW)
        for name in [*fixed, *recipe.space]:
            if name not in space:
                raise unknown(f"hyperparameter of {recipe.name}", name, list(space))
    for name, value in fixed.items():
        if not math.isfinite(value):
            raise LabError(f"the fixed {name} must be a finite number, not {value}")
    space |= {**recipe.space, **{name: Range(value, value, "linear") for name, value in fixed.items()}}
    for name in space.keys() & recipe.settings.keys():
        raise LabError(f"{name} is a setting of {recipe.name}, and a hyperparameter; leave one of them out")
    build = partial(_build_alto if recipe.optimizer == ALTO else _build_other, recipe)
    settings = {"optimizer": recipe.optimizer, **recipe.settings}
    about = ", ".join(f"{name} {value}" for name, value in settings.items())
    return OptimizerSpec(recipe.name, build, space, settings=settings, about=about)


def _build_alto(recipe: Recipe, model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
    import valleys

    settings = dict(recipe.settings)
    explore, clip = settings.pop("E", OFF), settings.pop("clip", None)
    excluded = settings.pop("norms_and_biases", AS_OTHERS) == EXCLUDED
    adapted = settings.pop("layer_adaptation", DEFAULTS["layer_adaptation"])
    betas = values["momentum"], settings.pop("beta3", DEFAULTS["beta3"])
    if explore != OFF:
        settings["alpha"], settings["beta"] = explore
    if "alpha" not in settings:
        settings.pop("accelerate", None)  # nothing to accelerate
    groups: list[Any] = list(model.parameters())
    if excluded:
        groups = valleys.param_groups(model, weight_decay=values["weight_decay"])
        groups = [{**group, "layer_adaptation": group["layer_adaptation"] and adapted} for group in groups]
    make: Any = valleys.ALTO if "alpha" in settings else valleys.Lamb
    optimizer: Optimizer = make(
        groups,
        lr=values["lr"],
        betas=betas,
        weight_decay=values["weight_decay"],
        layer_adaptation=adapted,
        **settings,
    )
    return _clipped(optimizer, clip)


def _build_other(recipe: Recipe, model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
    settings = dict(recipe.settings)
    clip = settings.pop("clip", None)
    optimizer: Optimizer = resolve_name(recipe.optimizer)(model.parameters(), **values, **settings)
    return _clipped(optimizer, clip)


def _clipped(optimizer: Optimizer, clip: float | None) -> Optimizer:
    """Clip the norm of the whole gradient before every step; ``max_grad_norm`` is of one group."""

    def before_step(stepped: Optimizer, *_: Any) -> None:
        parameters = [parameter for group in stepped.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, float(clip))  # type: ignore[arg-type]

    if clip is not None:
        optimizer.register_step_pre_hook(before_step)
    return optimizer
