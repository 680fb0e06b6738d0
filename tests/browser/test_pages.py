"""Covers: layout of the pages that stand alone, on screens of three widths, light and dark."""

from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver import Chrome

from src.core.records import Post, Prediction
from src.core.saliency import SaliencyMap, Word
from src.reporting.mistakes import mistakes_page
from src.reporting.saliency_page import ExplainedPost, saliency_page
from tests.browser.layout import WIDTHS, contrast, faults, shown

pytestmark = pytest.mark.browser
NOTICE = "Weights are random."
# A caption with a word that is wider than a phone.
CAPTION = "what a day " * 20 + "http://t.co/" + "x" * 200


@pytest.fixture
def post(tmp_path: Path) -> Post:
    image = tmp_path / "7.jpg"
    Image.new("RGB", (640, 320), "red").save(image)
    return Post("7", str(image), CAPTION, "positive", "neutral", "positive", "digest")


@pytest.fixture
def mistakes(tmp_path: Path, post: Post) -> Path:
    page = tmp_path / "mistakes.html"
    mistake = Prediction("7", "positive", "negative", {"negative": 0.8, "neutral": 0.1, "positive": 0.1})
    page.write_text(mistakes_page("clip", NOTICE, [post], [mistake]))
    return page


@pytest.fixture
def saliency(tmp_path: Path, post: Post) -> Path:
    cells = [[0.01 * row - 0.02 * column for column in range(8)] for row in range(8)]
    words = [Word(word, 0.1 * number - 0.5) for number, word in enumerate(CAPTION.split())]
    shares = {"negative": 0.6, "neutral": 0.3, "positive": 0.1}
    found = SaliencyMap("negative", shares, words, cells, -0.125, 1.5, [[(9, 9, 128)] * 16] * 16, 57)
    page = tmp_path / "saliency.html"
    page.write_text(saliency_page("clip, tuned", NOTICE, [ExplainedPost(post, "test", found)]))
    return page


def test_mistakes_fit_every_screen(driver: Chrome, mistakes: Path) -> None:
    assert faults(driver, mistakes) == {}


def test_saliency_maps_fit_every_screen(driver: Chrome, saliency: Path) -> None:
    assert faults(driver, saliency) == {}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast_in_both_schemes(driver: Chrome, mistakes: Path, dark: bool) -> None:
    with shown(driver, mistakes, WIDTHS[0], dark):
        # The least ratios of WCAG 2.2 at level AAA, and at AA for secondary text.
        assert contrast(driver, "h1") > 7
        assert contrast(driver, ".id") > 4.5


def test_faults_of_layout_are_found(driver: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<a href="#gone">a</a><img src="a.png"><table><td style="min-width: 1500px">cut</td></table>')
    found = faults(driver, page)
    assert {
        "pixels beyond 390",
        "cells cut at 1300",
        "links to no id",
        "images without a text alternative",
    } <= found.keys()
    assert "cells cut at 1900" not in found
