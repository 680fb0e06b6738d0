"""Page of misclassified posts with their predictions and confidences. The page stands alone."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from src.core.records import Post, Prediction
from src.data.images import UnreadableImage, open_image
from src.reporting.pages import render

MOST_SHOWN = 200
_SIDE, _QUALITY = 160, 80


@dataclass(frozen=True)
class Mistake:
    """A misclassified post as the page shows it."""

    id: str
    caption: str
    # The labels of the text and of the image.
    text_label: str
    image_label: str
    # The label that the protocol makes of both.
    actual: str
    predicted: str
    # By label.
    probabilities: Mapping[str, float]
    # A small JPEG; empty if the image cannot be read.
    thumbnail: bytes


def mistakes_page(
    title: str, notice: str, posts: Iterable[Post], predictions: Sequence[Prediction], most: int = MOST_SHOWN
) -> str:
    """Render an HTML page of the misclassified posts, the most confident mistake first.

    Args:
        title: the model and the posts.
        notice: a warning that every reader must see.
        posts: the predicted posts; others are ignored.
        predictions: correct and wrong ones.
        most: the largest number of mistakes to show. The page gives the total.
    """
    by_id = {post.id: post for post in posts}
    wrong = mistaken(predictions)
    kinds = Counter((row.actual, row.predicted) for row in wrong).most_common()
    return render(
        "mistakes",
        title=title,
        notice=notice,
        total=len(predictions),
        wrong=len(wrong),
        kinds=[{"actual": actual, "predicted": predicted, "count": count} for (actual, predicted), count in kinds],
        shown=[_mistake(by_id[row.id], row) for row in wrong[:most]],
    )


def mistaken(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Return the wrong predictions, the most confident first."""
    wrong = (row for row in predictions if row.predicted != row.actual)
    return sorted(wrong, key=lambda row: (-row.confidence, row.id))


def thumbnail(path: Path) -> bytes:
    """Return an image as a JPEG of at most 160 pixels a side; empty if it cannot be read."""
    try:
        image = open_image(path, at_least=2 * _SIDE)
    except UnreadableImage:
        return b""
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _mistake(post: Post, prediction: Prediction) -> Mistake:
    return Mistake(
        id=post.id,
        caption=post.caption,
        text_label=post.text_label,
        image_label=post.image_label,
        actual=prediction.actual,
        predicted=prediction.predicted,
        probabilities=prediction.probabilities,
        thumbnail=thumbnail(Path(post.image)),
    )
