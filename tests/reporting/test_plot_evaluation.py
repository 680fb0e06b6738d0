"""Pictures are whole PNG files whatever they are given; how they look is for eyes."""

import subprocess
import sys
from collections.abc import Mapping
from io import BytesIO

import pytest
from PIL import Image

from src.reporting.plot_evaluation import confusion_matrix, learning_curves, per_class_bars

Scores = Mapping[str, Mapping[str, float]]
TONES = ("negative", "neutral", "positive")
LONG = "clip, zero-shot, test split (random weights: the scores show that the machine works and nothing else)"


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


@pytest.mark.parametrize("counts", [[[87, 3, 55], [12, 41, 41], [30, 6, 1243]], [[0, 0, 0], [0, 0, 2], [0, 0, 0]]])
def test_a_confusion_matrix_is_drawn_with_empty_rows_and_long_titles_too(counts: list[list[int]]) -> None:
    assert size(confusion_matrix(counts, TONES, LONG)) == (650, 598)


def test_the_same_counts_give_the_same_file() -> None:
    counts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert confusion_matrix(counts, TONES, "a") == confusion_matrix(counts, TONES, "a")
    assert confusion_matrix(counts, TONES, "a") != confusion_matrix(counts[::-1], TONES, "a")


@pytest.mark.parametrize("epochs", [1, 6])
def test_learning_curves_need_not_have_every_key(epochs: int) -> None:
    history = [{"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 1.0} for epoch in range(1, epochs + 1)]
    assert size(learning_curves(history, "clip, trial 3")) == (1170, 494)


def test_bars_are_drawn_for_one_model_and_where_a_score_is_missing() -> None:
    full = dict.fromkeys(TONES, 0.5)
    assert size(per_class_bars({"clip": full}, "F1", LONG)) == (1040, 546)
    four = {"clip": full, "blip2": {"neutral": 1.0}, "llava": full, "tinyllava": {"positive": 0.0}}
    assert size(per_class_bars(four, "F1", "F1 by tone")) == (1248, 546)


def test_importing_loads_no_matplotlib() -> None:
    code = "import sys, src.reporting.plot_evaluation; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
