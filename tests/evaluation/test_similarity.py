import math

import numpy as np
import pytest
from scipy.stats import norm, pointbiserialr
from statsmodels.stats.proportion import proportion_confint

from src.core.labels import NEGATIVE, POSITIVE
from src.core.records import Prediction
from src.evaluation.similarity import point_biserial, similarity_correlation

SHARES = {"negative": 0.2, "neutral": 0.3, "positive": 0.5}


FEW = 200


def said(right: list[bool]) -> list[Prediction]:
    return [Prediction(str(n), POSITIVE, POSITIVE if each else NEGATIVE, SHARES) for n, each in enumerate(right)]


def alone(n: int) -> dict[str, str]:
    return {str(number): str(number) for number in range(n)}


def drawn(n: int, seed: int, noise: float = 1.0) -> tuple[dict[str, float], list[bool]]:
    """Cosines, and whether the model is right: the likelier the larger the cosine and the less noise there is."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=n)
    right = x + noise * chance.normal(size=n) > 0
    return {str(k): 0.25 + 0.02 * float(value) for k, value in enumerate(x)}, right.tolist()


def test_correlations_are_those_of_other_implementations() -> None:
    cosine_of, right = drawn(80, seed=1)
    correlation = similarity_correlation(cosine_of, said(right), alone(80), seed=1, resamples=FEW)
    assert correlation is not None and correlation.point_biserial is not None
    assert correlation.point_biserial.value == pytest.approx(pointbiserialr(right, list(cosine_of.values())).statistic)
    # Spearman's for a variable of two values, from the Mann-Whitney ranks of those that are right.
    ranks = np.argsort(np.argsort(list(cosine_of.values()))) + 1
    n, share = len(right), np.mean(right)
    gap = ranks[right].mean() - ranks[~np.array(right)].mean()
    assert correlation.spearman == pytest.approx(gap * math.sqrt(share * (1 - share)) / math.sqrt((n**2 - 1) / 12))
    assert correlation.n == 80
    assert correlation.mean == pytest.approx(np.mean(list(cosine_of.values())))


def test_interval_covers_truth() -> None:
    """The true correlation is the normal density at 0 over the standard deviation of a coin, weakened by the noise."""
    noise, runs = 1.5, 300
    truth = norm.pdf(0) / 0.5 / math.sqrt(1 + noise**2)
    covered = 0
    for seed in range(runs):
        cosine_of, right = drawn(100, seed, noise)
        correlation = point_biserial(
            np.array(list(cosine_of.values())), np.array(right, float), list(cosine_of), 1, FEW
        )
        assert correlation.low is not None and correlation.high is not None
        covered += correlation.low <= truth <= correlation.high
    low, high = proportion_confint(covered, runs, alpha=0.001, method="wilson")
    assert low <= 0.95 <= high, covered / runs


def test_near_duplicates_widen_the_interval() -> None:
    cosine_of, right = drawn(40, seed=2)
    often = {str(n): cosine_of[str(n % 40)] for n in range(160)}
    copies = {str(n): str(n % 40) for n in range(160)}

    def width(group_of: dict[str, str]) -> float:
        correlation = similarity_correlation(often, said(right * 4), group_of, seed=1, resamples=FEW)
        assert correlation is not None and correlation.point_biserial is not None
        low, high = correlation.point_biserial.low, correlation.point_biserial.high
        assert low is not None and high is not None
        return high - low

    assert width(copies) > 1.5 * width(alone(160))


def test_quartiles_rise_with_similarity() -> None:
    cosine_of = {str(n): (7 * n % 10) / 10 for n in range(10)}
    right = [cosine_of[str(n)] >= 0.5 for n in range(10)]
    correlation = similarity_correlation(cosine_of, said(right), alone(10), seed=1, resamples=FEW)
    assert correlation is not None
    assert [(each.low, each.high, each.n) for each in correlation.quartiles] == [
        (0.0, 0.2, 3),
        (0.3, 0.5, 3),
        (0.6, 0.7, 2),
        (0.8, 0.9, 2),
    ]
    assert [each.accuracy.value for each in correlation.quartiles] == [0, pytest.approx(1 / 3), 1, 1]


def test_posts_without_cosine_are_dropped() -> None:
    correlation = similarity_correlation(
        {"1": 0.2, "2": 0.3, "77": 0.9}, said([False, False, True, True]), alone(4), seed=1, resamples=FEW
    )
    assert correlation is not None
    assert correlation.n == 2
    assert correlation.mean == pytest.approx(0.25)
    assert [each.n for each in correlation.quartiles] == [1, 1]
    assert similarity_correlation({}, said([True]), alone(1), seed=1, resamples=FEW) is None


@pytest.mark.parametrize(
    ("cosines", "right"), [([0.1, 0.2, 0.3], [True] * 3), ([0.1] * 3, [True, False, True]), ([0.1], [True])]
)
def test_posts_all_alike_have_no_correlation(cosines: list[float], right: list[bool]) -> None:
    cosine_of = {str(n): cosine for n, cosine in enumerate(cosines)}
    correlation = similarity_correlation(cosine_of, said(right), alone(3), seed=1, resamples=FEW)
    assert correlation is not None
    assert correlation.point_biserial is None
    assert correlation.spearman is None


def test_few_posts_give_an_interval() -> None:
    correlation = similarity_correlation(
        {"0": 0.1, "1": 0.2, "2": 0.3}, said([False, True, True]), alone(3), seed=1, resamples=FEW
    )
    assert correlation is not None and correlation.point_biserial is not None
    low, high = correlation.point_biserial.low, correlation.point_biserial.high
    assert low is not None and high is not None
    assert -1 <= low <= correlation.point_biserial.value <= high <= 1
