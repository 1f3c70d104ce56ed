"""The attributes of a comparison's study in Optuna's storage: ranges, environments, measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from valleys.lab.store.job import Key

if TYPE_CHECKING:
    from valleys.lab.optimizers.spec import Range

FLATNESS = "flatness:"
"""Beginning of the names of measurements."""


def measured_of(known: Mapping[str, Any], optimizer: str) -> dict[Key, Mapping[str, Any]]:
    """Return the measurements of an optimizer's final runs."""
    measurements = {}
    for name, value in known.items():
        if name.startswith(FLATNESS):
            round_, point, seed, of = name.removeprefix(FLATNESS).split(":", 3)
            if of == optimizer:
                measurements[Key(int(round_), int(point), int(seed))] = value
    return dict(sorted(measurements.items()))


def environments_of(known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The environments seen, oldest first."""
    environments = [value for name, value in known.items() if name.startswith("environment:")]
    return [dict(entry["environment"]) for entry in sorted(environments, key=lambda entry: entry["first"])]


def plain_space(space: Mapping[str, Range]) -> dict[str, list[Any]]:
    """Return a search space as JSON has it."""
    return {name: [ranges.low, ranges.high, ranges.scale, ranges.zero] for name, ranges in space.items()}


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a warning if this session's environment is not that of the last one."""
    changed = [f"{name} {before.get(name)} then, {now[name]} now" for name in now if now[name] != before.get(name)]
    return [f"the environment changed since the last session: {'; '.join(changed)}"] if changed else []
