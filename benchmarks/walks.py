"""Figures 1 and 8 of the paper in numbers: who goes on along a valley or past minima, and is it E or only memory?"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from provenance import Others, provenance
from report import listing, table
from valleys.paper.walks.functions import FUNCTIONS, Function
from valleys.paper.walks.measures import Measures, covered, measure
from valleys.paper.walks.plots import draw
from valleys.paper.walks.walk import SPREAD, Walk, starts, walks
from valleys.paper.walks.walkers import FAMILIES, Walker, walkers

OUT = Path(__file__).parent / "results" / "walks"
SEEDS = 10

METHOD = f"""\
Exact gradients in float64, no noise. Starts: {SEEDS} around the function's own, with a normal spread of
{SPREAD:.0%} of its norm, the same for all optimizers; on the two functions of Fig. 1 also {SEEDS} anywhere in the
window of the pictures (uniform, outside the valley, no higher than the function's own start). "In the valley" means
f(x) <= a level: {FUNCTIONS["cardioid"].valley:g} on (cardioid)^2, {FUNCTIONS["rosenbrock"].valley:g} on Rosenbrock's
function. Columns, each a median over the starts:

- length in valley: arc length of the steps inside the valley, zigzags included;
- floor covered: the part of the valley's floor along which the walk came, in length, zigzags excluded (the whole floor
  of (cardioid)^2 is 8 long, Rosenbrock's from the start to the minimum 3.1; Fig. 8: the width of the range of x);
- in 2nd half: the same for the second half of the steps: 0 means that it has stopped;
- lowest f; minima passed: reached and left again (of f1's those below 100, 62 in all);
- go on: the starts from which the walk goes on, by criteria of ours. (cardioid)^2: it covers 0.5 or more of the floor.
  Rosenbrock: it comes within 0.1 of the minimum, (1, 1). f1, f2: it passes a minimum, and on f2 ends in the basin of
  the wide one. A walk that diverges does not go on. (On f1 a width of thousands means steps that jump over hundreds of
  minima: LAMB's step is a share of |x|.)

Three walkers in each family: the plain optimizer, the adapted one, and, as a control of ours, the plain one with
*equal memory*: the momentum whose past gradients are as old on average as in the adapted one, mu/(1-mu) - alpha steps
(`valleys.paper.walks.walkers.equal_memory`), and for SGD the learning rate that leaves the sum of the weights as it
was; its "lr" is the adapted one's in the tables. Momentum 0.9, and E's alpha = -50, beta1 = 0.99 on Fig. 1's functions
are ours; Fig. 8's starts, alpha, beta1 and beta2 are the paper's. There is no weight decay, and LAMB and ALTO keep
their layerwise ratio, as in the paper. Every walk is in walks.csv. What it means is in docs/landscape/walks.md."""


@dataclass(frozen=True)
class Problem:
    """A function and who walks on it.

    Args:
        function: its name.
        steps: of each walk.
        families: learning rates and options of :func:`walkers`, by family.
        others: further plain optimizers, by name: family and learning rates and options.
        anywhere: walk from starts anywhere in the window, too.
    """

    function: str
    steps: int
    families: dict[str, tuple[Sequence[float], dict[str, Any]]]
    others: dict[str, tuple[str, Sequence[float], dict[str, Any]]]
    anywhere: bool


_SGD, _ADAM = {"alpha": -50.0}, {"alpha": -50.0, "beta2": 0.999}
_F1, _F2 = {"alpha": -80.0, "momentum": 0.95, "beta2": 0.99}, {"alpha": -90.0, "momentum": 0.9, "beta2": 0.99}
_ADAM_LR = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_LR8 = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
PROBLEMS = (
    Problem(
        "cardioid",
        2000,
        {"sgd": ((1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03), _SGD), "adam": (_ADAM_LR, _ADAM)},
        {},
        True,
    ),
    Problem(
        "rosenbrock",
        5000,
        {"sgd": ((1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3), _SGD), "adam": (_ADAM_LR, _ADAM)},
        {},
        True,
    ),
    Problem(
        "f1",
        2000,
        {"lamb": (_LR8, _F1), "adam": (_LR8, _F1)},
        {
            "Adam, beta1 = 0.95": ("adam", _LR8, {"momentum": 0.95, "beta2": 0.999}),
            "Adam, beta2 = 0.95": ("adam", _LR8, {"momentum": 0.9, "beta2": 0.95}),
        },
        False,
    ),
    Problem(
        "f2",
        2000,
        {"lamb": (_LR8, _F2), "adam": (_LR8, _F2)},
        {
            "Adam, beta1 = 0.9999": ("adam", _LR8, {"momentum": 0.9999, "beta2": 0.999}),
            "Adam, beta2 = 0.9999": ("adam", _LR8, {"momentum": 0.9, "beta2": 0.9999}),
        },
        False,
    ),
)


@dataclass(frozen=True)
class Line:
    """Walks of one optimizer at one learning rate.

    Args:
        function: on which.
        starts: "near" the function's own, or "anywhere".
        name: of the optimizer.
        role: plain, adapted, control or other.
        lr: the learning rate of its family.
        measures: of each walk.
        later: length of floor covered in the second half of the steps, of each walk.
        goes_on: of each walk.
    """

    function: str
    starts: str
    name: str
    role: str
    lr: float
    measures: list[Measures]
    later: list[float]
    goes_on: list[bool]

    @property
    def share(self) -> float:
        """Of the walks that go on."""
        return sum(self.goes_on) / len(self.goes_on)

    @property
    def diverged(self) -> int:
        """Number of walks that diverged."""
        return sum(measures.diverged for measures in self.measures)

    def median(self, of: Callable[[Measures], float | None]) -> float:
        """Of a number of the walks."""
        return statistics.median(of(measures) or 0.0 for measures in self.measures)


def goes_on(walk: Walk, measures: Measures) -> bool:
    """Return True if a walk goes on, by the function's criterion: see ``METHOD``."""
    if measures.diverged:
        return False
    if walk.function.name == "cardioid":
        return (measures.floor or 0.0) >= 0.5
    if walk.function.name == "rosenbrock":
        return measures.visited > 0
    if walk.function.name == "f2":
        return measures.passed > 0 and abs(measures.end[0]) < 0.45  # between the maxima beside the wide minimum
    return measures.passed > 0


def anywhere(function: Function, count: int, seed: int = 0) -> Tensor:
    """Starts in the window, outside the valley, no higher than the function's own start."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(function.bounds, dtype=torch.float64).unbind(-1)
    points = low + (high - low) * torch.rand(100 * count, len(low), dtype=torch.float64, generator=generator)
    highest = function.f(torch.tensor(function.start, dtype=torch.float64))
    return points[~function.inside(points) & (function.f(points) <= highest)][:count]


def run(problem: Problem) -> list[Line]:
    """All walks on one function."""
    function = FUNCTIONS[problem.function]
    points, kinds = starts(function, SEEDS), {"near": slice(0, SEEDS)}
    if problem.anywhere:
        points = torch.cat([points, anywhere(function, SEEDS)])
        kinds["anywhere"] = slice(SEEDS, 2 * SEEDS)
    lines = []
    for walker, name, role, lr in _walkers(problem):
        together = not FAMILIES[walker.family].layerwise
        results = walks(function, walker.make, steps=problem.steps, starts=points, together=together)
        for kind, positions in kinds.items():
            measures = [measure(walk) for walk in results[positions]]
            later = [_later(walk) for walk in results[positions]]
            going = [goes_on(walk, one) for walk, one in zip(results[positions], measures, strict=True)]
            lines.append(Line(function.name, kind, name, role, lr, measures, later, going))
    return lines


def _walkers(problem: Problem) -> list[tuple[Walker, str, str, float]]:
    result = []
    for family, (rates, options) in problem.families.items():
        for lr in rates:
            result += [(walker, walker.name, walker.role, lr) for walker in walkers(family, lr, **options)]
    for name, (family, rates, options) in problem.others.items():
        result += [(walkers(family, lr, alpha=0.0, **options)[0], name, "other", lr) for lr in rates]
    order = list(dict.fromkeys(name for _, name, _, _ in result))
    return sorted(result, key=lambda one: (order.index(one[1]), one[3]))


def _later(walk: Walk) -> float:
    half = len(walk.points) // 2
    if walk.finite < len(walk.points):
        return 0.0
    return covered(Walk(walk.function, walk.points[half:], walk.values[half:])) or 0.0


def write(lines: Sequence[Line], where: dict[str, str], out: Path) -> None:
    """README.md with the tables, walks.csv with every walk."""
    out.mkdir(parents=True, exist_ok=True)
    titles = {
        ("cardioid", "near"): "Fig. 1: (cardioid)^2",
        ("cardioid", "anywhere"): "Fig. 1: (cardioid)^2, starts anywhere",
        ("rosenbrock", "near"): "Fig. 1: Rosenbrock's function",
        ("rosenbrock", "anywhere"): "Fig. 1: Rosenbrock's function, starts anywhere",
        ("f1", "near"): "Fig. 8: f1",
        ("f2", "near"): "Fig. 8: f2",
    }
    parts = ["# Walks on the test functions of Figs. 1 and 8", _summary(lines, titles), "## Method", METHOD]
    for (function, kind), title in titles.items():
        members = [line for line in lines if (line.function, line.starts) == (function, kind)]
        if members:
            steps = next(problem.steps for problem in PROBLEMS if problem.function == function)
            parts += [f"## {title}", f"{steps:,} steps.", _best(members), "All learning rates:", _table(members)]
    parts += ["## Where the numbers come from", listing(where)]
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    with (out / "walks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = "function,starts,optimizer,lr,start,length_in_valley,floor_covered,second_half,lowest,visited,passed"
        writer.writerow([*names.split(","), "end", "value", "diverged", "goes_on"])
        for line in lines:
            for n, (m, later, going) in enumerate(zip(line.measures, line.later, line.goes_on, strict=True)):
                numbers = [_short(m.arc), _short(m.floor), _short(later), _short(m.lowest), m.visited, m.passed]
                end = " ".join(_short(x) for x in m.end)
                name = [line.function, line.starts, line.name, line.lr, n]
                writer.writerow([*name, *numbers, end, _short(m.value), int(m.diverged), int(going)])


def _summary(lines: Sequence[Line], titles: Mapping[tuple[str, str], str]) -> str:
    """For each family: the starts that go on over all learning rates, and who went further at the same rate."""
    rows = []
    for (function, kind), title in titles.items():
        for family in FAMILIES.values():
            plain, adapted, control = (
                [line for line in lines if (line.function, line.starts, line.name) == (function, kind, name)]
                for name in (family.plain, family.adapted, f"{family.plain}, equal memory")
            )
            if plain:
                going = [f"{sum(sum(line.goes_on) for line in own)}" for own in (plain, adapted, control)]
                count = sum(len(line.goes_on) for line in plain)
                further = [_further(adapted, own) for own in (plain, control)]
                rows.append([title, f"{family.plain}, {family.adapted}", *going, str(count), *further])
    header = ["function", "optimizers", "plain go on", "adapted", "equal memory", "of",
              "adapted further than plain", "than equal memory"]  # fmt: skip
    words = """\
Walks that go on, out of all starts at all learning rates of the tables below; and, start by start at the same learning
rate, how often the adapted walk covered at least 10 % more than the other one, and how often 10 % less (walks of which
one diverged are left out)."""
    return f"{words}\n\n{table(header, rows)}"


def _further(lines: Sequence[Line], others: Sequence[Line]) -> str:
    more = less = both = 0
    for line, other in zip(lines, others, strict=True):
        for one, two in zip(line.measures, other.measures, strict=True):
            if not (one.diverged or two.diverged):
                both += 1
                more += (one.floor or 0.0) > 1.1 * (two.floor or 0.0)
                less += (two.floor or 0.0) > 1.1 * (one.floor or 0.0)
    return f"{more} more, {less} less of {both}"


def _best(lines: Sequence[Line]) -> str:
    """Each optimizer at its own best learning rate: the largest share that goes on, then the longest way."""
    rows = []
    for name in dict.fromkeys(line.name for line in lines):
        own = [line for line in lines if line.name == name]
        best = max(own, key=lambda line: (line.share, -line.diverged, line.median(lambda m: m.floor)))
        stable = [line.lr for line in own if not line.diverged]
        row = _row(best)
        rows.append([row[0], f"{max(stable):g}" if stable else "none", *row[1:]])
    header = [_HEADER[0], "largest stable lr", "best lr", *_HEADER[2:]]
    words = "Each at its own best learning rate (most starts that go on, then the longest way):"
    return f"{words}\n\n{table(header, rows)}"


_HEADER = ["optimizer", "lr", "length in valley", "floor covered", "in 2nd half", "lowest f"]
_HEADER += ["minima passed", "diverged", "go on"]


def _table(lines: Sequence[Line]) -> str:
    return table(_HEADER, [_row(line) for line in lines])


def _row(line: Line) -> list[str]:
    valley = FUNCTIONS[line.function].valley is not None
    return [
        line.name,
        f"{line.lr:g}",
        f"{line.median(lambda m: m.arc):.2f}" if valley else "-",
        f"{line.median(lambda m: m.floor):.3g}",
        f"{statistics.median(line.later):.2g}",
        f"{line.median(lambda m: m.lowest):.2g}",
        f"{line.median(lambda m: m.passed):g}",
        str(line.diverged),
        f"{sum(line.goes_on)} of {len(line.goes_on)}",
    ]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for README.md and walks.csv")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for pictures; default: none are drawn")
    names = [problem.function for problem in PROBLEMS]
    parser.add_argument("--functions", default=",".join(names), help="which, separated by commas; default: %(default)s")
    arguments = parser.parse_args()
    selection = arguments.functions.split(",")
    for name in selection:
        if name not in names:
            parser.error(f"--functions {name!r}: choose of {', '.join(names)}")
    torch.set_num_threads(1)
    where = provenance("cpu", 1, ("torch", "valleys", "numpy", "scipy"))
    others, begin = Others(), time.perf_counter()
    lines = []
    for problem in PROBLEMS:
        if problem.function in selection:
            lines += run(problem)
            print(f"{problem.function}: done after {time.perf_counter() - begin:.0f} s", flush=True)
    where["took"] = f"{time.perf_counter() - begin:.0f} s; other processes took {others.share().split(' - ')[0]}"
    write(lines, where, arguments.out)
    if arguments.pictures is not None:
        draw(out=arguments.pictures)


if __name__ == "__main__":
    main()
