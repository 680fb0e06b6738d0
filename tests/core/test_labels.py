from pathlib import Path

import pytest

from src.core.config import Params
from src.core.config_parser import build, load_yaml
from src.core.errors import UsageError
from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE, TONE_LABELS, TONES, agreement, label_of, majority, standard


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


def params_with(labels: object) -> Params:
    """Return params.yaml with these labels."""
    content = load_yaml(Path("params.yaml").read_text(), "params.yaml")
    return build(Params, {**content, "labels": labels}, "params.yaml")


def test_labels_have_words_and_descriptions() -> None:
    labels = params_with(["calm", {"name": "anger", "word": "angry", "description": "furious"}]).labels
    assert [(label.name, label.word, label.option) for label in labels] == [
        ("calm", "calm", "calm"),
        ("anger", "angry", "angry (furious)"),
    ]
    assert params_with(list(TONES)).labels == TONE_LABELS


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["calm"], "two or more"),
        (["calm", "anger", "calm"], "one name twice: calm"),
        (["calm", {"name": "anger", "word": "calm"}], "one word twice: calm"),
        (["calm", ""], "'' is no name"),
        (["calm", "Anger"], "'Anger' is no name"),
        (["calm", "id"], "'id' cannot be a label"),
        (["calm", "a,b"], "'a,b' is no name"),
        (["calm", {"name": "anger", "word": " "}], "begins or ends with a space"),
        (["calm", {"name": "anger", "description": "a {caption}"}], "cannot stand in a prompt"),
        (["calm", {"name": "anger", "wrod": "angry"}], "wrod"),
        (["calm", "review"], "'review' cannot be a label"),
        (["calm", 3], "in quotes"),
        ([True, False], "in quotes"),
        ("calm", "'calm'"),
    ],
)
def test_bad_labels_give_one_line(labels: object, reason: str) -> None:
    with pytest.raises(UsageError) as refusal:
        params_with(labels)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_standard_needs_the_three_tones() -> None:
    content = load_yaml(Path("params.yaml").read_text(), "params.yaml")
    content["prepare"]["protocol"] = "standard"
    build(Params, content, "params.yaml")
    with pytest.raises(UsageError, match="standard is defined for negative, neutral and positive"):
        build(Params, {**content, "labels": ["negative", "positive"]}, "params.yaml")
