import numpy as np
import pytest
from scipy.stats import ttest_1samp

from src.core.records import Interval, Prediction
from src.evaluation.comparison import ALPHA
from src.evaluation.metrics import scores
from src.evaluation.seed_means import compare_mean, mean_differences, mean_scores, seed_means
from src.evaluation.systems import Kind, System

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


def test_mean_score_has_an_interval_over_posts() -> None:
    result = mean_scores(GOOD, GROUPS, seed=7, resamples=500)
    assert result["accuracy"].value == pytest.approx(49 / 60)
    assert result["macro_f1"].value == pytest.approx((scores(GOOD[8]).macro_f1 + scores(GOOD[9]).macro_f1) / 2)
    low, high = result["accuracy"].low, result["accuracy"].high
    assert low is not None and high is not None and 0.6 < low < 49 / 60 < high < 0.95


# Against one system


def test_comparison_holds_both_intervals() -> None:
    rival = predictions(set(range(30)))
    result = compare_mean(GOOD, rival, GROUPS, seed=7, resamples=500)
    assert (result.seeds, result.posts) == (2, 60)
    assert result.accuracy.value == pytest.approx(19 / 60)
    assert result.accuracy_over_seeds.value == pytest.approx(19 / 60)
    macro = [scores(rows).macro_f1 - scores(rival).macro_f1 for rows in GOOD.values()]
    assert result.macro_f1.value == pytest.approx(sum(macro) / 2)
    assert result.macro_f1_over_seeds.value == pytest.approx(sum(macro) / 2)
    assert result.seeds_p == pytest.approx(ttest_1samp([20 / 60, 18 / 60], 0).pvalue)
    assert result.p == max(result.posts_p, result.seeds_p)


def test_sign_flips_are_exact_on_few_posts() -> None:
    """Of eight posts the trainings alone are right on all: 2 of 2^8 choices of signs are as extreme."""
    right, wrong = predictions(set(range(8)), 8), predictions(set(), 8)
    groups = {str(number): str(number) for number in range(8)}
    assert compare_mean({8: right, 9: right}, wrong, groups, seed=7, resamples=999).posts_p == pytest.approx(2 / 2**8)
    pairs = {str(number): str(number // 2) for number in range(8)}
    assert compare_mean({8: right, 9: right}, wrong, pairs, seed=7, resamples=999).posts_p == pytest.approx(2 / 2**4)


def test_seeds_without_spread() -> None:
    right, wrong = predictions(set(range(40))), predictions(set(range(30)))
    better = compare_mean({8: right, 9: right}, wrong, GROUPS, seed=7, resamples=500)
    assert better.accuracy_over_seeds.value == pytest.approx(1 / 6)
    assert (better.seeds_p, better.accuracy_over_seeds.low) == (0.0, None)
    equal = compare_mean({8: right, 9: right}, right, GROUPS, seed=7, resamples=500)
    assert (equal.p, equal.accuracy) == (1.0, Interval(0.0, None, None))


def test_level_holds_with_near_duplicates() -> None:
    """Trainings and a rival that are equally good, on 30 tweets that are there twice each."""
    rng, p_values = np.random.default_rng(0), []
    groups = {str(number): str(number // 2) for number in range(60)}
    for case in range(200):
        drawn = [{number for number in range(60) if right[number // 2]} for right in rng.random((4, 30)) < 0.7]
        trainings = {seed: predictions(correct) for seed, correct in enumerate(drawn[:3])}
        p_values.append(compare_mean(trainings, predictions(drawn[3]), groups, seed=case, resamples=299).posts_p)
    assert np.mean([p < ALPHA for p in p_values]) < 0.09


def test_two_trainings_or_more_have_a_mean() -> None:
    def trained(model: str, kind: Kind, number: int) -> System:
        return System(kind, model, GOOD[8], GOOD[8], number)

    further = [trained("clip", "seed", 8), trained("clip", "seed", 9), trained("clip", "trial", 3)]
    further += [trained("llava", "seed", 8), trained("llava", "trial", 2)]
    (mean,) = seed_means(further)
    assert (mean.name, list(mean.test)) == ("clip seeds", [8, 9])
