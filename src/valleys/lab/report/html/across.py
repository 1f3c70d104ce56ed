"""The figures over several comparisons; ``index`` is a number by optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from valleys.lab.report.html import plots
from valleys.lab.report.html.plots import Figure, text
from valleys.lab.report.html.reading import Document, labels, logarithmic, optimizers
from valleys.lab.report.table import number
from valleys.lab.statistics.profiles import Ranking, performance_profiles, ranking


def against_batch_size(documents: Sequence[Document], group: Sequence[int], index: Mapping[str, int]) -> Figure:
    """Draw the test metric against the batch size, over the comparisons in ``group``, which are of one task."""
    members = [documents[position] for position in group]
    metric = f"test {members[0]['configuration']['metric']}"
    data, heights = [], []
    names = [name for name in index if any(name in optimizers(document) for document in members)]
    for name in names:
        points = [
            (document["configuration"]["batch_size"], row["test"])
            for document in members
            for row in document["table"]
            if row["optimizer"] == name and row["test"] is not None
        ]
        means = [test["estimate"] for _, test in points]
        bars = [
            [test[end] if test[end] is not None else test["estimate"] for _, test in points] for end in ("low", "high")
        ]
        heights += [*means, *bars[0], *bars[1]]
        data.append(
            plots.line(
                name,
                index[name],
                [size for size, _ in points],
                means,
                hovertemplate="%{y:.5g} at batch %{x}",
                error_y=plots.whiskers(index[name], bars[0], means, bars[1]),
            )
        )
    sizes = sorted({document["configuration"]["batch_size"] for document in members})
    return plots.figure(
        data,
        x=plots.axis("batch size", True, tickvals=sizes, ticktext=list(map(str, sizes))),
        y=plots.axis(metric, logarithmic(members[0], heights)),
    )


def shared(documents: Sequence[Document], index: Mapping[str, int]) -> list[str]:
    """Return the optimizers that all comparisons have; empty unless there are two comparisons and two optimizers."""
    names = [name for name in index if all(name in optimizers(document) for document in documents)]
    return names if len(documents) > 1 and len(names) > 1 else []


def profile(documents: Sequence[Document], index: Mapping[str, int]) -> tuple[Figure, dict[str, float]] | None:
    """Draw performance profiles of the steps to the target, and return the area under each optimizer's."""
    names = shared(documents, index)
    if not names:
        return None
    steps = {
        label: {row["optimizer"]: row["steps"] or math.inf for row in document["table"] if row["optimizer"] in names}
        for label, document in zip(labels(documents), documents, strict=True)
    }
    # In one order everywhere: the profiles come in that of the first.
    profiles = performance_profiles({label: {name: row[name] for name in names} for label, row in steps.items()})
    end = max([2.0, *(tau for curve in profiles.values() for tau in curve.taus)]) * 1.1
    data = []
    for name, curve in profiles.items():
        trace = plots.line(name, index[name], [*curve.taus, end], [*curve.shares, curve.shares[-1]])
        trace["line"]["shape"] = "hv"
        data.append(trace)
    picture = plots.figure(
        data,
        x=plots.axis("steps, as a multiple of the fewest", True),
        y=plots.axis("share of comparisons", range=[-0.03, 1.03]),
    )
    return picture, {name: curve.area for name, curve in profiles.items()}


def ranked(documents: Sequence[Document], index: Mapping[str, int]) -> Ranking | None:
    """Rank the shared optimizers by their mean test metric; one that lost a round is behind those that lost fewer."""
    names = shared(documents, index)
    if not names:
        return None
    scores = []
    for document in documents:
        # The table is sorted so: fewest lost rounds first, then the mean.
        order = [row["optimizer"] for row in document["table"] if row["optimizer"] in names]
        rows = {row["optimizer"]: row for row in document["table"]}
        keys = [
            (rows[name]["lost"], None if rows[name]["test"] is None else rows[name]["test"]["estimate"])
            for name in order
        ]
        places = [keys.index(key) for key in keys]  # equal ones share the first's place
        scores.append({name: -float(place) for name, place in zip(order, places, strict=True)})
    return ranking([{name: row[name] for name in names} for row in scores])


def critical_difference(result: Ranking, index: Mapping[str, int]) -> Figure:
    """Draw the mean ranks on one axis, with a bar over optimizers that do not differ significantly."""
    data = []
    for level, (name, rank) in enumerate(result.ranks.items(), 1):
        style = plots.look(index[name])
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text",
                "x": [rank, rank],
                "y": [0, -level],
                "text": ["", text(f"{name} ({number(rank, 3)})")],
                "textposition": "middle right",
                "line": {"color": style["color"], "width": 1.5},
                "marker": {"color": style["color"], "symbol": style["symbol"], "size": [9, 0.1]},
                "hovertemplate": text(f"{name}: mean rank {number(rank, 3)}") + "<extra></extra>",
            }
        )
    for height, group in enumerate(result.groups, 1):
        ends = [result.ranks[group[0]] - 0.04, result.ranks[group[-1]] + 0.04]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": ends,
                "y": [0.35 * height] * 2,
                "line": {"color": plots.INK, "width": 6},
                "hovertemplate": text(f"no significant difference: {', '.join(group)}") + "<extra></extra>",
            }
        )
    count = len(result.ranks)
    title = f"mean rank over {result.comparisons} comparisons (critical difference {number(result.critical, 3)})"
    return plots.figure(
        data,
        x=plots.axis(title, range=[0.7, count + 0.9], side="top", dtick=1),
        y={"visible": False, "range": [-count - 0.7, 0.35 * len(result.groups) + 0.5]},
        height=140 + 28 * count + 14 * len(result.groups),
        showlegend=False,
    )
