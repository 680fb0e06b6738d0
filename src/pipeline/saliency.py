"""Saliency maps of a tuned model's predictions: of one post, or of the most confident mistakes for stage `evaluate`."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.cli.output import progress
from src.core.config import Params
from src.core.errors import UsageError, UserError, unknown
from src.core.files import write_bytes, write_text
from src.core.outputs import CheckedMap, EvaluateOutput, ExplainedMistake, SaliencyOutput, read_trained
from src.core.paths import (
    ADAPTER_FOLDER,
    EVALUATE_JSON,
    MISTAKES_FOLDER,
    MISTAKES_HTML,
    POSTS,
    PREDICTIONS_FILE,
    SALIENCY_JSON,
    SPLIT,
    stage_folder,
)
from src.core.records import ADAPTER_DIGEST, Post, Prediction, read_posts, read_predictions, read_split
from src.core.saliency import METHOD, SaliencyMap, SanityCheck
from src.data.images import open_image
from src.reporting.mistakes import mistaken
from src.reporting.plot_saliency import explained_post
from src.reporting.saliency_page import ExplainedPost, saliency_page
from src.tracking.client import Tracker
from src.tracking.run_logging import open_tracker, run_tags
from src.training.adapter import saved_adapter
from src.training.occlusion import ClassifiedImage, num_passes, saliency_map, sanity_check
from src.training.workspace import Workspace, open_workspace, require_base_of


@dataclass(frozen=True)
class Explanation:
    """Posts with their saliency maps."""

    posts: Sequence[ExplainedPost]
    # The check of the first map. None if it was not asked for, or without a post.
    sanity: SanityCheck | None
    # The weights and posts that the model was trained on.
    facts: dict[str, str]


@dataclass(frozen=True)
class PostExplanation:
    """The saliency map of one post and the files that show it."""

    post: ExplainedPost
    sanity: SanityCheck | None
    png: Path
    html: Path


@dataclass(frozen=True)
class ExplainedMistakes:
    """The output of `explain_mistakes`, and the folder that holds its files."""

    output: SaliencyOutput
    sanity: SanityCheck | None
    folder: Path

    def summary(self) -> str:
        """Return the line that a command prints."""
        check = f"; rank correlation with maps of shuffled readouts {self.sanity}" if self.sanity else ""
        num_mistakes = len(self.output.mistakes)
        return f"{self.output.model}: {num_mistakes} mistakes explained in {self.folder / MISTAKES_HTML}{check}"


def explain_post(params: Params, model: str, post_id: str, label: str, sanity: bool, folder: Path) -> PostExplanation:
    """Explain one post, labelled or not, and write its heat map and its page.

    Args:
        params: the settings of params.yaml.
        model: the name in the catalog.
        post_id: the id in outputs/prepare/posts.csv.
        label: one of the labels. Empty for the predicted one.
        sanity: compare the map with maps of shuffled readouts.
        folder: where the files are written.

    Raises:
        UsageError: there is no such post or label.
        UserError: an earlier stage has not run, or has run again since the training, or the image cannot be read.
    """
    trained = read_trained(model)
    post = chosen_post(params, post_id, label)
    workspace = open_workspace(params, model)
    require_base_of(trained, workspace.model.checkpoint, params.labels)
    explanation = _explain(params, workspace, [(post, label)], sanity)
    return write_post(params, f"{model}, tuned", explanation, folder)


def explain_mistakes(params: Params, workspace: Workspace, num_mistakes: int, folder: Path) -> ExplainedMistakes:
    """Explain the most confident mistakes on the test part, and write their files and an MLflow run.

    Raises:
        UserError: an earlier stage has not run, or has run again since the evaluation, or an image cannot be read.
    """
    model = workspace.model.spec.name
    trained = read_trained(model)
    require_base_of(trained, workspace.model.checkpoint, params.labels)
    if EvaluateOutput.read(stage_folder("evaluate", model) / EVALUATE_JSON).adapter_digest != trained.digest:
        raise UserError(f"`evaluate` has scored another adapter of {model} than `train` wrote: run `dvc repro`")
    mistakes = worst_mistakes(stage_folder("evaluate", model), num_mistakes)
    explanation = _explain(params, workspace, mistakes.posts, sanity=True)
    explained = write_mistakes(params, model, f"{model}, tuned", mistakes, explanation, folder)
    log_mistakes(params, open_tracker(model), explained, explanation.facts, {ADAPTER_DIGEST: trained.digest})
    return explained


@dataclass(frozen=True)
class Mistakes:
    """Wrong predictions, the most confident first."""

    predictions: Sequence[Prediction]
    # The post of each, with the label to explain: the predicted one.
    posts: Sequence[tuple[Post, str]]


def worst_mistakes(folder: Path, count: int) -> Mistakes:
    """Return the most confident mistakes in the folder's table of test predictions.

    Raises:
        UserError: the stage that writes the table has not run, or posts have changed since.
    """
    post_of = {post.id: post for post in read_posts(POSTS)}
    predictions = mistaken(read_predictions(folder / PREDICTIONS_FILE))[:count]
    if any(row.id not in post_of for row in predictions):
        raise UserError(f"{folder / PREDICTIONS_FILE} has other posts than {POSTS}: run `dvc repro`")
    return Mistakes(predictions, [(post_of[row.id], row.predicted) for row in predictions])


def chosen_post(params: Params, post_id: str, label: str) -> Post:
    """Return the post of an id.

    Raises:
        UsageError: there is no such post or no such label.
    """
    if label and label not in params.label_names:
        raise unknown("label", label, params.label_names)
    posts = {post.id: post for post in read_posts(POSTS)}
    if post_id not in posts:
        ids = list(posts)
        near = difflib.get_close_matches(post_id, ids, n=3)
        hint = f"close to it: {', '.join(near)}" if near else f"there are {len(ids):,}, from {ids[0]} to {ids[-1]}"
        raise UsageError(f"there is no post {post_id!r}; {hint}")
    return posts[post_id]


def write_post(params: Params, title: str, explanation: Explanation, folder: Path) -> PostExplanation:
    """Write the heat map and the page of one explained post; `title` names the system."""
    (explained,) = explanation.posts
    png = folder / f"{explained.post.id}.png"
    html = folder / f"{explained.post.id}.html"
    write_bytes(png, _heat_map(params, title, explained))
    heading = f"{title}: post {explained.post.id}"
    write_text(html, saliency_page(heading, params.notice, explanation.posts, explanation.sanity))
    return PostExplanation(explained, explanation.sanity, png, html)


def write_mistakes(
    params: Params, model: str, title: str, mistakes: Mistakes, explanation: Explanation, folder: Path
) -> ExplainedMistakes:
    """Write the page, the table and the heat maps of explained mistakes; `title` names the system."""
    output = _output(params, model, mistakes.predictions, explanation)
    heading = f"{title}, test: the {len(mistakes.predictions)} most confident mistakes"
    page = saliency_page(heading, params.notice, explanation.posts, explanation.sanity)
    write_text(folder / MISTAKES_HTML, page)
    output.write(folder / SALIENCY_JSON)
    _remove_heat_maps(folder / MISTAKES_FOLDER)
    for mistake, explained in zip(output.mistakes, explanation.posts, strict=True):
        write_bytes(folder / mistake.png, _heat_map(params, title, explained))
    return ExplainedMistakes(output, explanation.sanity, folder)


def log_mistakes(
    params: Params, tracker: Tracker, explained: ExplainedMistakes, facts: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Log the page and the table of explained mistakes as a run."""
    with tracker.run("saliency", tags={**run_tags("saliency", facts, params.notice), **tags}) as run:
        for name in (MISTAKES_HTML, SALIENCY_JSON):
            run.text(name, (explained.folder / name).read_text(encoding="utf-8"))


def _explain(params: Params, workspace: Workspace, posts: Sequence[tuple[Post, str]], sanity: bool) -> Explanation:
    """Explain each post for a label, or for the predicted one where the label is empty."""
    model = workspace.model.spec.name
    part_of = read_split(SPLIT)
    # The sanity check is of the first map alone.
    total = sum(num_passes(post.caption, sanity and place == 0) for place, (post, _) in enumerate(posts))
    with (
        saved_adapter(workspace.model, stage_folder("train", model) / ADAPTER_FOLDER) as adapter,
        progress(total, f"{model}: occlusion", "passes") as bar,
    ):

        def map_of(post: Post, label: str) -> SaliencyMap:
            image = open_image(post.image, at_least=adapter.model.image_resizer().min_decoded_side)
            classified = ClassifiedImage.of(adapter.model, image)
            return saliency_map(classified, post.caption, params.evaluate.batch_size, label, bar.advance)

        explained = [ExplainedPost(post, part_of.get(post.id, ""), map_of(post, label)) for post, label in posts]
        check = None
        if sanity and explained:
            first = explained[0]
            # The label is kept although a shuffled readout may predict another one.
            check = sanity_check(
                first.saliency_map, lambda: map_of(first.post, first.saliency_map.label), adapter.heads().values()
            )
    return Explanation(explained, check, workspace.facts())


def _output(params: Params, model: str, mistakes: Sequence[Prediction], explanation: Explanation) -> SaliencyOutput:
    check = None
    if explanation.sanity:
        check = CheckedMap(mistakes[0].id, explanation.sanity.mean, tuple(explanation.sanity.correlations))
    explained_mistakes = []
    for mistake, explained in zip(mistakes, explanation.posts, strict=True):
        saliency = explained.saliency_map
        explained_mistakes.append(
            ExplainedMistake(
                id=mistake.id,
                actual=mistake.actual,
                predicted=mistake.predicted,
                probability=saliency.probabilities[mistake.predicted],
                image=saliency.image,
                caption=saliency.caption,
                words=tuple(saliency.words),
                png=f"{MISTAKES_FOLDER}/{mistake.id}.png",
            )
        )
    return SaliencyOutput(model, params.notice, METHOD, check, tuple(explained_mistakes))


def _heat_map(params: Params, title: str, explained: ExplainedPost) -> bytes:
    return explained_post(explained.saliency_map, f"{title}. {explained.heading}", params.notice)


def _remove_heat_maps(folder: Path) -> None:
    """Remove maps of earlier mistakes. The folder is a DVC output, so it is made even if it stays empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for png in folder.glob("*.png"):
        png.unlink()
