"""Recipes read from YAML, and checked before anything is run."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from valleys.hyperparameters import suggest
from valleys.lab.errors import LabError, unknown
from valleys.lab.optimizers.recipes import (
    ALTO,
    AS_OTHERS,
    DEFAULTS,
    EXCLUDED,
    OFF,
    Recipe,
    explore_pair,
    recipe_spec,
)
from valleys.lab.optimizers.spec import Plan, Range

_RULE = "rule"
_POWER_OF_TEN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_VALUES = ("params", "lr", "betas", "weight_decay")  # arguments of ALTO's that a point of the search space gives


def recipes(batch_size: int, file: Path | str | None = None) -> dict[str, Recipe]:
    """Read the recipes that come with the package, and those of a file.

    The file is YAML with an entry ``recipes``: settings by name of the recipe. A setting is ``beta3``,
    ``bias_correction``, ``layer_adaptation``, ``norms_and_biases`` ("as others", or "excluded" from weight decay and
    ratio), ``clip`` (largest norm of the whole gradient, or null), ``E`` ("off", "rule" or [alpha, beta]), or an option
    of :class:`valleys.ALTO`. ``like`` takes another recipe's settings first. With ``optimizer`` (module and class) a
    recipe is one of another optimizer: its settings are arguments. ``space`` has the range (low, high) of each
    hyperparameter; of ALTO's those that shall differ from the family's. A recipe with the name of a package's replaces
    it, but not what the package's others are made of.

    Raises:
        LabError: a file that cannot be read, an unknown setting, or a value out of its range; the message names it.

    Example:
        >>> table = recipes(16384)
        >>> table["alto"].settings["E"], table["lamb-paper"].settings["beta3"]
        ([-5.0, 0.99], 0.999)
    """
    own = files("valleys.lab.optimizers").joinpath("recipes.yaml").read_text(encoding="utf-8")
    entries: Mapping[str, Mapping[str, Any]] = _parsed("the package's recipes", own)
    table = {name: _recipe(name, entries, batch_size) for name in entries}
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LabError(f"the recipes {str(file)!r} cannot be read ({error}); name a YAML file") from error
        users = _parsed(str(file), text)
        entries = {**{name: recipe.settings for name, recipe in table.items()}, **users}
        table |= {name: _recipe(name, entries, batch_size) for name in users}
    return table


def _parsed(where: str, text: str) -> dict[str, dict[str, Any]]:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads 1e-3 as a number, which YAML 1.1 does not."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _POWER_OF_TEN, list("+-.0123456789"))
    try:
        content = Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise LabError(f"{where}: {error}") from error
    entries = content.get("recipes") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise LabError(f"{where}: there must be an entry recipes, with the settings of each recipe by its name")
    return {str(name): {str(key): value for key, value in entry.items()} for name, entry in entries.items()}


def _recipe(name: str, entries: Mapping[str, Mapping[str, Any]], batch_size: int) -> Recipe:
    settings: dict[str, Any] = {}
    chain: list[str] = []
    current: Any = name
    while current is not None:
        current = str(current)
        if current in chain or current not in entries:
            problem = f"{current!r} is like itself" if current in chain else f"there is no recipe {current!r}"
            raise LabError(f"recipe {name!r}: {problem}; like must name one of {', '.join(entries)}")
        chain.append(current)
        settings = {**entries[current], **{key: value for key, value in settings.items() if key != "like"}}
        current = entries[current].get("like")
    settings.pop("like", None)
    optimizer, space = str(settings.pop("optimizer", ALTO)), settings.pop("space", {})
    try:
        ranges = {str(key): Range(*ends) for key, ends in space.items()}
    except (AttributeError, TypeError, LabError) as error:
        raise LabError(f"recipe {name!r}: space must have (low, high) by name, not {space!r} ({error})") from error
    return checked(Recipe(name, settings, optimizer, ranges), batch_size)


def checked(recipe: Recipe, batch_size: int) -> Recipe:
    """Return a recipe with the paper's rule in numbers, or raise LabError, which names what is wrong with it.

    Example:
        >>> checked(Recipe("mine", {"E": "rule"}), 16384).settings
        {'E': [-5.0, 0.99]}
    """
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in recipe.settings.items()}
    recipe = replace(recipe, settings=settings)
    try:
        json.dumps(settings)
    except (TypeError, ValueError) as error:
        raise LabError(f"recipe {recipe.name!r}: settings must be numbers, words and lists ({error})") from error
    if recipe.optimizer != ALTO:
        _check_class(recipe.name, recipe.optimizer)
        return recipe
    if settings.get("E") is False:  # YAML reads off as this
        settings["E"] = OFF
    elif settings.get("E") == _RULE:
        settings["E"] = list(suggest(batch_size).values())
    _check_settings(recipe.name, settings)
    values = {name: ranges.middle for name, ranges in recipe_spec(recipe, {}).space.items()}
    probe = (
        recipe if explore_pair(settings) else replace(recipe, settings={**settings, "E": [0.0, 0.0]})
    )  # ALTO, with all options
    try:
        recipe_spec(probe, {}).build(nn.ParameterList([torch.zeros(2, 2)]), values, Plan(batch_size, 1))
    except (TypeError, ValueError, RuntimeError) as error:
        raise LabError(f"recipe {recipe.name!r}: {error}") from error
    return recipe


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a setting that ALTO does not have, and wrong values of those that are no options of it."""
    import valleys

    options = [key for key in inspect.signature(valleys.ALTO).parameters if key not in _VALUES]
    names = list(dict.fromkeys([*DEFAULTS, *options]))
    for key, value in settings.items():
        if key not in names:
            raise unknown(f"setting of recipe {name!r}", key, names)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        allowed = {
            "beta3": (number and 0 <= value < 1, "a number in [0, 1)"),
            "norms_and_biases": (value in (AS_OTHERS, EXCLUDED), f"{AS_OTHERS!r} or {EXCLUDED!r}"),
            "clip": (value is None or (number and value > 0), "a number above 0, or null"),
            "E": (value == OFF or _is_pair(value), "off, rule or [alpha, beta]"),
        }.get(key)
        if allowed is not None and not allowed[0]:
            raise LabError(f"recipe {name!r}: {key} must be {allowed[1]}, not {value!r}")
    both = settings.keys() & {"alpha", "beta"}
    if "E" in settings and both:
        raise LabError(f"recipe {name!r}: write E: [alpha, beta] in place of {' and '.join(sorted(both))}")
    if len(both) == 1:
        raise LabError(f"recipe {name!r}: there must be both alpha and beta, or E: [alpha, beta] in their place")


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and [isinstance(x, (int, float)) and not isinstance(x, bool) for x in value] == [True] * 2
    )


def _check_class(name: str, optimizer: str) -> None:
    try:
        optimizer_class = resolve_name(optimizer)
    except (ImportError, AttributeError, ValueError) as error:
        raise LabError(f"recipe {name!r}: the optimizer {optimizer!r} cannot be imported ({error})") from error
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise LabError(f"recipe {name!r}: {optimizer} is no torch.optim.Optimizer")
