from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valleys.lab.statistics import holm

p_values = st.lists(st.floats(0.0, 1.0), max_size=8)


def test_holm_by_hand() -> None:
    # Sorted 0.005 0.011 0.02 0.04 times 4 3 2 1: 0.02 0.033 0.04 0.04.
    assert holm([0.04, 0.005, 0.02, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.02, 0.015]) == pytest.approx([0.03, 0.03])  # never below a smaller one's
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("true", [6, 3])
def test_any_false_discovery_is_as_rare_as_the_level(true: int) -> None:
    """With 6 true hypotheses of 6; and with 3, the others surely rejected, where Bonferroni is half as often wrong."""
    runs = 10_000
    drawn = np.random.default_rng(true).uniform(size=(runs, 6))
    drawn[:, true:] = 0.0
    false = sum(min(holm(p)[:true]) < 0.05 for p in drawn.tolist()) / runs
    expected = 1 - (1 - 0.05 / true) ** true
    assert abs(false - expected) <= 3 * math.sqrt(expected * (1 - expected) / runs)
    assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@given(p_values)
def test_corrected_values_are_between_the_raw_and_bonferronis(p: list[float]) -> None:
    for raw, corrected in zip(p, holm(p), strict=True):
        assert raw <= corrected <= min(1.0, len(p) * raw)


@given(p_values, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(p: list[float], generator: object) -> None:
    order = list(range(len(p)))
    generator.shuffle(order)  # type: ignore[attr-defined]
    corrected = holm(p)
    assert holm([p[i] for i in order]) == [corrected[i] for i in order]
