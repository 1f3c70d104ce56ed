"""Scales and files of an attribution, and the command that repeats it."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import lab_fakes
from lab.attribution.responses import (
    EFFECTS,
    FIXED,
    PNG,
    Call,
    Settings,
    Whole,
    document,
    effects,
    explores,
    luck,
    responding,
    run,
    task,
)
from valleys.cli import main
from valleys.lab.optimizers.recipes import Recipe
from valleys.lab.report.schema import load, schema


def test_effects_on_a_logarithmic_scale_are_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def response(settings: Settings, seed: int) -> float:
        return (1 + luck(seed)) * 0.5 ** explores(settings) * (4.0 if settings["beta3"] == 0.99 else 1.0)

    responding(monkeypatch, response)
    result = run(tmp_path, "lamb-paper", "alto", task=task(maximize=False))
    assert result.decomposition.scale.log
    assert [math.exp(mean) for mean in effects(result).values() if mean] == pytest.approx([4.0, 0.5])
    assert "the test loss changes by a factor of 2.0" in result.sentence
    assert ": beta3 a factor of 4.0" in result.sentence
    assert "On the metric's logarithmic scale an effect is a factor." in result.paths["markdown"].read_text()
    assert result.paths["waterfall"].read_bytes().startswith(PNG)


def test_a_value_of_zero_makes_all_of_it_linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    responding(monkeypatch, lambda s, seed: 0.0 if explores(s) else 4.0 ** (seed > 6000))
    result = run(tmp_path, "lamb-paper", "alto", task=task(maximize=False), rounds=2)
    assert not result.decomposition.scale.log
    assert effects(result) == pytest.approx({"beta3": 0.0, "E": -2.5})


def test_the_waterfall_goes_from_the_first_mean_to_the_last(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[Any] = []
    monkeypatch.setattr("valleys.lab.attribution.waterfall.draw", lambda *words: arguments.extend(words))
    result = run(tmp_path, "lamb-paper", "alto")
    _, ends, start, parts, title, metric, maximize = arguments
    values = [result.comparison.outcomes[name].test[unit] for name in ends for unit in (1, 2)]
    assert start == pytest.approx(sum(values[:2]) / 2)  # type: ignore[arg-type]
    assert start + parts.total.mean == pytest.approx(sum(values[2:]) / 2)  # type: ignore[arg-type]
    assert (title, metric, maximize) == (
        "fake at batch 16: from lamb-paper to alto",
        "test accuracy %",
        True,
    )


def test_the_files(whole: Whole) -> None:
    result, _ = whole
    assert {name: path.name for name, path in result.paths.items()} == {
        "markdown": "attribution.md",
        "json": "attribution.json",
        "waterfall": "waterfall.png",
    }
    assert result.paths["waterfall"].read_bytes().startswith(PNG)
    text = result.paths["markdown"].read_text()
    assert text.startswith("# From lamb-paper to alto-authors: fake at batch 16\n\n**From lamb-paper to alto-authors")
    plain = text.replace("\\", "")
    assert re.search(r"^\| E +\| off +\| \[-5\.0, 0\.99\] +\| \+5\.0.*significant", plain, flags=re.MULTILINE)
    assert re.search(
        r"^\| norms_and_biases +\| as others +\| excluded +\| 0 \(0 to 0\) +\| +\|$", plain, flags=re.MULTILINE
    )
    assert plain.count("\n| lamb-paper+") == 14
    assert "clip x E" in plain
    assert "none is corrected for their number" in plain
    assert "averaged over all orders of changing the switches one after the other" in plain
    content = document(result)
    assert content["sentence"] == result.sentence
    assert (content["first"], content["last"], content["fixed"]) == ("lamb-paper", "alto-authors", FIXED)
    assert {one["name"]: one["mean"] for one in content["switches"]} == pytest.approx(EFFECTS)
    assert {one["significant"] for one in content["switches"]} == {True, False}
    assert [one["changed"] for one in content["recipes"]][:2] == [[], ["beta3"]]
    assert content["recipes"][1]["settings"]["beta3"] == 0.99
    assert content["recipes"][0]["test"].keys() == {"1", "2"}
    report = result.comparison.paths["markdown"].read_text()
    assert "alto-authors" in report
    assert [(v.first, v.second) for v in result.comparison.verdicts] == [("alto-authors", "lamb-paper")]


def test_the_comparison_s_report_has_the_attribution(whole: Whole) -> None:
    result, _ = whole
    report = json.loads(result.comparison.paths["json"].read_text())
    assert report["attribution"] == document(result)
    jsonschema.validate(report, schema())
    assert load(result.comparison.paths["json"]) == report
    page = result.comparison.paths["html"].read_text()
    assert "What made the difference?" in page
    assert result.sentence in page


def test_the_command_in_the_report_repeats_it(
    tmp_path: Path, calls: list[Call], own: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    fixed = {"lr": 0.0123456789, "momentum": 1 / 3, "weight_decay": 1e-7}
    out = tmp_path / "a folder"
    result = run(out, "lamb-paper", "null-e", task="fake", recipes=own, fixed=fixed, trials=2)
    command = re.findall(r"```\n(.*)\n```", result.paths["markdown"].read_text())[0]
    before = document(result)
    assert before["command"] == command
    assert command.startswith("valleys attribute fake --batch-size 16 --device auto --rounds 2 --trials 2 ")
    assert " --from lamb-paper --to null-e --set lr=0.0123456789,momentum=0.33" in command
    calls.clear()
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None), capfd.readouterr().err
    assert calls == []
    assert document(result) == before


def test_of_an_object_the_report_has_the_call(tmp_path: Path, calls: list[Call], own: Path) -> None:
    mine = Recipe("mine", {"beta3": 0.9})
    commands = [
        document(run(tmp_path / "a", "lamb", mine))["command"],
        document(run(tmp_path / "b", "lamb", "second", recipes=own, fixed={}, trials=1))["command"],
    ]
    call = "valleys.lab.attribute(fake, batch_size=16, device='auto', rounds=2, "
    assert commands[0].startswith(call)
    assert "first='lamb', last=mine, fixed='lr=0.02,momentum=0.9,weight_decay=0.01', out=" in commands[0]
    assert f"first='lamb', last='second', recipes={str(own)!r}, out=" in commands[1]
    assert "pairs" not in commands[0] + commands[1]


def test_the_command_names_the_tasks_own_batch_size(tmp_path: Path, calls: list[Call]) -> None:
    problem = replace(task(), batch_size=8)
    result = run(tmp_path, "lamb", Recipe("mine", {"beta3": 0.9}), task=problem, batch_size=None)
    assert "batch_size=8," in document(result)["command"]
    assert document(result)["batch_size"] == 8
