import pytest

from src.core.records import Prediction
from src.evaluation.comparison import mean_differences
from src.evaluation.metrics import scores

TONES = ("negative", "neutral", "positive")


def predictions(correct: set[int], num_posts: int = 60) -> list[Prediction]:
    """Return predictions of posts whose tones take turns; those that are wrong name the next tone."""
    rows = []
    for number in range(num_posts):
        actual = TONES[number % 3]
        predicted = actual if number in correct else TONES[(number + 1) % 3]
        rows.append(Prediction(str(number), actual, predicted, {tone: float(tone == predicted) for tone in TONES}))
    return rows


GROUPS = {str(number): str(number) for number in range(60)}
GOOD = {8: predictions(set(range(50))), 9: predictions(set(range(48)))}
BAD = {8: predictions(set(range(30))), 9: predictions(set(range(36)))}


def test_value_is_the_mean_over_seeds() -> None:
    result = mean_differences(GOOD, BAD, GROUPS, seed=7, resamples=500)
    assert result["accuracy"].value == pytest.approx((20 + 12) / 60 / 2)
    macro = [scores(GOOD[seed]).macro_f1 - scores(BAD[seed]).macro_f1 for seed in (8, 9)]
    assert result["macro_f1"].value == pytest.approx(sum(macro) / 2)
    low, high = result["accuracy"].low, result["accuracy"].high
    assert low is not None and high is not None and 0 < low < result["accuracy"].value < high


def test_interval_ignores_how_many_seeds_say_the_same() -> None:
    """More seeds with equal answers are no more posts."""
    once = mean_differences({8: GOOD[8]}, {8: BAD[8]}, GROUPS, seed=7, resamples=500)
    often = dict.fromkeys(range(5), GOOD[8]), dict.fromkeys(range(5), BAD[8])
    assert mean_differences(*often, GROUPS, seed=7, resamples=500) == once


def test_only_common_seeds_count() -> None:
    one = mean_differences({8: GOOD[8]}, BAD, GROUPS, seed=7, resamples=100)
    assert one["accuracy"].value == pytest.approx(20 / 60)
    assert mean_differences({3: GOOD[8]}, BAD, GROUPS, seed=7) == {}


def test_near_duplicates_widen_the_interval() -> None:
    pairs = {str(number): str(number // 6) for number in range(60)}
    alone = mean_differences(GOOD, BAD, GROUPS, seed=7, resamples=2000)["accuracy"]
    grouped = mean_differences(GOOD, BAD, pairs, seed=7, resamples=2000)["accuracy"]
    assert alone.low is not None and alone.high is not None
    assert grouped.low is not None and grouped.high is not None
    assert grouped.high - grouped.low > alone.high - alone.low
