"""Page of saliency maps: heat maps and captions in colour. The page stands alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src.core.records import Post
from src.core.saliency import METHOD, SANITY, SaliencyMap, SanityCheck, signed
from src.reporting.pages import Plot, render
from src.reporting.plot_saliency import Shade, heat_map, scale_of, shade


@dataclass(frozen=True)
class ExplainedPost:
    """A post and the saliency map of its prediction."""

    post: Post
    # The part of the split; empty if the post is in none.
    part: str
    saliency_map: SaliencyMap

    @property
    def heading(self) -> str:
        """Return the prediction beside the label."""
        labelled = f"labelled {self.post.label}" if self.post.label else "without a label"
        return f"Post {self.post.id}: predicted {self.saliency_map.predicted}, {labelled}"


@dataclass(frozen=True)
class ShownWord:
    """A word as the page shows it."""

    # The position in the caption, from 1.
    number: int
    text: str
    # Formatted, with a sign.
    contribution: str
    look: Shade


def saliency_page(title: str, notice: str, posts: Sequence[ExplainedPost], sanity: SanityCheck | None = None) -> str:
    """Render an HTML page of saliency maps.

    Args:
        title: the model and the posts.
        notice: a warning that every reader must see.
        posts: the posts to show, in this order.
        sanity: the sanity check of the first post's map, if it was run.
    """
    about = {"method": METHOD, "about_sanity": SANITY, "sanity": sanity}
    return render("saliency", title=title, notice=notice, posts=[_content(explained) for explained in posts], **about)


def _content(explained: ExplainedPost) -> dict[str, Any]:
    halves = [(name, signed(value)) for name, value in explained.saliency_map.halves()]
    return {
        "explained": explained,
        "heat_map": Plot(heat_map(explained.saliency_map), _alt(explained)),
        "halves": halves,
        "words": _words(explained.saliency_map),
    }


def _alt(explained: ExplainedPost) -> str:
    """Describe the heat map: the contribution of the image, and its strongest places."""
    saliency_map = explained.saliency_map
    image, *places, _ = saliency_map.halves()
    contributions = "; ".join(f"{name} {signed(value)}" for name, value in (image, *places))
    return (
        f"The image of post {explained.post.id}, and a heat map of the contributions to {saliency_map.label} in "
        f"log-odds: {contributions}."
    )


def _words(saliency_map: SaliencyMap) -> dict[str, list[ShownWord]]:
    """Return the words in the caption's order, and by absolute contribution, the largest first."""
    scale = scale_of(word.contribution for word in saliency_map.words)
    shown = [
        ShownWord(number, word.text, signed(word.contribution), shade(word.contribution, scale))
        for number, word in enumerate(saliency_map.words, start=1)
    ]
    weights = {number: abs(word.contribution) for number, word in enumerate(saliency_map.words, start=1)}
    return {"in_order": shown, "by_weight": sorted(shown, key=lambda word: -weights[word.number])}
