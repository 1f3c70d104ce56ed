"""The result of an attribution in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from valleys.lab.statistics.formatting import about, decimals, fixed, ratios
from valleys.lab.statistics.outcome import Metric
from valleys.lab.statistics.sentences import count
from valleys.lab.statistics.shapley import Decomposition, Effect

_SLIGHT = 1e-12  # a rest of rounding alone
_MOST = 1000.0  # a larger factor says nothing to a reader


def sentence(names: Mapping[frozenset[str], str], decomposition: Decomposition, metric: Metric, unit: str) -> str:
    """Say how much the test metric changes from the first recipe to the last, and which switch makes it.

    The names are those of the recipes, by the set of their changed switches; the unit is "round", or "seed" where there
    is one round.

    Example:
        >>> from valleys.lab.statistics.shapley import decompose
        >>> values = {frozenset(): {0: 80.0, 1: 80.2}, frozenset({"beta3"}): {0: 83.0, 1: 83.3}}
        >>> metric = Metric("accuracy %", maximize=True)
        >>> names = dict(zip(values, ["lamb-paper", "lamb"]))
        >>> print(sentence(names, decompose(values, ["beta3"], metric), metric, "round"))
        From lamb-paper to lamb the test accuracy changes by +3.0 points (2.4 to 3.7): beta3 +3.0 (2.4 to 3.7)
    """
    first, last = names[frozenset()], names[frozenset(effect.name for effect in decomposition.effects)]
    name, points = metric.name.removesuffix(" %"), " points" * metric.name.endswith(" %")
    losses = _losses(decomposition, names, unit)
    if decomposition.total.mean is None:
        return "; ".join([f"Nothing can be said of the way from {first} to {last}", *losses])
    start = f"From {first} to {last} the test {name} changes by {amount(decomposition.total, decomposition, points)}"
    if decomposition.total.half_width is None:
        return "; ".join(
            [f"{start}; {count(unit, len(decomposition.units))}: no intervals, so no switch can be named", *losses]
        )
    if not decomposition.total.significant:
        start += ", which is not significant"
    effects = [effect for effect in decomposition.effects if effect.mean is not None]
    making = sorted((effect for effect in effects if effect.significant), key=lambda effect: -abs(effect.mean or 0.0))
    causes = f"{_listed([f'{effect.name} {amount(effect, decomposition)}' for effect in making])}"
    clauses = [f"{start}: {causes}" if making else start]
    idle = [effect for effect in effects if not effect.significant]
    if idle:
        remainder = _listed([_with_interval(effect, decomposition) for effect in idle], "or")
        clauses.append(f"no significant effect of {remainder}")
        least = [decomposition.scale.undo(effect.detectable) for effect in idle if effect.detectable is not None]
        if len(least) == len(idle) and max(least) < _MOST:
            size = f"a factor of {about(max(least))}" if decomposition.scale.log else about(max(least))
            clauses[-1] += f", where effects above about {size} would have been detected"
    unknown = [effect.name for effect in decomposition.effects if effect.mean is None]
    if decomposition.of == 0 and unknown:
        clauses.append(f"the effect of {_listed(unknown)} is unknown, since it was changed in a recipe that diverged")
    elif decomposition.of == 0:
        rest = _plain(decomposition.rest, decomposition)
        sums = f"leave {rest} of the change" if abs(decomposition.rest) > _SLIGHT else "add up to the change"
        clauses.append(f"each switch was changed alone, and the effects {sums}")
    if decomposition.of and not decomposition.orders:
        clauses.append("it cannot be shared out: every order of changing the switches meets a recipe that diverged")
    elif decomposition.orders < decomposition.of:
        orders = f"{decomposition.orders} of {decomposition.of} orders of changing the switches"
        clauses.append(f"the effects are averaged over the {orders} that meet no recipe that diverged")
    if unit == "seed":
        clauses.append("one round: this holds for these hyperparameters")
    return "; ".join([*clauses, *losses])


def amount(effect: Effect, decomposition: Decomposition, points: str = "") -> str:
    """Return an effect with its interval, such as ``+0.72 (0.11 to 1.34)`` or ``a factor of 0.81 (0.70 to 0.94)``."""
    assert effect.mean is not None
    ends = [] if effect.half_width is None else [effect.mean - effect.half_width, effect.mean + effect.half_width]
    if decomposition.scale.log:
        undo = decomposition.scale.undo
        estimate, *limits = ratios(undo(effect.mean), [undo(end) for end in ends])
        return f"a factor of {estimate}" + f" ({' to '.join(limits)})" * bool(limits)
    places = decimals(effect.mean, ends)
    estimate, *limits = [fixed(value, places) for value in (effect.mean, *ends)]
    return f"{'+' * (effect.mean > 0)}{estimate}{points}" + f" ({' to '.join(limits)})" * bool(limits)


def _plain(value: float, decomposition: Decomposition) -> str:
    return f"a factor of {about(decomposition.scale.undo(value))}" if decomposition.scale.log else f"{value:+.2g}"


def _with_interval(effect: Effect, decomposition: Decomposition) -> str:
    """Return a switch with its effect in brackets, such as ``E (-0.1, -0.9 to 0.7)``."""
    estimate, _, limits = amount(effect, decomposition).partition(" (")
    return f"{effect.name} ({estimate}{', ' * bool(limits)}{limits.removesuffix(')')})"


def _losses(decomposition: Decomposition, names: Mapping[frozenset[str], str], unit: str) -> list[str]:
    """Return a clause on the recipes that diverged and one on the switches that make them."""
    if not decomposition.diverged:
        return []
    # A recipe of several sets counts once.
    lost = {names[changed]: number for changed, number in decomposition.diverged.items()}
    clauses = [_listed([f"{name} diverged in {count(unit, number)}" for name, number in lost.items()])]
    marked = [effect.name for effect in decomposition.effects if effect.diverges]
    return clauses + [f"{_listed(marked)} {'make' if marked[1:] else 'makes'} a recipe diverge"] * bool(marked)


def _listed(words: Sequence[str], last: str = "and") -> str:
    """Return a list in words.

    Example:
        >>> _listed(["a", "b", "c"])
        'a, b and c'
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
