"""The posts that a model gets wrong, as a page that stands alone: what it said of each, and how sure it was."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from src.core.labels import TONES
from src.core.records import Post, Prediction
from src.data.images import UnreadableImage, open_image
from src.reporting.pages import render

MOST_SHOWN = 200
_SIDE, _QUALITY = 160, 80


@dataclass(frozen=True)
class Mistake:
    """A misclassified post as the page shows it.

    Attributes:
        text_label, image_label: what was said of the text and of the image.
        actual: the label that the protocol makes of both.
        probabilities: by tone.
        thumbnail: a small JPEG; empty where the picture cannot be read any more.
    """

    id: str
    caption: str
    text_label: str
    image_label: str
    actual: str
    predicted: str
    probabilities: Mapping[str, float]
    thumbnail: bytes


def mistakes_page(
    title: str, notice: str, posts: Iterable[Post], predictions: Sequence[Prediction], most: int = MOST_SHOWN
) -> str:
    """An HTML page with the misclassified of these predictions, those the model was surest of first.

    Args:
        title: which model, on what.
        notice: what every reader of it must know.
        posts: those that were predicted, and perhaps others.
        predictions: all of them, right or wrong.
        most: how many mistakes are shown; the page says how many there are.
    """
    by_id = {post.id: post for post in posts}
    wrong = mistaken(predictions)
    kinds = Counter((each.actual, each.predicted) for each in wrong).most_common()
    return render(
        "mistakes",
        title=title,
        notice=notice,
        total=len(predictions),
        wrong=len(wrong),
        kinds=[{"actual": actual, "predicted": said, "count": count} for (actual, said), count in kinds],
        shown=[_mistake(by_id[each.id], each) for each in wrong[:most]],
    )


def mistaken(predictions: Iterable[Prediction]) -> list[Prediction]:
    """The wrong ones, the most confident first."""
    wrong = (each for each in predictions if each.predicted != each.actual)
    return sorted(wrong, key=lambda each: (-getattr(each, each.predicted), each.id))


def thumbnail(path: Path) -> bytes:
    """A picture as a JPEG of at most 160 pixels a side; empty if it cannot be read."""
    try:
        image = open_image(path, at_least=2 * _SIDE)
    except UnreadableImage:
        return b""
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _mistake(post: Post, found: Prediction) -> Mistake:
    return Mistake(
        id=post.id,
        caption=post.caption,
        text_label=post.text_label,
        image_label=post.image_label,
        actual=found.actual,
        predicted=found.predicted,
        probabilities={tone: getattr(found, tone) for tone in TONES},
        thumbnail=thumbnail(Path(post.image)),
    )
