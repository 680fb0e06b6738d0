"""What the report says first, from rows such as the stages write."""

from typing import Any

import pytest

from src.reporting import findings


def score(system: str, part: str, posts: int, accuracy: float) -> dict[str, Any]:
    model, _, kind = system.rpartition(" ")
    around = {"accuracy": accuracy, "macro_f1": accuracy - 0.1}
    ends = {
        f"{name}{end}": value + shift
        for name, value in around.items()
        for end, shift in (("_low", -0.03), ("_high", 0.03))
    }
    return {"system": system, "kind": kind or system, "model": model, "part": part, "posts": posts, **around, **ends}


SCORES = [
    score("majority", "all", 500, 0.54),
    score("tfidf", "all", 500, 0.7),
    score("clip tuned", "all", 500, 0.8),
    score("clip tuned", "leak-free", 470, 0.785),
    score("llava tuned", "all", 500, 0.78),
    score("llava tuned", "leak-free", 470, 0.79),
]


def pair(first: str, second: str, better: str, needed: float | None = None, part: str = "all") -> dict[str, Any]:
    return {"part": part, "first": first, "second": second, "posts": 500, "better": better, "posts_needed": needed}


PAIRS = [
    pair("clip tuned", "llava tuned", "cannot tell", 4000),
    pair("blip2 tuned", "llava tuned", "cannot tell", 9000),
    pair("clip tuned", "blip2 tuned", "no"),
    *(
        pair(f"{model} tuned", second, answer)
        for model, answer in (("clip", "yes"), ("llava", "cannot tell"), ("blip2", "no"))
        for second in ("tfidf", f"{model} zero-shot", f"{model} probe")
    ),
    pair("clip tuned", "tfidf", "no", part="leak-free"),
]


def test_the_choice_is_given_with_its_interval_and_the_baselines() -> None:
    (said,) = findings.on_the_choice(SCORES, "llava")
    assert "Validation chooses llava. On the 500 test posts its accuracy is 78.0% (75.0% to 81.0%)" in said
    assert "54.0%" in said
    assert "70.0% (67.0% to 73.0%)" in said


def test_who_beats_whom_is_told_from_all_test_posts_after_correction() -> None:
    tfidf, untrained, probe, models, closest = findings.on_comparisons(PAIRS)
    assert tfidf == "Against TF-IDF on the captions: better: clip; worse: blip2; cannot be told with 500 posts: llava."
    assert untrained.startswith("Against the same model untrained: better: clip; worse: blip2")
    assert "its own frozen features: better: clip" in probe
    assert models == "Pairs of tuned models that can be told apart: 1 of 3: blip2 beats clip."
    assert closest == "Of the others clip and llava would need the fewest posts to tell: about 4,000."


def test_one_model_has_no_pairs() -> None:
    rows = [pair("clip tuned", second, "yes") for second in ("tfidf", "clip zero-shot", "clip probe")]
    assert len(list(findings.on_comparisons(rows))) == 3


def test_leaks_are_counted_and_what_they_are_worth_is_said() -> None:
    count, worth = findings.on_leaks(SCORES)
    assert count == "30 of 500 test posts have a near-duplicate in train or val."
    assert worth == "Without them accuracies change by, in points: clip \N{MINUS SIGN}1.5, llava +1.0."


def test_a_division_without_leaks_is_said_to_be_one() -> None:
    rows = [{**row, "posts": 500} for row in SCORES]
    assert list(findings.on_leaks(rows)) == [
        "No test post has a near-duplicate in train or val, so that every score is leak-free."
    ]


@pytest.mark.parametrize(("figure", "place"), [(0.8, "within"), (0.9, "above"), (0.7, "below")])
def test_the_studys_figure_is_placed_against_our_interval(figure: float, place: str) -> None:
    (said,) = findings.on_the_study(SCORES, {"clip": figure}, "pretrained")
    assert f"is {place} our interval for clip, 77.0% to 83.0%" in said


def test_random_weights_say_nothing_about_the_study() -> None:
    (said,) = findings.on_the_study(SCORES, {"clip": 0.8}, "random")
    assert said.startswith("Weights are random")


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def test_twins_say_how_right_a_model_can_be() -> None:
    twins = {
        "groups": 90,
        "conflicting_groups": 14,
        "disagreement": interval(0.2),
        "noise_rate": interval(0.11),
        "true_tone_accuracy": interval(0.89),
    }
    learned: dict[str, Any] = {"flagged": 300, "posts": 2592}
    noise: dict[str, Any] = {"confident_learning": learned, "twins": {"agreement": {"any": twins}}}
    said, suspected = findings.on_noise(noise, "agreement")
    assert said.startswith(
        "14 of 90 groups of near-duplicates carry several labels: two labels of the same content differ"
    )
    assert "11.0% (9.0% to 13.0%) of labels are wrong" in said
    assert "more than 89.0% (87.0% to 91.0%)" in said
    assert "300 of 2,592 labels" in suspected
    noise["twins"]["agreement"]["any"] = {**twins, "conflicting_groups": 0}
    assert next(findings.on_noise(noise, "agreement")).startswith("None of the 90 groups")
    noise["twins"]["agreement"]["any"] = None
    assert next(findings.on_noise(noise, "agreement")).startswith("No post has a near-duplicate")


def test_what_each_half_is_worth_is_said_of_every_model() -> None:
    conditions = {
        name: {"change": {"accuracy": {"value": value}}}
        for name, value in (("text", -0.05), ("image", -0.2), ("shuffled", -0.1))
    }
    follows = {"n": 1919, "text": interval(0.6), "image": interval(0.3)}
    summary = {"conditions": conditions, "disagreement": {"follows": {"both": follows}}}
    (said,) = findings.on_modality({"clip": summary})
    assert (
        "clip: accuracy changes, in points, with the caption alone by \N{MINUS SIGN}5.0, the picture alone by "
        "\N{MINUS SIGN}20.0, another post's picture by \N{MINUS SIGN}10.0;" in said
    )
    assert "of 1,919 posts whose two labels differ it follows the text's label in 60.0%, the picture's in 30.0%" in said
    summary["disagreement"] = {"follows": {}}
    (said,) = findings.on_modality({"clip": summary})
    assert "labels differ" not in said


def test_a_condition_that_is_left_out_is_not_spoken_of() -> None:
    conditions = {name: {"change": {"accuracy": {"value": -0.1}}} for name in ("text", "image")}
    (said,) = findings.on_modality({"clip": {"conditions": conditions, "disagreement": {"follows": {}}}})
    assert said.count("by \N{MINUS SIGN}10.0") == 2
    assert "another post" not in said


def test_where_no_label_can_be_judged_the_reason_is_said() -> None:
    noise = {
        "confident_learning": None,
        "omitted": {"confident_learning": "all posts are alike"},
        "twins": {"agreement": {"any": None}},
    }
    _, said = findings.on_noise(noise, "agreement")
    assert "all posts are alike" in said
