"""The page of misclassified posts."""

import base64
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from src.core.records import Post, Prediction
from src.reporting.mistakes import mistaken, mistakes_page, thumbnail

NOTICE = "Weights are random."


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "1.jpg"
    Image.new("RGB", (640, 320), "red").save(path)
    return path


def post(key: str, picture: Path, caption: str = "what a day") -> Post:
    return Post(key, str(picture), caption, "positive", "neutral", "positive", "digest")


def said(key: str, predicted: str, sure: float, actual: str = "positive") -> Prediction:
    rest = (1 - sure) / 2
    shares = {tone: sure if tone == predicted else rest for tone in ("negative", "neutral", "positive")}
    return Prediction(key, actual, predicted, shares)


def test_mistakes_come_by_confidence(picture: Path) -> None:
    rows = [
        said("1", "negative", 0.5),
        said("2", "positive", 0.9),
        said("3", "neutral", 0.8),
        said("4", "neutral", 0.4),
    ]
    page = mistakes_page("clip", NOTICE, [post(key, picture) for key in "1234"], rows)
    assert re.findall(r"Post (\d)</p>", page) == ["3", "1", "4"]
    assert [each.id for each in mistaken(rows)] == ["3", "1", "4"]
    assert "3 of 4 posts" in page
    assert NOTICE in page


def test_mistake_shows_all_facts(picture: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", picture)], [said("1", "negative", 0.5)])
    assert "<strong>negative</strong> predicted, <strong>positive</strong> labelled" in page
    assert "Text label positive, image label neutral" in page
    assert "what a day" in page
    assert (page.count("50.0%"), page.count("25.0%")) == (1, 2)
    (content,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == ("JPEG", (160, 80))


def test_captions_are_escaped(picture: Path) -> None:
    page = mistakes_page(
        "clip", NOTICE, [post("1", picture, "<script>alert('x')</script> & co")], [said("1", "neutral", 0.5)]
    )
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_page_needs_no_network(picture: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", picture)], [said("1", "neutral", 0.5)])
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "http" not in page


def test_page_limits_many_mistakes(picture: Path) -> None:
    keys = [str(number) for number in range(9)]
    rows = [said(key, "neutral", 0.4 + int(key) / 20) for key in keys]
    page = mistakes_page("clip", NOTICE, [post(key, picture) for key in keys], rows, most=2)
    assert "9 of 9 posts are misclassified; the 2 most confident" in page
    assert re.findall(r"Post (\d)</p>", page) == ["8", "7"]
    assert '<tr><td>positive</td><td>neutral</td><td class="number">9</td></tr>' in page


def test_no_mistakes_are_stated(picture: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", picture)], [said("1", "positive", 0.9)])
    assert "0 of 1 posts are misclassified." in page


def test_missing_image_leaves_the_rest(tmp_path: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", tmp_path / "gone.jpg")], [said("1", "neutral", 0.5)])
    assert "The image is missing" in page
    assert thumbnail(tmp_path / "gone.jpg") == b""
