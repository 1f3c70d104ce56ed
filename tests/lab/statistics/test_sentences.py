from __future__ import annotations

import math

import pytest

from valleys.lab.statistics import format_mean, judge, verdict

BASE = (90.0, 90.3, 90.1, 90.2, 90.4)
WON = {"lamb": {0: 90.0, 1: 91.0, 2: 92.0}, "alto": {0: 90.5, 1: 91.4, 2: 92.45}}
OPEN = {"lamb": {0: 90.0, 1: 91.0, 2: 92.0}, "alto": {0: 91.0, 1: 90.5, 2: 92.1}}


def runs(*values: float | None) -> dict[int, float | None]:
    return dict(enumerate(values))


def test_a_clear_winner_is_named_with_its_lead() -> None:
    found = verdict(WON, maximize=True, metric="accuracy %", batch_size=16384)
    assert found.leader == "alto"
    assert found.rivals[0].beaten
    assert found.sentence == (
        "alto beats lamb (second) by 0.45 ± 0.12 accuracy % at batch 16384 (3 paired seeds, p = 0.0041)"
    )


def test_no_difference_is_said_to_be_none_and_what_could_have_been_seen() -> None:
    found = verdict(OPEN, maximize=True, metric="%", batch_size=8)
    assert found.sentence == (
        "no difference found between alto and lamb at batch 8: 0.2 ± 1.9 % (3 paired seeds, p = 0.69); "
        "3 seeds could have seen 2.5 (power 80%)"
    )
    assert not found.rivals[0].beaten


def alike(**seconds: float) -> dict[str, dict[int, float]]:
    """The same time per step on every seed."""
    return {name: dict.fromkeys(range(3), value) for name, value in seconds.items()}


def test_who_is_beaten_and_who_is_not_is_said_of_every_other() -> None:
    results = {
        "a": runs(*BASE),
        "b": runs(*(value - 0.01 * (-1) ** i - 0.005 for i, value in enumerate(BASE))),
        "c": runs(*(value - 5 - 0.01 * i for i, value in enumerate(BASE))),
        "d": runs(*(value - 0.2 * (i % 2) for i, value in enumerate(BASE))),
    }
    seconds = alike(a=0.2, b=0.1)
    sentence = verdict(results, maximize=True, metric="m", batch_size=4, step_seconds=seconds).sentence
    first, nor, seen, cost, beaten = sentence.split("; ")
    assert first.startswith("no difference found between a and b at batch 4")
    assert first.endswith(", Holm)")
    assert nor.startswith("nor from d (p = ")
    assert seen == "5 seeds could have seen 0.03 between a and b (power 80%, level 0.05/6)"
    assert cost == "a costs 100% more time per step than b"
    assert beaten.startswith("a beats c (p < 0.0001)")


def test_after_a_beaten_second_the_rest_is_told() -> None:
    results = {
        "a": runs(*BASE),
        "b": runs(*(value - 1 - 0.01 * i for i, value in enumerate(BASE))),
        "c": runs(*(value - 5 - 0.01 * i for i, value in enumerate(BASE))),
        "d": runs(99.0, 20.0, 30.0, 40.0, 50.0),
    }
    sentence = verdict(
        results, maximize=True, metric="m", batch_size=4, step_seconds=alike(a=0.9, b=1.0, c=5.0)
    ).sentence
    first, cost, beaten, open_ = sentence.split("; ")
    assert first.startswith("a beats b (second) by 1.020 ± 0.020 m at batch 4 (5 paired seeds, p < 0.0001, Holm)")
    assert cost == "costs 10% less time per step"
    assert beaten.startswith("a beats c (p < 0.0001)")
    assert open_.startswith("no difference found from d (p = ")


@pytest.mark.parametrize(
    ("alto", "lamb", "won", "opened"),
    [
        (0.103, 0.1, "costs 3% more time per step", "alto costs 3% more time per step than lamb"),
        (0.05, 0.1, "costs 50% less time per step", "alto costs 50% less time per step than lamb"),
        (0.1009, 0.1, "costs about the same per step", "alto costs about the same per step as lamb"),
        (0.0991, 0.1, "costs about the same per step", "alto costs about the same per step as lamb"),
        (0.102, 0.1, "costs 2% more time per step", "alto costs 2% more time per step than lamb"),
    ],
)
def test_the_cost_of_a_step_is_told(alto: float, lamb: float, won: str, opened: str) -> None:
    seconds = alike(alto=alto, lamb=lamb, other=1.0)
    sentence = verdict(WON, maximize=True, metric="%", batch_size=8, step_seconds=seconds).sentence
    assert sentence.split("; ")[1:] == [won]
    sentence = verdict(OPEN, maximize=True, metric="%", batch_size=8, step_seconds=seconds).sentence
    assert sentence.split("; ")[2:] == [opened]


@pytest.mark.parametrize("seconds", [{}, {"alto": 0.1}, {"alto": 0.1, "lamb": 0.0}, {"alto": math.nan, "lamb": 0.1}])
def test_an_unknown_cost_is_not_told(seconds: dict[str, float]) -> None:
    known = alike(**seconds)
    assert "per step" not in verdict(WON, maximize=True, metric="%", batch_size=8, step_seconds=known).sentence


@pytest.mark.parametrize(
    ("alto", "said"),
    [
        ([0.10, 0.20, 0.05], "time per step not told apart (-82% to +459%)"),
        ([0.110, 0.111, 0.109], "costs 10% more time per step"),
        ([0.101, 0.099, 0.1005], "costs about the same per step"),
        ([0.104, 0.106, 0.1045], "costs 5% more time per step"),
        ([0.15], "costs 50% more time per step"),
    ],
)
def test_a_cost_that_the_noise_of_the_machine_could_have_made_is_not_claimed(alto: list[float], said: str) -> None:
    seconds = {"alto": dict(enumerate(alto)), "lamb": {0: 0.1, 1: 0.1, 2: 0.1}}
    sentence = verdict(WON, maximize=True, metric="%", batch_size=8, step_seconds=seconds).sentence
    assert sentence.split("; ")[1:] == [said]


def test_times_are_paired_by_seed() -> None:
    """The machine is ten times slower on one seed, for both."""
    seconds = {"alto": {0: 0.11, 1: 1.1, 2: 0.112}, "lamb": {0: 0.1, 1: 1.0, 2: 0.1, 3: 9.0}}
    sentence = verdict(WON, maximize=True, metric="%", batch_size=8, step_seconds=seconds).sentence
    assert sentence.endswith("; costs 11% more time per step")


def test_a_judged_pair_is_told_in_both_directions() -> None:
    seconds = alike(alto=0.103, lamb=0.1)
    up = judge("alto", "lamb", WON, maximize=True, metric="%", batch_size=8, step_seconds=seconds)
    down = judge("alto", "lamb", WON, maximize=False, metric="%", batch_size=8, step_seconds=seconds)
    assert up.sentence == (
        "alto beats lamb by 0.45 ± 0.12 % at batch 8 (3 paired seeds, p = 0.0041); costs 3% more time per step"
    )
    assert down.sentence == (
        "lamb beats alto by 0.45 ± 0.12 % at batch 8 (3 paired seeds, p = 0.0041); costs 3% less time per step"
    )
    undecided = judge("lamb", "alto", OPEN, maximize=True, metric="%", batch_size=8).sentence
    assert undecided == verdict(OPEN, maximize=True, metric="%", batch_size=8).sentence


def test_one_seed_supports_no_claim() -> None:
    found = verdict({"a": runs(99.0), "b": runs(1.0)}, maximize=True, metric="m", batch_size=1)
    assert found.sentence == (
        "no difference found between a and b at batch 1: 98 m (1 paired seed, too few seeds for a p value)"
    )


def test_no_shared_seed_supports_no_claim() -> None:
    found = verdict({"a": {0: 99.0}, "b": {1: 1.0}}, maximize=True, metric="m", batch_size=1)
    assert found.sentence == ("no difference found between a and b at batch 1: there is no seed that both finished")


def test_divergence_ranks_below_any_finished_run_and_is_told() -> None:
    results = {"risky": runs(99.0, None, 99.0), "safe": runs(90.0, 90.1, 90.2), "dead": {}}
    seconds = alike(risky=1.0, safe=1.05)
    found = verdict(results, maximize=True, metric="m", batch_size=4, step_seconds=seconds)
    assert found.leader == "safe"
    assert not found.rivals[0].beaten
    lead, cost, dead, diverged = found.sentence.split("; ")
    assert lead.startswith("safe leads risky at batch 4 only because it diverges less often: where both finished, ")
    assert "the difference is -8.9" in lead
    assert cost == "safe costs 5% more time per step than risky"
    assert dead == "dead finished no run"
    assert diverged == "risky diverged on 1 fresh seeds"


def test_no_finished_run_gives_no_leader() -> None:
    found = verdict({"a": {}, "b": runs(None, math.nan)}, maximize=True, metric="m", batch_size=4)
    assert found.leader is None
    assert found.sentence == "no verdict at batch 4: no optimizer finished a run"


def test_one_optimizer_is_compared_with_nothing() -> None:
    found = verdict({"a": runs(1.0, 2.0)}, maximize=True, metric="m", batch_size=4, step_seconds=alike(a=1.0))
    assert found.sentence == "a alone at batch 4: there is nothing to compare it with"
    found = verdict({"a": runs(1.0, None), "b": runs(None)}, maximize=True, metric="m", batch_size=4)
    assert found.sentence == ("a alone at batch 4: no other optimizer finished a run; a diverged on 1 fresh seeds")


def test_a_large_spread_is_told_without_an_exponent() -> None:
    results = {"a": runs(5000.0, 0.0, 900.0), "b": runs(0.0, 4000.0, 500.0)}
    assert (
        "3 seeds could have seen 14689 (power 80%)"
        in verdict(results, maximize=True, metric="return", batch_size=4).sentence
    )


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
