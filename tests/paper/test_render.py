"""A reproduction on a terminal and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from paper.reproductions import Call, run
from valleys.lab.report.table import Table
from valleys.paper import render
from valleys.paper.results import Reproduction
from valleys.paper.tables.numbers import TABLES


def test_the_json_is_strict_and_complete(whole: Reproduction) -> None:
    reproduction = whole

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(reproduction.paths["json"].read_text(), parse_constant=refuse)
    assert (document["table"], document["preset"], document["seeds"]) == ("table-3", "smoke", 3)
    alto = document["cells"][-1]
    assert (alto["column"], alto["paper"], alto["ours"], alto["blank"]) == ("ALTO", 91.24, 94.0, "")
    assert (alto["difference"], alto["same_problem"]) == (pytest.approx(2.76), False)
    assert alto["interval"] == [pytest.approx(0.27592, abs=1e-4), pytest.approx(5.24408, abs=1e-4)]
    assert alto["hyperparameters"] == {
        "lr": 0.01,
        "betas": [0.9, 0.99],
        "alpha": 0.5,
        "beta": 0.1,
        "weight_decay": 0.0001,
    }
    assert document["orders"][0]["sign"] == "opposite"


def test_a_terminal_shows_numbers_reasons_and_whose_choice_it_was(whole: Reproduction) -> None:
    output = io.StringIO()
    console = Console(file=output, width=200)
    for part in render.parts(whole):
        console.print(part.to_rich() if isinstance(part, Table) else part)
    text = output.getvalue()
    assert "PRESET SMOKE" in text
    assert "94.00 ± 2.48 (3 seeds)" in text
    assert "+2.76 [+0.28, +5.24]" in text
    assert "Ours, since the paper does not state them" in text
    assert "opposite" in text


def test_the_paper_s_problem_is_not_called_smaller(tmp_path: Path, calls: list[Call]) -> None:
    text = run(tmp_path, "table-5a", "200", preset="paper", device="cpu", seeds=1).paths["markdown"].read_text()
    assert "PRESET SMOKE" not in text
    assert "no interval: one value" in text


def test_the_list_names_everything() -> None:
    listed = render.listing().to_markdown()
    assert all(name in listed for table in TABLES for name in (table.number, *table.aliases))
