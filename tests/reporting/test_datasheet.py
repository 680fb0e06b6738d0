"""Covers: the report's data card (report/datasheet.html.jinja), by what is known of the posts."""

from types import SimpleNamespace

import pytest

from src.core.data_outputs import DataReport, DroppedPosts, Quantiles, WordCounts
from src.reporting.pages import render

SOME = Quantiles(1, 2, 3)


def card(annotators: int | None, pairs: dict[str, int], protocols: tuple[str, ...] = ("agreement", "standard")) -> str:
    """The data card of posts with these labels, all white space as one blank."""
    data = DataReport(
        protocol="agreement",
        data_digest="aa",
        annotators=annotators,
        posts=5,
        labelled=5,
        label_counts={name: {"positive": 3, "negative": 2} for name in protocols},
        label_pairs=pairs,
        dropped=DroppedPosts(0, {}, ()),
        variants={},
        encodings={"utf-8": 5},
        guessed_encodings={},
        caption_words=WordCounts(1, 2, 3, p95=3),
        empty_captions=0,
        image_width_px=SOME,
        image_height_px=SOME,
        image_megapixels=SOME,
    )
    split = SimpleNamespace(is_mvsa_single=False, labels=("negative", "positive"))
    return " ".join(render("report/datasheet", inputs=SimpleNamespace(data=data, split=split)).split())


WHOLE = {"positive,positive": 3, "negative,negative": 2}
HALVES = {"positive,positive": 3, "negative,positive": 2}


@pytest.mark.parametrize("pairs", [WHOLE, HALVES])
def test_annotators_of_table_are_unknown(pairs: dict[str, int]) -> None:
    said = card(None, pairs)
    assert "annotator per post" not in said and "majority" not in said
    assert ("a label of the text and a label of the image" in said) == (pairs is HALVES)
    assert ("protocols" in said) == (pairs is HALVES)
    assert ("positive, positive" in said) == (pairs is HALVES)


def test_annotators_of_mvsa_are_told() -> None:
    assert "One annotator per post" in card(1, WHOLE) and "majority of 3 annotators" in card(3, WHOLE)
    assert "a label of the text and a label of the image" in card(1, WHOLE)


def test_one_protocol_is_not_called_two() -> None:
    said = card(None, HALVES, ("agreement",))
    assert "protocols" not in said and "<code>agreement</code> keeps" in said
