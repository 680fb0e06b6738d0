"""Page of a version's answers to many posts, the least certain first.

The page loads nothing but the posts' images. It links them by paths relative to itself. So it stays small with
thousands of posts, holds no copy of an image, and needs the images to stay where they are.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from src.core.format import percent, round_percent
from src.evaluation.metrics import scores
from src.evaluation.selective import split_by_confidence
from src.registry.answers import AnsweredPosts, accuracy_of, advice, num_right
from src.registry.prediction import PredictedPost
from src.reporting.pages import render

MOST_SHOWN = 10_000
# By this name in a page's head, `predict` knows a page that it may replace.
GENERATOR = "mvsa-tuner predict"
# The accuracies whose cost every page shows.
CHOICES = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def answers_page(content: AnsweredPosts, page: Path, table: Path) -> str:
    """Render the HTML page of answers.

    Args:
        content: the posts and their answers.
        page: where the page will be written; addresses of images are relative to it.
        table: the CSV with the same answers.
    """
    answered = content.answered
    labels = list(answered[0].probabilities) if answered else []
    places = sorted(
        (place for place, row in enumerate(content.rows) if row.predicted),
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
        unread=[row for row in content.rows if not row.predicted],
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
    posts = Counter(row.predicted for row in answered)
    review = Counter(row.predicted for row in answered if row.review)
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
                "test_accuracy": num_right(above) / len(above) if above else None,
            }
        rows.append(row)
    return rows


def _scores(content: AnsweredPosts, labels: Sequence[str]) -> Mapping[str, Any] | None:
    """Return scores on the posts that came with a label; None without one."""
    labelled = content.labelled
    if not labelled:
        return None
    scored = scores(labelled)
    sentences = [
        f"On the {len(labelled):,} posts that came with a label, the accuracy is {accuracy_of(labelled)}, the macro-F1 "
        f"{percent(scored.macro_f1)}."
    ]
    if content.wanted is not None:
        for review, name in ((False, "not left to a person"), (True, "left to a person")):
            part = replace(content, rows=[row for row in content.rows if row.review is review]).labelled
            if part:
                sentences.append(f"On the {len(part):,} of them that are {name}, it is {accuracy_of(part)}.")
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
        "index": labels.index(row.predicted),
        "address": _address(post.image, page) if post.image else "",
        "caption": row.text,
        "predicted": row.predicted,
        "confidence": row.confidence,
        "others": [(label, share) for label, share in row.calibrated.items() if label != row.predicted],
        "label": row.label if row.label in labels else "",
        "wrong": row.label in labels and row.label != row.predicted,
        "review": row.review,
        "problem": row.problem,
    }


def _address(image: Path, page: Path) -> str:
    """Return the address of an image, relative to the page. Quoting also keeps a name from being a scheme."""
    return quote(os.fsencode(os.path.relpath(image, page.parent)))
