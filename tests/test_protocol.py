"""The lab's protocol on optimizers whose difference is known, the luck of tuning included."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results" / "protocol"


@pytest.fixture
def protocol(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("protocol")
    monkeypatch.setattr(module, "POOL", 40)
    return module


def rate(protocol: Any, case: Any, n: int) -> float:
    generator = np.random.default_rng(5)
    return sum(bool(protocol.comparison(case, generator)) for _ in range(n)) / n


def error(expected: float, n: int) -> float:
    return 3 * math.sqrt(expected * (1 - expected) / n)


def test_equal_tuned_optimizers_are_called_better_at_most_as_often_as_the_level(protocol: Any) -> None:
    assert rate(protocol, protocol.Case("new"), 250) <= 0.05 + error(0.05, 250)
    assert rate(protocol, protocol.Case("new, runs diverge", edge=0.2), 150) <= 0.05 + error(0.05, 150)


def test_one_tuning_on_points_of_ones_own_is_what_made_false_winners(protocol: Any) -> None:
    assert rate(protocol, protocol.Case("old", shared=False, once=True), 60) > 0.77 - error(0.77, 60)


def test_shared_points_find_a_difference_that_own_points_hide(protocol: Any) -> None:
    shared = protocol.Case("new", gap=1.0)
    assert rate(protocol, shared, 60) > 0.94 - error(0.94, 60)
    assert rate(protocol, replace(shared, shared=False), 60) < 0.13 + error(0.13, 60)


def test_the_two_best_by_validation_need_no_correction(protocol: Any) -> None:
    case = protocol.Case("two best", optimizers=4, judged="two best")
    assert rate(protocol, case, 150) <= 0.05 + error(0.05, 150)


@pytest.mark.parametrize(("rounds", "disagreements"), [(2, 2.0), (2, 34.0), (3, 20.0), (5, 3.0), (5, 6.0)])
def test_the_floor_keeps_false_wins_on_a_small_test_set_at_most_nominal(
    protocol: Any, rounds: int, disagreements: float
) -> None:
    """Exactly, by summing over all outcomes."""
    with_floor = protocol.exact_rate(disagreements, rounds, True)
    assert with_floor <= 0.05
    assert with_floor < protocol.exact_rate(disagreements, rounds, False)


def test_without_the_floor_two_rounds_have_twice_the_nominal_rate(protocol: Any) -> None:
    assert protocol.exact_rate(2.0, 2, False) == pytest.approx(0.1133, abs=1e-4)
    d = np.random.default_rng(0).multinomial(34, [1 / 34, 1 / 34, 32 / 34], (200_000, 2))
    mean, spread = (d[..., 0] - d[..., 1]).mean(1), np.abs(np.diff(d[..., 0] - d[..., 1])[:, 0])
    assert float((np.abs(mean) > 12.7062 * spread / 2).mean()) == pytest.approx(0.1133, abs=0.003)


def test_the_benchmark_writes_what_it_simulated(protocol: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = protocol.Case("the default, <n>")
    monkeypatch.setattr(protocol, "CASES", {"Equal": (case,)})
    monkeypatch.setattr(protocol, "_worst_rates", lambda: iter([{"title": "x", "rate": 0.01, "disagreements": 2.0}]))
    protocol.main(["--n", "4", "--out", str(tmp_path)])
    document = json.loads((tmp_path / "protocol.json").read_text())
    assert document["rates"]["Equal"][0]["n"] == 4
    assert len(document["rates"][protocol.SMALL_TITLE]) == 18
    assert (tmp_path / "README.md").read_text() == protocol.page(document)


def test_the_interval_of_a_rate_is_clopper_and_pearsons(protocol: Any) -> None:
    from scipy.stats import binomtest

    for hits in (0, 3, 10):
        expected = binomtest(hits, 10).proportion_ci(method="exact")
        assert protocol.Rate("", hits, 10).interval == pytest.approx((expected.low, expected.high))


def test_the_committed_results_are_what_the_page_says_and_keep_the_promise(protocol: Any) -> None:
    document = json.loads((RESULTS / "protocol.json").read_text())
    assert (RESULTS / "README.md").read_text() == protocol.page(document)
    rates = [protocol.Rate(**one) for group in document["rates"].values() for one in group]
    assert min(one.n for one in rates) >= 2000
    default = next(one for one in rates if one.title == "**shared points, 5 rounds of 8 trials** (the default)")
    assert default.interval[0] <= 0.05
    exact = {row["title"]: row["rate"] for row in document["exact"]}
    assert max(value for title, value in exact.items() if "with the floor" in title) <= 0.05


def test_the_page_of_copies_is_made_of_the_committed_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    copies = importlib.import_module("copies")
    document = json.loads((RESULTS / "copies.json").read_text())
    assert (RESULTS / "copies.md").read_text() == copies.page(document)
    assert len(document["tests"]) == 12
    values = [tuple(numbers.values()) for numbers in document["tests"].values()]
    assert len(set(values)) == 12, "each copy has seeds of its own"


def test_the_documentation_quotes_the_committed_rates(protocol: Any) -> None:
    document = json.loads((RESULTS / "protocol.json").read_text())
    rows = {title: [protocol.Rate(**rate).row for rate in group] for title, group in document["rates"].items()}
    equal, _, better = (
        next(group for title, group in rows.items() if word in title) for word in ("Two", "Four", "One")
    )
    text = " ".join((BENCHMARKS.parent / "docs" / "lab.md").read_text().split())
    assert f"winner in {equal[0][1]} ({equal[0][2]}); this protocol in {equal[3][1]} ({equal[3][2]})" in text
    assert f"one point it finds {better[2][1]}, on points of their own {better[1][1]}." in text
