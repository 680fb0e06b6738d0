import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from src.core.errors import UserError
from src.core.labels import TONES
from src.core.records import Post, Prediction
from src.evaluation.label_noise import PooledPredictions, joint_distribution, label_issues, pool_predictions
from src.training.baselines import Examples, out_of_fold, probe

NUM_POSTS, FLIPPED = 600, 0.1


def table(labels_N: NDArray[np.int64], probabilities_NK: NDArray[np.float64]) -> list[Prediction]:
    return [
        Prediction(str(key), TONES[label], TONES[int(row.argmax())], dict(zip(TONES, row.tolist(), strict=True)))
        for key, (label, row) in enumerate(zip(labels_N, probabilities_NK, strict=True))
    ]


def system(labels_N: NDArray[np.int64], knowledge: float, seed: int) -> list[Prediction]:
    """Predictions of a system that knows nothing at 0, and the more the higher."""
    logits_NK = np.random.default_rng(seed).normal(size=(len(labels_N), 3))
    logits_NK[np.arange(len(labels_N)), labels_N] += knowledge
    shares_NK = np.exp(logits_NK)
    return table(labels_N, shares_NK / shares_NK.sum(1, keepdims=True))


KNOWLEDGE = {"tfidf": 2.0, "clip probe": 1.0, "blip2 probe": 0.3}


@pytest.fixture
def labels_N() -> NDArray[np.int64]:
    return np.random.default_rng(3).choice(3, size=400, p=(0.28, 0.18, 0.54))


# Pooling


def test_weights_maximise_the_likelihood(labels_N: NDArray[np.int64]) -> None:
    """Against a general optimiser on the simplex."""
    tables = {name: system(labels_N, knowledge, seed) for seed, (name, knowledge) in enumerate(KNOWLEDGE.items())}
    pooled = pool_predictions(tables)
    likelihood_SN = np.array([[row.probabilities[row.actual] for row in each] for each in tables.values()])

    def loss(weights_S: NDArray[np.float64]) -> float:
        return -float(np.log(weights_S @ likelihood_SN).mean())

    rule = {"type": "eq", "fun": lambda weights_S: weights_S.sum() - 1}
    best = minimize(loss, np.full(3, 1 / 3), bounds=[(0, 1)] * 3, constraints=[rule], tol=1e-12)
    assert list(pooled.weights) == list(KNOWLEDGE)
    assert list(pooled.weights.values()) == pytest.approx(best.x, abs=5e-3)
    assert loss(np.array(list(pooled.weights.values()))) <= best.fun + 1e-6
    expected_NK = sum(
        weight * np.array([list(row.probabilities.values()) for row in tables[name]])
        for name, weight in pooled.weights.items()
    )
    assert pooled.probabilities_NK == pytest.approx(expected_NK)


def test_useless_system_has_little_weight(labels_N: NDArray[np.int64]) -> None:
    pooled = pool_predictions({"good": system(labels_N, 3.0, seed=1), "useless": system(labels_N, 0.0, seed=2)})
    assert pooled.weights["good"] > 0.9
    assert sum(pooled.weights.values()) == pytest.approx(1)


def test_single_system_is_unchanged(labels_N: NDArray[np.int64]) -> None:
    rows = system(labels_N, 1.0, seed=1)
    pooled = pool_predictions({"tfidf": rows})
    assert pooled.weights == {"tfidf": pytest.approx(1)}
    assert pooled.probabilities_NK[7].tolist() == pytest.approx(list(rows[7].probabilities.values()))


def test_order_of_posts_does_not_matter(labels_N: NDArray[np.int64]) -> None:
    first, second = system(labels_N, 2.0, seed=1), system(labels_N, 1.0, seed=2)
    pooled, turned = pool_predictions({"a": first, "b": second}), pool_predictions({"a": first, "b": second[::-1]})
    assert pooled.probabilities_NK == pytest.approx(turned.probabilities_NK)
    assert turned.ids == [row.id for row in first]


def test_unseen_tone_gives_finite_probabilities() -> None:
    labels_N = np.array([0, 1, 2] * 10)
    sure_NK = np.tile([0.0, 0.0, 1.0], (30, 1))
    pooled = pool_predictions({"blind": table(labels_N, sure_NK), "blinder": table(labels_N, sure_NK[:, [2, 1, 0]])})
    assert np.isfinite(pooled.probabilities_NK).all()
    assert pooled.probabilities_NK.sum(1) == pytest.approx(1)


@pytest.mark.parametrize("fault", ["a post fewer", "another label"])
def test_systems_of_other_posts_are_refused(labels_N: NDArray[np.int64], fault: str) -> None:
    first, second = system(labels_N, 2.0, seed=1), system(labels_N, 1.0, seed=2)
    other = next(tone for tone in TONES if tone != second[-1].actual)
    changed = second[:-1] if fault == "a post fewer" else [*second[:-1], replace(second[-1], actual=other)]
    with pytest.raises(UserError, match="clip probe and tfidf"):
        pool_predictions({"tfidf": first, "clip probe": changed})


# Confident learning


@cache
def planted() -> tuple[PooledPredictions, set[str]]:
    """Posts whose tones lie apart in two features, judged out of fold after one label in ten was replaced."""
    generator, chance = np.random.default_rng(11), random.Random(11)
    true_N = generator.choice(3, size=NUM_POSTS, p=(0.28, 0.18, 0.54))
    centres_KD = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    inputs_ND = centres_KD[true_N] + generator.normal(size=(NUM_POSTS, 2))
    flipped = set(chance.sample(range(NUM_POSTS), round(FLIPPED * NUM_POSTS)))
    labels = [TONES[(int(tone) + chance.randint(1, 2) * (key in flipped)) % 3] for key, tone in enumerate(true_N)]
    posts = [Post(str(key), "", "", label, label, label, "") for key, label in enumerate(labels)]
    data = Examples(posts, inputs_ND)
    classifier = probe(data, data, data, label_names=TONES).chosen.classifier
    held_out = out_of_fold(classifier, data, {post.id: post.id for post in posts}, seed=1, label_names=TONES)
    return pool_predictions({"probe": held_out}), {str(key) for key in flipped}


def test_planted_errors_come_first() -> None:
    """Three in four of the 60 at least, hardly a right label among them, and none among the first 40."""
    pooled, flipped = planted()
    suspects = [each.id for each in label_issues(pooled)]
    assert len(flipped.intersection(suspects)) >= 0.75 * len(flipped)
    assert len(flipped.intersection(suspects)) >= 0.9 * len(suspects)
    assert set(suspects[:40]) <= flipped


def test_share_of_wrong_labels_is_estimated() -> None:
    pooled, _ = planted()
    assert 1 - np.trace(joint_distribution(pooled)) == pytest.approx(FLIPPED, abs=0.03)


def test_suspect_names_the_likelier_tone() -> None:
    pooled, _ = planted()
    rows = dict(zip(pooled.ids, zip(pooled.labels_N, pooled.probabilities_NK, strict=True), strict=True))
    issues = label_issues(pooled)
    for each in issues:
        label, row = rows[each.id]
        others = np.delete(row, label)
        assert each.label == TONES[label] != each.suggested == TONES[int(row.argmax())]
        assert each.quality == pytest.approx((row[label] - others.max() + 1) / 2)
        assert each.label_probability == pytest.approx(row[label])
    assert [each.quality for each in issues] == sorted(each.quality for each in issues)


def test_joint_equals_the_papers_equations() -> None:
    """Equations 1 to 3 of Northcutt et al., written down: thresholds, confident counts, calibration."""
    pooled, _ = planted()
    labels_N, shares_NK = pooled.labels_N, pooled.probabilities_NK
    thresholds_K = [shares_NK[labels_N == k, k].mean() for k in range(3)]
    counts_KK = np.zeros((3, 3))
    for label, row in zip(labels_N, shares_NK, strict=True):
        confident = [k for k in range(3) if row[k] >= thresholds_K[k] - 1e-6]
        if confident:
            counts_KK[label, max(confident, key=lambda k: row[k])] += 1
    tones_K = np.bincount(labels_N)
    expected_KK = counts_KK / counts_KK.sum(1, keepdims=True) * tones_K[:, None] / len(labels_N)
    # The library rounds each row to whole posts.
    assert joint_distribution(pooled) == pytest.approx(expected_KK, abs=1.5 / len(labels_N))
    assert joint_distribution(pooled).sum(1) == pytest.approx(tones_K / len(labels_N))


def test_agreeing_systems_leave_no_suspects(labels_N: NDArray[np.int64]) -> None:
    pooled = pool_predictions({"oracle": table(labels_N, 0.94 * np.eye(3)[labels_N] + 0.02)})
    assert label_issues(pooled) == []
    assert np.trace(joint_distribution(pooled)) == pytest.approx(1)
