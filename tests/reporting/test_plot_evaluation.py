"""Plots are whole PNG files for any input; their look is left to the eye."""

from collections.abc import Mapping
from io import BytesIO

import pytest
from PIL import Image

from src.core.records import Bin, Interval
from src.reporting.plot_evaluation import (
    confusion_matrix,
    curve_style,
    forest,
    learning_curves,
    per_class_bars,
    reliability_diagram,
    selective_curves,
)

Scores = Mapping[str, Mapping[str, float]]
TONES = ("negative", "neutral", "positive")
BARS = [Bin(0.0, 0.5, 0, None, None), Bin(0.5, 1.0, 1_200, 0.9, 0.6)]
LONG = "clip, zero-shot, test split (random weights: the scores show that the machine works and nothing else)"


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


@pytest.mark.parametrize("counts", [[[87, 3, 55], [12, 41, 41], [30, 6, 1243]], [[0, 0, 0], [0, 0, 2], [0, 0, 0]]])
def test_confusion_matrix_allows_empty_rows(counts: list[list[int]]) -> None:
    assert min(size(confusion_matrix(counts, TONES, LONG))) > 0


def test_equal_counts_give_equal_files() -> None:
    counts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert confusion_matrix(counts, TONES, "a") == confusion_matrix(counts, TONES, "a")
    assert confusion_matrix(counts, TONES, "a") != confusion_matrix(counts[::-1], TONES, "a")


@pytest.mark.parametrize("epochs", [1, 6])
def test_learning_curves_allow_missing_keys(epochs: int) -> None:
    history = [{"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 1.0} for epoch in range(1, epochs + 1)]
    assert min(size(learning_curves(history, "clip, trial 3"))) > 0


def test_bars_allow_missing_scores() -> None:
    full = dict.fromkeys(TONES, 0.5)
    assert min(size(per_class_bars({"clip": full}, "F1", LONG))) > 0
    four = {"clip": full, "blip2": {"neutral": 1.0}, "llava": full, "tinyllava": {"positive": 0.0}}
    assert min(size(per_class_bars(four, "F1", "F1 by tone"))) > 0


def test_forest_needs_no_intervals_or_paper() -> None:
    rows = {
        "majority": {"all": Interval(1.0, None, None)},
        "clip tuned": {"all": Interval(0.8, 0.7, 0.9), "leak-free": Interval(0.7, None, None)},
    }
    assert min(size(forest(rows, {}, "accuracy", "a"))) > 0
    assert forest(rows, {"clip tuned": 0.812}, "accuracy", "a") != forest(rows, {}, "accuracy", "a")


def test_reliability_diagram_allows_empty_bins() -> None:
    assert min(size(reliability_diagram({"as it is": BARS, "scaled": BARS[:1]}, "clip tuned"))) > 0


@pytest.mark.parametrize("num_posts", [1, 24, 519])
def test_curves_need_few_posts_or_styles(num_posts: int) -> None:
    curves = {name: [1 - k / 1000 for k in range(num_posts)] for name in ("tfidf", *"abcdef")}
    assert min(size(selective_curves(curves, "tfidf", "test"))) > 0


def test_many_curves_differ_without_colours() -> None:
    styles = [curve_style(number) for number in range(20)]
    assert len({tuple(style.values()) for style in styles}) == 20
    assert len({(style["linestyle"], style["marker"]) for style in styles[:5]}) == 5


def test_equal_bins_give_equal_files() -> None:
    assert reliability_diagram({"a": BARS}, "a") == reliability_diagram({"a": BARS}, "a")
