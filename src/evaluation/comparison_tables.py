"""Comparison of all systems on the test part, and the rows of the tables that stage `compare` writes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from src.core.estimates import Comparison, Verdict, VerdictAnswer
from src.core.records import Bin, Interval, Prediction
from src.evaluation.calibration import (
    Calibration,
    accuracy_by_coverage,
    calibrate,
    reliability,
    risk_coverage_area,
    scaled,
)
from src.evaluation.comparison import compare, verdicts
from src.evaluation.intervals import RESAMPLES, SCORES, intervals
from src.evaluation.seed_means import MeanComparison, SeedMean, compare_mean, mean_scores
from src.evaluation.systems import BASELINES, COMBINED, TFIDF, TUNED, Kind, System, best_on_validation

# The test posts that scores and comparisons are computed on.
ALL, LEAK_FREE = "all", "leak-free"
# Before and after temperature scaling.
BEFORE, AFTER = "before", "after"
# The kinds of systems that the pipeline trains for; all others are what these are judged by.
JUDGED = (TUNED, COMBINED)
# The names of two systems.
SystemPair = tuple[str, str]
TableRow = dict[str, Any]


@dataclass(frozen=True)
class PairResult:
    """The comparison of two systems, and its verdict within the family."""

    comparison: Comparison
    verdict: Verdict


@dataclass(frozen=True)
class MeanResult:
    """The comparison of a mean over seeds with a system, and its verdict within the family of such comparisons."""

    comparison: MeanComparison
    verdict: Verdict


@dataclass(frozen=True)
class ComparisonResults:
    """Scores and comparisons on some of the test posts."""

    # Number of posts.
    posts: int
    # By system, or mean over seeds, and name of the score.
    scores: Mapping[str, Mapping[str, Interval]]
    answers: Mapping[SystemPair, PairResult]
    # By the mean over seeds and the system.
    seeds_answers: Mapping[SystemPair, MeanResult]


@dataclass(frozen=True)
class ConfidenceQuality:
    """Calibration and selective prediction of one system, on all test posts."""

    # Before and after temperature scaling.
    calibration: Calibration
    # Bins of the reliability diagram, by `BEFORE` and `AFTER`.
    bins: Mapping[str, Sequence[Bin]]
    # Accuracy on the 1, 2, ... N posts of highest confidence.
    curve: Sequence[float]
    # Area under the risk-coverage curve.
    area: float


@dataclass(frozen=True)
class ScoreRow:
    """A row of scores.csv: the scores of one system on one set of test posts."""

    system: str
    kind: Kind
    # Empty for a baseline.
    model: str
    # `ALL` or `LEAK_FREE`.
    part: str
    posts: int
    accuracy: Interval
    macro_f1: Interval
    weighted_f1: Interval

    def scores(self) -> dict[str, Interval]:
        """Return the intervals by the names of `SCORES`."""
        return {name: getattr(self, name) for name in SCORES}


@dataclass(frozen=True)
class PairRow:
    """A row of pairs.csv: the comparison of two systems on one set of test posts (see `Comparison`)."""

    # `ALL` or `LEAK_FREE`.
    part: str
    first: str
    second: str
    posts: int
    only_first: int
    only_second: int
    accuracy_difference: Interval
    macro_f1_difference: Interval
    mcnemar_p: float
    bootstrap_p: float
    # The larger of the two p-values.
    p: float
    p_holm: float
    # Whether the first system is better.
    better: VerdictAnswer
    posts_needed: int | None


@dataclass(frozen=True)
class SeedsRow:
    """A row of seeds.csv: a mean over seeds against a system, on one set of test posts (see `MeanComparison`)."""

    # `ALL` or `LEAK_FREE`.
    part: str
    first: str
    second: str
    seeds: int
    posts: int
    accuracy_difference: Interval
    macro_f1_difference: Interval
    accuracy_over_seeds: Interval
    macro_f1_over_seeds: Interval
    posts_p: float
    seeds_p: float
    # The larger of the two p-values.
    p: float
    p_holm: float
    # Whether the mean over seeds is better.
    better: VerdictAnswer


@dataclass(frozen=True)
class CalibrationRow:
    """A row of calibration.csv: the calibration of one system (see `Calibration`)."""

    system: str
    ece: float
    ece_scaled: float
    temperature: float
    nll: float
    nll_scaled: float
    # Area under the risk-coverage curve.
    aurc: float


def family(systems: Sequence[System]) -> list[SystemPair]:
    """Return the comparisons.

    Tuned models are compared with each other, then with baselines, their zero-shot and their probe; the ensemble with
    the single system that is the best on validation, and with TF-IDF.
    """
    tuned = [system for system in systems if system.kind == TUNED]
    pairs = [(first.name, second.name) for first, second in combinations(tuned, 2)]
    for system in tuned:
        others = [other for other in systems if other.kind in BASELINES or other.model == system.model]
        pairs += [(system.name, other.name) for other in others if other is not system]
    singles = [system for system in systems if system.kind != COMBINED]
    rivals = dict.fromkeys((best_on_validation(singles).name, TFIDF))
    return pairs + [(system.name, rival) for system in systems if system.kind == COMBINED for rival in rivals]


def seeds_family(means: Sequence[SeedMean], systems: Sequence[System]) -> list[tuple[SeedMean, System]]:
    """Return the comparisons of means over seeds: each with the baselines, its model's zero-shot and its probe."""
    return [
        (each, other)
        for each in means
        for other in systems
        if other.kind in BASELINES or (other.model == each.model and other.kind != TUNED)
    ]


def score_and_compare(
    systems: Sequence[System],
    means: Sequence[SeedMean],
    ids: set[str],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> ComparisonResults:
    """Score and compare systems and means over seeds on the test posts with these ids, at least one."""

    def chosen(rows: Sequence[Prediction]) -> list[Prediction]:
        return [row for row in rows if row.id in ids]

    predictions = {system.name: chosen(system.test) for system in systems}
    trainings = {each.name: {number: chosen(rows) for number, rows in each.test.items()} for each in means}
    pairs = family(systems)
    comparisons = [
        compare(predictions[first], predictions[second], group_of, seed, resamples) for first, second in pairs
    ]
    results = [PairResult(*both) for both in zip(comparisons, verdicts(comparisons), strict=True)]
    mean_pairs = [(each.name, other.name) for each, other in seeds_family(means, systems)]
    mean_comparisons = [
        compare_mean(trainings[first], predictions[second], group_of, seed, resamples) for first, second in mean_pairs
    ]
    mean_results = [MeanResult(*both) for both in zip(mean_comparisons, verdicts(mean_comparisons), strict=True)]
    scores = {name: intervals(rows, group_of, seed, resamples) for name, rows in predictions.items()}
    scores |= {name: mean_scores(by_seed, group_of, seed, resamples) for name, by_seed in trainings.items()}
    return ComparisonResults(
        posts=len(ids),
        scores=scores,
        answers=dict(zip(pairs, results, strict=True)),
        seeds_answers=dict(zip(mean_pairs, mean_results, strict=True)),
    )


def confidence_quality(system: System) -> ConfidenceQuality:
    """Measure calibration and selective prediction on the test part; the temperature is fitted on validation."""
    calibration = calibrate(system.val, system.test)
    return ConfidenceQuality(
        calibration=calibration,
        bins={BEFORE: reliability(system.test), AFTER: reliability(scaled(system.test, calibration.temperature))},
        curve=accuracy_by_coverage(system.test).tolist(),
        area=risk_coverage_area(system.test),
    )


def scored(systems: Sequence[System], means: Sequence[SeedMean]) -> list[System | SeedMean]:
    """Return all that has scores, in the order of tables: the mean over seeds of a model behind its tuned system."""
    ordered: list[System | SeedMean] = []
    for system in systems:
        ordered.append(system)
        if system.kind == TUNED:
            ordered += [each for each in means if each.model == system.model]
    return ordered


def score_rows(all_scored: Sequence[System | SeedMean], results_of: Mapping[str, ComparisonResults]) -> list[ScoreRow]:
    """Return a row for each system or mean over seeds, and each set of test posts."""
    return [
        ScoreRow(each.name, each.kind, each.model, part, results.posts, **results.scores[each.name])
        for each in all_scored
        for part, results in results_of.items()
    ]


def pair_rows(results_of: Mapping[str, ComparisonResults]) -> list[PairRow]:
    """Return a row for each set of test posts and each comparison."""
    return [
        PairRow(
            part=part,
            first=first,
            second=second,
            posts=result.comparison.posts,
            only_first=result.comparison.only_first,
            only_second=result.comparison.only_second,
            accuracy_difference=result.comparison.accuracy,
            macro_f1_difference=result.comparison.macro_f1,
            mcnemar_p=result.comparison.mcnemar_p,
            bootstrap_p=result.comparison.bootstrap_p,
            p=result.comparison.p,
            p_holm=result.verdict.p_holm,
            better=result.verdict.answer,
            posts_needed=result.comparison.posts_needed,
        )
        for part, results in results_of.items()
        for (first, second), result in results.answers.items()
    ]


def seeds_rows(results_of: Mapping[str, ComparisonResults]) -> list[SeedsRow]:
    """Return a row for each set of test posts and each comparison of a mean over seeds."""
    return [
        SeedsRow(
            part=part,
            first=first,
            second=second,
            seeds=result.comparison.seeds,
            posts=result.comparison.posts,
            accuracy_difference=result.comparison.accuracy,
            macro_f1_difference=result.comparison.macro_f1,
            accuracy_over_seeds=result.comparison.accuracy_over_seeds,
            macro_f1_over_seeds=result.comparison.macro_f1_over_seeds,
            posts_p=result.comparison.posts_p,
            seeds_p=result.comparison.seeds_p,
            p=result.comparison.p,
            p_holm=result.verdict.p_holm,
            better=result.verdict.answer,
        )
        for part, results in results_of.items()
        for (first, second), result in results.seeds_answers.items()
    ]


def calibration_rows(qualities: Mapping[str, ConfidenceQuality]) -> list[CalibrationRow]:
    """Return a row for each system."""
    return [
        CalibrationRow(system=name, aurc=quality.area, **asdict(quality.calibration))
        for name, quality in qualities.items()
    ]


def reliability_rows(qualities: Mapping[str, ConfidenceQuality]) -> list[TableRow]:
    """Return a row for each bin with posts of each system, before and after scaling."""
    return [
        {"system": name, "scaling": stage, **asdict(each_bin)}
        for name, quality in qualities.items()
        for stage, bins in quality.bins.items()
        for each_bin in bins
        if each_bin.posts
    ]


def selective_rows(qualities: Mapping[str, ConfidenceQuality]) -> list[TableRow]:
    """Return a row for each system and each number of posts kept."""
    return [
        {"system": name, "coverage": (k + 1) / len(quality.curve), "accuracy": accuracy}
        for name, quality in qualities.items()
        for k, accuracy in enumerate(quality.curve)
    ]


def headline(
    systems: Sequence[System],
    means: Sequence[SeedMean],
    results_of: Mapping[str, ComparisonResults],
    qualities: Mapping[str, ConfidenceQuality],
) -> dict[str, float]:
    """Return the scores of tuned models, means over seeds and the ensemble that `dvc metrics diff` compares.

    They are keyed as MODEL_SCORE and MODEL_seeds_SCORE.
    """
    figures: dict[str, float] = {}
    for system in (system for system in systems if system.kind in JUDGED):
        figures |= _headline_scores(system.name, system.short_name, results_of)
        figures[f"{system.short_name}_ece"] = qualities[system.name].calibration.ece
    for each in means:
        figures |= _headline_scores(each.name, f"{each.model}_{each.kind}", results_of)
    return figures


def _headline_scores(name: str, key: str, results_of: Mapping[str, ComparisonResults]) -> dict[str, float]:
    prefixes = {ALL: "", LEAK_FREE: "leak_free_"}
    return {
        f"{key}_{prefixes[part]}{score}": results.scores[name][score].value
        for part, results in results_of.items()
        for score in ("accuracy", "macro_f1")
    }
