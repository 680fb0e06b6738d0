"""Covers: layout of the pages that stand alone, on screens of three widths, light and dark."""

from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from src.core.records import Post, Prediction
from src.core.saliency import SaliencyMap, Word
from src.data.inputs import InputPost
from src.evaluation.selective import selective_curve
from src.registry.answers import AnsweredPosts
from src.registry.answers_page import answers_page
from src.registry.evidence import Evidence
from src.registry.prediction import PredictedPost, judge
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


@pytest.fixture
def answers(tmp_path: Path, post: Post) -> Path:
    posts = [InputPost(str(key), Path(post.image), CAPTION, "rage") for key in range(4)]
    rows = []
    for each, joy in zip(posts, (0.9, 0.4, 0.7, 0.2), strict=True):
        tone = "joy" if joy > 0.5 else "rage"
        shares = {"joy": joy, "rage": 1 - joy}
        rows.append(
            PredictedPost(id=each.id, text=CAPTION, missing="", predicted=tone, probabilities=shares, label="rage")
        )
    shares = {"joy": 0.75, "rage": 0.25}
    curve = selective_curve([Prediction(str(key), "joy" if key % 4 else "rage", "joy", shares) for key in range(32)])
    evidence = Evidence("mvsa-clip version 3", NOTICE, "", curve, [])
    page = tmp_path / "tones.html"
    content = AnsweredPosts(tmp_path, posts, judge(rows, evidence, 0.8), evidence, 0.8)
    page.write_text(answers_page(content, page, tmp_path / "tones.csv"))
    return page


def test_answers_fit_every_screen(driver: Chrome, answers: Path) -> None:
    assert faults(driver, answers) == {}


def test_answers_are_ordered_and_chosen(driver: Chrome, answers: Path) -> None:
    def places() -> list[str | None]:
        cards = driver.find_elements(By.CSS_SELECTOR, ".posts li")
        return [card.get_attribute("data-place") for card in cards if card.is_displayed()]

    with shown(driver, answers, WIDTHS[1]):
        order, show = (Select(driver.find_element(By.ID, name)) for name in ("order", "show"))
        assert places() == ["1", "2", "3", "0"]
        order.select_by_visible_text("most certain first")
        assert places() == ["0", "3", "2", "1"]
        order.select_by_visible_text("as given")
        show.select_by_visible_text("joy")
        assert places() == ["0", "2"]
        show.select_by_visible_text("labelled otherwise")
        assert places() == ["0", "2"]
        show.select_by_visible_text("left to a person")
        assert driver.find_element(By.TAG_NAME, "output").text == "4 posts"
        show.select_by_visible_text("not left to a person")
        assert places() == []


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
