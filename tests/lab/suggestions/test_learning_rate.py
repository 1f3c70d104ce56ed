"""The first learning rate is that of the committed comparisons, and its texts are commands and code that work."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import valleys
from valleys.cli.app import run
from valleys.lab.errors import LabError
from valleys.lab.suggestions.learning_rate import starting_rate

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "benchmarks"
DOCUMENTATION = ROOT / "docs" / "learning-rate.md"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("learning_rate")


def test_the_rule_is_that_of_the_comparisons(benchmark: Any) -> None:
    studies = benchmark.studies()
    fitted = [benchmark.coefficient(studies, name) for name in benchmark.OURS]
    rule = starting_rate("adamw", 1e-3, 100, 1).lr * 10
    assert fitted[0] <= rule <= fitted[1] or fitted[1] <= rule <= fitted[0]
    # The range to search holds all the tuned rates.
    inside = [
        starting_rate("adamw", 1e-3, s.updates, 1).low < s.rates[name] < starting_rate("adamw", 1e-3, s.updates, 1).high
        for s in studies
        for name in benchmark.OURS
    ]
    assert all(inside)
    # Neither AdamW's rate nor another exponent predicts the rates better by a tenth, and one rate for all is worse.
    for name in benchmark.OURS:
        medians = {model: np.median(benchmark.errors(studies, name, model)) for model in benchmark.MODELS}
        rule = medians.pop("C / sqrt(updates)")
        assert medians.pop("one rate for all") > 1.5 * rule
        assert min(medians.values()) > rule / 1.1


def test_the_page_is_made_of_the_comparisons(benchmark: Any) -> None:
    assert benchmark.PAGE.read_text(encoding="utf-8") == benchmark.page(benchmark.studies())


def test_the_documentation_quotes_the_comparisons_and_the_command(benchmark: Any) -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    assert "\n".join(str(starting_rate("adamw", 3e-4, 1200, 8192)).splitlines()[:3]) in text
    for steps in (50, 200, 1000, 5000, 20_000):
        rate = starting_rate("adamw", 3e-4, steps, 1)
        assert f"| {steps:,} | {rate.lr:.2g} | {rate.low:.2g} to {rate.high:.2g} |" in text
    studies = benchmark.studies()
    assert len(studies) == 19
    factors = {m: [benchmark.errors(studies, name, m) for name in benchmark.OURS] for m in benchmark.MODELS}
    words = " ".join(text.split())
    rule = factors["C / sqrt(updates)"]
    medians = {model: tuple(f"{np.median(cell):.2f}" for cell in cells) for model, cells in factors.items()}
    lamb, alto = medians["C / sqrt(updates)"]
    assert f"a factor of {lamb} for LAMB and {alto} for ALTO in the median" in words
    assert f"of {rule[0].max():.2f} and {rule[1].max():.2f} at worst" in words
    assert "off by {} and {} in the median".format(*medians["one rate for all"]) in words
    assert "({} and {})".format(*medians["C / sqrt(updates) and a free exponent of AdamW's tuned rate"]) in words


def test_one_rule_stands_wherever_the_first_rate_is_named() -> None:
    rule = f"{starting_rate('adamw', 1e-3, 100, 1).lr * 10:g} / sqrt(updates)"
    for place in ("src/valleys/alto.py", "docs/choosing.md", "docs/learning-rate.md"):
        assert set(re.findall(r"[\d.]+ / sqrt\(updates\)", (ROOT / place).read_text(encoding="utf-8"))) >= {rule}
    assert (
        re.findall(r"[\d.]+ / sqrt\(updates\)", (ROOT / "src/valleys/alto.py").read_text(encoding="utf-8"))
        == [rule] * 2
    )


def test_the_fit_recovers_a_law_that_is_known(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    studies = [
        benchmark.Study(str(n), n, {name: 0.7 / math.sqrt(n) * rng.lognormal(0, 0.1) for name in ("lamb", "alto")})
        for n in (10, 30, 100, 300, 1000, 3000)
    ]
    assert benchmark.coefficient(studies, "lamb") == pytest.approx(0.7, rel=0.1)
    assert benchmark.errors(studies, "lamb", "C / sqrt(updates)").max() < 1.4
    assert benchmark.errors(studies, "lamb", "one rate for all").max() > 3


@pytest.mark.parametrize("base", ["adam", "adamw", "lamb"])
@pytest.mark.parametrize("batch_size", [64, 8192])
def test_the_line_to_paste_makes_the_optimizer(base: str, batch_size: int) -> None:
    rate = starting_rate(base, 5e-3, 400, batch_size)
    model = torch.nn.Linear(3, 2)
    optimizer = eval(rate.line, {"valleys": valleys, "model": model})
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, valleys.ALTO)
    assert group["lr"] == pytest.approx(rate.lr, rel=0.05)
    assert {name: group[name] for name in ("alpha", "beta")} == valleys.suggest(batch_size)
    assert rate.low == rate.lr / 4
    assert rate.high == rate.lr * 4


def test_lamb_keeps_its_rate_and_is_asked_again_where_the_number_of_updates_speaks_against_it() -> None:
    assert starting_rate("lamb", 3e-3, 6400, 4096).lr == 3e-3
    assert starting_rate("adam", 3e-3, 6400, 4096).lr == starting_rate("adamw", 1e-3, 6400, 4096).lr == 0.35 / 80
    assert "but 0.003" not in str(starting_rate("lamb", 3e-3, 6400, 4096))
    assert "but 0.005 is 1/7 of the rate that 100 updates usually need, 0.035" in str(
        starting_rate("lamb", 5e-3, 100, 8)
    )
    assert "but 0.5 is 14 times the rate" in str(starting_rate("lamb", 0.5, 100, 8))


def test_what_is_outside_the_comparisons_is_called_so(benchmark: Any) -> None:
    updates = [study.updates for study in benchmark.studies()]
    for steps, outside in ((min(updates), False), (min(updates) - 1, True), (max(updates), False), (10**6, True)):
        assert ("are outside the 40 to 7,680" in str(starting_rate("adamw", 1e-3, steps, 8))) == outside


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("sgd", 0.1, 10, 8), "optimizer 'sgd': choose adam, adamw, lamb"),
        (("adamw", 0.0, 10, 8), "lr 0.0: choose the number above 0"),
        (("adamw", math.nan, 10, 8), "lr nan"),
        (("adamw", True, 10, 8), "lr True"),
        (("adamw", 0.1, 0, 8), "steps 0: choose a whole number"),
        (("adamw", 0.1, 2.0, 8), "steps 2.0"),
        (("adamw", 0.1, 10**400, 8), "steps 1000.*: choose a whole number from 1 to 1e"),
        (("adamw", 0.1, 10, -1), "batch size -1"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(arguments: Any, text: str) -> None:
    with pytest.raises(LabError, match=text):
        starting_rate(*arguments)


def test_the_command_prints_start_range_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["suggest", "--from", "adamw", "--lr", "3e-4", "--steps", "1200", "--batch-size", "8192"]) == 0
    text = capsys.readouterr().out
    assert "start: lr 0.01; search from 0.0025 to 0.04" in text
    assert "  optimizer = valleys.ALTO(valleys.param_groups(model), lr=0.01, alpha=-5, beta=0.99)" in text
    assert "0.0003 would be 1/34 of the start" in text
    for words in ("--from adamw", "--from adamw --lr 1e-3", "--lr 1e-3", "--steps 100"):
        assert run(["suggest", "--batch-size", "8", *words.split()]) == 2
        assert "--from" in capsys.readouterr().err
