"""Heat maps and shaded captions: whole pictures and a page that stands alone, whatever the caption holds."""

import base64
import re
from io import BytesIO

import pytest
from PIL import Image

from src.core.records import Post
from src.core.saliency import METHOD, SaliencyMap, SanityCheck, Word
from src.reporting.plot_saliency import LEAST_SCALE, explained_post, heat_map, scale_of, shade
from src.reporting.saliency_page import ExplainedPost, saliency_page

NOTICE = "Weights are random."
PROBABILITIES = {"negative": 0.6, "neutral": 0.3, "positive": 0.1}
CELLS = [[0.01 * row - 0.02 * column for column in range(8)] for row in range(8)]
PIXELS = [[(x * 8, y * 8, 128) for x in range(32)] for y in range(32)]


def saliency_of(*words: tuple[str, float], tone: str = "negative", cells: list[list[float]] = CELLS) -> SaliencyMap:
    made = [Word(*word) for word in words]
    return SaliencyMap(tone, PROBABILITIES, made, cells, image=-0.125, caption=1.5, pixels_RC3=PIXELS, num_passes=57)


def explained(*words: tuple[str, float], key: str = "7", part: str = "test", label: str = "positive") -> ExplainedPost:
    caption = " ".join(word for word, _ in words)
    return ExplainedPost(Post(key, "7.jpg", caption, "positive", "neutral", label, "digest"), part, saliency_of(*words))


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


# Pictures


def test_heat_map_is_whole_and_deterministic() -> None:
    assert min(size(heat_map(saliency_of()))) > 0
    assert heat_map(saliency_of()) == heat_map(saliency_of())
    assert heat_map(saliency_of()) != heat_map(saliency_of(cells=CELLS[::-1]))


def test_longer_caption_makes_taller_plot() -> None:
    heights = [size(explained_post(saliency_of(*[("word", 0.1)] * count), "clip", NOTICE))[1] for count in (0, 1, 40)]
    assert heights == sorted(heights)
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "word",
    [
        "$5 $x_{1}$ \\frac",
        "\N{SMILING FACE WITH HEART-SHAPED EYES}\N{VARIATION SELECTOR-16}",
        "\N{BRAIN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}\N{ZERO WIDTH JOINER}",
        "\u4f60\u597d",
        "\x00\x1b",
        "run\nof\twords",
        "http://t.co/" + "x" * 300,
        "{caption}",
    ],
)
def test_any_word_can_be_drawn(word: str) -> None:
    assert size(explained_post(saliency_of((word, 0.5), ("a", -0.2)), f"clip, {word}", NOTICE))[0] > 0


def test_flat_map_can_be_drawn() -> None:
    flat = SaliencyMap("neutral", PROBABILITIES, [], [[0.0] * 8] * 8, 0.0, 0.0, [[(9, 9, 9)] * 16] * 16, 57)
    assert size(explained_post(flat, "clip", NOTICE))[0] > 0


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_sign_and_strength_show_in_colour() -> None:
    most, little, against = shade(1.0, 1.0), shade(0.1, 1.0), shade(-1.0, 1.0)
    assert (most.sign, little.sign, against.sign) == ("+", "", "\N{MINUS SIGN}")
    assert len({most.background, little.background, against.background}) == 3
    assert luminance(most.background) < luminance(little.background)
    assert luminance(against.background) < luminance(shade(-0.1, 1.0).background)
    # Black on it can be read.
    assert min(luminance(most.background), luminance(against.background)) > 100


def test_small_contributions_stay_pale() -> None:
    assert scale_of([0.001, -0.002]) == LEAST_SCALE
    assert scale_of([]) == LEAST_SCALE
    assert scale_of([0.5, -2.0]) == 2.0


# The page


def test_page_holds_method_notice_post() -> None:
    page = saliency_page("clip, tuned", NOTICE, [explained(("sad", 0.8), ("day", -0.4), ("the", 0.0))])
    text = " ".join(re.sub("<[^>]*>", " ", page).replace("&#39;", "'").split())
    assert METHOD in text
    assert NOTICE in text
    assert "Post 7: predicted negative, labelled positive" in text
    assert "by 57 passes" in text
    assert "Text label positive, image label neutral. The post is in the test part." in text
    assert "negative 60.0% neutral 30.0% positive 10.0%" in text
    assert "the image as a whole \N{MINUS SIGN}0.12" in text
    assert "1 sad +0.80 2 day \N{MINUS SIGN}0.40 3 the +0.000" in text


def test_words_carry_numbers_colours_signs() -> None:
    page = saliency_page("clip", NOTICE, [explained(("sad", 0.8), ("day", -0.8), ("the", 0.0))])
    spans = re.findall(r'<span (?:class="(\w+)" )?style="background: (#\w+); [^"]*" title="([^"]+)">(\w+)</span>', page)
    assert [(kind, number, word) for kind, _, number, word in spans] == [
        ("for", "+0.80", "sad"),
        ("against", "\N{MINUS SIGN}0.80", "day"),
        ("", "+0.000", "the"),
    ]
    assert len({colour for _, colour, _, _ in spans}) == 3


def test_page_needs_no_network() -> None:
    page = saliency_page("clip", NOTICE, [explained(("a", 1.0)), explained(("b", 1.0), key="8")])
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [size(base64.b64decode(image)) for image in images] == [size(heat_map(saliency_of()))] * 2
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "http" not in page


def test_caption_is_escaped() -> None:
    page = saliency_page("clip", NOTICE, [explained(("<script>alert('x')</script>", 1.0), ("&", -1.0))])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_posts_without_caption_are_shown() -> None:
    page = saliency_page("clip", NOTICE, [explained(part="", label="")])
    assert "The caption is empty." in page
    assert "Post 7: predicted negative, without a label" in page
    assert "The post is in no part of the split." in page


def test_sanity_check_stands_on_page() -> None:
    check = SanityCheck([0.5, -0.1])
    assert "For post 7: <strong>+0.20 on average of 2" in saliency_page("clip", NOTICE, [explained()], check)
    assert "Sanity" not in saliency_page("clip", NOTICE, [explained()])


def test_page_without_mistakes_says_so() -> None:
    assert "no mistake" in saliency_page("clip", NOTICE, [])
