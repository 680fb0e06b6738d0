import pytest

from src.core.saliency import SaliencyMap, SanityCheck, Word, signed


def map_of(cells_GG: list[list[float]], words: tuple[Word, ...] = ()) -> SaliencyMap:
    probabilities = {"negative": 0.2, "neutral": 0.7, "positive": 0.1}
    return SaliencyMap("neutral", probabilities, words, cells_GG, image=0.5, caption=-0.25, pixels_RC3=[], num_passes=1)


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
def test_place_is_named(row: int, column: int, name: str) -> None:
    cells_GG = [[0.0] * 8 for _ in range(8)]
    cells_GG[row][column] = 0.3
    assert map_of(cells_GG).places() == [(name, 0.3)]


def test_halves_include_strongest_places() -> None:
    cells_GG = [[0.0, 0.0, 0.2], [0.1, 0.0, 0.0], [0.0, -0.4, 0.0]]
    assert map_of(cells_GG).halves() == [
        ("the image as a whole", 0.5),
        ("of it, most for: top right", 0.2),
        ("of it, most against: bottom middle", -0.4),
        ("the caption as a whole", -0.25),
    ]


def test_flat_map_names_no_place() -> None:
    assert map_of([[0.0, 0.0], [0.0, 0.0]]).places() == []


def test_words_sort_by_absolute_contribution() -> None:
    words = (Word("a", 0.1), Word("b", -0.9), Word("c", 0.5))
    assert [word.text for word in map_of([[1.0]], words).by_weight()] == ["b", "c", "a"]


def test_contributions_list_cells_first() -> None:
    words = (Word("a", 0.1), Word("b", -0.9))
    assert map_of([[1.0]], words).contributions() == [1.0, 0.1, -0.9]


def test_predicted_tone_is_likeliest() -> None:
    assert map_of([[0.0]]).predicted == "neutral"


def test_contribution_keeps_its_sign() -> None:
    assert [signed(value) for value in (0.314, -2.5, 0.0123, 0.0, -0.0001)] == [
        "+0.31",
        "\N{MINUS SIGN}2.50",
        "+0.012",
        "+0.000",
        "+0.000",
    ]


def test_sanity_check_prints_mean_and_range() -> None:
    assert str(SanityCheck([0.5, -0.5, 0.3])) == "+0.10 on average of 3 (-0.50 to +0.50)"


def test_sanity_check_of_flat_map_has_no_mean() -> None:
    assert SanityCheck([]).mean is None
    assert "flat" in str(SanityCheck([]))
