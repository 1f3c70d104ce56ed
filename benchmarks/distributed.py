"""Cost of layerwise norms on sharded parameters: collectives and bytes, time of a step, and a model for many ranks.

ALTO and Lamb on DTensors, against LAMB written with DTensor's own norms and against torch's AdamW. Ranks are processes
on this machine. Writes ``distributed.md`` and all times as ``distributed.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distributed_cost import Link, Model, all_reduce, cost_table, show
from distributed_ranks import NAIVE, REPEATED, Found, Plan, measure, on_ranks
from provenance import Others, provenance
from report import BASE, listing, table
from shapes import Shape, gpt2, numel, resnet50
from timing import quartiles

__all__ = ["MODELS", "benchmark", "counts_table", "fit", "main", "parser", "shrunk"]

MODELS: dict[str, tuple[list[Shape], int]] = {"resnet50": (resnet50(), 17), "gpt2-345m": (gpt2(1024, 24), 25)}
"""Shapes, and how many modules fully_shard usually wraps: each block, and the rest."""

STEPPED = "gpt2-345m, narrow"
NARROW = gpt2(128, 24, 8192, 1024)
"""GPT-2 345M's 292 tensors at an eighth of the width: a step takes milliseconds, so that fixed costs show."""

SIZES = tuple(4 * layers for layers in (1, 16, 64, 161, 292, 1_000, 4_000, 32_000))
MANY = (8, 64, 512, 4_096)

COUNTED = """\
Every parameter is a DTensor, split along its first dimension over all ranks. Collectives are what reaches c10d during
the optimizer's second step, bytes what one rank hands to them in all. A layer is a parameter tensor. "naive LAMB" is
what one gets who writes LAMB for tensors and runs it on DTensors: a loop, with the norm of each parameter and of each
update made whole. It makes the same steps as Lamb: they differ by {difference:.0e} of their length, its norms adding up
in float32. The bytes are few either way; what costs is the latency of each collective."""

TIMED = """\
{parameters:,} parameters in {tensors} tensors: GPT-2 345M at an eighth of its width and a sixth of its vocabulary, so
that fixed costs show; the larger the tensors, the smaller the differences. One process with one thread per rank. Every
contender steps once per round, in an order shuffled anew, after two untimed steps and behind a barrier; a step's time
is that of the slowest rank. All share parameters and gradients. "By the fit" is the time of the step's all-reduces by
section 3; the rest of the naive way's is DTensor's own work for each operation, and waiting for the slower rank before
each all-reduce."""

CROWDED = """\
**More ranks than this machine's {cores} cores** ({ranks}) share them: each waits for the scheduler as well as for the
others, and the times say more about that than about a network. Compare within the run only."""

REDUCED = """\
One all-reduce of float64 numbers by gloo over loopback, four for each layer. Each timing is the mean of {repeated}
behind one another, on the slowest rank; sizes in an order shuffled anew in each round."""

FITTED = """\
A straight line by least squares through the medians, T = a + b n, read as a ring, which is what gloo's all-reduce is:
alpha = a / (2 (P - 1)) and beta = b P / (2 (P - 1)). In brackets the same from the first and the third quartiles."""

MODELLED = """\
With P ranks, L layers, n bytes, D parameters in U units (modules wrapped by fully_shard):

- ring all-reduce: s + 2 (P - 1) alpha + 2 (P - 1) / P n beta;
- tree all-reduce: s + 2 ceil(log2 P) (alpha + n beta); recursive doubling needs half of the second term;
- all-gather and reduce-scatter: s + R alpha + (P - 1) / P n beta, R = P - 1 in a ring and ceil(log2 P) in a tree;
- ours: one all-reduce of n = 32 L; naive: 2 L of n = 4;
- FSDP2's own: U all-gathers and U reduce-scatters of n = 2 D / U, that is bfloat16 and each unit gathered once: the
  least that fully_shard sends (by default it gathers a second time, and float32 is twice as much).

FSDP2's traffic mostly hides behind the computation; the norms' does not, because the update waits for it."""

MEASURED = """\
### Constants measured here

alpha and beta of gloo over loopback at {ranks} ranks (section 3; up to 1 MB, where a byte costs less than in larger
messages, to FSDP2's favour), s = 0. More ranks than this machine has are an
extrapolation: no network was measured."""

ASSUMED = """\
### Constants assumed, NOT measured

The lower and the upper end take the smallest and the largest latencies of NCCL's own tuning model for its ring
(NVIDIA/nccl, src/graph/tuning.cc at 01afd20): s = 3.6 to 10 us, alpha = 0.47 to 3.4 us over NVLink and 2.7 to 9.6 us
over a network. beta is an H100's nominal bandwidth in one direction: NVLink 450 GB/s up to 8 ranks, InfiniBand NDR
50 GB/s for more, as if every round crossed the network. No host overhead, no noise: real latencies are larger, for all
three."""


def benchmark(
    plan: Plan, worlds: Sequence[int], texts: dict[str, str], out: Path, *, shrink: int = 1, seconds: float = 1800.0
) -> Path:
    """Measures and writes ``distributed.md`` and ``distributed.json``.

    Args:
        plan: what to measure; the set that is stepped is also counted.
        worlds: numbers of ranks; the first above 1 gives the cost model's constants.
        texts: provenance.
        out: folder, made if missing.
        shrink: by what the counted shapes were divided; for the text.
        seconds: how long a rank may wait for another.

    Returns:
        The Markdown file.

    Raises:
        RuntimeError: the ranks do not agree on what was sent.
    """
    others = Others()
    results = {ranks: _merged(on_ranks(measure, ranks, plan, seconds=seconds)) for ranks in worlds}
    several = {ranks: result for ranks, result in results.items() if ranks > 1}
    links = {ranks: fit(ranks, result.reductions) for ranks, result in several.items()}
    timings = f"{plan.rounds} rounds of steps, {plan.reductions} timings of each all-reduce"
    texts = {
        **texts,
        "threads": "1 per rank; ranks are processes on this machine, gloo over loopback",
        "other processes": others.share(),
        "n": f"{timings}, seed {plan.seed}",
    }
    some = next(iter(several))
    crowded = [str(ranks) for ranks in worlds if ranks > (os.cpu_count() or 1)]
    parts = [
        "# Layerwise norms on sharded parameters",
        listing(texts),
        "## 1. Collectives and bytes per step",
        COUNTED.format(difference=max(result.difference for result in results.values()))
        + ("" if shrink == 1 else f"\n\n**Every dimension divided by {shrink}**, the number of tensors kept."),
        counts_table(
            {name: shapes for name, shapes in plan.counted.items() if name != STEPPED},
            {ranks: result.collectives for ranks, result in several.items()},
        ),
        "## 2. Time of a step",
        TIMED.format(
            parameters=numel(plan.stepped),
            tensors=len(plan.stepped),
        ),
        *([CROWDED.format(cores=os.cpu_count(), ranks=", ".join(crowded))] if crowded else []),
        _steps_table(results, links),
        "## 3. Time of one all-reduce",
        REDUCED.format(repeated=REPEATED),
        _reductions_table(several),
        FITTED,
        _fits_table(several),
        "## 4. Many ranks",
        MODELLED,
        MEASURED.format(ranks=some),
        *_costs(Link(f"gloo, as at {some} ranks", links[some].alpha, links[some].beta)),
        ASSUMED,
        *_costs(None),
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "distributed.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    document: dict[str, Any] = {**texts, "links": {ranks: asdict(link) for ranks, link in links.items()}}
    document["found"] = {
        ranks: {**asdict(result), "collectives": _summed(result.collectives)} for ranks, result in results.items()
    }
    (out / "distributed.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def fit(ranks: int, reductions: Mapping[int, Sequence[float]], quartile: int = 1) -> Link:
    """Latency and time per byte of a ring, from the times of its all-reduces.

    Args:
        ranks: in the ring.
        reductions: seconds by number of float64 numbers.
        quartile: which of the three quartiles of each size the line goes through; 1 is the median.

    Example:
        >>> fit(4, {1: [14.0, 14.0], 3: [38.0, 38.0]})
        Link(name='4 ranks', alpha=0.333..., beta=1.0, start=0.0)
    """
    times = [_quartiles(seconds)[quartile] for seconds in reductions.values()]
    slope, intercept = statistics.linear_regression([8 * size for size in reductions], times)
    return Link(f"{ranks} ranks", intercept / (2 * (ranks - 1)), slope * ranks / (2 * (ranks - 1)))


def counts_table(
    sets: Mapping[str, Sequence[Shape]],
    collectives: Mapping[int, Mapping[str, Mapping[str, Sequence[tuple[str, int]]]]],
) -> str:
    """A row per set and optimizer.

    Args:
        sets: shapes by name.
        collectives: by ranks, set and optimizer: name and bytes of each.
    """
    rows = []
    for name, shapes in sets.items():
        for contender in next(iter(collectives.values()))[name]:
            row = [name, f"{numel(shapes):,}", str(len(shapes)), contender]
            for counts in collectives.values():
                calls = counts[name][contender]
                kinds = Counter(kind for kind, _ in calls)
                row.append(", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "none")
                row.append(f"{sum(size for _, size in calls):,}")
            rows.append(row)
    columns = [text for ranks in collectives for text in (f"{ranks} ranks: collectives", "bytes")]
    return table(["model", "parameters", "layers", "optimizer", *columns], rows)


def shrunk(shapes: Sequence[Shape], by: int) -> list[Shape]:
    """As many tensors, every dimension divided, but not below 1.

    Example:
        >>> shrunk([(64, 3, 7), (1000,)], 16)
        [(4, 1, 1), (62,)]
    """
    return [tuple(max(1, size // by) for size in shape) for shape in shapes]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--ranks", nargs="+", type=int, default=[1, 2, 4], help="sizes of the worlds, one above 1 (default: 1 2 4)")
    add("--rounds", type=int, default=15, help="timed steps of each contender (default: 15)")
    add("--reductions", type=int, default=50, help="timings of each all-reduce (default: 50)")
    add("--shrink", type=int, default=1, help="divide the counted shapes' dimensions: 1 needs 10 GB (default: 1)")
    add("--seed", type=int, default=0, help="of the values and the order (default: 0)")
    add("--out", type=Path, default=Path("benchmarks/results/distributed"), help="default: benchmarks/results/...")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    counted = {name: shrunk(shapes, options.shrink) for name, (shapes, _) in MODELS.items()}
    plan = Plan({**counted, STEPPED: NARROW}, NARROW, options.rounds, SIZES, options.reductions, options.seed)
    texts = provenance("cpu", 1, ("torch", "valleys"))
    print(benchmark(plan, options.ranks, texts, options.out, shrink=options.shrink))


def _merged(results: Sequence[Found]) -> Found:
    """All ranks' findings; a time is the slowest rank's."""
    first = results[0]
    if any(result.collectives != first.collectives for result in results):
        raise RuntimeError("the ranks do not agree on what was sent")
    return Found(
        first.collectives,
        {name: _slowest([result.steps[name] for result in results]) for name in first.steps},
        {size: _slowest([result.reductions[size] for result in results]) for size in first.reductions},
        max(result.difference for result in results),
    )


def _slowest(times: Sequence[Sequence[float]]) -> list[float]:
    return [max(column) for column in zip(*times, strict=True)]


def _summed(
    collectives: Mapping[str, Mapping[str, Sequence[tuple[str, int]]]],
) -> dict[str, dict[str, list[tuple[str, int, int]]]]:
    """For each kind of collective its number and bytes."""
    return {
        name: {
            contender: [
                (kind, count, sum(size for other, size in calls if other == kind))
                for kind, count in Counter(kind for kind, _ in calls).items()
            ]
            for contender, calls in counts.items()
        }
        for name, counts in collectives.items()
    }


def _quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    low, high = quartiles(seconds)
    return low, statistics.median(seconds), high


def _between(values: Sequence[float], unit: float, digits: int) -> str:
    return " to ".join(f"{value / unit:.{digits}f}" for value in quartiles(values))


def _steps_table(found: Mapping[int, Found], links: Mapping[int, Link]) -> str:
    rows = []
    for ranks, result in found.items():
        medians = {name: statistics.median(seconds) for name, seconds in result.steps.items()}
        base = result.steps[BASE]
        for name, seconds in result.steps.items():
            calls = result.collectives.get(STEPPED, {}).get(name, [])
            predicted = sum(all_reduce(links[ranks], ranks, size, "ring") for _, size in calls)
            rows.append(
                [
                    str(ranks),
                    name,
                    f"{1e3 * medians[name]:.2f}",
                    _between(seconds, 1e-3, 2),
                    f"{medians[name] / medians[BASE]:.2f}",
                    _between([one / other for one, other in zip(seconds, base, strict=True)], 1, 2),
                    f"{medians[name] / medians[NAIVE]:.3f}",
                    str(len(calls)),
                    f"{1e3 * predicted:.2f}" if calls else "-",
                ]
            )
    header = ["ranks", "optimizer", "median, ms", "quartiles, ms", f"x {BASE}", "quartiles of the rounds"]
    return table([*header, f"x {NAIVE}", "all-reduces", "by the fit, ms"], rows)


def _reductions_table(found: Mapping[int, Found]) -> str:
    rows = [
        [f"{size:,}", f"{8 * size:,}", *(cell for result in found.values() for cell in _cells(result.reductions[size]))]
        for size in next(iter(found.values())).reductions
    ]
    columns = [text for ranks in found for text in (f"{ranks} ranks: median, us", "quartiles, us")]
    return table(["numbers", "bytes", *columns], rows)


def _cells(seconds: Sequence[float]) -> list[str]:
    return [f"{1e6 * statistics.median(seconds):.0f}", _between(seconds, 1e-6, 0)]


def _fits_table(found: Mapping[int, Found]) -> str:
    rows = []
    for ranks, result in found.items():
        low, link, high = (fit(ranks, result.reductions, quartile) for quartile in range(3))
        rows.append(
            [
                str(ranks),
                f"{show(link.alpha)} ({show(low.alpha)} to {show(high.alpha)})",
                f"{1e9 * link.beta:.2f} ({1e9 * low.beta:.2f} to {1e9 * high.beta:.2f})",
            ]
        )
    return table(["ranks", "alpha, per round", "beta, ns per byte"], rows)


def _costs(measured: Link | None) -> list[str]:
    parts = []
    for name, (shapes, units) in MODELS.items():
        model = Model(name, len(shapes), numel(shapes), units)
        parts += [
            f"{name}: {model.parameters:,} parameters, {model.layers} layers, {units} units",
            cost_table(model, MANY, measured),
        ]
    return parts


if __name__ == "__main__":
    main()
