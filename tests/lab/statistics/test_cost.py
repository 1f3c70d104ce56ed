"""Sentences of a verdict on time, memory and steps to the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from valleys.lab.statistics import Metric, Outcome, judge

NEVER = math.inf
RETURN = Metric("mean return", maximize=True)


def by_unit(values: Sequence[float]) -> Mapping[int, float]:
    return dict(enumerate(values, 1))


def cost(alto: Outcome, lamb: Outcome, unit: str = "round") -> str:
    return judge([("alto", "lamb")], {"alto": alto, "lamb": lamb}, RETURN, unit=unit)[0].cost


def step_cost(alto: Sequence[float], lamb: Sequence[float] = (0.1, 0.1, 0.1)) -> str:
    return cost(Outcome({}, step_seconds=by_unit(alto)), Outcome({}, step_seconds=by_unit(lamb)))


def target_cost(alto: Sequence[float], lamb: Sequence[float], unit: str = "round") -> str:
    sides = [Outcome({}, steps=by_unit(steps), horizon=100) for steps in (alto, lamb)]
    return cost(sides[0], sides[1], unit)


def test_all_of_it_in_one_breath() -> None:
    alto = Outcome(
        {},
        steps=by_unit([50, 60, 70, 80, 90]),
        seconds=by_unit([5.0, 6.0, 7.0, 8.0, 9.0]),
        step_seconds=by_unit([0.103, 0.104, 0.102, 0.103, 0.103]),
        state_bytes=1500,
    )
    lamb = Outcome(
        {},
        steps=by_unit([60, 70, 80, 90, 80]),
        seconds=by_unit([4.0, 5.0, 8.0, 9.0, 10.0]),
        step_seconds=by_unit([0.1] * 5),
        state_bytes=1000,
    )
    assert cost(alto, lamb) == (
        "a step of alto takes 1.03 times as long as lamb's and its state is 1.5 times as large; "
        "it reaches the target in 0.88 times the steps and 0.88 times the seconds (sooner in 4 of 5 rounds)"
    )
    assert cost(lamb, alto).startswith(
        "a step of alto takes 0.971 times as long as lamb's and its state is 0.667 times"
    )
    assert cost(Outcome({}), lamb) == cost(Outcome({}), Outcome({})) == ""


@pytest.mark.parametrize(
    ("alto", "said"),
    [
        ([0.10, 0.20, 0.05], "a step of alto takes as long as lamb's within the noise (0.179 to 5.59 times)"),
        ([0.110, 0.111, 0.109], "a step of alto takes 1.1 times as long as lamb's"),
        ([0.05, 0.05, 0.05], "a step of alto takes 0.5 times as long as lamb's"),
        ([0.101, 0.099, 0.1005], "a step of alto takes about as long as lamb's"),
        ([0.1008, 0.1018, 0.1028], "a step of alto takes about as long as lamb's"),
        ([0.1009, 0.1009, 0.1009], "a step of alto takes about as long as lamb's"),
        ([0.104, 0.106, 0.1045], "a step of alto takes 1.05 times as long as lamb's"),
        ([0.102, 0.102, 0.102], "a step of alto takes 1.02 times as long as lamb's"),
        ([0.15], "a step of alto took 1.5 times as long as lamb's (measured once)"),
        ([], ""),
        ([0.0, math.nan, NEVER], ""),
    ],
)
def test_a_step_time_that_the_noise_of_the_machine_could_have_made_is_not_claimed(
    alto: Sequence[float], said: str
) -> None:
    assert step_cost(alto) == said


def test_step_times_are_paired_by_unit() -> None:
    """The machine is ten times slower in one round, for both."""
    assert step_cost([0.11, 1.1, 0.112], [0.1, 1.0, 0.1, 9.0]) == "a step of alto takes 1.11 times as long as lamb's"


@pytest.mark.parametrize(
    ("alto", "lamb", "said"),
    [
        (300, 200, "alto's state is 1.5 times as large as lamb's"),
        (200, 200, "alto's state is as large as lamb's"),
        (38_508, 38_512, "alto's state is as large as lamb's"),
        (0, 2_500_000, "alto keeps no state, lamb 2.5 MB"),
        (2_500_000, 0, "lamb keeps no state, alto 2.5 MB"),
        (0, 0, ""),
        (None, 200, ""),
        (200, None, ""),
    ],
)
def test_the_state_in_words(alto: int | None, lamb: int | None, said: str) -> None:
    assert cost(Outcome({}, state_bytes=alto), Outcome({}, state_bytes=lamb)) == said
    sides = [Outcome({}, step_seconds=by_unit([0.1, 0.1]), state_bytes=size) for size in (alto, lamb)]
    both = cost(sides[0], sides[1])
    assert both == " and ".join(
        filter(
            None, ["a step of alto takes about as long as lamb's", said.replace("alto's", "its").split(" as lamb")[0]]
        )
    )


@pytest.mark.parametrize(
    ("alto", "lamb", "said"),
    [
        ([50, 60, 70], [100, 50, 100], "alto reaches the target in 0.60 times the steps (sooner in 2 of 3 rounds)"),
        ([90, 90, 50], [60, 60, 60], "alto reaches the target in 1.50 times the steps (later in 2 of 3 rounds)"),
        ([50, 70, 60], [60, 60, 60], "alto reaches the target in as many steps (sooner in 1 of 3 rounds)"),
        ([50, 50, 50], [50, 50, 50], "alto reaches the target in as many steps (at the same step in all 3 rounds)"),
        ([50, 50, 70], [50, 50, 50], "alto reaches the target in as many steps (later in 1 of 3 rounds)"),
        ([501, 501, 501], [500, 500, 500], "alto reaches the target in about as many steps (later in 3 of 3 rounds)"),
        (
            [NEVER, NEVER, 50],
            [50, 50, 50],
            "alto reaches the target in at least 2.00 times the steps (later in 2 of 3 rounds)",
        ),
        (
            [50, 50, 50],
            [NEVER, NEVER, 50],
            "alto reaches the target in at most 0.50 times the steps (sooner in 2 of 3 rounds)",
        ),
        ([NEVER, NEVER, 50], [NEVER, NEVER, 50], "neither reaches the target in most of 3 rounds"),
    ],
)
def test_the_way_to_the_target_in_words(alto: Sequence[float], lamb: Sequence[float], said: str) -> None:
    assert target_cost(alto, lamb) == said
    assert target_cost(alto, lamb, "seed") == said.replace("rounds", "fresh seeds")


def test_without_the_end_of_the_runs_a_missed_target_has_no_ratio() -> None:
    alto, lamb = Outcome({}, steps=by_unit([NEVER, NEVER])), Outcome({}, steps=by_unit([5, 6]))
    assert cost(alto, lamb) == "lamb alone reaches the target in most of 2 rounds"
    assert cost(lamb, alto) == "alto alone reaches the target in most of 2 rounds"


def test_seconds_are_left_out_where_they_have_no_ratio() -> None:
    alto = Outcome({}, steps=by_unit([NEVER, NEVER]), seconds=by_unit([NEVER, NEVER]), horizon=100)
    lamb = Outcome({}, steps=by_unit([50, 50]), seconds=by_unit([5.0, 5.0]), horizon=100)
    assert cost(alto, lamb) == "alto reaches the target in at least 2.00 times the steps (later in 2 of 2 rounds)"
