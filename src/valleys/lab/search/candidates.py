"""Points of a search space by the names of its hyperparameters, seeds of the runs, and the selection of the best."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from valleys.lab.record import Record

if TYPE_CHECKING:
    from valleys.lab.optimizers.spec import Range

MOST = 5000
"""The most rounds, trials and fresh seeds: further seeds would be those of the next round."""

FIXED = 0
"""Number of the only point of an optimizer with nothing to tune."""

COLUMNS = {"lr": 0, "momentum": 1, "weight_decay": 2, "memory": 3, "c": 7}
"""Columns of the Sobol sequence, counted from 0, that belong to hyperparameters by name."""

_OTHERS = range(8, 520)
_EDGE = 0.05  # share of a range, at either end, in which a chosen value suggests that the range was too narrow


def columns(names: Iterable[str]) -> dict[str, int]:
    """Return the column of the Sobol sequence that each hyperparameter's name owns.

    A name that ``COLUMNS`` does not list gets a column by its checksum, and the next free one where two names of the
    same optimizer meet, in alphabetical order.

    Example:
        >>> columns(["lr", "weight_decay", "rho"])
        {'lr': 0, 'weight_decay': 2, 'rho': 82}
    """
    table = {name: COLUMNS[name] for name in names if name in COLUMNS}
    for name in sorted(set(names) - set(COLUMNS)):
        place = zlib.crc32(name.encode()) % len(_OTHERS)
        while _OTHERS[place] in table.values():
            place = (place + 1) % len(_OTHERS)
        table[name] = _OTHERS[place]
    return {name: table[name] for name in names}


def points(space: Mapping[str, Range], trials: int, round_: int = 0) -> list[dict[str, float]]:
    """Return the quasi-random points of a search space in one round: a scrambled Sobol sequence.

    The scrambling depends on the round alone and each name has a column of its own, so two optimizers that tune a
    name over the same range get the same values of it, whatever else either tunes. More trials extend the sequence
    unchanged.

    Example:
        >>> from valleys.lab.optimizers.spec import Range
        >>> alone = points({"lr": Range(1e-4, 1.0)}, 2)
        >>> both = points({"momentum": Range(0.5, 0.99, "reverse-log"), "lr": Range(1e-4, 1.0)}, 8)
        >>> [point["lr"] for point in alone] == [point["lr"] for point in both[:2]]
        True
    """
    if not space:
        return [{}]
    owned = columns(space)
    # A power of two keeps the sequence balanced, and scipy quiet; its beginning depends on no length.
    rows = _unit_cube((trials - 1).bit_length(), round_)[:trials]
    return [{name: ranges.value(row[owned[name]]) for name, ranges in space.items()} for row in rows]


@lru_cache(maxsize=256)
def _unit_cube(exponent: int, round_: int) -> list[list[float]]:
    from scipy.stats import qmc

    # Always all columns: the scrambling of one depends on how many there are.
    rows: list[list[float]] = qmc.Sobol(_OTHERS.stop, scramble=True, rng=round_).random_base2(exponent).tolist()
    return rows


def tuning_seed(round_: int, trial: int, salt: int = 0) -> int:
    """Return the training seed of a trial: another one for each trial of each round, the same for all optimizers."""
    return salt + 2 * MOST * round_ + trial


def fresh_seed(round_: int, number: int, salt: int = 0) -> int:
    """Return a fresh training seed of a round, which no trial has.

    Example:
        >>> tuning_seed(0, 7), fresh_seed(0, 0), tuning_seed(1, 7), fresh_seed(1, 0)
        (7, 5000, 10007, 15000)
    """
    return salt + 2 * MOST * round_ + MOST + number


def select(records: Mapping[int, Record], maximize: bool) -> int | None:
    """Return the trial with the best final validation metric, the lowest number of ties; None if all diverged."""
    sign = -1.0 if maximize else 1.0
    scores = [
        (sign * record.validation, number)
        for number, record in records.items()
        if not record.diverged and record.validation is not None and math.isfinite(record.validation)
    ]
    return min(scores)[1] if scores else None


def at_edge(hyperparameters: Mapping[str, float], space: Mapping[str, Range]) -> list[str]:
    """Return a phrase, ``lr = 0.98 (range 0.0001 to 1)``, for each chosen value near an end of its range.

    A range that includes zero has no lower end.
    """
    phrases = []
    for name, ranges in space.items():
        position = ranges.position(hyperparameters[name])
        if position > 1 - _EDGE or (position < _EDGE and not ranges.zero):
            phrases.append(f"{name} = {hyperparameters[name]:.3g} (range {ranges.low:g} to {ranges.high:g})")
    return phrases
