"""Communication cost of a step's norms, as a formula: rounds times latency, bytes times time per byte.

Beside them the traffic that fully_shard (FSDP2) causes anyway, by the same formula: only the share says whether a
millisecond matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from report import table

__all__ = [
    "ASSUMED",
    "NAIVE_BYTES",
    "OUR_BYTES",
    "Cost",
    "Link",
    "Model",
    "all_reduce",
    "assumed",
    "cost_table",
    "gather",
    "show",
    "step_cost",
]

OUR_BYTES = 4 * 8
"""Our message per layer: three sums of squares and the number of holders, in float64, all layers in one all-reduce."""

NAIVE_BYTES = 4
"""Message of the naive way per norm: a float32 number; an all-reduce for each of two norms per layer."""

FSDP_BYTES = 2
"""Per parameter and direction: bfloat16, the least that fully_shard's mixed precision sends."""

ALGORITHMS = ("ring", "tree")


@dataclass(frozen=True)
class Link:
    """Network between the ranks.

    Args:
        name: for the tables.
        alpha: seconds per round, one message from each rank to another.
        beta: seconds per byte.
        start: seconds per collective, whatever the ranks.
    """

    name: str
    alpha: float
    beta: float
    start: float = 0.0


ASSUMED = {
    "NVLink": (Link("NVLink", 0.47e-6, 1 / 450e9, 3.6e-6), Link("NVLink", 3.4e-6, 1 / 450e9, 10e-6)),
    "InfiniBand": (Link("InfiniBand", 2.7e-6, 1 / 50e9, 3.6e-6), Link("InfiniBand", 9.6e-6, 1 / 50e9, 10e-6)),
}
"""Assumed, not measured: the smallest and the largest latency. They are those of NCCL's own tuning model for its ring
(src/graph/tuning.cc at commit 01afd20: ``baseLat`` 3.6 to 10 us, ``hwLat`` 0.47 to 3.4 us over NVLink and 2.7 to 9.6 us
over a network). Bandwidths are an H100's nominal ones in one direction, NVLink 450 GB/s and InfiniBand NDR 50 GB/s: a
slower link makes FSDP2's traffic longer and our share smaller."""


@dataclass(frozen=True)
class Model:
    """Model and mesh on which the costs depend.

    Args:
        name: for the tables.
        layers: tensors, each with a ratio of its own.
        parameters: their elements.
        units: modules that fully_shard gathers one by one: the blocks, and the rest.
    """

    name: str
    layers: int
    parameters: int
    units: int


class Cost(NamedTuple):
    """Seconds of communication per step."""

    ours: float
    naive: float
    fsdp: float


def all_reduce(link: Link, ranks: int, size: float, algorithm: str) -> float:
    r"""Seconds of one all-reduce.

    .. math::
        T_{ring} = s + 2 (P - 1) \alpha + 2 \frac{P-1}{P} n \beta, \qquad
        T_{tree} = s + 2 \lceil \log_2 P \rceil (\alpha + n \beta)

    A tree adds up on the way to its root and sends the sum back; recursive doubling needs half its rounds and bytes.

    Args:
        link: s, alpha and beta.
        ranks: P.
        size: n, bytes.
        algorithm: "ring" or "tree".

    Example:
        >>> link = Link("example", alpha=1.0, beta=0.25, start=100.0)
        >>> all_reduce(link, 8, 16, "ring"), all_reduce(link, 8, 16, "tree")
        (121.0, 130.0)
    """
    if algorithm == "ring":
        return 2 * gather(link, ranks, size, algorithm) - link.start
    return link.start + 2 * _doublings(ranks) * (link.alpha + size * link.beta)


def gather(link: Link, ranks: int, size: float, algorithm: str) -> float:
    r"""Seconds of one all-gather, or of one reduce-scatter.

    .. math::
        T = s + R \alpha + \frac{P-1}{P} n \beta

    with R = P - 1 rounds in a ring, and ceil(log2 P) where the messages double (here "tree").

    Args:
        link: s, alpha and beta.
        ranks: P.
        size: n, bytes of the whole.
        algorithm: "ring" or "tree".

    Example:
        >>> link = Link("example", alpha=1.0, beta=0.25, start=100.0)
        >>> gather(link, 8, 16, "ring"), gather(link, 8, 16, "tree")
        (110.5, 106.5)
    """
    rounds = ranks - 1 if algorithm == "ring" else _doublings(ranks)
    return link.start + rounds * link.alpha + (ranks - 1) / ranks * size * link.beta


def step_cost(model: Model, link: Link, ranks: int, algorithm: str) -> Cost:
    """Communication of one step: our norms, the naive way's, and fully_shard's least traffic.

    The latter: every unit gathered once and its gradient scattered once, in bfloat16; by default fully_shard gathers
    a second time in the backward pass.

    Args:
        model: layers, parameters and units.
        link: what connects the ranks.
        ranks: how many.
        algorithm: "ring" or "tree".

    Example:
        >>> model = Model("example", layers=10, parameters=1_000, units=2)
        >>> step_cost(model, Link("latency alone", alpha=1.0, beta=0.0), 8, "ring")
        Cost(ours=14.0, naive=280.0, fsdp=28.0)
        >>> step_cost(model, Link("bytes alone", alpha=0.0, beta=1.0), 8, "ring")
        Cost(ours=560.0, naive=140.0, fsdp=3500.0)
    """
    return Cost(
        all_reduce(link, ranks, OUR_BYTES * model.layers, algorithm),
        2 * model.layers * all_reduce(link, ranks, NAIVE_BYTES, algorithm),
        2 * model.units * gather(link, ranks, FSDP_BYTES * model.parameters / model.units, algorithm),
    )


def assumed(ranks: int) -> tuple[Link, Link]:
    """The assumed links: NVLink for up to 8 ranks, one machine; for more InfiniBand, as if every round crossed it."""
    return ASSUMED["NVLink" if ranks <= 8 else "InfiniBand"]


def cost_table(model: Model, ranks: Sequence[int], measured: Link | None = None) -> str:
    """A row per number of ranks and algorithm.

    Args:
        model: whose step.
        ranks: how many.
        measured: the link; without one the assumed, of which each cell has the lower and the upper end.
    """
    rows = []
    for count in ranks:
        links = assumed(count) if measured is None else (measured, measured)
        for algorithm in ALGORITHMS:
            costs = [step_cost(model, link, count, algorithm) for link in links]
            rows.append(
                [
                    f"{count:,}",
                    links[0].name,
                    algorithm,
                    *(_range([show(seconds) for seconds in column]) for column in zip(*costs, strict=True)),
                    _range([f"{100 * cost.ours / cost.fsdp:.2g}%" for cost in costs]),
                    _range([f"{_two_digits(cost.naive / cost.fsdp)}" for cost in costs]),
                ]
            )
    header = ["ranks", "link", "algorithm", "ours", "naive", "FSDP2's own", "ours / FSDP2's", "naive / FSDP2's, times"]
    return table(header, rows)


def show(seconds: float) -> str:
    """A time in the unit that suits it.

    Example:
        >>> show(4.24e-5), show(0.0123), show(1.5)
        ('42 us', '12 ms', '1.5 s')
    """
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if abs(seconds) < 999.5 * size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    digits = 0 if value == 0 else max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def _range(ends: Sequence[str]) -> str:
    low, high = ends
    return low if low == high else f"{low} to {high}"


def _doublings(ranks: int) -> int:
    return (ranks - 1).bit_length()
