import pytest

from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE, TONES, agreement, label_of, standard


@pytest.mark.parametrize("tone", TONES)
def test_equal_labels_stand_under_both_protocols(tone: str) -> None:
    assert agreement(tone, tone) == standard(tone, tone) == tone


@pytest.mark.parametrize("polar", [NEGATIVE, POSITIVE])
def test_neutral_gives_way_to_a_polar_label_in_the_standard_protocol_alone(polar: str) -> None:
    assert standard(polar, NEUTRAL) == standard(NEUTRAL, polar) == polar
    assert agreement(polar, NEUTRAL) is None


def test_contradicting_posts_have_no_label() -> None:
    for protocol in ("agreement", "standard"):
        assert label_of(protocol, NEGATIVE, POSITIVE) is None
        assert label_of(protocol, POSITIVE, NEGATIVE) is None
