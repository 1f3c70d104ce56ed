"""Words and tables of a report that Markdown, the page and the terminal share."""

from __future__ import annotations

from valleys.lab.optimizers.spec import tunable
from valleys.lab.report.summary import Row, Summary, unit
from valleys.lab.statistics.formatting import format_interval
from valleys.lab.statistics.outcome import Verdict
from valleys.lab.store.job import Results


def cells(row: Row, metric: str) -> dict[str, str]:
    """Return a row of the main table by the column's title."""
    return {
        "optimizer": row.optimizer,
        f"test {metric}": format_interval(row.test),
        f"validation {metric}": format_interval(row.validation),
        "lost": f"{row.lost}/{row.units}",
        "target reached": f"{row.reached}/{row.units}",
        "steps to it": _number(row.steps, "g"),
        "seconds to it": _number(row.seconds, ".3g"),
        "diverged trials": f"{row.diverged_trials}/{row.trials}",
        "step ms": _number(row.step_seconds, ".2f", 1e3),
        "optimizer ms": _number(row.optimizer_seconds, ".2f", 1e3),
        "state": _memory(row.state_bytes, row.parameter_bytes),
    }


def explained(verdict: Verdict) -> list[str]:
    """Return the lines that follow the sentence: what a statistician wants, and the cost, if they are known."""
    return [f"{title}: {line}" for title, line in (("Statistics", verdict.details), ("Cost", verdict.cost)) if line]


def budget(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the expected test metric by number of trials: powers of two, and all of them."""
    longest = max((len(points) for points in summary.budget.values()), default=0)
    counts = sorted({*(2**k for k in range(longest.bit_length())), longest} - {0})
    rows = []
    for name, points in summary.budget.items():
        means = {point.trials: point.mean for point in points}
        rows.append([name, *(_number(means.get(count), ".4g") for count in counts)])
    return ["optimizer", *(f"{count} trial{'s' * (count > 1)}" for count in counts)], rows


def method(results: Results) -> list[str]:
    """Return paragraphs that say how the numbers came about."""
    configuration = results.configuration
    rounds = unit(results) == "round"
    over = "rounds" if rounds else "fresh seeds"
    log = configuration["scale"] == "log"
    goal = "at least" if configuration["maximize"] else "at most"
    lost = "A round in which every trial diverged, or a run on a fresh seed did," if rounds else "A seed that diverged"
    return [
        _procedure(results),
        f"Metrics are {'geometric ' * log}means over {over} with 95 % intervals of Student's t"
        + " on the logarithm: the scale is logarithmic, and a difference is a ratio" * log
        + f". {lost} is lost: it counts against the optimizer and is in no mean. The target is a validation "
        f"{configuration['metric']} of {goal} {configuration['target']:g}; steps and seconds to it are medians over "
        f"{over}, and a missed target counts as infinite ('-'). The step time contains forward and backward pass, the "
        "optimizer's time only its own step. The memory of its state is a multiple of the parameters' bytes.",
        _comparison(results),
    ]


def _procedure(results: Results) -> str:
    configuration = results.configuration
    seeds = f"{configuration['seeds']} fresh seed{'s' * (configuration['seeds'] > 1)}"
    rounds = unit(results) == "round"
    shared = "of its own, since copies are compared" if results.request.get("copies", 1) > 1 else "the same for all"
    if not any(map(tunable, results.spaces.values())):
        where = f"in each of {configuration['rounds']} rounds " * rounds
        return f"Nothing was tuned: {where}each optimizer was run on {seeds}, {shared}."
    trials = f"{configuration['trials']} trial{'s' * (configuration['trials'] > 1)}"
    steps = (
        f"each optimizer is tuned by {trials}, the one with the best final validation metric is selected, and its "
        f"values are run on {seeds}"
    )
    if not rounds:
        return (
            f"This is one round: {steps}. Means and intervals are over the fresh seeds and know nothing of the luck of "
            "the tuning: the verdicts speak of these tuned values, not of the optimizers."
        )
    return (
        f"A round is the whole procedure once: {steps}. There are {configuration['rounds']} rounds, each with points "
        "and seeds of its own, so that their spread contains the luck of the tuning. Within a round, trial i of "
        "each optimizer has the same value of a hyperparameter that is tuned over the same range, and a seed "
        f"{shared}. The round is the unit: optimizers are compared round by round. Every run is in report.json."
    )


def _comparison(results: Results) -> str:
    sealed = "The test metric is computed in every run, and nothing is selected by it."
    pairs = [pair for pair in results.planned if set(pair) <= results.spaces.keys()]
    if len(results.spaces) < 2:
        return sealed
    if len(pairs) == 1:
        shared = "The pair was planned, and its interval has a confidence of 95 %."
    elif pairs:
        shared = (
            f"The {len(pairs)} planned pairs share an error of 5 %: each interval has a confidence of "
            f"{1 - 0.05 / len(pairs):.2%} (Bonferroni), so that all of them hold at once with 95 %."
        )
    else:
        shared = (
            "No pair was planned: the two best by validation are compared, whose interval has a confidence of 95 %. "
            "The choice does not depend on the test metric."
        )
    return (
        "One optimizer is called better than another exactly where the interval of their difference excludes zero (of "
        f"a ratio: one) and it did not diverge more often. {shared} {sealed}"
    )


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)


def _memory(state: int | None, parameters: int | None) -> str:
    if state is None or not parameters:
        return "-"
    return f"{state / parameters:.2f}x, {state / 1e6:.2f} MB"
