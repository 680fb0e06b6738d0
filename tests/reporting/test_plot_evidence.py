"""Pictures are whole PNG files whatever they are given; how they look is for eyes."""

import subprocess
import sys
from io import BytesIO

import pytest
from PIL import Image

from src.core.records import Bin, Interval
from src.reporting.plot_evaluation import forest, reliability_diagram, selective_curves

BARS = [Bin(0.0, 0.5, 0, None, None), Bin(0.5, 1.0, 1_200, 0.9, 0.6)]


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


def test_a_forest_is_drawn_without_intervals_parts_or_published_figures_too() -> None:
    rows = {
        "majority": {"all": Interval(1.0, None, None)},
        "clip tuned": {"all": Interval(0.8, 0.7, 0.9), "leak-free": Interval(0.7, None, None)},
    }
    assert size(forest(rows, {}, "accuracy", "a")) == (1105, 312)
    assert forest(rows, {"clip tuned": 0.812}, "accuracy", "a") != forest(rows, {}, "accuracy", "a")


def test_a_reliability_diagram_is_drawn_where_bins_are_empty() -> None:
    assert size(reliability_diagram({"as it is": BARS, "scaled": BARS[:1]}, "clip tuned")) == (1196, 598)


@pytest.mark.parametrize("num_posts", [1, 24, 519])
def test_curves_are_drawn_of_few_posts_and_of_more_systems_than_there_are_styles(num_posts: int) -> None:
    curves = {name: [1 - k / 1000 for k in range(num_posts)] for name in ("tfidf", *"abcdef")}
    assert size(selective_curves(curves, "tfidf", "test")) == (1040, 598)


def test_the_same_values_give_the_same_file() -> None:
    assert reliability_diagram({"a": BARS}, "a") == reliability_diagram({"a": BARS}, "a")


def test_importing_loads_no_matplotlib() -> None:
    code = "import sys, src.reporting.plot_evaluation; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
