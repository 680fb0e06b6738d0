import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from src.core.errors import InfeasibleAnalysis
from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE, TONES
from src.core.records import Post, Prediction
from src.evaluation.metrics import scores
from src.training.baselines import PROBE_C, TFIDF_C, Examples, captions, majority, out_of_fold, probe, tfidf, together

WORDS = {NEGATIVE: ["awful", "gloomy"], NEUTRAL: ["report", "station"], POSITIVE: ["lovely", "cheerful"]}
SHARES = (0.28, 0.18, 0.54)


def post(key: int, label: str, caption: str = "") -> Post:
    return Post(str(key), "", caption, label, label, label, f"digest {key}")


def drawn(count: int, first: int = 0) -> list[Post]:
    """Posts of which each has a word of its tone among words of none."""
    chance = random.Random(first)
    posts = []
    for key in range(first, first + count):
        (label,) = chance.choices(TONES, SHARES)
        words = [*chance.choices(["monday", "again", "city", "photo", "evening"], k=5), chance.choice(WORDS[label])]
        posts.append(post(key, label, " ".join(chance.sample(words, len(words)))))
    return posts


def divided(posts: list[Post]) -> tuple[list[Post], list[Post], list[Post]]:
    third = len(posts) // 3
    return posts[:third], posts[third : 2 * third], posts[2 * third :]


def features(posts: list[Post], width: int = 6, spread: float = 1.5, scale: float = 1.0) -> Examples:
    """Noise, with the tone in the first three columns."""
    noise = np.random.default_rng(1).normal(scale=spread, size=(len(posts), width))
    tone_NK = np.array([[post.label == tone for tone in TONES] for post in posts], dtype=float)
    return Examples(posts, scale * np.hstack([noise[:, :3] + tone_NK, noise[:, 3:]]))


def matrix(predictions: list[Prediction]) -> NDArray[np.float64]:
    return np.array([list(row.probabilities.values()) for row in predictions])


# The largest class


def test_majority_predicts_the_largest_class() -> None:
    train = [post(key, label) for key, label in enumerate([POSITIVE] * 5 + [NEGATIVE] * 3 + [NEUTRAL] * 2)]
    test = [post(10, NEUTRAL), post(11, POSITIVE), post(12, NEGATIVE), post(13, NEGATIVE)]
    baseline = majority(train, [post(20, NEUTRAL)], test, label_names=TONES)
    assert [row.predicted for row in baseline.test] == [POSITIVE] * 4
    assert matrix(baseline.test) == pytest.approx(np.array([[0.3, 0.2, 0.5]] * 4))
    assert scores(baseline.test).accuracy == 1 / 4
    # F1 of the one tone that is predicted is 2 / (4 + 1); that of the others is 0.
    assert scores(baseline.test).macro_f1 == pytest.approx(2 / 5 / 3)


def test_absent_tone_has_no_probability() -> None:
    baseline = majority(
        [post(0, POSITIVE), post(1, NEGATIVE), post(2, POSITIVE)],
        [post(3, NEUTRAL)],
        [post(4, NEUTRAL)],
        label_names=TONES,
    )
    assert matrix(baseline.test) == pytest.approx(np.array([[1 / 3, 0, 2 / 3]]))


# TF-IDF


def test_tfidf_learns_words_of_tones() -> None:
    train, val, test = divided(drawn(150))
    baseline = tfidf(train, val, test, label_names=TONES)
    assert scores(baseline.test).accuracy > 0.95
    assert [row.id for row in baseline.test] == [each.id for each in test]
    assert [row.actual for row in baseline.val] == [each.label for each in val]


def test_tfidf_learns_characters() -> None:
    """No two captions share a word, but the tones have endings."""
    endings = dict(zip(TONES, ["less", "tion", "ful"], strict=True))
    letters = "abcdefghijklmnopqrstuvwxyz"
    chance = random.Random(2)
    posts = [
        post(key, label, "".join(chance.choices(letters, k=7)) + endings[label]) for key in range(90) for label in TONES
    ]
    baseline = tfidf(*divided([replace(each, id=str(key)) for key, each in enumerate(posts)]), label_names=TONES)
    assert baseline.chosen.settings["features"] == "words and characters"
    assert scores(baseline.test).accuracy > 0.9


def test_validation_chooses_the_first_best() -> None:
    baseline = tfidf(*divided(drawn(60, first=1000)), label_names=TONES)
    best = max(row["val_macro_f1"] for row in baseline.tried)
    first = next(row for row in baseline.tried if row["val_macro_f1"] == best)
    assert {name: first[name] for name in ("features", "C")} == baseline.chosen.settings
    assert best == scores(baseline.val).macro_f1
    assert len(baseline.tried) == 2 * len(TFIDF_C)


def test_baselines_are_deterministic() -> None:
    parts = divided(drawn(60))
    assert tfidf(*parts, label_names=TONES).test == tfidf(*parts, label_names=TONES).test


def test_empty_captions_leave_the_majority() -> None:
    posts = [post(key, TONES[key % 3 % 2], " ") for key in range(9)]
    assert tfidf(posts, posts, posts, label_names=TONES).test == majority(posts, posts, posts, label_names=TONES).test


def test_captions_without_words_are_read() -> None:
    emoji = dict(zip(TONES, ("\U0001f62d", "!", "\U0001f600\U0001f600"), strict=True))
    posts = [post(key, TONES[key % 3], emoji[TONES[key % 3]]) for key in range(30)]
    fitted = tfidf(posts, posts, posts, label_names=TONES)
    assert fitted.chosen.settings["features"] == "characters"
    assert [row.predicted for row in fitted.test] == [row.actual for row in fitted.test]


# Out of fold, where groups are few


def out_of_fold_in(group_of_place: Callable[[int], str]) -> list[Prediction]:
    posts = drawn(30)
    groups = {each.id: group_of_place(place) for place, each in enumerate(posts)}
    classifier = tfidf(posts, posts, posts, label_names=TONES).chosen.classifier
    return out_of_fold(classifier, captions(posts), groups, seed=1, label_names=TONES)


@pytest.mark.parametrize("num_groups", [2, 3, 4])
def test_few_groups_have_a_fold_each(num_groups: int) -> None:
    assert {row.id for row in out_of_fold_in(lambda place: str(place % num_groups))} == {each.id for each in drawn(30)}


def test_single_group_is_refused() -> None:
    with pytest.raises(InfeasibleAnalysis, match="all posts are near-duplicates"):
        out_of_fold_in(lambda _: "0")


def test_folds_with_one_tone_are_refused() -> None:
    posts = drawn(30)
    groups = {each.id: str(each.label == "positive") for each in posts}
    classifier = tfidf(posts, posts, posts, label_names=TONES).chosen.classifier
    with pytest.raises(InfeasibleAnalysis, match="of 1 labels"):
        out_of_fold(classifier, captions(posts), groups, seed=1, label_names=TONES)


@pytest.mark.slow
@pytest.mark.real_data
def test_tfidf_beats_majority_on_mvsa(real_agreement: list[Post]) -> None:
    from src.data.split import stratified

    posts = real_agreement
    part_of = stratified(posts, 0.2, 0.2, seed=7)
    train, val, test = ([each for each in posts if part_of.get(each.id) == part] for part in ("train", "val", "test"))
    assert scores(majority(train, val, test, label_names=TONES).test).accuracy == pytest.approx(280 / 519)
    baseline = scores(tfidf(train, val, test, label_names=TONES).test)
    assert baseline.accuracy > 0.7
    assert baseline.macro_f1 > 0.62


# The probe


def test_probe_minimises_the_penalised_loss() -> None:
    """Against an optimiser of another library on the loss as it is written down."""
    train, val, test = (features(part, scale=40) for part in divided(drawn(150)))
    baseline = probe(train, val, test, label_names=TONES)
    mean_D, sd_D = train.inputs.mean(0), train.inputs.std(0)
    x_ND, y_N = (train.inputs - mean_D) / sd_D, np.array([TONES.index(label) for label in train.labels()])

    def loss(flat: NDArray[np.float64]) -> float:
        weights_KD, bias_K = flat[:-3].reshape(3, -1), flat[-3:]
        nats = -log_softmax(x_ND @ weights_KD.T + bias_K, axis=1)[np.arange(len(y_N)), y_N].sum()
        return float(nats + (weights_KD**2).sum() / (2 * float(baseline.chosen.settings["C"])))

    best = minimize(loss, np.zeros(3 * x_ND.shape[1] + 3), method="BFGS").x
    logits_NK = (test.inputs - mean_D) / sd_D @ best[:-3].reshape(3, -1).T + best[-3:]
    assert matrix(baseline.test) == pytest.approx(softmax(logits_NK, axis=1), abs=2e-3)


def test_probe_chooses_penalty_on_validation() -> None:
    """Of many features that say nothing, weights that are free learn train by heart."""
    train, val, test = (features(part, width=200, spread=0.7) for part in divided(drawn(240)))
    baseline = probe(train, val, test, label_names=TONES)
    by_c = {row["C"]: row["val_macro_f1"] for row in baseline.tried}
    assert list(by_c) == list(PROBE_C)
    assert baseline.chosen.settings["C"] == max(by_c, key=lambda c: by_c[c]) != PROBE_C[-1]


def test_constant_feature_does_no_harm() -> None:
    train, val, test = (features(part, spread=0.1) for part in divided(drawn(90)))
    for part in (train, val, test):
        part.inputs[:, -1] = 3.0
    assert scores(probe(train, val, test, label_names=TONES).test).accuracy > 0.95


def test_parts_keep_their_order() -> None:
    train, val, test = (features(part) for part in divided(drawn(30)))
    whole = together([train, val, test])
    assert [each.id for each in whole.posts] == [str(key) for key in range(30)]
    assert np.array_equal(whole.inputs[10:20], val.inputs)


# Out of fold


class Remembering(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Keeps what it has been fitted on, and asked for after that."""

    calls: ClassVar[list[tuple[list[str], list[str]]]] = []

    def fit(self, inputs: list[str], labels: Any) -> "Remembering":
        self.seen, self.shares = list(inputs), Counter(labels)
        self.classes_ = np.array(sorted(self.shares))
        return self

    def predict_proba(self, inputs: list[str]) -> NDArray[np.float64]:
        self.calls.append((self.seen, list(inputs)))
        row = [self.shares[tone] / len(self.seen) for tone in self.classes_]
        return np.array([row] * len(inputs))


@pytest.fixture
def calls() -> list[tuple[list[str], list[str]]]:
    Remembering.calls.clear()
    return Remembering.calls


def in_pairs(posts: list[Post]) -> dict[str, str]:
    """Two neighbours are near-duplicates."""
    return {each.id: str(int(each.id) // 2) for each in posts}


def test_folds_separate_near_duplicates(calls: list[tuple[list[str], list[str]]]) -> None:
    posts = drawn(100)
    group_of, ids = in_pairs(posts), [each.id for each in posts]
    out_of_fold(Remembering(), Examples(posts, ids), group_of, seed=7, label_names=TONES)
    assert sorted((key for _, asked in calls for key in asked), key=int) == ids
    for seen, asked in calls:
        assert {*seen, *asked} == set(ids)
        assert not {group_of[key] for key in seen} & {group_of[key] for key in asked}


def test_folds_are_stratified(calls: list[tuple[list[str], list[str]]]) -> None:
    posts = drawn(300)
    label_of = {each.id: each.label for each in posts}
    out_of_fold(Remembering(), Examples(posts, list(label_of)), in_pairs(posts), seed=7, label_names=TONES)
    wanted = Counter(label_of.values())
    for _, asked in calls:
        counts = Counter(label_of[key] for key in asked)
        assert all(abs(counts[tone] / len(asked) - wanted[tone] / 300) < 0.03 for tone in TONES)


def test_folds_ignore_the_posts_order() -> None:
    train, val, test = divided(drawn(90))
    classifier, posts = tfidf(train, val, test, label_names=TONES).chosen.classifier, [*train, *val, *test]
    rows = out_of_fold(classifier, captions(posts), in_pairs(posts), seed=7, label_names=TONES)
    turned = out_of_fold(classifier, captions(posts[::-1]), in_pairs(posts), seed=7, label_names=TONES)[::-1]
    assert [row.id for row in rows] == [row.id for row in turned] == [each.id for each in posts]
    assert matrix(rows) == pytest.approx(matrix(turned), abs=1e-3)


def test_another_seed_makes_other_folds(calls: list[tuple[list[str], list[str]]]) -> None:
    posts = drawn(60)
    for seed in (1, 1, 2):
        out_of_fold(Remembering(), Examples(posts, [each.id for each in posts]), in_pairs(posts), seed, TONES)
    folds = [asked for _, asked in calls]
    assert folds[:5] == folds[5:10] != folds[10:]


def test_memorising_fails_out_of_fold() -> None:
    """Labels drawn by lot: the fitted probe knows train, and says no more of unseen posts than chance."""
    posts = drawn(300)
    data = Examples(posts, np.random.default_rng(5).normal(size=(300, 250)))
    fitted = probe(data, data, data, label_names=TONES)
    assert scores(fitted.test).accuracy > 0.95
    held_out = out_of_fold(fitted.chosen.classifier, data, in_pairs(posts), seed=7, label_names=TONES)
    assert scores(held_out).accuracy < 0.6
