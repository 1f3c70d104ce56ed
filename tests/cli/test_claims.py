"""The command ``valleys claims``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from valleys.cli.app import run
from valleys.paper.claims import load_claims

PAGE = Path(__file__).parents[2] / "docs" / "claims.md"


def test_claims_are_listed_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims"]) == 0
    text = capsys.readouterr().out
    assert all(claim.name in text for claim in load_claims())
    assert f"{len(load_claims())} claims: " in text


def test_a_status_and_a_name_choose(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims", "--status", "not-found", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == [one.name for one in load_claims() if one.status == "not found"]
    assert all(one["figure"] for one in listed)
    assert run(["claims", "theorem-2"]) == 0
    text = capsys.readouterr().out
    assert "found: refuted." in text
    assert "0.974 (0.971 to 0.978)" in text
    assert run(["claims", "theorem-2", "--status", "confirmed"]) == 0
    assert "0 claims" in capsys.readouterr().out


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8")


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims", "theorem-9"]) == 2
    assert capsys.readouterr().err.startswith("valleys: unknown claim 'theorem-9'; did you mean theorem-")
