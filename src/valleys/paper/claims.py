"""Claims of the paper: where they are printed, the command that tests each, what was found.

They stand in ``claims.yaml``; ``docs/claims.md`` is made of it by ``valleys claims --markdown``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from valleys.lab.errors import typed, unknown
from valleys.lab.report.table import Table, escape
from valleys.paper.tables.load import make, read_yaml

STATUSES: Mapping[str, str] = {
    "confirmed": "a measurement of ours, or the paper's own printed numbers, show it.",
    "not found": "we looked, and saw no such effect; the figure says which would have shown, where that is known.",
    "refuted": "a measurement, a counterexample or the paper's own numbers contradict it.",
    "not run": "nothing was measured, for the reason given.",
}
"""Meaning of each status of a claim."""

_FILE = "claims.yaml"
_TITLES = "| claim | printed | test | found | figure | date |"
_HEAD = """# The paper's claims

Each claim of *Exploring Landscapes for Better Minima along Valleys* (Zhao et al. 2025, arXiv 2510.27153), the command
that tests it, and what was found. `valleys claims` prints the same; `valleys claims NAME` explains one. Intervals are
of 95 % unless the source says otherwise.
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Place of a figure."""

    file: str  # below the root of the repository
    text: str = ""  # exact text of the file
    pointer: str = ""  # JSON pointer (RFC 6901) into the file


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim."""

    name: str  # its name on the command line
    section: str  # its part of the page
    claim: str  # a sentence
    where: str  # its place in the paper
    printed: str  # the value, or the kind of evidence, there
    command: str  # a command that tests it
    status: str  # one of ``STATUSES``
    reason: str  # one sentence, two at most
    figure: str = ""  # the measured number with its interval
    source: Source | None = None  # the figure's; None: the tests compute the figure, or there is none
    tables: tuple[str, ...] = ()  # numbers of the tables and figures that it is about
    date: str = ""  # of the measurement, YYYY-MM-DD

    def __post_init__(self) -> None:
        typed(self)
        if self.status not in STATUSES:
            raise unknown("status", self.status, list(STATUSES))


@cache
def load_claims() -> tuple[Claim, ...]:
    """Read all claims, in the order of the page; a ValueError names the claim.

    Example:
        >>> load_claims()[0].name
        'average-gain'
    """
    return parse_claims(files("valleys.paper").joinpath(_FILE).read_text(encoding="utf-8"))


def parse_claims(text: str) -> tuple[Claim, ...]:
    """Read claims from YAML: the name of a section, then that of a claim, then its fields."""
    claims = []
    for section, entries in read_yaml(_FILE, text).items():
        for name, entry in entries.items():
            where = f"{_FILE}: {name}"
            source = make(where, Source, **entry.pop("source")) if "source" in entry else None
            lists = {"tables": tuple(entry.pop("tables", ())), "date": str(entry.pop("date", ""))}
            claims.append(make(where, Claim, name=name, section=section, source=source, **lists, **entry))
    return tuple(claims)


def select(name: str | None = None, status: str | None = None) -> list[Claim]:
    """Return the claims of a name and of a status (with a hyphen or a space); raise LabError for an unknown one.

    Example:
        >>> [claim.name for claim in select(status="refuted")][:2]
        ['gain-is-e', 'bound-and-rule']
    """
    names, label = [claim.name for claim in load_claims()], None if status is None else status.replace("-", " ")
    if name is not None and name not in names:
        raise unknown("claim", name, names)
    if label is not None and label not in STATUSES:
        raise unknown("status", str(status), [one.replace(" ", "-") for one in STATUSES])
    return [claim for claim in load_claims() if name in (None, claim.name) and label in (None, claim.status)]


def listing(claims: Sequence[Claim]) -> Table:
    """Return one row for each claim, for a terminal."""
    rows = [[one.name, one.claim, one.status, one.figure or one.reason] for one in claims]
    return Table.of_text(["name", "claim", "found", "figure or reason"], rows)


def details(claim: Claim) -> Iterator[str]:
    """Yield lines about one claim."""
    yield f"{claim.name}: {claim.claim}"
    yield f"printed ({claim.where}): {claim.printed}"
    yield f"test: {claim.command}"
    yield f"found: {claim.status}. {claim.reason}"
    if claim.figure:
        yield f"figure: {claim.figure}"
    if claim.source is not None:
        yield f"source: {claim.source.file} of the repository, {claim.source.pointer or claim.source.text}"
    if claim.date:
        yield f"date: {claim.date}"


def count(claims: Sequence[Claim]) -> str:
    """Return how many claims have each status, in words."""
    numbers = Counter(claim.status for claim in claims)
    return f"{len(claims)} claims: " + ", ".join(f"{numbers[status]} {status}" for status in STATUSES)


def to_json(claim: Claim) -> dict[str, Any]:
    """Return all fields, null where there is nothing."""
    return {name: value or None for name, value in asdict(claim).items()}


def to_markdown(claims: Sequence[Claim]) -> str:
    """Return the page, whose links start in ``docs``."""
    lines = [_HEAD, *(f"* **{status}**: {meaning}" for status, meaning in STATUSES.items()), "", f"{count(claims)}."]
    section = ""
    for claim in claims:
        if claim.section != section:
            section = claim.section
            lines += ["", f"## {section}", "", _TITLES, "|" + "---|" * 6]
        lines.append(_row(claim))
    return "\n".join(lines) + "\n"


def _row(claim: Claim) -> str:
    figure = escape(claim.figure) or "-"
    if claim.source is not None:
        figure = f"[{figure}]({_link(claim.source.file)})"
    cells = [
        f"`{claim.name}`: {escape(claim.claim)}",
        f"{escape(claim.printed)} ({escape(claim.where)})",
        f"`{claim.command}`",
        f"**{claim.status}**: {escape(claim.reason)}",
        figure,
        claim.date or "-",
    ]
    return f"| {' | '.join(cells)} |"


def _link(file: str) -> str:
    """Return the link from ``docs`` to a file; numbers in JSON have a page of the same name beside them."""
    page = f"{file.removesuffix('.json')}.md" if file.endswith(".json") else file
    return page.removeprefix("docs/") if page.startswith("docs/") else f"../{page}"
