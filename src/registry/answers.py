"""Answers of a version to many posts, and advice on which posts to leave to a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.format import percent, percent_interval, round_percent
from src.core.records import Prediction
from src.data.inputs import InputPost
from src.evaluation.intervals import share_interval
from src.evaluation.selective import CONFIDENCE, OperatingPoint, split_by_confidence
from src.registry.evidence import Evidence
from src.registry.prediction import PredictedPost


@dataclass(frozen=True)
class AnsweredPosts:
    """Posts with a version's answers."""

    # The folder or CSV of the posts.
    source: Path
    # In one order; the rows are judged (`judge`).
    posts: Sequence[InputPost]
    rows: Sequence[PredictedPost]
    evidence: Evidence
    # The accuracy that the user wants of the posts that are not left to a person.
    wanted: float | None

    @property
    def answered(self) -> list[PredictedPost]:
        """Return the rows with a prediction."""
        return [row for row in self.rows if row.predicted]

    @property
    def labelled(self) -> list[Prediction]:
        """Return the predictions of posts that came with a label of the version, for scoring."""
        return [prediction for row in self.rows if (prediction := row.as_prediction())]

    @property
    def point(self) -> OperatingPoint | None:
        """Return the operating point for the wanted accuracy; None without one."""
        curve = self.evidence.curve
        return curve.widest(self.wanted) if curve and self.wanted is not None else None


def advice(content: AnsweredPosts) -> list[str]:
    """Return sentences on the posts to leave to a person for the wanted accuracy, and on how far to trust them."""
    evidence, wanted = content.evidence, content.wanted
    curve = evidence.curve
    if curve is None:
        return [f"{evidence.version} has no validation predictions, which tell what to leave to a person."]
    if wanted is None:
        return ["With --accuracy, `predict` marks the posts to leave to a person.", _CAVEAT]
    point = content.point
    if point is None:
        best = curve.highest_accuracy(below=wanted)
        return [
            f"An accuracy of {round_percent(wanted)} is out of reach, so all posts are left to a person: from its "
            f"{curve.posts:,} validation posts, {round_percent(best)} is the highest that {evidence.version} reaches "
            f"with {round_percent(CONFIDENCE)} confidence (--accuracy {best:g})."
        ]
    return [_who_answers(content, point), _on_validation(evidence, point), *_on_test(evidence, point), _CAVEAT]


_CAVEAT = (
    "These figures hold for posts like those of validation: check some answers if yours come from another source, time "
    "or topic."
)


def _who_answers(content: AnsweredPosts, point: OperatingPoint) -> str:
    answered = content.answered
    review = sum(bool(row.review) for row in answered)
    wanted = round_percent(content.wanted or 0)
    if not review:
        return f"For an accuracy of {wanted}, none of the {len(answered):,} posts is left to a person."
    return (
        f"For an accuracy of {wanted}, the {review:,} least certain of {len(answered):,} posts "
        f"({percent(review / len(answered))}) are left to a person: those with a confidence of at most "
        f"{point.threshold:.3f}."
    )


def _on_validation(evidence: Evidence, point: OperatingPoint) -> str:
    return (
        f"Above this threshold, {evidence.version} answers {percent(point.coverage)} of the validation posts and is "
        f"right on {percent(point.accuracy)} of these {point.posts:,}, so with {round_percent(CONFIDENCE)} confidence "
        f"its accuracy there is at least {percent(point.bound)}. Validation also chose its settings, so this is "
        "slightly too high."
    )


def _on_test(evidence: Evidence, point: OperatingPoint) -> list[str]:
    above, _ = split_by_confidence(evidence.test, point.threshold)
    if not above:
        return []
    return [
        f"Of the test posts, which chose nothing, it answers {percent(len(above) / len(evidence.test))} and is right "
        f"on {accuracy_of(above)} of these {len(above):,}."
    ]


def accuracy_of(predictions: Sequence[Prediction]) -> str:
    """Format the accuracy of predictions with its interval."""
    return percent_interval(share_interval(num_right(predictions), len(predictions)))


def num_right(predictions: Sequence[Prediction]) -> int:
    """Count the predictions that are right."""
    return sum(row.actual == row.predicted for row in predictions)
