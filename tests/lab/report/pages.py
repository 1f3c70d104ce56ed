"""Documents for the HTML page, and a reader of what it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

from lab_fakes import record
from valleys.lab.optimizers.spec import Range
from valleys.lab.record import Evaluation, Record
from valleys.lab.report import document as report
from valleys.lab.report.summary import summarize
from valleys.lab.search.candidates import FIXED, fresh_seed, select, tuning_seed
from valleys.lab.store.job import Key, Results

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x$|`y`", "a\n\x07b")

SPACE = {"lr": Range(1e-4, 1.0), "c": Range(-1.0, 1.0, "linear")}

Runs = Mapping[str, Sequence[Record]]


def run(name: str, final: float, **changes: Any) -> Record:
    """A run that ends at ``final`` and halves its distance to it at each of four evaluations."""
    curve = [Evaluation(5 * k, 0.5 * k, 1.0, final - 16 / 2**k) for k in range(1, 5)]
    met = next((entry for entry in curve if entry.validation >= 90), None)
    fields = {
        "optimizer": name,
        "hyperparameters": {"lr": 0.01, "c": 0.5},
        "curve": curve,
        "validation": curve[-1].validation,
        "test": curve[-1].validation - 1,
        "steps_to_target": met and met.step,
        "seconds_to_target": met and met.seconds,
    }
    return record(**{**fields, **changes})


def diverged(name: str, **changes: Any) -> Record:
    """A run that did not get to its end."""
    absent = ("validation", "test", "steps_to_target", "seconds_to_target")
    nothing: dict[str, Any] = {"curve": [], **dict.fromkeys(absent)}
    return run(name, 0.0, diverged=True, **nothing, **changes)


def trials(name: str, *finals: float | None) -> list[Record]:
    """Tuning runs of one round; None is one that diverged."""
    rates = [{"lr": 10.0**-k, "c": 0.1 * k} for k in range(1, len(finals) + 1)]
    return [
        diverged(name, hyperparameters=values) if final is None else run(name, final, hyperparameters=values)
        for final, values in zip(finals, rates, strict=True)
    ]


def finals(name: str, *values: float | None) -> list[Record]:
    """Runs on fresh seeds, one for each round; None is one that diverged."""
    return [diverged(name) if value is None else run(name, value) for value in values]


def results(
    final: Runs,
    tuning: Runs | None = None,
    *,
    space: Mapping[str, Range] | None = None,
    one_round: bool = False,
    changes: Mapping[str, Any] | None = None,
    **configuration: Any,
) -> Results:
    """Contents of a store after these runs.

    Args:
        final: runs on fresh seeds by optimizer, one for each round; or, with ``one_round``, all of one round.
        tuning: trials by optimizer, the same in each round; None: one at 92.
        space: of all optimizers.
        one_round: whether the runs on fresh seeds are of one round.
        changes: fields of the results.
        configuration: settings.
    """
    space = SPACE if space is None else space
    tuned = tuning or {name: trials(name, 92.0) for name in final}
    length = max(map(len, final.values())) or 1
    rounds, seeds = (1, length) if one_round else (length, 1)
    settings = {
        "task": "fake",
        "variant": "",
        "metric": "accuracy %",
        "maximize": True,
        "target": 90.0,
        "scale": "linear",
        "resolution": 0.0,
        "schedule": "cosine",
        "data": [32, 8, 8],
        "batch_size": 16,
        "micro_batch": 16,
        "epochs": 2,
        "precision": "float32",
        "device": "cpu",
        "layout": 2,
        "rounds": rounds,
        "trials": max(map(len, tuned.values())),
        "seeds": seeds,
        **configuration,
    }
    finished: dict[str, dict[Key, Record]] = {name: {} for name in tuned}
    for name, runs in final.items():
        point = select(dict(enumerate(tuned[name])), settings["maximize"]) if space else FIXED
        for number, entry in enumerate(runs):
            seed = fresh_seed(0, number) if one_round else fresh_seed(number, 0)
            finished[name][Key(0 if one_round else number, point or 0, seed)] = replace(entry, seed=seed)
    outcomes = {
        name: {
            Key(number, point, seed): replace(entry, seed=seed)
            for number in range(rounds)
            for point, entry in enumerate(runs)
            for seed in [tuning_seed(number, point)]
        }
        for name, runs in tuned.items()
        if space
    }
    versions = {"python": "3.11", "torch": "2.6", "valleys": "0.1"}
    environments = [{**versions, "cpus": 2, "threads": 1, "device": "x86_64", "ranks": 1}]
    fields = (settings, environments, dict.fromkeys(tuned, space), {name: outcomes.get(name, {}) for name in tuned})
    return replace(Results(*fields, finished), **(changes or {}))


def read(found: Results, command: str = "valleys compare fake", **lines: str) -> dict[str, Any]:
    """The document of these results, once through JSON."""
    text = json.dumps(report.to_json(found, summarize(found), command, lines), allow_nan=False)
    document: dict[str, Any] = json.loads(text)
    return document


def document(
    final: Runs, tuning: Runs | None = None, command: str = "valleys compare fake", **changes: Any
) -> dict[str, Any]:
    """Result of ``report.to_json`` for these runs; see ``results``."""
    return read(results(final, tuning, **changes), command)


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
        changes={"planned": [("alto", "lamb"), ("lamb", "sgd")]},
    )


def twelve() -> dict[str, Any]:
    """Twelve optimizers with long and hostile names, a thousand evaluations, a metric near 1e-7, minimized."""
    names = [*HOSTILE, "my_module:MyVeryOwnOptimizerWithALongName", *(f"optimizer-{k}" for k in range(7))]

    def long(name: str, seed: int, k: int) -> Record:
        curve = [Evaluation(s, s / 100, 1.0, 1e-7 * (1 + 50 / s + k / 10 + seed % 7 / 50)) for s in range(1, 1001)]
        last = curve[-1].validation
        never = {"steps_to_target": None, "seconds_to_target": None}
        return run(name, 0.0, curve=curve, validation=last, test=last, **never)

    return document(
        {name: [long(name, seed, k) for seed in range(3)] for k, name in enumerate(names)},
        {name: [long(name, 0, k)] for k, name in enumerate(names)},
        command=f"valleys compare {HOSTILE[0]}",
        task=HOSTILE[1],
        metric=f"loss {HOSTILE[2]} {HOSTILE[0]}",
        maximize=False,
        scale="log",
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
