"""Page of a version's answers to many posts, the least certain first, and advice on which to leave to a person.

The page loads nothing but the posts' pictures. It links them by paths relative to itself. So it stays small with
thousands of posts, holds no copy of a picture, and needs the pictures to stay where they are.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from src.core.format import percent, percent_interval, round_percent
from src.core.records import Prediction
from src.data.inputs import InputPost
from src.evaluation.intervals import share_interval
from src.evaluation.metrics import scores
from src.evaluation.selective import CONFIDENCE, OperatingPoint, split_by_confidence
from src.registry.evidence import Evidence
from src.registry.prediction import PredictedPost
from src.reporting.pages import render

MOST_SHOWN = 10_000
# By this name in a page's head, `predict` knows a page that it may replace.
GENERATOR = "mvsa-tuner predict"
# The accuracies whose cost every page shows.
CHOICES = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


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
        return [row for row in self.rows if row.tone]

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
        f"on {_accuracy(above)} of these {len(above):,}."
    ]


def answers_page(content: AnsweredPosts, page: Path, table: Path) -> str:
    """Render the HTML page of answers.

    Args:
        content: the posts and their answers.
        page: where the page will be written; addresses of pictures are relative to it.
        table: the CSV with the same answers.
    """
    answered = content.answered
    labels = list(answered[0].probabilities) if answered else []
    places = sorted(
        (place for place, row in enumerate(content.rows) if row.tone),
        key=lambda place: content.rows[place].confidence or 0,
    )
    return render(
        "answers",
        title=f"Answers of {content.evidence.version} to {content.source.name or content.source}",
        generator=GENERATOR,
        notice=content.evidence.notice,
        about=_about(content, table),
        total=len(content.rows),
        answers=answered,
        wanted=None if content.wanted is None else round_percent(content.wanted),
        num_review=sum(bool(row.review) for row in answered),
        unread=[row for row in content.rows if not row.tone],
        counts=_counts(answered, labels),
        advice=advice(content),
        choices=_choices(content),
        has_test=bool(content.evidence.test),
        scores=_scores(content, labels),
        shown=[_shown(content, place, labels, page) for place in places[:MOST_SHOWN]],
    )


def _about(content: AnsweredPosts, table: Path) -> str:
    evidence = content.evidence
    calibrated = (
        f"Confidences are probabilities at temperature {evidence.temperature:.2f}, which calibrates them on "
        f"validation; {table.name} has the version's own too."
        if evidence.curve
        else "Confidences are the version's own probabilities."
    )
    return " ".join(filter(None, [f"{evidence.version} gave these answers.", evidence.scores, calibrated]))


def _counts(answered: Sequence[PredictedPost], labels: Sequence[str]) -> list[dict[str, Any]]:
    posts = Counter(row.tone for row in answered)
    review = Counter(row.tone for row in answered if row.review)
    return [
        {"label": label, "posts": posts[label], "share": posts[label] / len(answered), "review": review[label]}
        for label in labels
    ]


def _choices(content: AnsweredPosts) -> list[dict[str, Any]]:
    """Return what each wanted accuracy costs, in posts for a person."""
    curve, answered = content.evidence.curve, content.answered
    if curve is None or not answered:
        return []
    test = content.evidence.test
    rows = []
    for wanted in sorted({*CHOICES, *filter(None, [content.wanted])}):
        point = curve.widest(wanted)
        row: dict[str, Any] = {"wanted": round_percent(wanted), "point": point}
        if point:
            review = sum((answer.confidence or 0) <= point.threshold for answer in answered)
            above, _ = split_by_confidence(test, point.threshold)
            row |= {
                "review": review,
                "share": review / len(answered),
                "test_coverage": len(above) / len(test) if test else None,
                "test_accuracy": _right(above) / len(above) if above else None,
            }
        rows.append(row)
    return rows


def _scores(content: AnsweredPosts, labels: Sequence[str]) -> Mapping[str, Any] | None:
    """Return scores on the posts that came with a label; None without one."""
    labelled = [row for row in content.rows if row.as_prediction()]
    if not labelled:
        return None
    everything = [prediction for row in labelled if (prediction := row.as_prediction())]
    scored = scores(everything)
    sentences = [
        f"On the {len(labelled):,} posts that came with a label, the accuracy is {_accuracy(everything)}, the macro-F1 "
        f"{percent(scored.macro_f1)}."
    ]
    if content.wanted is not None:
        for review, name in ((False, "not left to a person"), (True, "left to a person")):
            part = [prediction for row in labelled if row.review is review and (prediction := row.as_prediction())]
            if part:
                sentences.append(f"On the {len(part):,} of them that are {name}, it is {_accuracy(part)}.")
    rows = [
        {"label": label, "counts": counts, "f1": scored.per_class[label]["f1"]}
        for label, counts in zip(labels, scored.confusion, strict=True)
    ]
    return {"accuracy": scored.accuracy, "posts": len(labelled), "sentences": sentences, "rows": rows}


def _shown(content: AnsweredPosts, place: int, labels: Sequence[str], page: Path) -> dict[str, Any]:
    row, post = content.rows[place], content.posts[place]
    return {
        "id": row.id,
        "place": place,
        "index": labels.index(row.tone),
        "address": _address(post.image, page) if post.image else "",
        "caption": row.text,
        "predicted": row.tone,
        "confidence": row.confidence,
        "others": [(label, share) for label, share in row.calibrated.items() if label != row.tone],
        "label": row.label if row.label in labels else "",
        "wrong": row.label in labels and row.label != row.tone,
        "review": row.review,
        "problem": row.problem,
    }


def _address(image: Path, page: Path) -> str:
    """Return the address of a picture, relative to the page. Quoting also keeps a name from being a scheme."""
    return quote(os.fsencode(os.path.relpath(image, page.parent)))


def _accuracy(predictions: Sequence[Prediction]) -> str:
    return percent_interval(share_interval(_right(predictions), len(predictions)))


def _right(predictions: Sequence[Prediction]) -> int:
    return sum(row.actual == row.predicted for row in predictions)
