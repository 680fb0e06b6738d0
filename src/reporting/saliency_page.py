"""What a model's answers rest on, post by post, as a page that stands alone: heat maps, and captions in colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src.core.records import Post
from src.core.saliency import METHOD, SANITY, SaliencyMap, SanityCheck, signed
from src.reporting.pages import render
from src.reporting.plot_saliency import Shade, heat_map, scale_of, shade


@dataclass(frozen=True)
class ExplainedPost:
    """A post and the map that explains what a model says of it; `part` is where the post stands, empty in none."""

    post: Post
    part: str
    saliency_map: SaliencyMap

    @property
    def heading(self) -> str:
        """What the model says of the post, beside its label."""
        labelled = f"labelled {self.post.label}" if self.post.label else "without a label"
        return f"Post {self.post.id}: predicted {self.saliency_map.predicted}, {labelled}"


@dataclass(frozen=True)
class Shown:
    """A word as the page shows it: its number in the caption, its contribution with a sign, and its colours."""

    number: int
    text: str
    contribution: str
    look: Shade


def saliency_page(title: str, notice: str, posts: Sequence[ExplainedPost], sanity: SanityCheck | None = None) -> str:
    """An HTML page with the maps of these posts.

    Args:
        title: which model, and which posts.
        notice: what every reader of it must know.
        posts: those that are shown, in this order.
        sanity: how like the first post's map is to those of shuffled readouts, if that was asked.
    """
    about = {"method": METHOD, "about_sanity": SANITY, "sanity": sanity}
    return render("saliency", title=title, notice=notice, posts=[_content(each) for each in posts], **about)


def _content(each: ExplainedPost) -> dict[str, Any]:
    halves = [(name, signed(value)) for name, value in each.saliency_map.halves()]
    return {
        "explained": each,
        "heat_map": heat_map(each.saliency_map),
        "halves": halves,
        "words": _words(each.saliency_map),
    }


def _words(found: SaliencyMap) -> dict[str, list[Shown]]:
    """The words in the caption's order, and the heaviest first."""
    scale = scale_of(word.contribution for word in found.words)
    shown = [
        Shown(number, word.text, signed(word.contribution), shade(word.contribution, scale))
        for number, word in enumerate(found.words, start=1)
    ]
    weights = {number: abs(word.contribution) for number, word in enumerate(found.words, start=1)}
    return {"in_order": shown, "by_weight": sorted(shown, key=lambda each: -weights[each.number])}
