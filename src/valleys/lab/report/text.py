"""Words of a report that Markdown, the page and the terminal share."""

from __future__ import annotations

from valleys.lab.optimizers.spec import tunable
from valleys.lab.report.summary import unit
from valleys.lab.statistics.outcome import Verdict
from valleys.lab.store.job import Results


def explained(verdict: Verdict) -> list[str]:
    """Return the lines that follow the sentence: what a statistician wants, and the cost, if they are known."""
    return [f"{title}: {line}" for title, line in (("Statistics", verdict.details), ("Cost", verdict.cost)) if line]


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
        f"{configuration['metric']} of {goal} {configuration['target']:g}; steps and seconds to target are medians "
        f"over {over}, and a missed target counts as infinite (∞). The step time contains forward and backward pass, "
        "the optimizer's time only its own step. The memory of its state is a multiple of the parameters' bytes.",
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
