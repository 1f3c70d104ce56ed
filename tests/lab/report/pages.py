"""Documents for the HTML page, and a reader of what it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from lab_fakes import record
from valleys.lab.optimizers.spec import Range
from valleys.lab.record import Evaluation, Record
from valleys.lab.report import document as report
from valleys.lab.report.summary import summarize
from valleys.lab.store.job import Key, Results

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x$|`y`", "a\n\x07b")

SPACE = {"lr": Range(1e-4, 1.0), "c": Range(-1.0, 1.0, log=False)}


def run(name: str, seed: int, final: float, **changes: Any) -> Record:
    """A run that ends at ``final`` and halves its distance to it at each of four evaluations."""
    curve = [Evaluation(5 * k, 0.5 * k + 0.01 * seed, 1.0, final - 16 / 2**k) for k in range(1, 5)]
    met = next((entry for entry in curve if entry.validation >= 90), None)
    fields = {
        "optimizer": name,
        "seed": seed,
        "hyperparameters": {"lr": 0.01, "c": 0.5},
        "curve": curve,
        "validation": curve[-1].validation,
        "test": curve[-1].validation - 1,
        "steps_to_target": met and met.step,
        "seconds_to_target": met and met.seconds,
    }
    return record(**{**fields, **changes})


def diverged(name: str, seed: int = 0, **changes: Any) -> Record:
    """A run that did not get to its end."""
    absent = ("validation", "test", "steps_to_target", "seconds_to_target")
    nothing: dict[str, Any] = {"curve": [], **dict.fromkeys(absent)}
    return run(name, seed, 0.0, diverged=True, **nothing, **changes)


def trials(name: str, *finals: float | None) -> list[Record]:
    """Tuning runs; None is one that diverged."""
    rates = [{"lr": 10.0**-k, "c": 0.1 * k} for k in range(1, len(finals) + 1)]
    return [
        diverged(name, hyperparameters=values)
        if final is None
        else run(name, 0, final, hyperparameters=values, test=None)
        for final, values in zip(finals, rates, strict=True)
    ]


def finals(name: str, *values: float | None) -> list[Record]:
    """Runs on fresh seeds; None is one that diverged."""
    return [diverged(name, 1000 + k) if value is None else run(name, 1000 + k, value) for k, value in enumerate(values)]


def document(
    final: Mapping[str, Sequence[Record]],
    tuning: Mapping[str, Sequence[Record]] | None = None,
    command: str = "valleys compare fake",
    space: Mapping[str, Range] | None = None,
    **configuration: Any,
) -> dict[str, Any]:
    """What ``report.to_json`` makes of these runs, once through JSON."""
    tuned = tuning or {name: trials(name, 92.0) for name in final}
    settings = {
        "task": "fake",
        "metric": "accuracy %",
        "maximize": True,
        "target": 90.0,
        "schedule": "cosine",
        "data": [32, 8, 8],
        "batch_size": 16,
        "micro_batch": 16,
        "epochs": 2,
        "device": "cpu",
        "trials": max(map(len, tuned.values())),
        "seeds": max(map(len, final.values())),
    }
    results = Results(
        {**settings, **configuration},
        [{"python": "3.11", "torch": "2.6", "ranks": 1}],
        dict.fromkeys(tuned, SPACE if space is None else space),
        {name: {Key(point, 0): entry for point, entry in enumerate(runs)} for name, runs in tuned.items()},
        {},
    )
    chosen = summarize(
        Results(
            results.configuration, results.environments, results.spaces, results.tuning, {name: {} for name in tuned}
        )
    ).chosen
    held = {name: {Key(chosen[name] or 0, entry.seed): entry for entry in final[name]} for name in tuned}
    full = Results(results.configuration, results.environments, results.spaces, results.tuning, held)
    found: dict[str, Any] = json.loads(json.dumps(report.to_json(full, summarize(full), command), allow_nan=False))
    return found


def usual() -> dict[str, Any]:
    """Three optimizers: one good, one that misses the target once, one that always does and diverges once."""
    return document(
        {
            "sgd": finals("sgd", 85.0, 86.5, None),
            "lamb": finals("lamb", 91.2, 93.0, 90.5),
            "alto": finals("alto", 95.0, 95.5, 96.5),
        },
        {
            "sgd": trials("sgd", None, 80.0, 86.0, 40.0),
            "lamb": trials("lamb", 60.0, None, 93.0, 91.0),
            "alto": trials("alto", 95.0, 96.0, 94.0, 93.0),
        },
    )


def twelve() -> dict[str, Any]:
    """Twelve optimizers with long and hostile names, a thousand evaluations, a metric near 1e-7, minimized."""
    names = [*HOSTILE, "my_module:MyVeryOwnOptimizerWithALongName", *(f"optimizer-{k}" for k in range(7))]

    def long(name: str, seed: int, k: int) -> Record:
        curve = [Evaluation(s, s / 100, 1.0, 1e-7 * (1 + 50 / s + k / 10 + seed % 7 / 50)) for s in range(1, 1001)]
        last = curve[-1].validation
        never = {"steps_to_target": None, "seconds_to_target": None}
        return run(name, seed, 0.0, curve=curve, validation=last, test=last, **never)

    return document(
        {name: [long(name, 1000 + seed, k) for seed in range(3)] for k, name in enumerate(names)},
        {name: [long(name, 0, k)] for k, name in enumerate(names)},
        command=f"valleys compare {HOSTILE[0]}",
        task=HOSTILE[1],
        metric=f"loss {HOSTILE[2]} {HOSTILE[0]}",
        maximize=False,
        target=1.05e-7,
    )


@dataclass
class Table:
    """A table as it is read."""

    caption: str = ""
    titles: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    values: list[list[str | None]] = field(default_factory=list)

    def column(self, title: str) -> dict[str, str]:
        """A column by the rows' headings."""
        place = self.titles.index(title)
        return {row[0]: row[place] for row in self.rows}


class Reader(HTMLParser):
    """Elements, tables and text of a page; it refuses elements that are not closed in order."""

    EMPTY = ("meta", "circle", "path")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[Table] = []
        self._open: list[str] = []
        self._cell: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), attrs
        if tag in self.EMPTY:
            return
        self._open.append(tag)
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr" and "tbody" in self._open:
            self.tables[-1].rows.append([])
            self.tables[-1].values.append([])
        elif tag in ("th", "td", "caption"):
            self._cell = []
            if "tbody" in self._open:
                self.tables[-1].values[-1].append(dict(attrs).get("data-value"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "caption":
            self.tables[-1].caption = "".join(self._cell)
        elif tag in ("th", "td"):
            row = self.tables[-1].rows[-1] if "tbody" in self._open else self.tables[-1].titles
            row.append("".join(self._cell))

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))
        self._cell.append(data)

    def table(self, caption: str) -> Table:
        """The first table with this caption."""
        return next(table for table in self.tables if table.caption == caption)

    def all_of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]
