"""The page of the claims says what the committed results and the printed tables say."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
import typer.main
from rich.console import Console

from valleys.cli.app import app
from valleys.lab import LabError
from valleys.paper import claims
from valleys.paper.claims import Claim, load_claims, parse_claims, select
from valleys.paper.tables.numbers import TABLES, columns, find, rows

ROOT = Path(__file__).parents[2]
CLAIMS = load_claims()
NUMBER = re.compile(r"(?<![\w.])-?\d*\.?\d+")
ARITHMETIC = "The paper's arithmetic"
HEADLINE = "benchmarks/results/headline/fortieth/attribution.json"
LARGE = {
    "table-3": ["CIFAR-10, 16384", "CIFAR-100, 16384", "ImageNet, 4086"],
    "table-4": find("table-4").rows,
    "table-5a": find("table-5a").rows[2:],  # from 1K on
    **{number: find(number).rows for number in ("table-9", "table-15", "table-20")},
}

of_each = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


def named(name: str) -> Claim:
    (claim,) = select(name)
    return claim


def numbers(text: str) -> set[float]:
    return {float(number) for number in NUMBER.findall(text)}


def quoted(claim: Claim) -> str:
    """The cited place, as it stands in the file."""
    assert claim.source is not None
    text = (ROOT / claim.source.file).read_text(encoding="utf-8")
    if not claim.source.pointer:
        assert text.count(claim.source.text) == 1
        return claim.source.text
    value = json.loads(text)
    for key in claim.source.pointer.split("/")[1:]:
        value = value[int(key) if isinstance(value, list) else key]
    return str(value)


# --- what the file says ----------------------------------------------------------------------------------------------


def test_the_page_is_made_of_the_file() -> None:
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == claims.to_markdown(CLAIMS)


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", claims.to_markdown(CLAIMS))
    assert len(links) == sum(claim.source is not None for claim in CLAIMS)
    assert all(link.endswith(".md") and (ROOT / "docs" / link).is_file() for link in links)


def test_names_are_unique_and_every_table_has_a_claim() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert {number for claim in CLAIMS for number in claim.tables} == {table.number for table in TABLES}


@of_each
def test_what_was_found_has_a_date_and_what_was_not_run_has_no_figure(claim: Claim) -> None:
    assert re.fullmatch(r"(\d{4}-\d{2}-\d{2})?", claim.date)
    assert bool(claim.date) is (claim.status != "not run")
    assert not (claim.figure or claim.source) or claim.date
    assert claim.claim.endswith(".")
    assert claim.reason.endswith(".")
    assert "results/withdrawn" not in f"{claim.command} {claim.source}", "withdrawn"


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if claim.source], ids=lambda claim: claim.name)
def test_the_figure_is_the_file_s(claim: Claim) -> None:
    assert claim.figure
    assert claim.source is not None
    assert bool(claim.source.text) is not bool(claim.source.pointer)
    assert numbers(claim.figure)
    assert numbers(claim.figure) <= numbers(quoted(claim))
    folder = (ROOT / claim.source.file).parent
    pages = [folder / "README.md", (ROOT / claim.source.file).with_suffix(".md")]
    dates = {date for page in pages if page.exists() for date in re.findall(r"^- date: (\S+)", page.read_text(), re.M)}
    assert not dates or claim.date in dates


@pytest.mark.parametrize(
    "claim", [claim for claim in CLAIMS if claim.tables and claim.section != ARITHMETIC], ids=lambda claim: claim.name
)
def test_printed_results_are_the_table_s(claim: Claim) -> None:
    printed = {float(number) for number in re.findall(r"(?<![\d.])\d+\.\d+", claim.printed)}
    values = {cell.value for number in claim.tables for cell in find(number).cells}
    assert printed <= values


def test_a_figure_that_differs_would_be_noticed() -> None:
    claim = named("theorem-2")
    assert not numbers(claim.figure.replace("0.974", "0.975")) <= numbers(quoted(claim))
    assert numbers("-0.4 points (-1.7 to .9), beta1 5") == {-0.4, -1.7, 0.9, 5.0}


def test_the_headline_is_quoted_as_soon_as_its_runs_are_finished() -> None:
    """Else fill in the row ``headline`` of claims.yaml: status, reason, figure, source with the pointer, date."""
    claim = named("headline")
    if (ROOT / HEADLINE).exists():
        assert claim.source is not None
        assert (claim.source.file, claim.source.pointer) == (HEADLINE, "/sentence")
    else:
        assert claim.status == "not run"


# --- commands --------------------------------------------------------------------------------------------------------


@of_each
def test_the_command_is_understood(claim: Claim) -> None:
    program, *words = shlex.split(claim.command)
    if program == "valleys":
        command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
        values = command.make_context(words[0], words[1:]).params
        if words[0] == "reproduce":
            table = find(values["number"])
            assert rows(table, values["only"] or table.rows[0])
            assert columns(table, values["columns"] or table.columns[0])
        return
    flags = [word for word in words if word.startswith("-")]
    if program == "python":
        text = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(f'"{flag}"' in text for flag in flags)
        return
    assert program == "pytest"
    assert (ROOT / words[0]).exists()
    assert flags in ([], ["-k"])
    assert not flags or f"def test_{words[-1]}" in (ROOT / words[0]).read_text(encoding="utf-8")


# --- the paper's arithmetic ------------------------------------------------------------------------------------------


def value(number: str, row: str, column: str) -> float:
    (cell,) = [cell for cell in find(number).cells if (cell.row, cell.column) == (row, column)]
    assert cell.value is not None
    return cell.value


def test_average_gain() -> None:
    places = [(number, row) for number, labels in LARGE.items() for row in labels]
    alto = [value(*place, "ALTO") for place in places]
    lamb = [value(*place, "LAMB") for place in places]
    rivals = [
        max(value(number, row, column) for column in find(number).columns if column != "ALTO") for number, row in places
    ]
    perplexity = 100 * (1 - value("table-5c", "perplexity", "ALTO") / value("table-5c", "perplexity", "LAMB"))
    assert value("table-5c", "perplexity", "LAMB") == min(
        cell.value
        for cell in find("table-5c").cells
        if cell.row == "perplexity" and cell.column != "ALTO" and cell.value
    )
    over_best, over_lamb = (
        [*(100 * (a / b - 1) for a, b in zip(alto, others, strict=True)), perplexity] for others in (rivals, lamb)
    )
    points = statistics.mean(a - b for a, b in zip(alto, rivals, strict=True))
    mean, median = statistics.mean(over_best), statistics.median(over_best)
    assert named("average-gain").figure == (
        f"mean of {len(over_best)} results {mean:.1f} %, median {median:.1f} %; {points:.1f} points of accuracy; "
        f"{statistics.mean(over_lamb):.1f} % over LAMB alone"
    )
    largest = max(over_best)
    assert places[over_best.index(largest)] == ("table-5a", "50K")
    assert 0.3 < largest / sum(over_best) < 0.4  # a third
    assert (
        named("lamb-to-alto").printed
        == f"ahead in {sum(x > 0 for x in over_lamb)} of {len(over_lamb)} large-batch results"
    )


def test_time_saved() -> None:
    times = [(value("table-5b", row, "ALTO"), value("table-5b", row, "LAMB")) for row in find("table-5b").rows]
    *lower, last = [100 * (1 - alto / lamb) for alto, lamb in times]
    alto, lamb = times[-1]
    assert named("time-saved").figure == (
        f"{last:.1f} % to 60 % accuracy, a factor of {lamb / alto:.2f}; "
        f"{', '.join(f'{saved:.1f}' for saved in lower)} % to 20, 30, 40, 50 %"
    )
    assert (lamb - 0.5 - (alto + 0.5)) / (lamb - 0.5) < 0.2968 < (lamb + 0.5 - (alto - 0.5)) / (lamb + 0.5)


def test_seventeen_tasks() -> None:
    tasks = {cell.setting.task for table in TABLES for cell in table.cells if cell.setting is not None}
    assert named("seventeen-tasks").figure == str(len([task for task in tasks if not task.startswith("fig")]))


def test_gain_is_e() -> None:
    row = "CIFAR-10, 16384"
    alto, lamb = value("table-3", row, "ALTO"), value("table-3", row, "LAMB")
    without = value("table-7", row, "without a")
    assert named("gain-is-e").figure == f"{alto - without:.2f} of {alto - lamb:.2f} points are E's"
    assert f"{without}" in named("gain-is-e").reason
    assert value("table-7", row, "ALTO") == alto


def test_bound_and_rule() -> None:
    bound = 1 / (1 - 0.7)
    assert named("bound-and-rule").figure == f"1 / (1 - 0.7) = {bound:.2f}, below 5"


# --- rendering and reading -------------------------------------------------------------------------------------------


def test_the_list_fits_a_narrow_terminal() -> None:
    console = Console(width=80, record=True)
    with console.capture() as captured:
        console.print(claims.listing(CLAIMS).to_rich())
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80
    for claim in CLAIMS:
        assert re.search(rf"^{claim.name} ", text, re.MULTILINE), "a name in two lines"


def test_one_claim_is_explained_in_full() -> None:
    for claim in CLAIMS:
        text = "\n".join(claims.details(claim))
        for words in (claim.claim, claim.where, claim.printed, claim.command, claim.status, claim.reason, claim.figure):
            assert words in text
        assert claim.source is None or claim.source.file in text


def test_statuses_are_counted() -> None:
    assert claims.count(
        select(status="not-run")
    ) == "{0} claims: 0 confirmed, 0 not found, 0 refuted, {0} not run".format(
        sum(claim.status == "not run" for claim in CLAIMS)
    )


ENTRY = "claim: A., where: text, printed: a, command: valleys tasks, status: not run, reason: B."


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ENTRY.replace("not run", "maybe"), r"claims.yaml: x: unknown status 'maybe'.*confirmed, not found"),
        (f"{ENTRY}, size: 3", r"claims.yaml: x: .*size"),
        (ENTRY.replace(", reason: B.", ""), r"claims.yaml: x: .*reason"),
        (ENTRY.replace("printed: a", "printed: 88.83"), r"claims.yaml: x: printed must be text"),
        (f"{ENTRY}, source: {{text: a}}", r"claims.yaml: x: .*file"),
        (f"{ENTRY}, claim: C.", r"claims.yaml: .*stands twice"),
    ],
)
def test_a_mistake_in_the_file_names_the_claim(entry: str, message: str) -> None:
    assert parse_claims(f"Section: {{x: {{{ENTRY}}}}}")[0].status == "not run"
    with pytest.raises(ValueError, match=message):
        parse_claims(f"Section: {{x: {{{entry}}}}}")


def test_an_unknown_name_or_status_is_refused_with_the_choices() -> None:
    with pytest.raises(LabError, match=r"unknown claim 'theorem2'; did you mean theorem-2\? Choices: average-gain"):
        select("theorem2")
    with pytest.raises(LabError, match=r"unknown status 'open'.*confirmed, not-found, refuted, not-run"):
        select(status="open")
    assert {claim.status for claim in select(status="not found")} == {"not found"}
