import pytest

from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE, TONES, agreement, label_of, majority, standard


@pytest.mark.parametrize("tone", TONES)
def test_equal_labels_hold_in_both_protocols(tone: str) -> None:
    assert agreement(tone, tone) == standard(tone, tone) == tone


@pytest.mark.parametrize("polar", [NEGATIVE, POSITIVE])
def test_standard_protocol_prefers_polar_label(polar: str) -> None:
    assert standard(polar, NEUTRAL) == standard(NEUTRAL, polar) == polar
    assert agreement(polar, NEUTRAL) is None


def test_contradicting_posts_have_no_label() -> None:
    for protocol in ("agreement", "standard"):
        assert label_of(protocol, NEGATIVE, POSITIVE) is None
        assert label_of(protocol, POSITIVE, NEGATIVE) is None


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        ([POSITIVE], POSITIVE),
        ([POSITIVE, NEUTRAL, POSITIVE], POSITIVE),
        ([NEUTRAL, NEGATIVE, NEGATIVE], NEGATIVE),
        ([NEGATIVE, NEUTRAL, POSITIVE], None),
        ([POSITIVE, NEUTRAL], None),
        ([POSITIVE, POSITIVE, NEUTRAL, NEGATIVE], None),
        ([POSITIVE, POSITIVE, POSITIVE, NEUTRAL, NEGATIVE], POSITIVE),
    ],
)
def test_majority_is_more_than_half(labels: list[str], label: str | None) -> None:
    assert majority(labels) == label
