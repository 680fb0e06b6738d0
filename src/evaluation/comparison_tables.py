"""All that is found out about the systems that are compared, and the tables that say it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from src.core.estimates import Comparison, Verdict
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
from src.evaluation.intervals import RESAMPLES, intervals
from src.evaluation.systems import BASELINES, System

ALL, LEAK_FREE = "all", "leak-free"
BEFORE, AFTER = "before", "after"
SystemPair = tuple[str, str]
TableRow = dict[str, Any]


@dataclass(frozen=True)
class PairResult:
    """What came of a comparison, and the verdict that the whole family allows."""

    comparison: Comparison
    verdict: Verdict


@dataclass(frozen=True)
class ComparisonResults:
    """What is found on some of the test posts: figures by system and name, and answers by pair of systems."""

    posts: int
    scores: Mapping[str, Mapping[str, Interval]]
    answers: Mapping[SystemPair, PairResult]


@dataclass(frozen=True)
class ConfidenceQuality:
    """How far the confidences of one system can be trusted, on all test posts.

    Attributes:
        calibration: before and after temperature scaling.
        bins: of the reliability diagram, `BEFORE` and `AFTER`.
        curve: the accuracy on the 1, 2, ... N posts it is surest of.
        area: under the curve of risk and coverage.
    """

    calibration: Calibration
    bins: Mapping[str, Sequence[Bin]]
    curve: Sequence[float]
    area: float


def family(systems: Sequence[System]) -> list[SystemPair]:
    """What is compared: every two tuned models, then each with the baselines, its own zero-shot and its own probe."""
    tuned = [each for each in systems if each.kind == "tuned"]
    pairs = [(first.name, second.name) for first, second in combinations(tuned, 2)]
    for each in tuned:
        others = [other for other in systems if other.kind in BASELINES or other.model == each.model]
        pairs += [(each.name, other.name) for other in others if other is not each]
    return pairs


def score_and_compare(
    systems: Sequence[System], ids: set[str], group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> ComparisonResults:
    """Score and compare systems on the test posts of some ids, one at least."""
    judged: dict[str, list[Prediction]] = {each.name: [row for row in each.test if row.id in ids] for each in systems}
    pairs = family(systems)
    compared = [compare(judged[first], judged[second], group_of, seed, resamples) for first, second in pairs]
    answers = [PairResult(*both) for both in zip(compared, verdicts(compared), strict=True)]
    return ComparisonResults(
        posts=len(ids),
        scores={name: intervals(rows, group_of, seed, resamples) for name, rows in judged.items()},
        answers=dict(zip(pairs, answers, strict=True)),
    )


def confidence_quality(system: System) -> ConfidenceQuality:
    """Judge a system's confidences on the test part; its temperature is fitted on validation."""
    found = calibrate(system.val, system.test)
    softened = scaled(system.test, found.temperature)
    return ConfidenceQuality(
        calibration=found,
        bins={BEFORE: reliability(system.test), AFTER: reliability(softened)},
        curve=accuracy_by_coverage(system.test).tolist(),
        area=risk_coverage_area(system.test),
    )


def score_rows(systems: Sequence[System], findings: Mapping[str, ComparisonResults]) -> list[TableRow]:
    """A row for each system and each part of `findings`: its figures, each with `_low` and `_high`."""
    return [
        {"system": each.name, "kind": each.kind, "model": each.model, "part": part, "posts": found.posts}
        | _flat(found.scores[each.name])
        for each in systems
        for part, found in findings.items()
    ]


def pair_rows(findings: Mapping[str, ComparisonResults]) -> list[TableRow]:
    """A row for each part of `findings` and each comparison; `p` is the larger of both p-values."""
    return [
        {"part": part, "first": first, "second": second, **_pair(answer)}
        for part, found in findings.items()
        for (first, second), answer in found.answers.items()
    ]


def calibration_rows(trusts: Mapping[str, ConfidenceQuality]) -> list[TableRow]:
    """A row for each system: calibration, and the area under its risk-coverage curve (`aurc`)."""
    return [{"system": name, **asdict(each.calibration), "aurc": each.area} for name, each in trusts.items()]


def reliability_rows(trusts: Mapping[str, ConfidenceQuality]) -> list[TableRow]:
    """A row for each bin of each system, before and after scaling, that has a post."""
    return [
        {"system": name, "scaling": stage, **asdict(each)}
        for name, found in trusts.items()
        for stage, bins in found.bins.items()
        for each in bins
        if each.posts
    ]


def selective_rows(trusts: Mapping[str, ConfidenceQuality]) -> list[TableRow]:
    """A row for each number of posts kept of each system."""
    return [
        {"system": name, "coverage": (k + 1) / len(found.curve), "accuracy": accuracy}
        for name, found in trusts.items()
        for k, accuracy in enumerate(found.curve)
    ]


def headline(
    systems: Sequence[System], findings: Mapping[str, ComparisonResults], trusts: Mapping[str, ConfidenceQuality]
) -> TableRow:
    """What is worth watching from revision to revision: for each tuned model a few figures under names of their own."""
    found: TableRow = {}
    for each in (system for system in systems if system.kind == "tuned"):
        for part, prefix in ((ALL, ""), (LEAK_FREE, "leak_free_")):
            if part in findings:
                scores = findings[part].scores[each.name]
                found |= {f"{each.model}_{prefix}{name}": scores[name].value for name in ("accuracy", "macro_f1")}
        found[f"{each.model}_ece"] = trusts[each.name].calibration.ece
    return found


def _pair(answer: PairResult) -> TableRow:
    found = answer.comparison
    return {
        "posts": found.posts,
        "only_first": found.only_first,
        "only_second": found.only_second,
        **_flat({"accuracy_difference": found.accuracy, "macro_f1_difference": found.macro_f1}),
        "mcnemar_p": found.mcnemar_p,
        "bootstrap_p": found.bootstrap_p,
        "p": found.p,
        "p_holm": answer.verdict.p_holm,
        "better": answer.verdict.answer,
        "posts_needed": found.posts_needed,
    }


def _flat(figures: Mapping[str, Interval]) -> TableRow:
    row: TableRow = {}
    for name, each in figures.items():
        row |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return row
