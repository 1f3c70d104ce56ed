"""False "better" among equal optimizers, and power for a true difference, by simulation.

Optimizers are simulated: a response surface over learning rate and momentum, with noise from run to run. Points,
selection and verdict are the lab's own.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from provenance import provenance
from report import listing, table
from valleys.lab.optimizers.spec import Range
from valleys.lab.record import Record
from valleys.lab.search.candidates import points, select
from valleys.lab.statistics import Metric, Outcome, judge, paired_difference, two_best

__all__ = ["CASES", "Case", "Rate", "benchmark", "comparison", "exact_rate", "main", "page"]

SPACE = {"lr": Range(1e-4, 1.0), "momentum": Range(0.5, 0.99, "reverse-log")}

PEAK, CURVATURE, NOISE = 90.0, 80.0, 0.3
"""Of the surface: accuracy at the best point, its fall over the square of the distance, deviation of one run (in %)."""

MOST = 8
"""Trials of the largest case."""

POOL = 1000
"""Rounds whose points are drawn from; the optimum of the surface is another one in each comparison."""

ACCURACY = Metric("accuracy %", maximize=True)
LOSS = Metric("loss", maximize=False, scale="log")

METHOD = f"""\
**Simulated optimizers.** In each comparison a run's test accuracy in % is {PEAK:g} - {CURVATURE:g} |u - u*|^2 + e.
Here u is the place of the point in the unit square of the ranges of lr and momentum, u* an optimum drawn in
[0.2, 0.8]^2, the same for all optimizers, and e normal with deviation {NOISE:g}. The validation accuracy of a run has a
noise of its own of the same size, except where it equals the test accuracy. Points come from `candidates.points`, the
choice from `candidates.select`, the verdict from `statistics.judge` at level 5 %.

*Own points*: each optimizer has a scrambled sequence of its own; *shared points*: all optimizers of a round have the
same one, as in the lab. *Once*: tuned in one round and judged by five fresh seeds. A rate is the share of comparisons
with any "better"; of a true difference, of those that call the better one better. Intervals are Clopper and Pearson's
at 95 %."""

SMALL = """\
Each of two equal optimizers classifies every test example correctly with probability 0.9, in each round anew. *With the
floor* is the lab's rule: the standard deviation of the differences is taken as at least one example. *Without* is
Student's t as it is."""

EXACT = """\
Two equal optimizers decide differently on each of 34 test examples with probability q, to either's advantage alike. The
chance of a false "better" is summed over all outcomes; the table has the largest of twelve mean numbers of different
decisions, 34 q, from 0.1 to 34.

No rule helps where every round is won by the same large amount by the flip of a coin: all R agree by chance in
2^(1-R) of comparisons, 50 % at R = 2, 25 % at 3, 6.2 % at 5. Counts of independent examples are never so."""

EXACT_TITLE = "The worst case on 34 test examples, exactly"
SMALL_TITLE = 'Two equal optimizers on small test sets: false "better"'


@dataclass(frozen=True)
class Case:
    """A protocol on simulated optimizers.

    Args:
        title: in the table.
        optimizers: how many.
        rounds, trials: of the protocol.
        shared: whether the optimizers of a round have the same points.
        once: whether one tuning is judged by as many fresh seeds as ``rounds``.
        gap: by how much the first optimizer is better.
        edge: distance of lr from the optimum beyond which a trial diverges; a tenth of the fresh runs then does too.
        judged: "pairs", all of them; "two best" by validation at the plain level; "two best, level shared".
        same: whether the validation metric of a run equals its test metric.
        log: whether the metric is a loss, on a logarithmic scale.
    """

    title: str
    optimizers: int = 2
    rounds: int = 5
    trials: int = 8
    shared: bool = True
    once: bool = False
    gap: float = 0.0
    edge: float = math.inf
    judged: str = "pairs"
    same: bool = False
    log: bool = False


CASES = {
    'Two equal optimizers: false "better"': (
        Case("own points, once, five fresh seeds", shared=False, once=True),
        Case("shared points, once, five fresh seeds", once=True),
        Case("own points, 5 rounds of 8 trials", shared=False),
        Case("**shared points, 5 rounds of 8 trials** (the default)"),
        Case("shared points, 3 rounds of 5 trials", rounds=3, trials=5),
        Case("shared points, 2 rounds of 5 trials", rounds=2, trials=5),
        Case("the default, some trials and runs diverge", edge=0.2),
        Case("the default, a loss on a logarithmic scale", log=True),
    ),
    'Four equal optimizers: any false "better"': (
        Case("all six pairs planned", optimizers=4),
        Case("the two best by validation, level 5 %", optimizers=4, judged="two best"),
        Case("the same, validation equal to test", optimizers=4, judged="two best", same=True),
        Case("the two best by validation, level 5 %, 3 rounds of 5", 4, 3, 5, judged="two best"),
        Case("the same, validation equal to test", 4, 3, 5, judged="two best", same=True),
        Case("the two best by validation, level 5 % / 6", optimizers=4, judged="two best, level shared"),
    ),
    "One is better by 1 point: found": (
        Case("own points, once, five fresh seeds", shared=False, once=True, gap=1.0),
        Case("own points, 5 rounds of 8 trials", shared=False, gap=1.0),
        Case("**shared points, 5 rounds of 8 trials** (the default)", gap=1.0),
        Case("shared points, 3 rounds of 5 trials", rounds=3, trials=5, gap=1.0),
    ),
}


@dataclass(frozen=True)
class Rate:
    """A share of comparisons, with Clopper and Pearson's 95 % interval."""

    title: str
    hits: int
    n: int

    @property
    def row(self) -> list[str]:
        """The rate and its interval as cells of a table."""
        low, high = self.interval
        return [self.title, f"{self.hits / self.n:.1%}", f"{low:.1%} to {high:.1%}", str(self.n)]

    @property
    def interval(self) -> tuple[float, float]:
        """The limits."""
        low = float(beta.ppf(0.025, self.hits, self.n - self.hits + 1)) if self.hits else 0.0
        return low, float(beta.ppf(0.975, self.hits + 1, self.n - self.hits)) if self.hits < self.n else 1.0


@functools.cache
def positions(number: int) -> np.ndarray:
    """Return the places of a round's points in the unit square; fewer trials are the first of them."""
    return np.array([[SPACE[name].position(point[name]) for name in SPACE] for point in points(SPACE, MOST, number)])


def comparison(case: Case, generator: np.random.Generator) -> bool:
    """Simulate a comparison; return True if "better" is said, of a true difference if it is said of the better one."""
    optimum = generator.uniform(0.2, 0.8, 2)
    tunings = 1 if case.once else case.rounds
    names = [f"optimizer {number}" for number in range(case.optimizers)]
    points = generator.choice(POOL, tunings * (1 if case.shared else len(names)), replace=False).reshape(-1, tunings)
    outcomes = {
        name: _outcome(case, points[0 if case.shared else i], optimum, case.gap * (i == 0), generator)
        for i, name in enumerate(names)
    }
    metric = LOSS if case.log else ACCURACY
    pairs = list(itertools.combinations(names, 2))
    shared = len(pairs)
    if case.judged != "pairs":
        best = two_best(outcomes, metric)
        pairs = [] if best is None else [best]
        shared = shared if case.judged.endswith("shared") else 1
    verdicts = judge(pairs, outcomes, metric, unit="seed" if case.once else "round", shared=shared)
    return any(verdict.better == names[0] if case.gap else verdict.better is not None for verdict in verdicts)


def _outcome(
    case: Case, rounds: Sequence[int], optimum: np.ndarray, gap: float, generator: np.random.Generator
) -> Outcome:
    """Tune one optimizer in each round, and run the choice on a fresh seed, or on several after one tuning."""
    test: dict[int, float | None] = {}
    validation: dict[int, float | None] = {}
    for number, sequence in enumerate(rounds):
        places = positions(int(sequence))[: case.trials]
        scores = PEAK + gap - CURVATURE * ((places - optimum) ** 2).sum(1)
        choice = _chosen(scores, places[:, 0] - optimum[0] > case.edge, generator)
        for unit in range(case.rounds) if case.once else [number]:
            lost = choice is None or (math.isfinite(case.edge) and generator.random() < 0.1)
            noise = NOISE * generator.normal(size=2)
            values = [None if lost or choice is None else float(scores[choice] + e) for e in noise]
            test[unit], validation[unit] = values[0], values[0 if case.same else 1]
    if case.log:  # a fall of 5 points multiplies the loss by e
        test, validation = (
            {unit: None if x is None else math.exp((PEAK - x) / 5) for unit, x in side.items()}
            for side in (test, validation)
        )
    return Outcome(test, validation)


def _chosen(scores: np.ndarray, diverged: np.ndarray, generator: np.random.Generator) -> int | None:
    values = scores + NOISE * generator.normal(size=len(scores))
    records = {
        trial: Record("", {}, trial, 1, 1, bool(lost), validation=None if lost else float(value))
        for trial, (value, lost) in enumerate(zip(values, diverged, strict=True))
    }
    return select(records, maximize=True)


def small(examples: int, rounds: int, floor: bool, log: bool, generator: np.random.Generator) -> bool:
    """Return True if one of two equal optimizers is called better on a small test set."""
    step = 100 / examples
    right = 0.1 if log else 0.9
    metric = Metric("error %" if log else "accuracy %", not log, "log" if log else "linear", step if floor else 0.0)
    outcomes = {
        name: Outcome(dict(enumerate((step * generator.binomial(examples, right, rounds)).tolist()))) for name in "ab"
    }
    return judge([("a", "b")], outcomes, metric)[0].better is not None


def exact_rate(disagreements: float, rounds: int, floor: bool, examples: int = 34) -> float:
    """Return the chance of a false "better" on a test set, where a mean number of decisions differ at random.

    Args:
        disagreements: mean number of examples that one optimizer alone decides correctly, at most ``examples``.
        rounds: at least two.
        floor: whether the deviation is at least one example.
        examples: of the test set.
    """
    share = disagreements / examples
    chances = np.array([1.0])
    for _ in range(examples):
        chances = np.convolve(chances, [share / 2, 1 - share, share / 2])
    # The interval depends on sum and sum of squares alone: one sample stands for all with the same.
    states: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (1.0, ())}
    for _ in range(rounds):
        longer: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = defaultdict(lambda: (0.0, ()))
        for (total, squares), (chance, sample) in states.items():
            for value, weight in zip(range(-examples, examples + 1), chances, strict=True):
                if chance * weight > 1e-12:
                    key = total + value, squares + value * value
                    longer[key] = longer[key][0] + chance * weight, (*sample, value)
        states = longer
    metric = Metric("correct", maximize=True, resolution=float(floor))
    return math.fsum(chance for chance, sample in states.values() if _excludes_zero(sample, metric))


def _excludes_zero(sample: Sequence[int], metric: Metric) -> bool:
    difference = paired_difference(dict(enumerate(map(float, sample))), dict.fromkeys(range(len(sample)), 0.0), metric)
    assert difference is not None
    assert difference.half_width is not None
    return abs(difference.mean) > difference.half_width


def _small_rates(n: int) -> Iterator[Rate]:
    for examples, log, rounds in itertools.product((34, 360), (False, True), (2, 3, 5)):
        for floor in (True, False):
            if log and not floor:
                continue  # an error of zero has no logarithm
            generator = np.random.default_rng([examples, rounds, log])
            hits = sum(small(examples, rounds, floor, log, generator) for _ in range(n))
            scale = ", errors on a logarithmic scale" * log
            rule = "with the floor" if floor else "without"
            yield Rate(f"{examples} examples, {rounds} rounds{scale}, {rule}", hits, n)


def benchmark(n: int, out: Path) -> Path:
    """Simulate all cases and write ``README.md`` and ``protocol.json``.

    Args:
        n: comparisons of each case, at least 1.
        out: folder.

    Returns:
        The report's path.
    """
    texts = provenance("cpu", 1, ("valleys", "numpy", "scipy"))
    del texts["threads"], texts["load"]
    rates: dict[str, list[Rate]] = {title: [] for title in (*CASES, SMALL_TITLE)}
    for number, (title, cases) in enumerate(CASES.items()):
        for place, case in enumerate(cases):
            generator = np.random.default_rng([number, place])
            rates[title].append(Rate(case.title, sum(comparison(case, generator) for _ in range(n)), n))
            print(*rates[title][-1].row, flush=True)
    rates[SMALL_TITLE] += _small_rates(n)
    document = {
        "about": texts | {"n": f"{n} comparisons of each case"},
        "rates": {title: [asdict(rate) for rate in group] for title, group in rates.items()},
        "exact": list(_worst_rates()),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "protocol.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    path = out / "README.md"
    path.write_text(page(document), encoding="utf-8")
    return path


def _worst_rates() -> Iterator[dict[str, Any]]:
    means = (0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 34.0)
    for rounds, floor in itertools.product((2, 3, 5), (True, False)):
        rate, mean = max((exact_rate(mean, rounds, floor), mean) for mean in means)
        rule = "with the floor" if floor else "without"
        yield {"title": f"{rounds} rounds, {rule}", "rate": rate, "disagreements": mean}


def page(document: Mapping[str, Any]) -> str:
    """Return the report of what ``protocol.json`` holds."""
    parts = ["# Error rates and power of the protocol", listing(document["about"]), METHOD]
    for title, group in document["rates"].items():
        parts += [f"## {title}", *([SMALL] if title == SMALL_TITLE else [])]
        parts.append(table(["", "rate", "95 % interval", "n"], [Rate(**rate).row for rate in group]))
    rows = [[row["title"], f"{row['rate']:.2%}", f"{row['disagreements']:g}"] for row in document["exact"]]
    parts += [f"## {EXACT_TITLE}", EXACT, table(["", "largest rate", "at 34 q"], rows)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="comparisons of each case (default: 2000)")
    default = Path("benchmarks/results/protocol")
    parser.add_argument("--out", type=Path, default=default, help=f"default: {default}")
    options = parser.parse_args(arguments)
    print(benchmark(options.n, options.out))


if __name__ == "__main__":
    main()
