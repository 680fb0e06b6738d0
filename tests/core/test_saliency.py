import pytest

from src.core.saliency import SaliencyMap, SanityCheck, Word, signed


def found(cells_GG: list[list[float]], words: tuple[Word, ...] = ()) -> SaliencyMap:
    chances = {"negative": 0.2, "neutral": 0.7, "positive": 0.1}
    return SaliencyMap("neutral", chances, words, cells_GG, picture=0.5, caption=-0.25, pixels_SS3=[], num_passes=1)


@pytest.mark.parametrize(
    ("row", "column", "name"),
    [
        (0, 0, "top left"),
        (0, 4, "top middle"),
        (3, 3, "middle"),
        (2, 5, "top right"),
        (4, 7, "middle right"),
        (7, 0, "bottom left"),
    ],
)
def test_a_place_in_the_picture_has_a_name(row: int, column: int, name: str) -> None:
    cells_GG = [[0.0] * 8 for _ in range(8)]
    cells_GG[row][column] = 0.3
    assert found(cells_GG).places() == [(name, 0.3)]


def test_the_halves_say_where_the_picture_speaks_for_and_against() -> None:
    cells_GG = [[0.0, 0.0, 0.2], [0.1, 0.0, 0.0], [0.0, -0.4, 0.0]]
    assert found(cells_GG).halves() == [
        ("the picture as a whole", 0.5),
        ("of it, most for: top right", 0.2),
        ("of it, most against: bottom middle", -0.4),
        ("the caption as a whole", -0.25),
    ]


def test_of_a_flat_picture_no_place_is_named() -> None:
    assert found([[0.0, 0.0], [0.0, 0.0]]).places() == []


def test_the_heaviest_words_come_first_whatever_their_sign() -> None:
    words = (Word("a", 0.1), Word("b", -0.9), Word("c", 0.5))
    assert [word.text for word in found([[1.0]], words).by_weight()] == ["b", "c", "a"]
    assert found([[1.0]], words).contributions() == [1.0, 0.1, -0.9, 0.5]


def test_the_predicted_tone_is_the_likeliest() -> None:
    assert found([[0.0]]).predicted == "neutral"


def test_contributions_are_written_with_their_sign() -> None:
    assert [signed(value) for value in (0.314, -2.5, 0.0123, 0.0)] == [
        "+0.31",
        "\N{MINUS SIGN}2.50",
        "+0.012",
        "+0.000",
    ]


def test_a_sanity_check_says_its_mean_and_its_range() -> None:
    assert str(SanityCheck([0.5, -0.5, 0.3])) == "+0.10 on average of 3 (-0.50 to +0.50)"
