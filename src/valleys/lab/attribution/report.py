"""The report of an attribution: Markdown and a picture for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valleys.lab.atomic_write import write_json, write_whole
from valleys.lab.attribution import waterfall
from valleys.lab.attribution.sentence import amount
from valleys.lab.optimizers.recipes import Recipe, setting
from valleys.lab.report import additions, html
from valleys.lab.report.document import plain
from valleys.lab.report.table import Table, escape
from valleys.lab.statistics.formatting import format_interval
from valleys.lab.statistics.intervals import mean_on_scale
from valleys.lab.statistics.shapley import Decomposition, Effect

if TYPE_CHECKING:
    from valleys.lab.attribution.attribute import Attribution


def write(
    result: Attribution, recipes: Mapping[str, Recipe], fixed: Mapping[str, float], folder: Path, command: str
) -> dict[str, Path]:
    """Write ``attribution.md``, ``attribution.json`` and, where the effects have values, ``waterfall.png``."""
    paths = {"markdown": folder / "attribution.md", "json": folder / additions.ATTRIBUTION}
    decomposition, metric = result.decomposition, result.comparison.test_metric
    picture, start = folder / "waterfall.png", _start(result)
    if start is not None and all(effect.mean is not None for effect in (*decomposition.effects, decomposition.total)):
        paths["waterfall"] = picture
        ends = result.first.name, result.last.name
        title = f"{result.comparison.task} at batch {result.comparison.batch_size}: from {ends[0]} to {ends[1]}"
        waterfall.draw(picture, ends, start, decomposition, title, f"test {metric.name}", metric.maximize)
    else:
        picture.unlink(missing_ok=True)  # of an earlier call, in which nothing had diverged
    document = plain(_document(result, recipes, fixed, command))
    write_json(paths["json"], document)
    page = additions.with_additions(json.loads(result.comparison.paths["json"].read_text(encoding="utf-8")), folder)
    write_json(result.comparison.paths["json"], {key: value for key, value in page.items() if key != "landscape"})
    html.write([page], result.comparison.paths["html"])
    write_whole(paths["markdown"], _markdown(result, recipes, fixed, command, "waterfall" in paths))
    return paths


def _finished(result: Attribution, name: str) -> list[float]:
    return [value for value in result.comparison.outcomes[name].test.values() if value is not None]


def _start(result: Attribution) -> float | None:
    """Return the first recipe's mean on the metric's scale, from where the waterfall goes; None if it has no result."""
    places = [result.decomposition.scale.apply(value) for value in _finished(result, result.recipes[frozenset()])]
    return fsum(places) / len(places) if places else None


def _document(
    result: Attribution, recipes: Mapping[str, Recipe], fixed: Mapping[str, float], command: str
) -> dict[str, Any]:
    decomposition = result.decomposition

    def numbers(effect: Effect) -> dict[str, Any]:
        return {**asdict(effect), "significant": effect.significant}

    return {
        "command": command,
        "task": result.comparison.task,
        "batch_size": result.comparison.batch_size,
        "metric": asdict(result.comparison.test_metric),
        "sentence": result.sentence,
        "first": result.first.name,
        "last": result.last.name,
        "fixed": fixed,
        "start": _start(result),
        "scale": "log" if decomposition.scale.log else "linear",
        "orders": decomposition.orders,
        "all_orders": decomposition.of,
        "switches": [numbers(effect) for effect in decomposition.effects],
        "total": numbers(decomposition.total),
        "interactions": [numbers(effect) for effect in decomposition.interactions],
        "added": [numbers(effect) for effect in decomposition.added],
        "taken": [numbers(effect) for effect in decomposition.taken],
        "recipes": [
            {
                "name": name,
                "changed": [switch for switch in result.switches if switch in changed],
                "optimizer": recipes[name].optimizer,
                "settings": recipes[name].settings,
                "test": result.comparison.outcomes[name].test,
                "selected": result.comparison.selected[name],
            }
            for changed, name in result.recipes.items()
        ],
    }


def _markdown(
    result: Attribution, recipes: Mapping[str, Recipe], fixed: Mapping[str, float], command: str, drawn: bool
) -> str:
    comparison, decomposition = result.comparison, result.decomposition
    title = f"# From {result.first.name} to {result.last.name}: {comparison.task} at batch {comparison.batch_size}"
    blocks = [
        escape(title).replace("\\#", "#"),
        f"**{escape(result.sentence)}.**",
        "![from the first recipe to the last, switch by switch](waterfall.png)" if drawn else "",
        effects(result).to_markdown(),
        escape(_method(result, fixed)),
        "## Recipes",
        _recipes(result, recipes).to_markdown(),
        *_interactions(decomposition),
        "Every run, the tuning and the cost: [report.md](report.md).",
        f"```\n{command.replace('`', chr(39))}\n```",
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def effects(result: Attribution) -> Table:
    """Make the table of the switches' effects."""
    decomposition = result.decomposition
    rows = []
    for index, effect in enumerate(decomposition.effects):
        remarks = ["significant"] * effect.significant + ["makes a recipe diverge"] * effect.diverges
        words = [_cell(effect, decomposition)]
        if decomposition.added:
            added, removal = (_cell(one[index], decomposition) for one in (decomposition.added, decomposition.taken))
            words.append(f"added: {added}, taken: {removal}")
        values = [str(setting(recipe, effect.name)) for recipe in (result.first, result.last)]
        rows.append([effect.name, *values, "; ".join(words), ", ".join(remarks)])
    total = "significant" if decomposition.total.significant else ""
    rows.append(["all", result.first.name, result.last.name, _cell(decomposition.total, decomposition), total])
    return Table.of_text(["switch", "from", "to", "effect (interval)", ""], rows)


def _cell(effect: Effect, decomposition: Decomposition) -> str:
    return "-" if effect.mean is None else amount(effect, decomposition)


def _recipes(result: Attribution, recipes: Mapping[str, Recipe]) -> Table:
    comparison, metric = result.comparison, result.comparison.test_metric
    rows = []
    for name in dict.fromkeys(result.recipes.values()):
        values = _finished(result, name)
        lost = len(comparison.outcomes[name].test) - len(values)
        mean = format_interval(mean_on_scale(values, metric)) if values else "-"
        settings = [str(setting(recipes[name], switch)) for switch in result.switches]
        rows.append([name, *settings, mean, f"{lost} diverged" if lost else ""])
    return Table.of_text(["recipe", *result.switches, f"test {metric.name} (95 % interval)", ""], rows)


def _interactions(decomposition: Decomposition) -> list[str]:
    rows = [
        [effect.name, _cell(effect, decomposition)] for effect in decomposition.interactions if effect.mean is not None
    ]
    if not rows:
        return []
    return [
        "## Interactions",
        "What two switches change together beyond what they change alone. Exploratory: the intervals are of 95 % each, "
        "none is corrected for their number.",
        Table.of_text(["switches", "interaction (interval)"], rows).to_markdown(),
    ]


def _method(result: Attribution, fixed: Mapping[str, float]) -> str:
    decomposition, metric = result.decomposition, result.comparison.test_metric.name
    used, of = decomposition.orders, decomposition.of
    orders = "all orders" if used == of else f"{used} of {of} orders"
    how = (
        f"An effect is the switch's Shapley value: what changing it does to the test {metric}, averaged over {orders} "
        "of changing the switches one after the other; the effects add up to the whole change."
        if of
        else "Of so many switches each was added to the first recipe and taken from the last alone; an effect is the "
        "mean of both, and the effects need not add up."
    )
    points = [values for rounds in result.comparison.selected.values() for values in rounds if values is not None]
    constant = ", ".join(f"{name} {value:g}" for name, value in fixed.items())
    tuned = ", ".join(sorted({name for values in points for name in values} - set(fixed)))
    sentences = [
        how,
        "On the metric's logarithmic scale an effect is a factor." * decomposition.scale.log,
        _intervals(result),
        f"The same for all recipes: {constant}." * bool(constant),
        f"Tuned: {tuned}." * bool(tuned),
    ]
    return " ".join(filter(None, sentences))


def _intervals(result: Attribution) -> str:
    """Return a sentence on what the intervals are of, and how sure they are."""
    decomposition, number = result.decomposition, len(result.switches)
    finished = len(decomposition.units)
    unit = "round" if len(next(iter(result.comparison.selected.values()))) > 1 else "fresh seed"
    if decomposition.total.half_width is None:
        return f"An interval takes two {unit}s that every recipe in use finished; there {_units(finished, unit)}."
    over = f"Student's t over {finished} {unit}s"
    coarse = result.comparison.test_metric.resolution > 0
    floor = " The spread is taken as at least one test example's worth." * coarse
    if number == 1:
        return f"Each {unit} gives one value of the effect, whose interval holds with 95 % ({over}).{floor}"
    each = f"{100 * decomposition.effects[0].confidence:.4g} % each"
    text = (
        f"Each {unit} gives one value of each effect; the {number} intervals hold together with 95 % ({each}, {over})"
    )
    if decomposition.added:
        each = f"{100 * decomposition.added[0].confidence:.4g} % each"
        text += f", and so do the {2 * number} of the switches added and taken ({each})"
    return f"{text}.{floor}"


def _units(number: int, unit: str) -> str:
    return f"is {number} {unit}" if number == 1 else f"are {number} {unit}s"
