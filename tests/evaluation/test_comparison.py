"""Comparisons against scipy and hand calculation, and against simulated systems of which the truth is known."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, norm

from src.core.estimates import Comparison, Verdict
from src.core.labels import TONES
from src.core.records import Interval, Prediction
from src.evaluation.comparison import ALPHA, compare, posts_needed, verdicts
from src.evaluation.metrics import scores

Systems = tuple[list[Prediction], list[Prediction]]


SHARES = {"negative": 0.2, "neutral": 0.3, "positive": 0.5}


def systems(only_first: int, only_second: int, both: int, neither: int = 0) -> Systems:
    """Two systems by how many posts which of them judges rightly; tones take turns."""
    outcomes = [*[(1, 0)] * only_first, *[(0, 1)] * only_second, *[(1, 1)] * both, *[(0, 0)] * neither]
    return judged(np.array(outcomes))


def judged(right_N2: np.ndarray) -> Systems:
    first, second = ([prediction(key, bool(row[k])) for key, row in enumerate(right_N2)] for k in (0, 1))
    return first, second


def prediction(key: int, right: bool) -> Prediction:
    actual = key % 3
    return Prediction(str(key), TONES[actual], TONES[actual if right else (actual + 1) % 3], SHARES)


def alone(rows: list[Prediction]) -> dict[str, str]:
    return {row.id: row.id for row in rows}


def compared(first: list[Prediction], second: list[Prediction], resamples: int = 1999) -> Comparison:
    return compare(first, second, alone(first), seed=1, resamples=resamples)


# Tests and intervals


@pytest.mark.parametrize(("only_first", "only_second"), [(9, 2), (2, 9), (40, 21), (5, 5), (0, 0), (1, 0)])
def test_mcnemar_is_the_exact_binomial(only_first: int, only_second: int) -> None:
    result = compared(*systems(only_first, only_second, both=30), resamples=99)
    assert (result.only_first, result.only_second) == (only_first, only_second)
    differing = only_first + only_second
    assert result.mcnemar_p == pytest.approx(binomtest(only_first, differing).pvalue if differing else 1)


def test_difference_without_duplicates_equals_scipy() -> None:
    first, second = systems(60, 40, both=300, neither=119)
    result = compared(first, second).accuracy
    differences = [
        float((a.actual == a.predicted) - (b.actual == b.predicted)) for a, b in zip(first, second, strict=True)
    ]
    wanted = bootstrap((differences,), np.mean, n_resamples=1999, method="BCa", rng=np.random.default_rng(1))
    assert result.value == pytest.approx(20 / 519)
    assert (result.low, result.high) == pytest.approx(tuple(wanted.confidence_interval))


def test_macro_f1_difference_equals_scores() -> None:
    first, second = systems(21, 12, both=50, neither=17)
    result = compared(first, second, resamples=99)
    assert result.macro_f1.value == pytest.approx(scores(first).macro_f1 - scores(second).macro_f1)


def test_bootstrap_p_is_nearly_normal() -> None:
    result = compared(*systems(60, 40, both=300, neither=119), resamples=9999)
    z = (60 - 40) / np.sqrt(100 - (60 - 40) ** 2 / 519)
    assert result.bootstrap_p == pytest.approx(2 * norm.sf(z), abs=0.01)


def test_swapped_systems_negate_the_difference() -> None:
    first, second = systems(12, 4, both=30)
    result, turned = compared(first, second), compared(second, first)
    assert turned.accuracy.value == -result.accuracy.value
    assert (turned.mcnemar_p, turned.posts_needed) == (result.mcnemar_p, result.posts_needed)
    assert turned.bootstrap_p == pytest.approx(result.bootstrap_p)


def test_equal_systems_have_no_difference() -> None:
    first, _ = systems(3, 3, both=20)
    result = compared(first, first)
    assert (result.accuracy, result.p, result.posts_needed) == (Interval(0.0, None, None), 1.0, None)


# Which of the two tests decides


def test_verdict_heeds_near_duplicates() -> None:
    """Two systems equally good, on 60 tweets that are there twice each: neither is better, whatever a test may say."""
    rng, results, num_cases = np.random.default_rng(0), [], 300
    for case in range(num_cases):
        tweets = rng.choice(4, size=60, p=[0.2, 0.2, 0.5, 0.1])
        right = np.array([(1, 0), (0, 1), (1, 1), (0, 0)])[np.repeat(tweets, 2)]
        first, second = judged(right)
        group_of = {row.id: str(int(row.id) // 2) for row in first}
        results.append(compare(first, second, group_of, seed=case, resamples=399))
    errors = {
        name: np.mean([getattr(each, name) < ALPHA for each in results]) for name in ("mcnemar_p", "bootstrap_p", "p")
    }
    assert errors["mcnemar_p"] > 0.1
    assert errors["bootstrap_p"] < 0.08
    assert errors["p"] < 0.08


def test_verdict_heeds_mcnemar_on_few_posts() -> None:
    """Eight tosses of a coin that fall alike: 2 / 2^8, not the 2 / e^8 of resamples that miss all eight."""
    result = compared(*systems(8, 0, both=16), resamples=9999)
    assert result.bootstrap_p == pytest.approx(2 * (1 - 8 / 24) ** 24, abs=0.001)
    assert result.p == result.mcnemar_p == pytest.approx(2 / 2**8)
    assert result.bootstrap_p < ALPHA / 22 < result.p


# Verdicts


def comparison(p: float, difference: float = 0.1) -> Comparison:
    interval = Interval(difference, None, None)
    return Comparison(100, 0, 0, interval, interval, mcnemar_p=p, bootstrap_p=p / 2, posts_needed=None)


def test_family_is_corrected_by_holm() -> None:
    p_values = [0.04, 0.001, 0.011, 0.3, 0.012]
    # The k-th smallest of n times n - k + 1, and no less than the one before.
    by_hand = {0.001: 5 * 0.001, 0.011: 4 * 0.011, 0.012: 4 * 0.011, 0.04: 2 * 0.04, 0.3: 0.3}
    answers = verdicts([comparison(p) for p in p_values])
    assert [each.p_holm for each in answers] == pytest.approx([by_hand[p] for p in p_values])
    assert [each.answer for each in answers] == ["cannot tell", "yes", "yes", "cannot tell", "yes"]


def test_verdict_depends_on_the_family() -> None:
    assert verdicts([comparison(0.03)])[0] == Verdict("yes", 0.03)
    assert verdicts([comparison(0.03)] * 10)[0].answer == "cannot tell"


def test_worse_system_is_not_better() -> None:
    assert verdicts([comparison(0.001, difference=-0.1)])[0].answer == "no"


# How many posts it takes


@pytest.mark.parametrize(("only_first", "only_second"), [(0.12, 0.06), (0.25, 0.2), (0.05, 0.08)])
def test_posts_needed_have_80_percent_power(only_first: float, only_second: float) -> None:
    needed = posts_needed(only_first, only_second)
    assert needed is not None
    assert power(needed, only_first, only_second) == pytest.approx(0.8, abs=0.025)
    assert power(needed // 2, only_first, only_second) < 0.6


def power(posts: int, only_first: float, only_second: float) -> float:
    """How often McNemar's test, in its large-sample form, tells two simulated systems apart."""
    shares = [only_first, only_second, 1 - only_first - only_second]
    a, b, _ = np.random.default_rng(0).multinomial(posts, shares, size=20_000).T
    z = (a - b) / np.sqrt(np.maximum(a + b, 1))
    return float(np.mean(abs(z) > norm.ppf(1 - ALPHA / 2)))


def test_equal_systems_need_endless_posts() -> None:
    assert posts_needed(0.1, 0.1) is None
    assert posts_needed(0, 0) is None


def test_posts_needed_if_one_system_dominates() -> None:
    z_alpha, z_power = norm.ppf(0.975), norm.ppf(0.8)
    wanted = (z_alpha * np.sqrt(0.1) + z_power * np.sqrt(0.1 * 0.9)) ** 2 / 0.1**2
    assert posts_needed(0.1, 0) == np.ceil(wanted)
