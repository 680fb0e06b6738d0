"""The page of answers and the advice on it: what a reader sees of hostile, missing and labelled posts."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from src.core.records import Prediction
from src.data.inputs import InputPost
from src.evaluation.selective import selective_curve
from src.registry import answers_page as module
from src.registry.answers import AnsweredPosts, advice
from src.registry.answers_page import answers_page
from src.registry.evidence import Evidence
from src.registry.prediction import PredictedPost, judge

LABELS = ("calm", "joy", "rage", "fear", "none")
HOSTILE = "<script>alert(1)</script>\"' onclick=x <img src=y>"


def probabilities(label: str, top: float) -> dict[str, float]:
    return {name: top if name == label else (1 - top) / 4 for name in LABELS}


def validation(num_posts: int = 200) -> list[Prediction]:
    """Posts of rising confidence; every third of the less certain half is wrong."""
    rows = []
    for key in range(num_posts):
        wrong = key < num_posts / 2 and key % 3 == 0
        rows.append(
            Prediction(str(key), "rage" if wrong else "joy", "joy", probabilities("joy", 0.3 + 0.6 * key / 200))
        )
    return rows


EVIDENCE = Evidence("mvsa-clip version 3", "", "", selective_curve(validation()), [])


def content(
    *given: tuple[InputPost, str, float], wanted: float | None = None, evidence: Evidence = EVIDENCE
) -> AnsweredPosts:
    rows = [
        PredictedPost(
            id=post.id,
            text=post.text,
            missing=post.missing,
            problem="" if tone else "the image is <b>damaged</b>",
            predicted=tone,
            probabilities=probabilities(tone, top) if tone else {},
            label=post.label,
        )
        for post, tone, top in given
    ]
    return AnsweredPosts(
        Path("posts.csv"), [post for post, *_ in given], judge(rows, evidence, wanted), evidence, wanted
    )


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def shown(posts: AnsweredPosts, page: Path = Path("tones.html")) -> Elements:
    return Elements(answers_page(posts, page, page.with_suffix(".csv")))


def post(name: str, image: str | None = "a.jpg", text: str = "what a day", label: str = "") -> InputPost:
    return InputPost(name, Path(image) if image else None, text, label)


def test_least_certain_answer_comes_first() -> None:
    page = shown(content((post("1"), "joy", 0.9), (post("2"), "rage", 0.4), (post("3"), "joy", 0.6)))
    cards = page.of("li")
    assert [card["data-place"] for card in cards] == ["1", "2", "0"]
    assert [card["data-label"] for card in cards] == ["2", "1", "1"]


def test_hostile_words_stay_text() -> None:
    page = shown(content((post(HOSTILE, text=HOSTILE, label=HOSTILE), "joy", 0.9), (post(HOSTILE), "", 0)))
    assert len(page.of("script")) == 1 and len(page.of("img")) == 1
    assert not any(key.startswith("on") for _, attributes in page.found for key in attributes)
    assert page.text.count(HOSTILE) >= 3 and "<b>damaged</b>" in page.text


@pytest.mark.parametrize("name", ["a b#c?d%20.jpg", "javascript:alert(1).jpg", 'é\udce9".jpg', "host/a.jpg"])
def test_pictures_are_linked_relative_to_page(name: str, tmp_path: Path) -> None:
    page = shown(
        content((post("1", str(tmp_path / "images" / name.lstrip("/"))), "joy", 0.9)), tmp_path / "out" / "p.html"
    )
    (picture,), (link,) = page.of("img"), page.of("a")[-1:]
    address = picture["src"] or ""
    assert address == link["href"] and address.startswith("../images/") and ":" not in address
    assert unquote(address, errors="surrogateescape") == "../images/" + name
    assert picture["alt"] and picture["loading"] == "lazy"


def test_page_shows_what_is_missing() -> None:
    page = shown(
        content((post("pictureless", None), "joy", 0.5), (post("textless", text=""), "joy", 0.6), (post("7"), "", 0))
    )
    assert len(page.of("img")) == 1
    assert "no image" in page.text and "no caption" in page.text and "damaged" in page.text
    assert len(page.of("li")) == 2


def test_wanted_accuracy_marks_posts() -> None:
    given = [(post(str(key), label="joy" if key else "fear"), "joy", top) for key, top in enumerate((0.3, 0.5, 0.89))]
    posts = content(*given, (post("unread"), "", 0), wanted=0.9)
    assert [row.review for row in posts.rows] == [True, True, False, True]
    page = shown(posts)
    assert [("data-person" in card, "data-wrong" in card) for card in page.of("li")] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert "2 least certain of 3 posts" in advice(posts)[0]
    assert posts.point and f"{posts.point.threshold:.3f}" in advice(posts)[0]


def test_unreachable_accuracy_leaves_all_to_person() -> None:
    posts = content((post("1"), "joy", 0.999), wanted=0.9999)
    assert posts.point is None and [row.review for row in posts.rows] == [True]
    (sentence,) = advice(posts)
    assert EVIDENCE.curve and f"{EVIDENCE.curve.highest_accuracy():g}" in sentence


def test_low_accuracy_needs_no_person() -> None:
    posts = content((post("1"), "joy", 0.25), wanted=0.5)
    assert [row.review for row in posts.rows] == [False]
    assert "none of the 1 posts" in advice(posts)[0]


def test_test_part_is_judged_above_same_threshold() -> None:
    evidence = Evidence("v", "", "", EVIDENCE.curve, [Prediction("a", "joy", "joy", probabilities("joy", 0.99))] * 3)
    assert any(
        "100.0%" in sentence and "test" in sentence for sentence in advice(content(wanted=0.9, evidence=evidence))
    )


def test_version_without_validation_predictions_says_so() -> None:
    bare = Evidence("mvsa-clip version 1", "", "", None, [])
    posts = content((post("1"), "joy", 0.7), evidence=bare)
    assert posts.rows[0].confidence == pytest.approx(0.7)
    assert "no validation predictions" in shown(posts).text


def test_every_label_is_counted() -> None:
    page = shown(content((post("1", label="calm"), "joy", 0.9), (post("2", label="unheard"), "rage", 0.9)))
    assert all(label in page.text for label in LABELS)
    assert "1 posts that came with a label" in page.text


def test_long_page_shows_least_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SHOWN", 2)
    page = shown(content(*[(post(str(key)), "joy", 0.9 - key / 10) for key in range(5)]))
    assert [card["data-place"] for card in page.of("li")] == ["4", "3"]
    assert re.search(r"2\s+least certain of\s+5", page.text)


def test_page_without_answers_is_made() -> None:
    assert not shown(content((post("1"), "", 0), wanted=0.9)).of("li")
