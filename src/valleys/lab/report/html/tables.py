"""The tables of a page; ``index`` is a number by optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from valleys.lab.report.html.cells import (
    Cell,
    Table,
    about_optimizers,
    duration,
    hyperparameters,
    interval,
    mean,
    numeral,
    scaled,
)
from valleys.lab.report.html.reading import Document, finals, labels, optimizers, reached, trials
from valleys.lab.report.html.scales import number
from valleys.lab.statistics import median

__all__ = ["areas", "results"]


def results(document: Document, index: dict[str, int]) -> Table:
    """Make the main table, best optimizer first."""
    metric = document["configuration"]["metric"]
    titles = [f"test {metric}", f"validation {metric}", "target reached", "median steps to it", "median seconds to it"]
    titles = ["optimizer", *titles, "diverged trials", "diverged runs", "hyperparameters"]
    rows = []
    for row in document["table"]:
        share = row["reached"] / row["runs"] if row["runs"] else None
        rows.append(
            [
                Cell(row["optimizer"]),
                mean(row["test"]),
                mean(row["validation"]),
                Cell(f"{row['reached']} of {row['runs']}", share),
                duration(row["steps"], row["runs"]),
                duration(row["seconds"], row["runs"], 3),
                Cell(f"{row['diverged_trials']} of {row['trials']}", row["diverged_trials"]),
                Cell(f"{row['diverged_runs']} of {row['runs']}", row["diverged_runs"]),
                Cell(hyperparameters(row["hyperparameters"])),
            ]
        )
    return about_optimizers("Results on fresh seeds", titles, rows, index, text=1)


def rivals(document: Document, index: dict[str, int]) -> Table | None:
    """Make the table of the leader against each other optimizer; None if there is no pair to compare."""
    verdict = document["verdict"]
    measured = [rival for rival in verdict["rivals"] if rival["difference"] is not None]
    if not measured:
        return None
    effect, detectable, wilcoxon = (
        any(rival.get(key) is not None for rival in measured) for key in ("effect", "detectable", "wilcoxon_p")
    )
    titles = ["against", "better by", "paired seeds", "p", "p (Holm)", "established"]
    titles += ["effect (Hedges' g)"] * effect + ["would have seen"] * detectable + ["p (Wilcoxon, Holm)"] * wilcoxon
    rows = []
    for rival in measured:
        difference = rival["difference"]
        row = [
            Cell(rival["name"]),
            mean((difference["mean"], difference["half_width"])),
            numeral(difference["pairs"]),
            numeral(difference["p"], 3),
            numeral(rival["p"], 3),
            Cell("yes" if rival["beaten"] else "no", float(rival["beaten"])),
        ]
        if effect:
            row.append(interval(rival.get("effect")))
        if detectable:
            row.append(numeral((rival.get("detectable") or {}).get("difference"), 3))
        if wilcoxon:
            row.append(numeral(rival.get("wilcoxon_p"), 3))
        rows.append(row)
    return about_optimizers(f"{verdict['leader']} against the others", titles, rows, index)


def flatness(document: Document, index: dict[str, int]) -> tuple[Table, Table | None] | None:
    """Make the tables of flatness and of what E changes (None without a pair); None if nothing was measured."""
    flat = document.get("flatness")
    if not flat:
        return None
    measures = flat["measures"]
    rows = [
        [Cell(row["optimizer"]), numeral(row["runs"]), *(mean(row["means"][measure]) for measure in measures)]
        for row in flat["rows"]
    ]
    means = about_optimizers("The finished runs on fresh seeds", ["optimizer", "runs", *measures.values()], rows, index)
    if not flat["contrasts"]:
        return means, None
    ratios = [
        [
            Cell(f"{entry['adapted']} / {entry['base']}"),
            Cell(measures[entry["measure"]]),
            numeral(entry["ratio"], 3),
            Cell("-" if entry["low"] is None else f"{entry['low']:.3g} to {entry['high']:.3g}", entry["low"]),
            numeral(entry["pairs"]),
        ]
        for entry in flat["contrasts"]
    ]
    titles = ["E against its base", "measure", "ratio", "95 % interval", "seeds"]
    return means, Table("E against its base, seed by seed", titles, [False, False, True, True, True], ratios)


def times(document: Document, index: dict[str, int]) -> Table:
    """Make the table of steps and seconds to the target, run by run."""
    rows = []
    for row in document["table"]:
        runs = finals(document, row["optimizer"])
        cells = [
            Cell(row["optimizer"]),
            Cell(f"{row['reached']} of {row['runs']}", row["reached"] / max(row["runs"], 1)),
        ]
        for key, digits in (("steps_to_target", 6), ("seconds_to_target", 3)):
            reached_at = reached(runs, key)
            middle = median(reached_at) if reached_at else None
            cells += [
                Cell(number(middle, digits), middle),
                Cell(", ".join(number(v, digits) for v in reached_at) or "-", middle),
            ]
        rows.append(cells)
    titles = [
        "optimizer",
        "target reached",
        "median steps",
        "steps of each seed",
        "median seconds",
        "seconds of each seed",
    ]
    return about_optimizers("Time to the target", titles, rows, index)


def cost(document: Document, index: dict[str, int]) -> Table:
    """Make the table of time and memory."""
    rows = []
    for row in document["table"]:
        state, parameters = row["state_bytes"], row["parameter_bytes"]
        rows.append(
            [
                Cell(row["optimizer"]),
                numeral(scaled(row["step_seconds"], 1e3)),
                numeral(scaled(row["optimizer_seconds"], 1e3)),
                numeral(scaled(state, 1e-6)),
                numeral(state / parameters if state is not None and parameters else None, 3),
            ]
        )
    titles = ["optimizer", "step ms", "optimizer ms", "state MB", "state / parameters"]
    return about_optimizers("Cost of a step", titles, rows, index)


def tuning(document: Document, index: dict[str, int]) -> Table:
    """Make the table of every trial, also the bad ones."""
    metric = document["configuration"]["metric"]
    rows = []
    for name in optimizers(document):
        for run in trials(document, name):
            chosen = run["point"] == document["chosen_trials"][name]
            fate = "diverged" if run["diverged"] else "chosen" if chosen else ""
            steps = reached([run], "steps_to_target")[0]
            rows.append(
                [
                    Cell(name),
                    numeral(run["point"] + 1),
                    Cell(hyperparameters(run["hyperparameters"])),
                    numeral(run["validation"]),
                    Cell(number(steps, 6), steps),
                    Cell(fate),
                ]
            )
    titles = [
        "optimizer",
        "trial",
        "hyperparameters",
        f"validation {metric}",
        "steps to the target",
        "what became of it",
    ]
    table = about_optimizers("Every tuning trial", titles, rows, index)
    return replace(table, numeric=[False, True, False, True, True, False])


def spaces(document: Document, index: dict[str, int]) -> Table:
    """Make the table of the search spaces and the chosen values."""
    chosen = {row["optimizer"]: row["hyperparameters"] for row in document["table"]}
    rows = [
        [
            Cell(name),
            Cell(key),
            numeral(ranges["low"]),
            numeral(ranges["high"]),
            Cell("log" if ranges["log"] else "linear"),
            numeral((chosen.get(name) or {}).get(key)),
        ]
        for name, space in document["spaces"].items()
        for key, ranges in space.items()
    ]
    titles = ["optimizer", "hyperparameter", "low", "high", "scale", "chosen"]
    table = about_optimizers("Search space", titles, rows, index)
    return replace(table, numeric=[False, False, True, True, False, True])


def settings(document: Document) -> Table:
    """Make the table of the configuration."""
    configuration = dict(document["configuration"])
    better = "larger" if configuration.pop("maximize") else "smaller"
    sizes = configuration.pop("data", None)
    shown = {**configuration, "better": f"{better} {configuration['metric']}"}
    if sizes:
        shown["examples"] = "{} train, {} validation, {} test".format(*sizes)
    rows = [
        [Cell(key.replace("_", " ")), Cell(number(value, 6) if isinstance(value, float) else str(value))]
        for key, value in shown.items()
        if value is not None and value != ""
    ]
    return Table("Configuration", ["setting", "value"], [False, False], rows, sortable=False)


def environments(document: Document) -> Table:
    """Make the table of the environments, a column per sitting."""
    sittings = document["environments"]
    names = dict.fromkeys(name for environment in sittings for name in environment)
    rows = [[Cell(name.replace("_", " ")), *(Cell(str(one.get(name, "-"))) for one in sittings)] for name in names]
    titles = ["", *([f"sitting {k}" for k in range(1, len(sittings) + 1)] if len(sittings) > 1 else ["value"])]
    return Table("Environment", titles, [False] * len(titles), rows, sortable=False)


def across(documents: Sequence[Document], group: Sequence[int], index: dict[str, int]) -> Table:
    """Make the table of the test metric by batch size, over the comparisons in ``group``, a column each."""
    chosen = [documents[number] for number in group]
    columns = [{row["optimizer"]: row["test"] for row in document["table"]} for document in chosen]
    names = [name for name in index if any(name in column for column in columns)]
    configuration = chosen[0]["configuration"]
    titles = ["optimizer", *(label.removeprefix(f"{configuration['task']} at ") for label in labels(chosen))]
    rows = [[Cell(name), *(mean(column.get(name)) for column in columns)] for name in names]
    return about_optimizers(f"{configuration['task']}: test {configuration['metric']}", titles, rows, index)


def areas(area: Mapping[str, float], index: dict[str, int]) -> Table:
    """Make the table of the areas under performance profiles, best first."""
    order = sorted(area, key=lambda name: -area[name])
    rows = [[Cell(name), numeral(area[name], 3)] for name in order]
    return about_optimizers(
        "Area under the profile, up to a factor of 4", ["optimizer", "area (1 is best)"], rows, index
    )
