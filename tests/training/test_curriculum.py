from collections import Counter
from dataclasses import replace

import pytest

from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.training.curriculum import by_loss, chosen, num_posts, share

SETTINGS = TrainingConfig(readout="head", rank=1, alpha=1, dropout=0.0, lr=0.001, epochs=6, curriculum="loss")


def post(number: int, label: str, image_label: str = "") -> Post:
    key = str(number)
    return Post(key, f"{key}.jpg", key, label, image_label or label, label, key)


POSTS = [post(number, label) for number, label in enumerate(["positive"] * 8 + ["neutral"] * 4 + ["negative"] * 2)]
LOSSES = [float(-number) for number in range(len(POSTS))]


@pytest.mark.parametrize(
    ("start", "until", "expected"),
    [
        (0.5, 0.5, [1 / 2, 2 / 3, 5 / 6, 1, 1, 1]),
        (0.4, 1.0, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0.3, 0.0, [1, 1, 1, 1, 1, 1]),
        (1.0, 1.0, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_share_rises_evenly(start: float, until: float, expected: list[float]) -> None:
    settings = replace(SETTINGS, curriculum_start=start, curriculum_until=until)
    assert [share(settings, epoch) for epoch in range(1, 7)] == pytest.approx(expected)


def test_no_curriculum_means_all_posts() -> None:
    settings = replace(SETTINGS, curriculum="none")
    assert [chosen(settings, POSTS, LOSSES, epoch, 1) for epoch in (1, 6)] == [list(range(14))] * 2
    assert not any(by_loss(settings, epoch) for epoch in range(1, 7))


def test_easy_posts_come_first_by_tone() -> None:
    assert chosen(SETTINGS, POSTS, LOSSES, 1, 1) == [4, 5, 6, 7, 10, 11, 13]
    assert Counter(POSTS[place].label for place in chosen(SETTINGS, POSTS, LOSSES, 3, 1)) == {
        "positive": 7,
        "neutral": 4,
        "negative": 2,
    }
    assert chosen(SETTINGS, POSTS, LOSSES, 4, 1) == list(range(14))
    assert [by_loss(SETTINGS, epoch) for epoch in range(1, 7)] == [True, True, True, False, False, False]


def test_agreeing_posts_come_first() -> None:
    posts = [post(number, "positive", "neutral" if number < 4 else "positive") for number in range(12)]
    settings = replace(SETTINGS, curriculum="agreement", curriculum_start=0.25)
    epochs = [set(chosen(settings, posts, LOSSES, epoch, 1)) for epoch in (1, 2, 3, 4)]
    assert [len(chosen) for chosen in epochs] == [3, 6, 9, 12]
    assert epochs[0] < epochs[1] < epochs[2]
    assert epochs[1] <= set(range(4, 12)) < epochs[2]
    assert not by_loss(settings, 1)
    lots = {tuple(chosen(settings, posts, LOSSES, 1, seed)) for seed in range(9)}
    assert len(lots) > 1


def test_by_both_agreement_counts_before_loss() -> None:
    posts = [post(number, "positive", "neutral" if number % 2 else "positive") for number in range(8)]
    settings = replace(SETTINGS, curriculum="agreement+loss", curriculum_start=0.75, curriculum_until=1.0)
    assert by_loss(settings, 1)
    assert chosen(settings, posts, LOSSES, 1, 1) == [0, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("curriculum", ["none", "agreement", "loss"])
def test_number_of_posts_is_predicted(curriculum: str) -> None:
    settings = replace(SETTINGS, curriculum=curriculum, curriculum_start=0.3)  # type: ignore[arg-type]
    for epoch in range(1, 7):
        assert num_posts(settings, POSTS, epoch) == len(chosen(settings, POSTS, LOSSES, epoch, 1))
