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
    found = []
    for key in range(first, first + count):
        (label,) = chance.choices(TONES, SHARES)
        words = [*chance.choices(["monday", "again", "city", "photo", "evening"], k=5), chance.choice(WORDS[label])]
        found.append(post(key, label, " ".join(chance.sample(words, len(words)))))
    return found


def divided(posts: list[Post]) -> tuple[list[Post], list[Post], list[Post]]:
    third = len(posts) // 3
    return posts[:third], posts[third : 2 * third], posts[2 * third :]


def features(posts: list[Post], width: int = 6, spread: float = 1.5, scale: float = 1.0) -> Examples:
    """Noise, with the tone in the first three columns."""
    noise = np.random.default_rng(1).normal(scale=spread, size=(len(posts), width))
    tone_NK = np.array([[post.label == tone for tone in TONES] for post in posts], dtype=float)
    return Examples(posts, scale * np.hstack([noise[:, :3] + tone_NK, noise[:, 3:]]))


def matrix(predictions: list[Prediction]) -> NDArray[np.float64]:
    return np.array([[row.negative, row.neutral, row.positive] for row in predictions])


# The largest class


def test_the_largest_class_of_train_is_said_of_every_post_with_its_share() -> None:
    train = [post(key, label) for key, label in enumerate([POSITIVE] * 5 + [NEGATIVE] * 3 + [NEUTRAL] * 2)]
    test = [post(10, NEUTRAL), post(11, POSITIVE), post(12, NEGATIVE), post(13, NEGATIVE)]
    found = majority(train, [post(20, NEUTRAL)], test)
    assert [row.predicted for row in found.test] == [POSITIVE] * 4
    assert matrix(found.test) == pytest.approx(np.array([[0.3, 0.2, 0.5]] * 4))
    assert scores(found.test).accuracy == 1 / 4
    # F1 of the one tone that is predicted is 2 / (4 + 1); that of the others is 0.
    assert scores(found.test).macro_f1 == pytest.approx(2 / 5 / 3)


def test_a_tone_that_train_lacks_has_no_probability() -> None:
    found = majority([post(0, POSITIVE), post(1, NEGATIVE), post(2, POSITIVE)], [post(3, NEUTRAL)], [post(4, NEUTRAL)])
    assert matrix(found.test) == pytest.approx(np.array([[1 / 3, 0, 2 / 3]]))


# TF-IDF


def test_tfidf_learns_the_words_that_tell_the_tones_apart() -> None:
    train, val, test = divided(drawn(150))
    found = tfidf(train, val, test)
    assert scores(found.test).accuracy > 0.95
    assert [row.id for row in found.test] == [each.id for each in test]
    assert [row.actual for row in found.val] == [each.label for each in val]


def test_characters_are_read_where_words_as_a_whole_say_nothing() -> None:
    """No two captions share a word, but the tones have endings."""
    endings = dict(zip(TONES, ["less", "tion", "ful"], strict=True))
    letters = "abcdefghijklmnopqrstuvwxyz"
    chance = random.Random(2)
    posts = [
        post(key, label, "".join(chance.choices(letters, k=7)) + endings[label]) for key in range(90) for label in TONES
    ]
    found = tfidf(*divided([replace(each, id=str(key)) for key, each in enumerate(posts)]))
    assert found.chosen.settings["features"] == "words and characters"
    assert scores(found.test).accuracy > 0.9


def test_the_best_on_validation_is_chosen_and_of_equal_ones_the_first() -> None:
    found = tfidf(*divided(drawn(60, first=1000)))
    best = max(row["val_macro_f1"] for row in found.tried)
    first = next(row for row in found.tried if row["val_macro_f1"] == best)
    assert {name: first[name] for name in ("features", "C")} == found.chosen.settings
    assert best == scores(found.val).macro_f1
    assert len(found.tried) == 2 * len(TFIDF_C)


def test_the_same_posts_give_the_same_probabilities() -> None:
    parts = divided(drawn(60))
    assert tfidf(*parts).test == tfidf(*parts).test


def test_captions_with_nothing_in_them_leave_the_largest_class() -> None:
    posts = [post(key, TONES[key % 3 % 2], " ") for key in range(9)]
    assert tfidf(posts, posts, posts).test == majority(posts, posts, posts).test


def test_captions_without_a_word_are_read_by_their_characters() -> None:
    emoji = dict(zip(TONES, ("\U0001f62d", "!", "\U0001f600\U0001f600"), strict=True))
    posts = [post(key, TONES[key % 3], emoji[TONES[key % 3]]) for key in range(30)]
    fitted = tfidf(posts, posts, posts)
    assert fitted.chosen.settings["features"] == "characters"
    assert [row.predicted for row in fitted.test] == [row.actual for row in fitted.test]


# Out of fold, where groups are few


def out_of_fold_in(group_of_place: Callable[[int], str]) -> list[Prediction]:
    posts = drawn(30)
    groups = {each.id: group_of_place(place) for place, each in enumerate(posts)}
    return out_of_fold(tfidf(posts, posts, posts).chosen.classifier, captions(posts), groups, seed=1)


@pytest.mark.parametrize("num_groups", [2, 3, 4])
def test_of_few_groups_each_is_judged_by_the_others(num_groups: int) -> None:
    assert {row.id for row in out_of_fold_in(lambda place: str(place % num_groups))} == {each.id for each in drawn(30)}


def test_one_group_of_all_cannot_be_judged_unseen() -> None:
    with pytest.raises(InfeasibleAnalysis, match="all posts are near-duplicates"):
        out_of_fold_in(lambda _: "0")


def test_where_one_tone_is_left_beside_the_near_duplicates_no_classifier_is_made() -> None:
    posts = drawn(30)
    groups = {each.id: str(each.label == "positive") for each in posts}
    with pytest.raises(InfeasibleAnalysis, match="of 1 tones"):
        out_of_fold(tfidf(posts, posts, posts).chosen.classifier, captions(posts), groups, seed=1)


@pytest.mark.slow
@pytest.mark.real_data
def test_on_the_real_posts_tfidf_is_well_above_the_largest_class(real_agreement: list[Post]) -> None:
    from src.data.split import stratified

    posts = real_agreement
    part_of = stratified(posts, 0.2, 0.2, seed=7)
    train, val, test = ([each for each in posts if part_of.get(each.id) == part] for part in ("train", "val", "test"))
    assert scores(majority(train, val, test).test).accuracy == pytest.approx(280 / 519)
    found = scores(tfidf(train, val, test).test)
    assert found.accuracy > 0.7
    assert found.macro_f1 > 0.62


# The probe


def test_the_probe_is_the_minimum_of_the_penalised_loss_on_standardised_features() -> None:
    """Against an optimiser of another library on the loss as it is written down."""
    train, val, test = (features(part, scale=40) for part in divided(drawn(150)))
    found = probe(train, val, test)
    mean_D, sd_D = train.inputs.mean(0), train.inputs.std(0)
    x_ND, y_N = (train.inputs - mean_D) / sd_D, np.array([TONES.index(label) for label in train.labels()])

    def loss(flat: NDArray[np.float64]) -> float:
        weights_KD, bias_K = flat[:-3].reshape(3, -1), flat[-3:]
        nats = -log_softmax(x_ND @ weights_KD.T + bias_K, axis=1)[np.arange(len(y_N)), y_N].sum()
        return float(nats + (weights_KD**2).sum() / (2 * float(found.chosen.settings["C"])))

    best = minimize(loss, np.zeros(3 * x_ND.shape[1] + 3), method="BFGS").x
    logits_NK = (test.inputs - mean_D) / sd_D @ best[:-3].reshape(3, -1).T + best[-3:]
    assert matrix(found.test) == pytest.approx(softmax(logits_NK, axis=1), abs=2e-3)


def test_the_probe_chooses_how_much_to_penalise_on_validation() -> None:
    """Of many features that say nothing, weights that are free learn train by heart."""
    train, val, test = (features(part, width=200, spread=0.7) for part in divided(drawn(240)))
    found = probe(train, val, test)
    by_c = {row["C"]: row["val_macro_f1"] for row in found.tried}
    assert list(by_c) == list(PROBE_C)
    assert found.chosen.settings["C"] == max(by_c, key=lambda c: by_c[c]) != PROBE_C[-1]


def test_a_feature_that_is_the_same_of_all_posts_does_no_harm() -> None:
    train, val, test = (features(part, spread=0.1) for part in divided(drawn(90)))
    for part in (train, val, test):
        part.inputs[:, -1] = 3.0
    assert scores(probe(train, val, test).test).accuracy > 0.95


def test_parts_are_put_together_in_their_order() -> None:
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


def test_no_post_is_judged_by_what_has_seen_it_or_its_twin(calls: list[tuple[list[str], list[str]]]) -> None:
    posts = drawn(100)
    group_of, ids = in_pairs(posts), [each.id for each in posts]
    out_of_fold(Remembering(), Examples(posts, ids), group_of, seed=7)
    assert sorted((key for _, asked in calls for key in asked), key=int) == ids
    for seen, asked in calls:
        assert {*seen, *asked} == set(ids)
        assert not {group_of[key] for key in seen} & {group_of[key] for key in asked}


def test_folds_have_the_tones_in_about_the_same_shares(calls: list[tuple[list[str], list[str]]]) -> None:
    posts = drawn(300)
    label_of = {each.id: each.label for each in posts}
    out_of_fold(Remembering(), Examples(posts, list(label_of)), in_pairs(posts), seed=7)
    wanted = Counter(label_of.values())
    for _, asked in calls:
        found = Counter(label_of[key] for key in asked)
        assert all(abs(found[tone] / len(asked) - wanted[tone] / 300) < 0.03 for tone in TONES)


def test_a_post_is_judged_alike_whatever_the_order_of_the_posts() -> None:
    train, val, test = divided(drawn(90))
    classifier, posts = tfidf(train, val, test).chosen.classifier, [*train, *val, *test]
    found = out_of_fold(classifier, captions(posts), in_pairs(posts), seed=7)
    turned = out_of_fold(classifier, captions(posts[::-1]), in_pairs(posts), seed=7)[::-1]
    assert [row.id for row in found] == [row.id for row in turned] == [each.id for each in posts]
    assert matrix(found) == pytest.approx(matrix(turned), abs=1e-3)


def test_another_seed_makes_other_folds(calls: list[tuple[list[str], list[str]]]) -> None:
    posts = drawn(60)
    for seed in (1, 1, 2):
        out_of_fold(Remembering(), Examples(posts, [each.id for each in posts]), in_pairs(posts), seed)
    folds = [asked for _, asked in calls]
    assert folds[:5] == folds[5:10] != folds[10:]


def test_what_is_learned_by_heart_is_worth_nothing_out_of_fold() -> None:
    """Labels drawn by lot: the fitted probe knows train, and says no more of unseen posts than chance."""
    posts = drawn(300)
    data = Examples(posts, np.random.default_rng(5).normal(size=(300, 250)))
    fitted = probe(data, data, data)
    assert scores(fitted.test).accuracy > 0.95
    held_out = out_of_fold(fitted.chosen.classifier, data, in_pairs(posts), seed=7)
    assert scores(held_out).accuracy < 0.6
