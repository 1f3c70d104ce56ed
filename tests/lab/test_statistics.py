from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from valleys.lab.statistics import format_mean, holm, mean_interval, paired_difference, verdict


def test_interval_equals_scipys() -> None:
    values = [3.1, 2.7, 4.4, 3.9, 3.3]
    mean, half_width = mean_interval(values, 0.9)
    low, high = stats.t.interval(0.9, 4, loc=mean, scale=stats.sem(values))
    assert half_width is not None
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = random.Random(0)
    hits = 0
    for _ in range(2000):
        mean, half_width = mean_interval([generator.gauss(5.0, 2.0) for _ in range(3)])
        assert half_width is not None
        hits += abs(mean - 5.0) <= half_width
    assert 0.935 <= hits / 2000 <= 0.965  # three standard errors


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean_interval([2.0]) == (2.0, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_paired_difference_equals_scipys_test_on_the_shared_seeds() -> None:
    a = {0: 1.0, 1: 2.5, 2: 3.7, 3: 3.9, 9: 100.0}
    b = {3: 3.0, 0: 0.7, 1: 2.6, 2: 2.9, 8: -100.0}
    difference = paired_difference(a, b)
    assert difference is not None
    expected = stats.ttest_rel([1.0, 2.5, 3.7, 3.9], [0.7, 2.6, 2.9, 3.0])
    low, high = expected.confidence_interval(0.95)
    assert difference.pairs == 4
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.half_width == pytest.approx((high - low) / 2)


def test_pairing_sees_through_what_the_seeds_share() -> None:
    shared = {seed: 100.0 * seed for seed in range(5)}
    a = {seed: value + 1 + 0.01 * (seed % 2) for seed, value in shared.items()}
    difference = paired_difference(a, shared)
    assert difference is not None
    assert difference.p is not None
    assert difference.p < 1e-6


def test_degenerate_differences() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    one = paired_difference({0: 3.0}, {0: 1.0})
    assert one is not None
    assert (one.mean, one.half_width, one.p, one.pairs) == (2.0, None, None, 1)
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None
    assert (same.half_width, same.p) == (0.0, 1.0)
    constant = paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert constant is not None
    assert constant.p == 0.0


def test_holm_by_hand() -> None:
    # Sorted 0.005 0.011 0.02 0.04 times 4 3 2 1: 0.02 0.033 0.04 0.04.
    assert holm([0.04, 0.005, 0.02, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.02, 0.015]) == pytest.approx([0.03, 0.03])  # never below a smaller one's
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def runs(*values: float | None) -> dict[int, float | None]:
    return dict(enumerate(values))


def test_a_clear_winner_is_named_with_its_lead() -> None:
    found = verdict(
        {"lamb": runs(90.0, 91.0, 92.0), "alto": runs(90.5, 91.4, 92.45)},
        maximize=True,
        metric="accuracy %",
        batch_size=16384,
    )
    assert found.leader == "alto"
    assert found.rivals[0].beaten
    assert found.sentence == (
        "alto beats lamb (second) by 0.45 ± 0.12 accuracy % at batch 16384 (3 paired seeds, p = 0.0041)"
    )


def test_no_difference_is_said_to_be_none() -> None:
    found = verdict(
        {"lamb": runs(90.0, 91.0, 92.0), "alto": runs(91.0, 90.5, 92.1)},
        maximize=True,
        metric="%",
        batch_size=8,
    )
    assert found.sentence.startswith("no difference found between alto and lamb at batch 8: 0.2 ± ")
    assert not found.rivals[0].beaten


def test_smaller_wins_where_the_metric_is_a_loss_and_leads_are_positive() -> None:
    found = verdict(
        {"a": runs(1.0, 1.1, 1.2), "b": runs(0.5, 0.6001, 0.7002)},
        maximize=False,
        metric="loss",
        batch_size=8,
    )
    assert found.leader == "b"
    assert found.rivals[0].difference is not None
    assert found.rivals[0].difference.mean == pytest.approx(0.4999)
    assert found.rivals[0].beaten


def test_equal_optimizers_are_told_apart_no_more_often_than_the_level() -> None:
    generator = random.Random(1)
    false = 0
    for _ in range(400):
        results = {name: runs(*(generator.gauss(0, 1) for _ in range(4))) for name in "abcdef"}
        found = verdict(results, maximize=True, metric="m", batch_size=1)
        false += any(rival.beaten for rival in found.rivals)
    assert false / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_correction_is_over_all_pairs() -> None:
    results = {
        "a": runs(5.0, 5.1, 5.2),
        "b": runs(4.0, 4.15, 4.17),
        "c": runs(3.0, 3.11, 3.25),
    }
    found = verdict(results, maximize=True, metric="m", batch_size=1)
    uncorrected = [rival.difference.p for rival in found.rivals if rival.difference is not None]
    between = paired_difference({0: 4.0, 1: 4.15, 2: 4.17}, {0: 3.0, 1: 3.11, 2: 3.25})
    assert between is not None
    all_p = [p for p in (*uncorrected, between.p) if p is not None]
    assert [rival.p for rival in found.rivals] == pytest.approx(holm(all_p)[:2])
    assert "Holm" in found.sentence


def test_who_is_beaten_and_who_is_not_is_said_of_every_other() -> None:
    base = (90.0, 90.3, 90.1, 90.2, 90.4)
    results = {
        "a": runs(*base),
        "b": runs(*(value - 0.01 * (-1) ** i - 0.005 for i, value in enumerate(base))),
        "c": runs(*(value - 5 - 0.01 * i for i, value in enumerate(base))),
        "d": runs(*(value - 0.2 * (i % 2) for i, value in enumerate(base))),
    }
    sentence = verdict(results, maximize=True, metric="m", batch_size=4).sentence
    first, nor, beaten = sentence.split("; ")
    assert first.startswith("no difference found between a and b at batch 4")
    assert nor.startswith("nor from d (p = ")
    assert beaten.startswith("a beats c (p < 0.0001)")


def test_one_seed_supports_no_claim() -> None:
    found = verdict({"a": runs(99.0), "b": runs(1.0)}, maximize=True, metric="m", batch_size=1)
    assert not found.rivals[0].beaten
    assert "no difference found" in found.sentence
    assert "too few seeds" in found.sentence


def test_divergence_ranks_below_any_finished_run_and_is_told() -> None:
    found = verdict(
        {"risky": runs(99.0, None, 99.0), "safe": runs(90.0, 90.1, 90.2), "dead": {}},
        maximize=True,
        metric="m",
        batch_size=4,
    )
    assert found.leader == "safe"
    assert "only because it diverges less often" in found.sentence
    assert "-8.9" in found.sentence
    assert "risky diverged on 1 fresh seeds" in found.sentence
    assert "dead finished no run" in found.sentence
    assert not found.rivals[0].beaten


def test_no_finished_run_gives_no_leader() -> None:
    found = verdict({"a": {}, "b": runs(None, math.nan)}, maximize=True, metric="m", batch_size=4)
    assert found.leader is None
    assert found.sentence == "no verdict at batch 4: no optimizer finished a run"


def test_one_optimizer_is_compared_with_nothing() -> None:
    found = verdict({"a": runs(1.0, 2.0)}, maximize=True, metric="m", batch_size=4)
    assert found.sentence == "a alone at batch 4: there is nothing to compare it with"


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        (97.1234, 0.3456, "97.12 ± 0.35"),
        (97.1234, 12.0, "97 ± 12"),
        (97.1234, None, "97.12"),
        (0.0, 0.0, "0.00 ± 0.00"),
        (0.000321, 0.00004, "3.21e-04 ± 4.0e-05"),
        (-0.5, 0.25, "-0.50 ± 0.25"),
    ],
)
def test_means_are_shown_with_meaningful_digits(mean: float, half_width: float | None, text: str) -> None:
    assert format_mean(mean, half_width) == text
