"""Stage `saliency`: which parts of a post speak for the tone that the trained model gives it, and which against.

python -m src.saliency --model clip         # of the most confident mistakes on the test part
python -m src.saliency --model clip 2499    # of one post
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from src.cli.options import command, model_option
from src.cli.output import progress, say, table
from src.core.config import Params, load_params
from src.core.errors import UsageError
from src.core.files import write_bytes, write_json, write_text
from src.core.labels import TONES
from src.core.paths import POSTS, SPLIT, stage_folder
from src.core.records import ADAPTER_DIGEST, Post, Prediction, read_posts, read_predictions, read_split
from src.core.saliency import METHOD, SANITY, SaliencyMap, SanityCheck, signed
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from src.core.outputs import Trained
    from src.reporting.saliency_page import ExplainedPost

WORDS_PRINTED = 10
PNG_FOLDER = "mistakes"


@dataclass(frozen=True)
class Answer:
    """Posts with their maps, the sanity check of the first if asked, and the weights and posts behind it all."""

    posts: "Sequence[ExplainedPost]"
    sanity: SanityCheck | None
    facts: dict[str, str]


@command(example="python -m src.saliency --model clip 2499")
@model_option(MODELS)
@click.option("--tone", type=click.Choice(TONES), help="Explain this tone of ID, not the one that is predicted.")
@click.option("--sanity", is_flag=True, help="Compare the map of ID with those of shuffled readouts.")
@click.option("--mistakes", type=click.IntRange(min=1), help="How many mistakes, if not as params.yaml says.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write, if not to outputs/saliency/<model>/.")
@click.argument("post_id", metavar="[ID]", required=False)
def main(
    model: str, tone: str | None, sanity: bool, mistakes: int | None, out: Path | None, post_id: str | None
) -> None:
    """Show which parts of the post ID speak for the tone that the trained model gives it, and which against.

    It writes ID.png and ID.html, a heat map over the picture and the caption in colour, and prints the parts that
    matter most. Without ID it explains the most confident mistakes on the test part, with a sanity check.

    The method is occlusion, for all models. Parts are taken away one after the other: a word from the caption, or a
    window of the picture, as the model sees it, which is filled with the picture's mean colour. A part's contribution
    is by how much the log-odds of the tone fall without it.
    """
    params, folder = load_params(), out or stage_folder("saliency", model)
    from src.core.outputs import read_trained

    trained = read_trained(model)
    if post_id is None:
        if tone or sanity:
            raise UsageError("--tone and --sanity are for one post: give its ID")
        _explain_mistakes(model, params, mistakes or params.saliency.mistakes, folder, trained)
    else:
        if mistakes:
            raise UsageError("give the ID of one post or --mistakes, not both")
        _explain_post(model, params, _post(post_id), tone or "", sanity, folder)


def _post(post_id: str) -> Post:
    """The post of this id, labelled or not.

    Raises:
        UsageError: there is none.
    """
    posts = {post.id: post for post in read_posts(POSTS)}
    if post_id not in posts:
        ids = list(posts)
        near = difflib.get_close_matches(post_id, ids, n=3)
        hint = f"close to it: {', '.join(near)}" if near else f"there are {len(ids):,}, from {ids[0]} to {ids[-1]}"
        raise UsageError(f"there is no post {post_id!r}; {hint}")
    return posts[post_id]


def _explain_post(model: str, params: Params, post: Post, tone: str, sanity: bool, folder: Path) -> None:
    from src.reporting.saliency_page import saliency_page

    answer = _explain(model, params, [(post, tone)], sanity)
    (explained,) = answer.posts
    png, html = folder / f"{post.id}.png", folder / f"{post.id}.html"
    write_bytes(png, _png(model, params, explained))
    write_text(html, saliency_page(f"{model}, tuned: post {post.id}", params.notice, answer.posts, answer.sanity))
    _print_map(model, explained)
    if answer.sanity:
        say(f"{SANITY} Here: {answer.sanity}.")
    say(f"{png}, {html}. {params.notice}")


def _print_map(model: str, explained: "ExplainedPost") -> None:
    found = explained.saliency_map
    chances = ", ".join(f"{tone} {chance:.3f}" for tone, chance in found.probabilities.items())
    say(f"{model}: {explained.heading} ({chances})")
    heaviest = [(word.text, signed(word.contribution)) for word in found.by_weight()[:WORDS_PRINTED]]
    halves = [(name, signed(value)) for name, value in found.halves()]
    table(f"What speaks for {found.tone}", ["part", "log-odds"], [*halves, *heaviest])


def _explain_mistakes(model: str, params: Params, most: int, folder: Path, trained: "Trained") -> None:
    """Explain the mistakes that the model was surest of; write, log and say what was found."""
    from src.reporting.mistakes import mistaken
    from src.reporting.saliency_page import saliency_page
    from src.tracking.run_logging import open_tracker, run_tags

    posts = {post.id: post for post in read_posts(POSTS)}
    wrong = mistaken(read_predictions(stage_folder("evaluate", model) / "predictions.csv"))[:most]
    answer = _explain(model, params, [(posts[each.id], each.predicted) for each in wrong], sanity=True)
    title = f"{model}, tuned, test: the {len(wrong)} most confident mistakes"
    page = saliency_page(title, params.notice, answer.posts, answer.sanity)
    summary = _summary(model, params.notice, wrong, answer)
    write_text(folder / "mistakes.html", page)
    write_json(folder / "saliency.json", summary)
    _empty(folder / PNG_FOLDER)
    for explained in answer.posts:
        write_bytes(folder / PNG_FOLDER / f"{explained.post.id}.png", _png(model, params, explained))
    tags = {**run_tags("saliency", answer.facts, params.notice), ADAPTER_DIGEST: trained.digest}
    with open_tracker(model).run("saliency", tags=tags) as run:
        run.text("mistakes.html", page)
        run.json("saliency.json", summary)
    checked = f"; rank correlation with maps of shuffled readouts {answer.sanity}" if answer.sanity else ""
    say(f"{model}: {len(wrong)} mistakes explained in {folder / 'mistakes.html'}{checked}")


def _explain(model: str, params: Params, asked: Sequence[tuple[Post, str]], sanity: bool) -> Answer:
    """The maps of posts, each for a tone (empty: the likeliest), by the trained adapter."""
    from src.data.images import open_image
    from src.reporting.saliency_page import ExplainedPost
    from src.training.adapter import saved_adapter
    from src.training.occlusion import num_passes, saliency_map, sanity_check
    from src.training.workspace import open_workspace

    workspace, part_of = open_workspace(model), read_split(SPLIT)
    passes = sum(num_passes(post.caption, sanity and place == 0) for place, (post, _) in enumerate(asked))
    with (
        saved_adapter(workspace.model, stage_folder("train", model) / "adapter") as adapter,
        progress(passes, f"{model}: occlusion", "passes") as bar,
    ):

        def explain(post: Post, tone: str) -> SaliencyMap:
            image = open_image(post.image, at_least=adapter.model.image_resizer().at_least)
            return saliency_map(adapter.model, image, post.caption, params.evaluate.batch_size, tone, bar.advance)

        found = [ExplainedPost(post, part_of.get(post.id, ""), explain(post, tone)) for post, tone in asked]
        check = None
        if sanity and found:
            first = found[0]
            check = sanity_check(first.saliency_map, lambda: explain(first.post, first.saliency_map.tone), adapter.readout)
    return Answer(found, check, workspace.facts())


def _png(model: str, params: Params, explained: "ExplainedPost") -> bytes:
    from src.reporting.plot_saliency import explained_post

    return explained_post(explained.saliency_map, f"{model}, tuned. {explained.heading}", params.notice)


def _empty(folder: Path) -> None:
    """Leave a folder without the maps of mistakes that are no longer among the first; DVC wants it even if empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()


def _summary(model: str, notice: str, wrong: Sequence[Prediction], answer: Answer) -> dict[str, Any]:
    """What saliency.json holds; contributions are in log-odds of the predicted tone."""
    sanity = answer.sanity and {"post": wrong[0].id, "mean": answer.sanity.mean, "each": answer.sanity.correlations}
    mistakes = [
        {
            "id": each.id,
            "actual": each.actual,
            "predicted": each.predicted,
            "probability": explained.saliency_map.probabilities[each.predicted],
            "picture": explained.saliency_map.image,
            "caption": explained.saliency_map.caption,
            "words": [{"word": word.text, "contribution": word.contribution} for word in explained.saliency_map.words],
            "png": f"{PNG_FOLDER}/{each.id}.png",
        }
        for each, explained in zip(wrong, answer.posts, strict=True)
    ]
    return {"model": model, "notice": notice, "method": METHOD, "sanity": sanity, "mistakes": mistakes}


if __name__ == "__main__":
    main()
