import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from src.core.estimates import DuplicateAgreement
from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE, TONES
from src.core.records import Interval
from src.evaluation.label_noise import duplicate_agreement, noise_rate

RESAMPLES = 500


def agreement(*groups: list[str], resamples: int = RESAMPLES) -> DuplicateAgreement | None:
    """What near-duplicates say where these are the labels of each group."""
    label_of = {f"{g} {i}": label for g, labels in enumerate(groups) for i, label in enumerate(labels)}
    return duplicate_agreement(
        label_of, {key: key.split()[0] for key in label_of}, len(TONES), seed=7, resamples=resamples
    )


def required(*groups: list[str], resamples: int = RESAMPLES) -> DuplicateAgreement:
    result = agreement(*groups, resamples=resamples)
    assert result is not None
    return result


def test_two_disagreeing_posts() -> None:
    result = required([POSITIVE, NEGATIVE])
    assert (result.near_duplicates, result.groups, result.conflicting_groups) == (2, 1, 1)
    assert (result.pairs, result.disagreeing_pairs) == (1, 1)
    assert result.disagreement == Interval(1.0, None, None)
    assert result.majority_accuracy == Interval(0.5, None, None)
    assert result.majority_accuracy_all == 0.5


def test_groups_of_two_in_closed_form() -> None:
    """Of n near-duplicates in pairs of which d disagree, one post in each such pair is wrong: the best is 1 - d / 2."""
    result = required(*[[POSITIVE, NEUTRAL]] * 3, *[[NEGATIVE, NEGATIVE]] * 9, *[[POSITIVE]] * 76)
    assert result.posts == 100
    assert result.disagreement.value == result.pair_disagreement.value == 3 / 12
    assert result.majority_accuracy.value == 1 - 3 / 24
    assert result.majority_accuracy_all == 1 - 3 / 100
    assert result.noise_rate.value == pytest.approx(2 / 3 * (1 - (1 - 1.5 * 0.25) ** 0.5))
    assert result.true_label_accuracy.value == pytest.approx(1 - result.noise_rate.value)


def test_counts_equal_those_of_all_pairs() -> None:
    chance = random.Random(5)
    groups = [chance.choices(TONES, (0.2, 0.2, 0.6), k=chance.choice([1, 2, 2, 3, 7])) for _ in range(60)]
    result, several = required(*groups), [group for group in groups if len(group) > 1]
    pairs = [pair for group in several for pair in combinations(group, 2)]
    disagreeing = sum(a != b for a, b in pairs)
    assert (result.pairs, result.disagreeing_pairs) == (len(pairs), disagreeing)
    assert result.pair_disagreement.value == pytest.approx(disagreeing / len(pairs))
    # Every post against the others of its group, all posts counted alike.
    alone = [
        np.mean([group[i] != group[j] for j in range(len(group)) if j != i])
        for group in several
        for i in range(len(group))
    ]
    assert result.disagreement.value == pytest.approx(np.mean(alone))
    assert result.conflicting_groups == sum(len(set(group)) > 1 for group in several)
    # The best tone for each group, all three tried.
    best = sum(max(sum(label == tone for label in group) for tone in TONES) for group in several)
    assert result.majority_accuracy.value == pytest.approx(best / sum(map(len, several)))
    assert result.majority_accuracy_all == pytest.approx(1 - (sum(map(len, several)) - best) / sum(map(len, groups)))


def test_large_group_dominates_pairs_alone() -> None:
    result = required([POSITIVE] * 15 + [NEGATIVE] * 15, *[[NEUTRAL, NEUTRAL]] * 30)
    assert result.pair_disagreement.value > 0.45
    assert result.disagreement.value == pytest.approx(30 / 90 * 225 / 435)


def test_no_duplicates_no_agreement() -> None:
    assert agreement([POSITIVE], [NEGATIVE], [NEUTRAL]) is None
    assert agreement() is None


def test_agreeing_duplicates_have_exact_interval() -> None:
    result = required(*[[POSITIVE, POSITIVE]] * 9)
    assert result.disagreement == result.noise_rate == Interval(0.0, None, None)
    assert result.majority_accuracy == result.true_label_accuracy == Interval(1.0, None, None)


@pytest.mark.parametrize("wrong", [0.0, 0.01, 0.1, 0.25, 0.5, 2 / 3])
def test_noise_rate_inverts_the_model(wrong: float) -> None:
    """Two labels agree where both are right, or both wrong in the same of two ways."""
    disagreement = 1 - (1 - wrong) ** 2 - 2 * (wrong / 2) ** 2
    assert noise_rate(np.array(disagreement), 3) == pytest.approx(wrong, abs=1e-7)


@pytest.mark.parametrize("disagreement", [0.67, 0.9, 1.0])
def test_noise_rate_is_bounded_by_chance(disagreement: float) -> None:
    assert noise_rate(np.array(disagreement), 3) == pytest.approx(2 / 3)


def test_noise_interval_covers_the_rate() -> None:
    """Groups of two and three under the model, a label in eight wrong."""
    chance, wrong, covered, draws = random.Random(1), 1 / 8, Counter[bool](), 200

    def label(true: int) -> str:
        return TONES[(true + (chance.randint(1, 2) if chance.random() < wrong else 0)) % 3]

    for _ in range(draws):
        trues = [chance.randrange(3) for _ in range(100)]
        groups = [[label(true) for _ in range(chance.choice([2, 2, 2, 3]))] for true in trues]
        interval = required(*groups, resamples=400).noise_rate
        assert interval.low is not None and interval.high is not None
        covered[interval.low <= wrong <= interval.high] += 1
    assert 0.9 <= covered[True] / draws <= 0.99
