"""The words of a verdict, a row for each kind."""

from __future__ import annotations

import pytest

from valleys.lab.statistics import Metric, Outcome, Verdict, format_mean, judge
from valleys.lab.statistics.formatting import about, decimals, fixed, ratios

ACCURACY = Metric("accuracy %", maximize=True, resolution=0.2778)
LOSS = Metric("mean squared error", maximize=False, scale="log")
RETURN = Metric("mean return", maximize=True)

Values = tuple[float | None, ...]


def alto_and_lamb(alto: Values, lamb: Values, metric: Metric, unit: str = "round", shared: int = 1) -> Verdict:
    outcomes = {name: Outcome(dict(enumerate(values))) for name, values in (("alto", alto), ("lamb", lamb))}
    return judge([("alto", "lamb")], outcomes, metric, unit=unit, shared=shared)[0]


BETTER = (92.5, 92.1, 93.9, 91.9), (91.0, 91.0, 92.0, 90.6)
OPEN = (90.5, 91.4, 91.4, 93.3, 90.2), (90.0, 92.0, 93.0, 91.0, 90.0)


@pytest.mark.parametrize(
    ("alto", "lamb", "metric", "sentence"),
    [
        (*BETTER, ACCURACY, "alto is better than lamb by 1.5 points of test accuracy (0.9 to 2.0)"),
        (*BETTER[::-1], ACCURACY, "lamb is better than alto by 1.5 points of test accuracy (0.9 to 2.0)"),
        (*BETTER, Metric("errors", maximize=False), "lamb is better than alto by 1.5 in test errors (0.9 to 2.0)"),
        (
            *OPEN,
            ACCURACY,
            "No significant difference between alto and lamb: alto ahead by 0.2 points of test accuracy (-1.6 to 2.0); "
            "differences above about 2.4 would have been detected",
        ),
        (
            *OPEN[::-1],
            RETURN,
            "No significant difference between alto and lamb: lamb ahead by 0.2 in test mean return (-1.6 to 2.0); "
            "differences above about 2.4 would have been detected",
        ),
        (
            (90.0, 91.0, 92.0, 93.0),
            (91.0, 90.0, 93.0, 92.0),
            RETURN,
            "No significant difference between alto and lamb: 0.0 in test mean return (-1.8 to 1.8); "
            "differences above about 2.5 would have been detected",
        ),
        (
            (93.0, 92.0, 91.0),
            (1.0, 1.2, 0.0),
            RETURN,
            "alto is better than lamb by 91.3 in test mean return (89.7 to 92.9)",
        ),
        (
            (0.001, 0.002, 0.004),
            (0.004, 0.009, 0.018),
            LOSS,
            "alto is better than lamb: its test mean squared error is 0.23 of lamb's (0.20 to 0.27)",
        ),
        (
            (0.004, 0.009, 0.018),
            (0.001, 0.002, 0.004),
            LOSS,
            "lamb is better than alto: its test mean squared error is 0.23 of alto's (0.20 to 0.27)",
        ),
        (
            (30.0, 31.0, 29.5),
            (20.0, 20.1, 20.2),
            Metric("score", maximize=True, scale="log"),
            "alto is better than lamb: its test score is 1.50 times lamb's (1.40 to 1.61)",
        ),
        (
            (0.001, 0.002, 0.01),
            (0.004, 0.009, 0.0045),
            LOSS,
            "No significant difference between alto and lamb: alto's test mean squared error is 0.5 of lamb's "
            "(0.02 to 12); differences above a factor of about 69 would have been detected",
        ),
        (
            (0.001, 0.2),
            (0.004, 0.001),
            LOSS,
            "No significant difference between alto and lamb: lamb's test mean squared error is 0.14 of alto's "
            "(5.1e-20 to 3.9e+17)",
        ),
        (
            (90.0, 91.0, 92.0),
            (90.2778, 91.0, 92.0),
            ACCURACY,
            "The metric is too coarse to compare alto and lamb: all differences are within one test example "
            "(0.28 points)",
        ),
        (
            (90.0, 91.0),
            (90.8, 91.8),
            ACCURACY,
            "The metric is too coarse to compare alto and lamb: the spread between rounds is below one test example "
            "(0.28 points); lamb ahead by 0.8 points of test accuracy (-1.7 to 3.3)",
        ),
        (
            (2.0, 2.1),
            (2.5, 2.6),
            Metric("errors", maximize=False, scale="log", resolution=0.5),
            "The metric is too coarse to compare alto and lamb: all differences are within one test example (0.5)",
        ),
        (
            (90.0, 91.0),
            (90.0, 91.0),
            ACCURACY,
            "No difference between alto and lamb: equal test accuracy in both rounds",
        ),
        (
            (1.0,) * 5,
            (1.0,) * 5,
            LOSS,
            "No difference between alto and lamb: equal test mean squared error in all 5 rounds",
        ),
    ],
)
def test_the_verdict_in_words(alto: Values, lamb: Values, metric: Metric, sentence: str) -> None:
    assert alto_and_lamb(alto, lamb, metric).sentence == sentence


@pytest.mark.parametrize(
    ("alto", "lamb", "sentence"),
    [
        (
            (92.5, 92.1, 93.9, None),
            (91.0, 91.0, 92.0, 90.6),
            "Neither alto nor lamb is better: alto ahead by 1.5 points of test accuracy (0.5 to 2.5) where both "
            "finished, but it diverged more often; alto diverged in 1 of 4 rounds",
        ),
        (
            (92.5, 92.1, 93.9, 92.0, 91.0),
            (91.0, 91.0, 92.0, None, None),
            "alto is better than lamb by 1.5 points of test accuracy (0.5 to 2.5); lamb diverged in 2 of 5 rounds",
        ),
        (
            (92.5, None, None),
            (91.0, 91.0, None),
            "Only 1 round that both finished: no interval; alto ahead by 1.50 points of test accuracy; "
            "alto diverged in 2 of 3 rounds; lamb diverged in 1 of 3 rounds",
        ),
        ((None,) * 5, (91.0,) * 5, "Of alto and lamb only lamb has a result: alto diverged in all 5 rounds"),
        (
            (91.0, None),
            (None, None),
            "Of alto and lamb only alto has a result: alto diverged in 1 of 2 rounds; lamb diverged in both rounds",
        ),
        (
            (None,),
            (None,),
            "Neither alto nor lamb has a result: alto diverged in the only round; lamb diverged in the only round",
        ),
        (
            (None, 91.0),
            (91.0, None),
            "There is no round that both alto and lamb finished: alto diverged in 1 of 2 rounds; "
            "lamb diverged in 1 of 2 rounds",
        ),
        ((), (91.0,), "Of alto and lamb only lamb has a result: alto has no run"),
    ],
)
def test_lost_rounds_in_words(alto: Values, lamb: Values, sentence: str) -> None:
    assert alto_and_lamb(alto, lamb, ACCURACY).sentence == sentence


ONE_ROUND = "; one round: this holds for these tuned values, not for the optimizers"


@pytest.mark.parametrize(
    ("alto", "lamb", "sentence"),
    [
        (*BETTER, "alto is better than lamb by 1.5 points of test accuracy (0.9 to 2.0)"),
        ((92.5,), (91.0,), "One fresh seed: no interval; alto ahead by 1.50 points of test accuracy"),
        (
            (92.5, 93.0),
            (91.0, None),
            "Only 1 fresh seed that both finished: no interval; alto ahead by 1.50 points of test accuracy; "
            "lamb diverged on 1 of 2 fresh seeds",
        ),
        (
            (92.0, 91.0),
            (92.8, 91.8),
            "The metric is too coarse to compare alto and lamb: the spread between fresh seeds is below one test "
            "example (0.28 points); lamb ahead by 0.8 points of test accuracy (-1.7 to 3.3)",
        ),
    ],
)
def test_one_round_speaks_of_its_tuned_values(alto: Values, lamb: Values, sentence: str) -> None:
    assert alto_and_lamb(alto, lamb, ACCURACY, unit="seed").sentence == sentence + ONE_ROUND


def test_details_are_what_a_statistician_wants() -> None:
    assert alto_and_lamb(*BETTER, ACCURACY, shared=3).details == (
        "4 rounds; mean difference alto - lamb 1.5, 98.33 % interval 0.6 to 2.3 (Student's t; Bonferroni over 3 "
        "pairs); standard deviation of the differences 0.34; Hedges' g 3.1 (0.49 to 8.5); minimum detectable "
        "difference 1.1 at 80 % power; exact signed-rank p = 0.12, which decides nothing"
    )
    assert alto_and_lamb((0.004, 0.009, 0.018), (0.001, 0.002, 0.004), LOSS, unit="seed").details == (
        "3 fresh seeds; geometric mean of alto / lamb 4.3, 95 % interval 3.7 to 5.1 (Student's t on logarithms); "
        "standard deviation of the log ratios 0.068; Hedges' g 12 (3.4 to 41); minimum detectable ratio 1.2 at "
        "80 % power; exact signed-rank p = 0.25, which decides nothing"
    )
    assert "(Student's t; Bonferroni over 2 pairs)" in alto_and_lamb(*BETTER, ACCURACY, shared=2).details
    assert "Bonferroni" not in alto_and_lamb(*BETTER, ACCURACY).details
    large = alto_and_lamb((93.0, 92.0, 91.0), (1.0, 1.2, 0.0), RETURN).details
    assert "Hedges' g 80 (23 to 27" in large


def test_details_say_what_was_taken_for_what() -> None:
    floored = alto_and_lamb((90.0, 91.0, 92.0), (90.2778, 91.0, 92.0), ACCURACY).details
    assert "standard deviation of the differences 0.16, taken as 0.28, one test example's worth; minimum" in floored
    errors = Metric("errors", maximize=False, scale="log", resolution=1.0)
    raised = alto_and_lamb((0.0, 1.0), (3.0, 4.0), errors).details
    assert raised.endswith("; values below half a test example were taken as half of one")
    linear = alto_and_lamb((0.0, 1.0), (3.0, 4.5), LOSS).details
    assert linear.endswith("; linear scale, since a value is not positive and has no logarithm")
    assert alto_and_lamb((92.5,), (91.0,), ACCURACY).details == "1 round; mean difference alto - lamb 1.50"
    assert alto_and_lamb((None,), (91.0,), ACCURACY).details == ""


def test_no_sentence_has_a_p_value() -> None:
    for alto, lamb in (BETTER, OPEN):
        assert "p =" not in alto_and_lamb(alto, lamb, ACCURACY).sentence


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.2312, 0.1112, 0.4812), ["0.23", "0.11", "0.48"]),
        ((1.0031, 0.9981, 1.0082), ["1.003", "0.998", "1.008"]),
        ((1.2, 1.0004, 1.44), ["1.2000", "1.0004", "1.4400"]),
        ((0.75, 0.0, float("inf")), ["0.75", "0", "infinity"]),
        ((0.5, 0.2, 0.9996), ["0.5", "0.2", "0.9996"]),
        ((1.0, 1.0, 1.0), ["1.00", "1.00", "1.00"]),
    ],
)
def test_a_ratio_has_the_digits_that_mean_something(values: tuple[float, ...], texts: list[str]) -> None:
    assert ratios(values[0], values[1:]) == texts


def test_two_digits() -> None:
    assert [about(value) for value in (1.4567, 0.0321, 123.4, 2e6, 1.0, 1.00004)] == [
        *("1.5", "0.032", "123", "2e+06", "1", "1"),
    ]


def test_a_limit_reads_zero_only_if_it_is() -> None:
    assert decimals(0.5, [0.02, 0.98]) == 2
    assert decimals(0.5, [0.0, 1.0]) == decimals(0.5, [-0.1, 1.1]) == 1
    assert [fixed(value, 1) for value in (-0.02, 12.34, 1e8)] == ["0.0", "12.3", "1e+08"]
    assert fixed(1.23e-9, 11) == "1.2e-09"


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
