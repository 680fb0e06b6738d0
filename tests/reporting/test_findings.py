"""Covers: the report's findings, from rows and outputs such as the stages write."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from src.core.estimates import (
    AblationResult,
    Comparison,
    Disagreement,
    DuplicateAgreement,
    HashtagEffect,
    LabelAdherence,
    VerdictAnswer,
)
from src.core.outputs import (
    BaselineOmissions,
    BestTrials,
    ConfidentLearning,
    EnsembleMember,
    EnsembleOutput,
    JointDistribution,
    ModalityOutput,
    NoiseOutput,
    Trained,
)
from src.core.records import Interval
from src.evaluation.comparison_tables import ALL, LEAK_FREE, PairRow, ScoreRow, SeedsRow
from src.evaluation.intervals import SCORES as SCORE_NAMES
from src.evaluation.systems import Kind
from src.reporting import findings
from src.reporting.pages import Plot, render
from tests.split_report import split_report

MINUS = "\N{MINUS SIGN}"


def interval(value: float, half_width: float = 0.02) -> Interval:
    return Interval(value, value - half_width, value + half_width)


def score(kind: Kind, model: str, part: str, posts: int, accuracy: float) -> ScoreRow:
    scores = (interval(accuracy, 0.03), interval(accuracy - 0.1, 0.03), interval(accuracy, 0.03))
    return ScoreRow(f"{model} {kind}".strip(), kind, model, part, posts, *scores)


SCORES = [
    score("majority", "", ALL, 500, 0.54),
    score("tfidf", "", ALL, 500, 0.7),
    score("tuned", "clip", ALL, 500, 0.8),
    score("tuned", "clip", LEAK_FREE, 470, 0.785),
    score("tuned", "llava", ALL, 500, 0.78),
    score("tuned", "llava", LEAK_FREE, 470, 0.79),
]


def pair(first: str, second: str, better: VerdictAnswer, needed: int | None = None, part: str = ALL) -> PairRow:
    difference = interval(0.1)
    return PairRow(part, first, second, 500, 9, 3, difference, difference, 0.1, 0.1, 0.1, 0.2, better, needed)


MEMBERS = (EnsembleMember("clip seed 8", "seed", "clip", 8, 0.7), EnsembleMember("tfidf", "tfidf", "", None, 0.3))
ENSEMBLE = EnsembleOutput(MEMBERS, 1.2, 9, "clip tuned", {"macro_f1": 0.7}, {"macro_f1": 0.8}, {}, {"clip": 1})
ANSWERS: dict[str, VerdictAnswer] = {"clip": "yes", "llava": "cannot tell", "blip2": "no"}
PAIRS = [
    pair("clip tuned", "llava tuned", "cannot tell", 4000),
    pair("blip2 tuned", "llava tuned", "cannot tell", 9000),
    pair("clip tuned", "blip2 tuned", "no"),
    *(
        pair(f"{model} tuned", second, answer)
        for model, answer in ANSWERS.items()
        for second in ("tfidf", f"{model} zero-shot", f"{model} probe")
    ),
    pair("clip tuned", "tfidf", "no", part=LEAK_FREE),
]


def test_choice_stands_beside_baselines() -> None:
    (sentence,) = findings.on_the_choice(SCORES, "llava")
    for datum in ("llava", "500", "78.0% (75.0% to 81.0%)", "54.0%", "70.0% (67.0% to 73.0%)"):
        assert datum in sentence


def test_comparisons_count_all_test_posts() -> None:
    tfidf, untrained, probe, models, closest = findings.on_comparisons(PAIRS)
    assert tfidf.endswith(": clip. Worse: blip2. Undecided with 500 posts: llava.")
    assert "untrained: clip. Worse: blip2" in untrained
    assert ": clip. Worse" in probe
    assert models.endswith("1 of 3: blip2 beats clip.")
    assert "clip and llava" in closest
    assert "4,000" in closest


def test_posts_that_are_there_are_not_asked_for() -> None:
    """One comparison would tell with 437 of the 500 posts. The correction for many leaves it undecided."""
    *_, models = findings.on_comparisons([pair("clip tuned", "llava tuned", "cannot tell", 437)])
    assert "437" not in models


def test_one_model_has_no_pairs() -> None:
    rows = [pair("clip tuned", second, "yes") for second in ("tfidf", "clip zero-shot", "clip probe")]
    assert len(list(findings.on_comparisons(rows))) == 3


def over_seeds(second: str, better: VerdictAnswer, part: str = ALL) -> SeedsRow:
    ours = interval(0.1)
    return SeedsRow(part, "clip seeds", second, 3, 500, ours, ours, ours, ours, 0.01, 0.02, 0.02, 0.04, better)


SEEDS = [
    over_seeds("tfidf", "yes"),
    over_seeds("clip probe", "cannot tell"),
    over_seeds("clip probe", "yes", LEAK_FREE),
]


def test_mean_over_seeds_names_what_it_beats() -> None:
    scores = [*SCORES, score("seeds", "clip", ALL, 500, 0.79), score("seeds", "clip", LEAK_FREE, 470, 0.78)]
    (sentence,) = findings.on_seeds(scores, SEEDS)
    assert "3 other trainings of clip's winner" in sentence and "79.0% (76.0% to 82.0%)" in sentence
    assert sentence.endswith("Better than: tfidf.")
    assert list(findings.on_seeds(SCORES, [])) == []


def test_ensemble_is_no_tuned_model() -> None:
    rows = [pair("ensemble", second, "yes") for second in ("clip tuned", "tfidf")]
    assert list(findings.on_comparisons([*PAIRS, *rows])) == list(findings.on_comparisons(PAIRS))


def test_ensemble_stands_beside_its_rivals() -> None:
    scores = [*SCORES, score("ensemble", "", ALL, 500, 0.81)]
    pairs = [pair("ensemble", "clip tuned", "cannot tell"), pair("ensemble", "tfidf", "yes")]
    members, single, tfidf = findings.on_the_ensemble(ENSEMBLE, scores, pairs)
    assert "2 of 9" in members
    assert "clip seed 8 (70.0%), tfidf (30.0%)" in members
    assert "81.0% (78.0% to 84.0%)" in members
    assert "best single" in single and "cannot tell" in single
    assert "best single" not in tfidf and "yes" in tfidf


def test_leaks_are_counted_and_measured() -> None:
    count, change = findings.on_leaks(SCORES)
    assert count.startswith("30 of 500 test posts")
    assert change.endswith(f"clip {MINUS}1.5, llava +1.0.")


def test_split_without_leaks_says_so() -> None:
    (sentence,) = findings.on_leaks([replace(row, posts=500) for row in SCORES])
    assert sentence.startswith("No test post")


@pytest.mark.parametrize(("figure", "place"), [(0.8, "within"), (0.9, "above"), (0.7, "below")])
def test_paper_is_placed_against_interval(figure: float, place: str) -> None:
    (sentence,) = findings.on_the_paper(SCORES, {"clip": figure}, {"clip": "pretrained"})
    assert f"is {place} our interval for clip, 77.0% to 83.0%" in sentence


def test_random_weights_allow_no_statement() -> None:
    (sentence,) = findings.on_the_paper(SCORES, {"clip": 0.8}, {"clip": "random"})
    assert "random" in sentence
    assert "%" not in sentence


def test_given_checkpoint_allows_no_statement() -> None:
    assert list(findings.on_the_paper(SCORES, {"clip": 0.8}, {"clip": "given"})) == []


AGREEMENT = DuplicateAgreement(
    posts=2592,
    near_duplicates=200,
    groups=90,
    conflicting_groups=14,
    pairs=120,
    disagreeing_pairs=20,
    pair_disagreement=interval(0.17),
    disagreement=interval(0.2),
    noise_rate=interval(0.11),
    true_label_accuracy=interval(0.89),
    majority_accuracy=interval(0.95),
    majority_accuracy_all=0.99,
)
LEARNED = ConfidentLearning(2592, 300, 0.12, JointDistribution((), ()), {"tfidf": 1.0})


def noise_of(agreement: DuplicateAgreement | None) -> NoiseOutput:
    return NoiseOutput(LEARNED, {"agreement": {"any": agreement}}, {})


def test_conflicting_duplicates_bound_the_score() -> None:
    conflict, flagged = findings.on_noise(noise_of(AGREEMENT), "agreement")
    for datum in ("14 of 90", "20.0% (18.0% to 22.0%)", "11.0% (9.0% to 13.0%)", "89.0% (87.0% to 91.0%)"):
        assert datum in conflict
    assert "300 of 2,592" in flagged


def test_agreeing_or_missing_duplicates_are_named() -> None:
    agreeing = replace(AGREEMENT, conflicting_groups=0)
    assert next(findings.on_noise(noise_of(agreeing), "agreement")).startswith("None of the 90 groups")
    assert next(findings.on_noise(noise_of(None), "agreement")).startswith("No post has a near-duplicate")


def test_missing_noise_estimate_gives_reason() -> None:
    noise = NoiseOutput(None, {"agreement": {"any": None}}, {"confident_learning": "all posts are alike"})
    _, sentence = findings.on_noise(noise, "agreement")
    assert "all posts are alike" in sentence


def modality_of(changes: dict[str, float], follows: dict[str, LabelAdherence]) -> ModalityOutput:
    ablations = {
        name: AblationResult({}, {}, Comparison(500, 9, 3, interval(change), interval(change), 0.1, 0.1, None))
        for name, change in changes.items()
    }
    disagreement = Disagreement(1919, follows, {}, {}, {}, {})
    return ModalityOutput(500, 470, ablations, {}, None, HashtagEffect(0, 0, None), {}, disagreement, None, "digest")


def test_each_ablation_has_its_change() -> None:
    adherence = LabelAdherence(1919, interval(0.6), interval(0.3), interval(0.1), {})
    output = modality_of({"text": -0.05, "image": -0.2, "shuffled": -0.1}, {"both": adherence})
    (sentence,) = findings.on_modality({"clip": output})
    for datum in (f"by {MINUS}5.0", f"by {MINUS}20.0", f"by {MINUS}10.0", "1,919", "60.0%", "30.0%"):
        assert datum in sentence


def test_missing_ablation_is_left_out() -> None:
    (sentence,) = findings.on_modality({"clip": modality_of({"text": -0.1, "image": -0.1}, {})})
    assert sentence.count(f"by {MINUS}10.0") == 2
    assert "another post" not in sentence
    assert "labels differ" not in sentence


# The page


def trained(model: str, macro_f1: float) -> Trained:
    facts = {"weights": "pretrained"}
    return Trained(model, 1, macro_f1, macro_f1, macro_f1, facts, "code", "study", 0, {}, ())


def inputs_of(scores: Sequence[ScoreRow]) -> findings.ReportInputs:
    nothing = cast("Any", None)
    return findings.ReportInputs(
        scores=scores,
        pairs=PAIRS,
        seeds=SEEDS,
        calibration=[],
        trained={"clip": trained("clip", 0.6), "llava": trained("llava", 0.7)},
        modality={},
        saliency={},
        noise=noise_of(AGREEMENT),
        mislabelled=[],
        leaks=nothing,
        split=split_report(),
        data=nothing,
        omissions=BaselineOmissions(),
        ensemble=ENSEMBLE,
    )


LEAKY = inputs_of(SCORES)
LEAK_FREE_INPUTS = inputs_of([replace(row, posts=500) for row in SCORES])


def scores_section(inputs: findings.ReportInputs) -> str:
    rows = [row for row in inputs.score_rows() if row.clean]
    content = {
        "inputs": inputs,
        "scores": rows,
        "score_names": SCORE_NAMES,
        "test_posts": 500,
        "clean_posts": rows[0].clean.posts if rows[0].clean else 0,
        "plots": dict.fromkeys(("intervals", "per-class-f1"), Plot(b"", "a plot")),
    }
    return render("report/scores", **content)


def test_tiles_show_chosen_model() -> None:
    chosen, accuracy, macro_f1, better = LEAKY.tiles()
    assert chosen.value == "llava" and "70.0%" in chosen.note
    assert (accuracy.value, accuracy.note) == ("78.0%", "75.0% to 81.0% on 500 test posts")
    assert macro_f1.value == "68.0%"
    assert better.value == "cannot tell" and "70.0%" in better.note


def test_page_lists_members_and_trials() -> None:
    trials = {"clip": BestTrials((4, 5), (0.61, 0.58, 0.6), 2), "llava": BestTrials((3,), (0.5, 0.6), 1)}
    page = render("report/ensemble", inputs=replace(LEAKY, ensemble=replace(ENSEMBLE, best_trials=trials)))
    assert '<th scope="row">clip seed 8</th><td>70.0' in page
    assert "1 pass of clip" in page
    assert "the plain mean of the best 2 trials" in page and "the best trial alone" in page


def test_repeated_leak_free_tables_are_left_out() -> None:
    assert list(LEAKY.pairs_by_part()) == [ALL, LEAK_FREE]
    assert list(LEAK_FREE_INPUTS.pairs_by_part()) == [ALL]
    assert scores_section(LEAKY).count('<th scope="col">accuracy</th>') == 2
    assert scores_section(LEAK_FREE_INPUTS).count('<th scope="col">accuracy</th>') == 1
    assert "every score is leak-free" in scores_section(LEAK_FREE_INPUTS)


def test_model_that_the_paper_lacks_has_no_place_beside_it() -> None:
    ensemble = score("ensemble", "", ALL, 500, 0.81)
    scores = [score("tuned", "smol", part, 500, 0.8) for part in (ALL, LEAK_FREE)]
    tfidf = score("tfidf", "", ALL, 500, 0.7)
    majority = score("majority", "", ALL, 500, 0.54)
    lacking = replace(inputs_of([majority, tfidf, *scores, ensemble]), trained={"smol": trained("smol", 0.6)})
    assert 'class="paper"' in scores_section(LEAKY)
    assert 'class="paper"' not in scores_section(lacking)
    subjects = {finding.title for finding in lacking.findings()}
    assert "Best model" in subjects and "The paper" not in subjects
