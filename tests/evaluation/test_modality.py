import random
from collections.abc import Mapping, Sequence
from itertools import permutations

import pytest
from statsmodels.stats.proportion import proportion_confint

from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE, TONES
from src.core.records import Post, Prediction
from src.evaluation.comparison import compare
from src.evaluation.intervals import intervals
from src.evaluation.modality import (
    ablation_results,
    accuracy_by_agreement,
    adherence_by_pair,
    disagreeing_posts,
    disagreement,
    hashtag_effect,
    label_adherence,
    shuffling_effect,
)

SHARES = {"negative": 0.2, "neutral": 0.3, "positive": 0.5}


FEW = 200
PAIRS = [(text, image) for text in TONES for image in TONES if text != image]


def post(key: str, text: str = POSITIVE, image: str = POSITIVE, label: str = POSITIVE, caption: str = "words") -> Post:
    return Post(key, f"{key}.jpg", caption, text, image, label, key)


def said(posts: Sequence[Post], tones: Sequence[str]) -> list[Prediction]:
    return [Prediction(each.id, each.label, tone, SHARES) for each, tone in zip(posts, tones, strict=True)]


def alone(posts: Sequence[Post]) -> dict[str, str]:
    return {each.id: each.id for each in posts}


# Which label is followed


def test_shares_count_followed_labels() -> None:
    pairs = [(POSITIVE, NEGATIVE)] * 6 + [(NEUTRAL, POSITIVE)] * 4
    predicted = [POSITIVE, POSITIVE, POSITIVE, NEGATIVE, NEGATIVE, NEUTRAL, POSITIVE, NEUTRAL, NEUTRAL, NEGATIVE]
    adherence = label_adherence(pairs, predicted)
    assert adherence is not None
    assert (adherence.n, adherence.text.value, adherence.image.value, adherence.neither.value) == (10, 0.5, 0.3, 0.2)


@pytest.mark.parametrize(("count", "n"), [(0, 5), (1, 1), (3, 10), (512, 1919), (1919, 1919)])
def test_intervals_are_those_of_statsmodels(count: int, n: int) -> None:
    adherence = label_adherence([(POSITIVE, NEGATIVE)] * n, [POSITIVE] * count + [NEUTRAL] * (n - count))
    assert adherence is not None
    expected = proportion_confint(count, n, method="wilson")
    assert (adherence.text.low, adherence.text.high) == pytest.approx(expected, abs=1e-12)
    assert (adherence.neither.low, adherence.neither.high) == pytest.approx(
        [1 - end for end in expected[::-1]], abs=1e-12
    )


def test_expectation_is_the_permutation_mean() -> None:
    pairs = [PAIRS[0], PAIRS[1], PAIRS[1], PAIRS[3], PAIRS[5]]
    predicted = [NEGATIVE, NEUTRAL, POSITIVE, POSITIVE, POSITIVE]
    adherence = label_adherence(pairs, predicted)
    assert adherence is not None
    deals = list(permutations(predicted))
    text, image = (
        sum(pair[half] == tone for deal in deals for pair, tone in zip(pairs, deal, strict=True)) / len(deals) / 5
        for half in (0, 1)
    )
    assert adherence.expected == pytest.approx({"text": text, "image": image, "neither": 1 - text - image})


def test_of_no_posts_nothing_follows_anything() -> None:
    assert label_adherence([], []) is None
    assert adherence_by_pair([], [], TONES) == {}
    none = disagreement([], {"both": []}, set())
    assert (none.posts, none.follows, none.leak_free, none.neutral, none.by_pair) == (0, {}, {}, {}, {"both": {}})


def test_adherence_by_occurring_pairs_alone() -> None:
    pairs = [(POSITIVE, NEUTRAL), (NEUTRAL, POSITIVE), (POSITIVE, NEUTRAL), (POSITIVE, NEUTRAL)]
    adherence = adherence_by_pair(pairs, [POSITIVE, POSITIVE, NEUTRAL, NEGATIVE], TONES)
    assert list(adherence) == ["neutral, positive", "positive, neutral"]
    assert (adherence["neutral, positive"].n, adherence["neutral, positive"].image.value) == (1, 1.0)
    three = adherence["positive, neutral"]
    assert three.n == 3
    assert [three.text.value, three.image.value] == pytest.approx([1 / 3, 1 / 3])
    # Of all four predictions two are positive.
    assert three.expected["text"] == 0.5


def test_disagreement_with_and_without_leaks() -> None:
    posts = [post(str(n), POSITIVE, NEGATIVE, label="") for n in range(4)]
    result = disagreement(posts, {"both": said(posts, [POSITIVE, POSITIVE, NEGATIVE, NEUTRAL])}, clean={"2", "3", "9"})
    assert (result.posts, result.follows["both"].n, result.follows["both"].text.value) == (4, 4, 0.5)
    assert (result.leak_free["both"].n, result.leak_free["both"].text.value) == (2, 0.0)
    assert result.by_pair["both"]["positive, negative"].n == 4


def test_disagreement_separates_neutral_labels() -> None:
    pairs = [(POSITIVE, NEGATIVE), (NEGATIVE, POSITIVE), (POSITIVE, NEUTRAL), (NEUTRAL, NEGATIVE), (NEUTRAL, POSITIVE)]
    posts = [post(str(n), *pair, label="") for n, pair in enumerate(pairs)]
    result = disagreement(posts, {"both": said(posts, [POSITIVE] * 5)}, clean=())
    assert (result.opposite["both"].n, result.opposite["both"].text.value) == (2, 0.5)
    assert result.neutral["both"].n == 3
    assert result.neutral["both"].neither.value == pytest.approx(1 / 3)


def test_disagreeing_posts_are_unseen() -> None:
    two_labels = [post(key, POSITIVE, NEUTRAL) for key in ("train", "val", "test", "none")]
    part_of = {"train": "train", "val": "val", "test": "test", "alike": "test"}
    posts = [*two_labels, post("trained", NEUTRAL, POSITIVE), post("alike")]
    assert [each.id for each in disagreeing_posts(posts, part_of, {"trained"})] == ["test", "none"]


# What each ablation costs


@pytest.fixture
def asked() -> list[Post]:
    chance = random.Random(5)
    return [post(str(n), label=chance.choice(TONES)) for n in range(60)]


def predictions_on(posts: Sequence[Post]) -> Mapping[str, list[Prediction]]:
    """Right of all posts, of none, and of all but the first three."""
    right = [each.label for each in posts]
    wrong = [NEUTRAL if tone == POSITIVE else POSITIVE for tone in right]
    return {
        "both": said(posts, right),
        "text": said(posts, wrong),
        "image": said(posts, [*wrong[:3], *right[3:]]),
    }


def test_ablations_have_scores_and_changes(asked: list[Post]) -> None:
    predictions, group_of = predictions_on(asked), alone(asked)
    made = ablation_results(predictions, group_of, {each.id for each in asked[:3]}, seed=1, resamples=FEW)
    assert made["both"].change is None
    assert made["both"].verdict is None
    assert made["both"].figures["accuracy"].value == 1
    assert made["image"].figures == intervals(predictions["image"], group_of, 1, FEW)
    assert made["image"].leak_free["accuracy"].value == 0
    assert made["image"].change == compare(predictions["image"], predictions["both"], group_of, 1, FEW)
    text, image = made["text"], made["image"]
    assert text.change is not None and text.verdict is not None and image.change is not None and image.verdict
    assert (text.change.accuracy.value, text.verdict.answer) == (-1, "no")
    assert image.change.accuracy.value == pytest.approx(-0.05)
    assert image.verdict.answer == "cannot tell"


def test_no_leak_free_posts_no_scores(asked: list[Post]) -> None:
    made = ablation_results(predictions_on(asked), alone(asked), set(), seed=1, resamples=FEW)
    assert made["text"].leak_free == {}


def test_accuracy_by_agreement_of_labels() -> None:
    posts = [post("0"), post("1"), post("2", NEUTRAL, POSITIVE), post("3", POSITIVE, NEUTRAL), post("4", NEUTRAL)]
    rows = said(posts, [POSITIVE, NEGATIVE, POSITIVE, NEUTRAL, NEUTRAL])
    accuracy = accuracy_by_agreement(posts, {"both": rows}, alone(posts), seed=1, resamples=FEW)
    assert (accuracy["agree"].n, accuracy["agree"].accuracy["both"].value) == (2, 0.5)
    assert accuracy["disagree"].n == 3
    assert accuracy["disagree"].accuracy["both"].value == pytest.approx(1 / 3)
    assert set(accuracy_by_agreement(posts[:2], {"both": rows[:2]}, alone(posts), seed=1, resamples=FEW)) == {"agree"}


def test_shuffled_images_follow_text_or_image() -> None:
    posts = [post("0", label=POSITIVE), post("1", label=NEGATIVE), post("2", label=POSITIVE), post("3", label=NEUTRAL)]
    givers = [posts[2], posts[3], posts[0], posts[1]]
    effect = shuffling_effect(posts, givers, said(posts, [NEGATIVE, NEUTRAL, NEGATIVE, NEUTRAL]))
    assert effect.same_label == 0.5
    assert effect.other_label is not None
    assert (effect.other_label.n, effect.other_label.text.value, effect.other_label.image.value) == (2, 0.5, 0.5)
    assert shuffling_effect(posts[:1], posts[2:3], said(posts[:1], [POSITIVE])).other_label is None


def test_hashtag_effect_needs_hashtags() -> None:
    captions = ["#happy", "so #happy", "no tags", "none either"]
    posts = [post(str(n), caption=caption) for n, caption in enumerate(captions)]
    both, without = said(posts, [POSITIVE] * 4), said(posts, [NEGATIVE, POSITIVE, POSITIVE, POSITIVE])
    effect = hashtag_effect(posts, both, without, alone(posts), seed=1, resamples=FEW)
    assert (effect.n, effect.emptied) == (2, 1)
    assert effect.change is not None
    assert (effect.change.posts, effect.change.accuracy.value) == (2, -0.5)
    assert hashtag_effect(posts[2:], both[2:], both[2:], alone(posts), seed=1, resamples=FEW).change is None
