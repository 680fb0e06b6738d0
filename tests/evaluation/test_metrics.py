import random
import warnings

import pytest
from sklearn.metrics import classification_report

from src.core.records import Prediction
from src.evaluation.metrics import report, scores

SHARES = {"negative": 0.2, "neutral": 0.3, "positive": 0.5}


def said(actual: str, predicted: str) -> Prediction:
    return Prediction("1", actual, predicted, SHARES)


def cells(report: str) -> list[list[str]]:
    """The cells of a report. scikit-learn writes some supports as 3.0."""
    return [[cell.removesuffix(".0") for cell in line.split()] for line in report.splitlines()]


# Rows actual, columns predicted, both negative, neutral, positive.
CONFUSION = [[3, 1, 0], [1, 1, 2], [0, 2, 10]]
TONES = ("negative", "neutral", "positive")
SEEDS = range(20)


def predictions_of(confusion: list[list[int]]) -> list[Prediction]:
    return [
        said(actual, predicted)
        for actual, row in zip(TONES, confusion, strict=True)
        for predicted, count in zip(TONES, row, strict=True)
        for _ in range(count)
    ]


def test_scores_by_hand() -> None:
    computed = scores(predictions_of(CONFUSION))
    assert computed.confusion == CONFUSION
    assert computed.accuracy == pytest.approx(14 / 20)
    # F1 is 2 TP / (actual + predicted).
    f1 = {"negative": 6 / 8, "neutral": 2 / 8, "positive": 20 / 24}
    assert computed.per_class == {
        "negative": pytest.approx({"precision": 3 / 4, "recall": 3 / 4, "f1": f1["negative"], "support": 4}),
        "neutral": pytest.approx({"precision": 1 / 4, "recall": 1 / 4, "f1": f1["neutral"], "support": 4}),
        "positive": pytest.approx({"precision": 10 / 12, "recall": 10 / 12, "f1": f1["positive"], "support": 12}),
    }
    assert computed.macro_f1 == pytest.approx(sum(f1.values()) / 3)
    assert computed.weighted_f1 == pytest.approx((4 * f1["negative"] + 4 * f1["neutral"] + 12 * f1["positive"]) / 20)


def test_tone_never_predicted_scores_zero() -> None:
    rows = predictions_of([[0, 0, 2], [0, 0, 1], [0, 0, 3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        computed, text = scores(rows), report(rows)
    # The majority's share, and its F1 2 * 3 / (3 + 6) over three classes.
    assert computed.accuracy == pytest.approx(0.5)
    assert computed.macro_f1 == pytest.approx((2 / 3) / 3)
    assert computed.weighted_f1 == pytest.approx((2 / 3) / 2)
    assert computed.per_class["neutral"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1.0}
    assert "neutral     0.0000    0.0000    0.0000         1" in text


def test_absent_tone_counts_in_macro_mean() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        computed = scores([said("positive", "positive"), said("negative", "negative")])
    assert computed.accuracy == 1.0
    assert computed.macro_f1 == pytest.approx(2 / 3)
    assert computed.confusion == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_scores_are_plain_numbers() -> None:
    computed = scores(predictions_of(CONFUSION))
    assert computed.headline() == {
        "accuracy": computed.accuracy,
        "macro_f1": computed.macro_f1,
        "weighted_f1": computed.weighted_f1,
    }
    assert computed.summary()["f1_neutral"] == pytest.approx(0.25)
    assert computed.per_class["positive"]["support"] == 12
    assert {type(value) for value in computed.summary().values()} == {float}
    assert {type(count) for row in computed.confusion for count in row} == {int}


def test_the_report_names_every_tone() -> None:
    lines = report(predictions_of(CONFUSION)).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == list(TONES)
    assert lines[4].split()[1:] == ["0.8333", "0.8333", "0.8333", "12"]


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_equal_scikit_learn(seed: int) -> None:
    chance = random.Random(seed)
    # Some draws lack a tone among labels or predictions.
    actual = chance.choices(TONES, weights=[1, seed % 3, 2], k=seed + 2)
    predicted = chance.choices(TONES, weights=[seed % 2, 1, 2], k=seed + 2)
    rows = [said(*pair) for pair in zip(actual, predicted, strict=True)]
    options = {"labels": list(TONES), "zero_division": 0}
    expected = classification_report(actual, predicted, output_dict=True, **options)
    computed = scores(rows)
    assert computed.macro_f1 == pytest.approx(expected["macro avg"]["f1-score"])
    assert computed.weighted_f1 == pytest.approx(expected["weighted avg"]["f1-score"])
    for tone in TONES:
        assert list(computed.per_class[tone].values()) == pytest.approx(list(expected[tone].values()))
    if "accuracy" in expected:
        assert computed.accuracy == pytest.approx(expected["accuracy"])
        assert cells(report(rows)) == cells(classification_report(actual, predicted, digits=4, **options))
