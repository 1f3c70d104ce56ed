"""Attribution: a comparison of the recipes between two others, and their difference shared out among the switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from valleys.lab.attribution import report
from valleys.lab.attribution.config import AttributionConfig
from valleys.lab.attribution.sentence import sentence
from valleys.lab.comparison import Comparison, compare, dry_run
from valleys.lab.config import ComparisonConfig
from valleys.lab.errors import LabError, unknown
from valleys.lab.forecast import Forecast
from valleys.lab.optimizers.recipe_files import checked, recipes
from valleys.lab.optimizers.recipes import Recipe, aligned, mixed_settings, recipe_spec, setting
from valleys.lab.problem.task import Problem
from valleys.lab.progress import Announce
from valleys.lab.run.ranks import joined
from valleys.lab.statistics.shapley import Decomposition, decompose, designed

__all__ = ["Attribution", "attribute"]


@dataclass(frozen=True)
class Attribution:
    """Results of an attribution.

    Args:
        first, last: the two recipes.
        switches: settings in which they differ.
        recipes: name in the comparison of the recipe of each set of changed switches. Two sets share one where a switch
            is inert.
        decomposition: the difference, shared out among the switches.
        sentence: which switch makes the difference, without a full stop.
        comparison: of the recipes, with its own report.
        paths: the files written: ``markdown``, ``json`` and, where the effects have values, ``waterfall``.
    """

    first: Recipe
    last: Recipe
    switches: tuple[str, ...]
    recipes: Mapping[frozenset[str], str]
    decomposition: Decomposition
    sentence: str
    comparison: Comparison
    paths: Mapping[str, Path]


def attribute(
    task: str | Problem,
    config: AttributionConfig | None = None,
    *,
    out: Path | str,
    progress: bool | None = None,
    announce: Announce | None = None,
    **settings: Any,
) -> Attribution:
    r"""Find which part of a recipe makes the difference to another.

    .. math:: \phi_i = \frac{1}{m!} \sum_{\pi} \left( v(S_\pi \cup \{i\}) - v(S_\pi) \right)

    The two recipes differ in m switches. All :math:`2^m` recipes between them are compared in rounds as by ``compare``,
    and the difference is shared out: the effect of a switch is its Shapley value, the mean of what changing it does
    over all orders of changing the switches; the effects add up to the difference. Of more than 5 switches each is
    added to the first recipe and taken from the last one alone. Finished runs are kept, as by ``compare``.

    Args:
        task: as of ``compare``.
        config: all settings, the two recipes among them. Hyperparameters that it does not fix are tuned in every round,
            in the range of the recipe's family.
        out: folder of the report, of the comparison's report and of its storage.
        progress: as of ``compare``.
        announce: as of ``compare``.
        settings: fields of ``AttributionConfig``, in place of ``config`` or of its values.

    Returns:
        The effects, the same on all ranks.

    Raises:
        LabError: on a mistake in the arguments, before any work.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = attribute(
        ...         "digits", first="lamb-paper", last="lamb", fixed="lr=0.02,momentum=0.9,weight_decay=0.01",
        ...         out=folder, batch_size=1024, epochs=2, rounds=2,
        ...     )
        >>> result.switches, len(result.recipes)
        (('beta3',), 2)

    Source: Shapley 1953, A value for n-person games; ours.
    """
    plan = _Plan(task, replace(config or AttributionConfig(), **settings))
    comparison = compare(
        task,
        plan.comparison,
        out=out,
        progress=progress,
        announce=announce,
        command=plan.config.command(task, Path(out)),
    )
    values = {changed: comparison.outcomes[name].test for changed, name in plan.names.items()}
    decomposition = decompose(values, plan.switches, comparison.test_metric)
    text = sentence(plan.names, decomposition, comparison.test_metric, "round" if plan.config.rounds > 1 else "seed")
    result = Attribution(plan.first, plan.last, plan.switches, plan.names, decomposition, text, comparison, {})
    with joined() as ranks:
        command = plan.config.command(task, Path(out))
        paths = ranks.decide(lambda: report.write(result, plan.recipes, plan.config.values, Path(out), command))
    return replace(result, paths=paths)


def dry_run_attribution(task: str | Problem, config: AttributionConfig, out: Path | str) -> Forecast:
    """Check everything that ``attribute`` checks before its first run, and estimate the cost; nothing is written."""
    return dry_run(task, _Plan(task, config).comparison, out)


class _Plan:
    """The recipes between two others, resolved and checked."""

    def __init__(self, task: str | Problem, config: AttributionConfig) -> None:
        batch_size = config.resolved(config.problem(task)).batch_size
        assert batch_size is not None
        self.config = replace(config, batch_size=batch_size)  # the report's command names it
        table = recipes(batch_size, config.recipes)
        ends = [
            checked(one, batch_size) if isinstance(one, Recipe) else _named(table, one)
            for one in (config.first, config.last)
        ]
        self.first, self.last = aligned(*ends)
        self.switches = _switches(self.first, self.last)
        self.names: dict[frozenset[str], str] = {}
        self.recipes: dict[str, Recipe] = {}
        for changed in designed(self.switches):
            settings = mixed_settings(self.first, self.last, changed)
            same = [name for name, recipe in self.recipes.items() if recipe.settings == settings]
            self.names[changed] = name = same[0] if same else self._name(changed)
            if not same and name in self.recipes:
                raise LabError(f"two different recipes are called {name!r}; rename {self.last.name}")
            self.recipes.setdefault(name, replace(self.first, name=name, settings=settings))
        last, first = self.names[frozenset(self.switches)], self.names[frozenset()]
        if last == first:
            raise LabError(f"{self.first.name} and {self.last.name} differ in nothing that has an effect")
        specs = [recipe_spec(recipe, config.values) for recipe in self.recipes.values()]
        others = {entry.name: getattr(config, entry.name) for entry in fields(ComparisonConfig)}
        self.comparison = ComparisonConfig(**{**others, "optimizers": specs, "pairs": (f"{last}:{first}",)})

    def _name(self, changed: frozenset[str]) -> str:
        """Return the first recipe's name and the switches changed, the last one's for all of them."""
        if len(changed) == len(self.switches):
            return self.last.name
        return "+".join([self.first.name, *(name for name in self.switches if name in changed)])


def _named(table: Mapping[str, Recipe], name: str) -> Recipe:
    if name not in table:
        raise unknown("recipe", name, list(table), remedy=", or put it into a file")
    return table[name]


def _switches(first: Recipe, last: Recipe) -> tuple[str, ...]:
    """Return the settings in which two recipes differ."""
    if first.optimizer != last.optimizer:
        raise LabError(
            f"{first.name} is a recipe of {first.optimizer}, {last.name} of {last.optimizer}; name two recipes of one "
            "optimizer, which alone can be mixed"
        )
    if first.space != last.space:
        raise LabError(f"{first.name} and {last.name} have different spaces; give both the same")
    names = list(dict.fromkeys([*first.settings, *last.settings]))
    switches = tuple(name for name in names if setting(first, name) != setting(last, name))
    if not switches:
        raise LabError(f"{first.name} and {last.name} are the same recipe; name two that differ")
    return switches
