"""Effects of E by strength and memory: known ones are found, none is invented, and the page is that of the runs."""

from __future__ import annotations

import importlib
import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valleys.lab.optimizers.spaces import ADAMW, TUNED
from valleys.lab.search.candidates import points, tuning_seed

ROOT = Path(__file__).parents[1]
LOSS = {"configuration": {"maximize": False, "resolution": 0.0}, "selected": {"adamw": [{"lr": 0.003}]}}


@pytest.fixture
def strength(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("evidence.strength")


def invented(change: Any, rng: np.random.Generator, spread: float) -> list[dict[str, Any]]:
    """Five rounds of 16 trials of AdamW and EAdamW at the lab's points; ``change`` gives the effect of c and memory."""
    runs = []
    for round_ in range(5):
        for trial, point in enumerate(points({**ADAMW, **TUNED}, 16, round_)):
            base = math.log(2) + 0.3 * abs(math.log(point["lr"] / 0.003)) + rng.normal(0, 0.5)
            effect = change(point["c"], point["memory"]) + rng.normal(0, spread)
            shared = {name: point[name] for name in ADAMW}
            common = {"seed": tuning_seed(round_, trial), "diverged": False}
            runs += [
                {"optimizer": "adamw", "hyperparameters": shared, "validation": math.exp(base), **common},
                {
                    "optimizer": "eadamw-tuned",
                    "hyperparameters": point,
                    "validation": math.exp(base + effect),
                    **common,
                },
            ]
    return runs


def test_a_known_effect_is_found_in_its_cell_whatever_the_base_does(strength: Any) -> None:
    def change(c: float, memory: float) -> float:
        return -0.2 if c > 0.95 / 3 and memory < 7 else 0.1

    problems = []
    for seed in range(5):
        runs = invented(change, np.random.default_rng(seed), 0.02)
        first = next(k for k in range(0, len(runs), 2) if 0.001 < runs[k]["hyperparameters"]["lr"] < 0.01)
        for run, loss in zip(runs[first : first + 2], (1e9, 1.0), strict=True):  # on a fresh seed: no trials
            runs.append({**run, "seed": 5_000, "validation": loss})
        pairs = strength.effects(runs, "eadamw-tuned", LOSS, 4)
        assert 35 < len(pairs) < 65  # 60 % of the logarithmic range of the learning rate
        problems.append(strength.cells(pairs, 3))
        assert problems[-1][2, 0] == pytest.approx(-0.2, abs=0.03)
        assert problems[-1][0, 2] == pytest.approx(0.1, abs=0.03)
    c, memory = strength.suggested(problems, 3)
    assert c == pytest.approx(0.95 * 2 / 3)
    assert memory == pytest.approx(1.01 * (500 / 1.01) ** (1 / 6))


def test_without_an_effect_a_rule_is_suggested_no_more_often_than_the_page_says(strength: Any) -> None:
    rng = np.random.default_rng(0)
    rules = [
        strength.suggested([dict(zip(product(range(3), repeat=2), row, strict=True)) for row in problem], 3) is not None
        for problem in rng.normal(size=(400, 5, 9))
    ]
    assert 0.14 < np.mean(rules) < 0.26  # 1 - 0.975 ** 9 = 0.20, and three standard errors of 0.02


def test_an_accuracy_counts_by_its_error_and_a_diverged_run_not_at_all(strength: Any) -> None:
    about = {"configuration": {"maximize": True, "resolution": 0.5}, "selected": {"adamw": [{"lr": 0.003}, None]}}
    point = {"lr": 0.003, "momentum": 0.9, "weight_decay": 0.01}
    more = {**point, "c": 0.5, "memory": 10.0}
    runs = []
    for seed, (base, adapted) in enumerate([(80.0, 90.0), (50.0, None), (100.0, 100.0)]):
        for name, values, validation in (("adamw", point, base), ("eadamw-tuned", more, adapted)):
            diverged = validation is None
            runs.append(
                {
                    "optimizer": name,
                    "hyperparameters": values,
                    "validation": validation,
                    "diverged": diverged,
                    "seed": seed,
                }
            )
    pairs = strength.effects(runs, "eadamw-tuned", about, 4)
    assert [effect.ratio for effect in pairs] == pytest.approx([math.log(0.5), 0.0])


def test_the_page_is_made_of_the_committed_runs(strength: Any) -> None:
    plan = importlib.import_module("evidence.run").PLAN
    assert sorted(plan["strength"]["made_on"] + plan["strength"]["tested_on"]) == sorted(plan["problems"])
    assert strength.PAGE.read_text(encoding="utf-8") == strength.page(plan)


def test_the_page_on_e_quotes_it(strength: Any) -> None:
    text = " ".join((ROOT / "docs/when-e-matters.md").read_text().split())
    page = strength.PAGE.read_text(encoding="utf-8")
    sentence = "No cell's interval lies on E's side: the five problems suggest no rule."
    assert f'"{sentence}"' in text
    assert page.count(sentence) == 2
    counts = re.findall(r"c > 0 in (\d+ of \d+) rounds", page)
    assert f"on AdamW ({counts[0]} rounds) and in {counts[1]} rounds on LAMB" in text
