"""A part of stage `evaluate`: predictions of the tuned model on posts with one half hidden or changed.

The test posts are predicted under each ablation of `src/data/ablations.py`. Posts whose text and image have different
labels are predicted with both halves, with the text alone and with the image alone. `src/evaluation/modality.py`
computes what the predictions show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.cli.output import progress
from src.core.config import Params
from src.core.errors import InfeasibleAnalysis
from src.core.files import write_bytes, write_json, write_table
from src.core.outputs import ModalityOutput, read_trained
from src.core.paths import (
    ADAPTER_FOLDER,
    FINGERPRINTS,
    GROUPS,
    METRICS_JSON,
    MODALITY_JSON,
    POSTS,
    SPLIT,
    stage_folder,
)
from src.core.records import (
    ADAPTER_DIGEST,
    Post,
    Prediction,
    labels_of,
    leak_free,
    read_fingerprints,
    read_groups,
    read_posts,
    read_split,
    write_predictions,
)
from src.data.ablations import BOTH, NO_HASHTAGS, SHUFFLED, AblatedPost, ablated_posts, halves, shuffled_images
from src.data.duplicates import find_duplicates
from src.evaluation import modality
from src.evaluation.similarity import similarity_correlation
from src.reporting.plot_evaluation import forest
from src.tracking.client import parts_read
from src.tracking.run_logging import open_tracker, run_tags
from src.training.adapter import saved_adapter
from src.training.inference import logits_uncached, predictions_of, similarities
from src.training.workspace import Workspace, load_unimodal_posts

ADHERENCE = ("text", "image", "neither")


@dataclass(frozen=True)
class ModalityPosts:
    """The posts that the model predicts."""

    # The test part.
    test: Sequence[Post]
    # For each test post, the post whose image it gets under the ablation `shuffled`. Empty where that is infeasible.
    givers: Sequence[Post]
    # The reason for each ablation that is left out, by its name.
    omitted: Mapping[str, str]
    # Posts with two different labels that no training has seen.
    disagreeing: Sequence[Post]
    # The group of near-duplicates of each labelled post, by id.
    group_of: Mapping[str, str]
    # The ids of posts, of either sequence, without a near-duplicate in train or val.
    leak_free: set[str]


@dataclass(frozen=True)
class ModalityPredictions:
    """The tuned model's predictions, and the base's similarities."""

    # For the test part, by ablation.
    test: Mapping[str, Sequence[Prediction]]
    # For the posts with two labels, by what is shown: both halves, text, image.
    disagreeing: Mapping[str, Sequence[Prediction]]
    # The base's cosine of image and caption for test posts with a caption, by id. Empty for a model without similarity.
    cosine_of: Mapping[str, float]


def run_modality(params: Params, workspace: Workspace) -> ModalityOutput:
    """Predict the ablated posts, and write outputs/modality/<model>/ and an MLflow run.

    Raises:
        UserError: an earlier stage has not run, or an image cannot be read.
    """
    model = workspace.model.spec.name
    trained = read_trained(model)
    has_unimodal = params.training_config(model, **trained.params).unimodal_labels
    posts = modality_posts(workspace.parts["test"], params.seed, load_unimodal_posts() if has_unimodal else [])
    predictions = predict(workspace, params, posts)
    output = summarise(posts, predictions, params.seed, trained.digest)
    _write_files(model, posts, predictions, output)
    tags = {**run_tags("modality", workspace.facts(), params.notice), ADAPTER_DIGEST: output.adapter_digest}
    with open_tracker(model).run("modality", tags=tags) as run:
        run.inputs(parts_read("test"))
        run.metrics(metrics_of(output))
        run.folder(stage_folder("modality", model), "modality")
    return output


def modality_posts(test: Sequence[Post], seed: int, unimodal: Sequence[Post]) -> ModalityPosts:
    """Choose the posts from the files of `prepare` and `split`; `unimodal` are those of no part that train."""
    trained = {post.id for post in unimodal}
    posts = read_posts(POSTS)
    part_of = read_split(SPLIT)
    group_of = read_groups(GROUPS)
    # `split` groups labelled posts alone, so the groups of all posts are computed again.
    all_groups = find_duplicates(posts, read_fingerprints(FINGERPRINTS)).groups
    seen = {all_groups[key] for key in (*(key for key, part in part_of.items() if part != "test"), *trained)}
    disagreeing = modality.disagreeing_posts(posts, part_of, trained)
    unseen = {post.id for post in disagreeing if post.id not in part_of and all_groups[post.id] not in seen}
    givers: list[Post] = []
    omitted = {}
    try:
        givers = shuffled_images(test, group_of, seed)
    except InfeasibleAnalysis as error:
        omitted[SHUFFLED] = str(error)
    return ModalityPosts(test, givers, omitted, disagreeing, group_of, unseen | leak_free(part_of, group_of))


def predict(workspace: Workspace, params: Params, posts: ModalityPosts) -> ModalityPredictions:
    """Predict the posts under every ablation."""
    # The similarity is the base's, so it is computed before the adapter is attached.
    cosine_of = _similarities(workspace, params)
    model = workspace.model
    test_ids = {post.id for post in posts.test}
    # A test post is not predicted twice with the same halves.
    others = [post for post in posts.disagreeing if post.id not in test_ids]
    ablated_test = ablated_posts(posts.test, posts.givers)
    ablated_others = halves(others)
    total = sum(map(len, (*ablated_test.values(), *ablated_others.values())))
    with (
        saved_adapter(model, stage_folder("train", model.spec.name) / ADAPTER_FOLDER),
        progress(total, f"{model.spec.name}: modality", "posts") as bar,
    ):

        def predicted(originals: Sequence[Post], ablated: Sequence[AblatedPost]) -> list[Prediction]:
            images = [post.image for post in ablated]
            captions = [post.caption for post in ablated]
            logits_NK = logits_uncached(model, images, captions, params.evaluate.batch_size, bar.advance)
            return predictions_of(originals, logits_NK, params.label_names)

        test = {name: predicted(posts.test, ablated) for name, ablated in ablated_test.items()}
        rest = {name: predicted(others, ablated) for name, ablated in ablated_others.items()}
    disagreeing = {name: _in_order(posts.disagreeing, [*test[name], *rows]) for name, rows in rest.items()}
    return ModalityPredictions(test, disagreeing, cosine_of)


def _similarities(workspace: Workspace, params: Params) -> dict[str, float]:
    test = workspace.data("test")
    cosines = similarities(workspace.model, test, params.evaluate.batch_size)
    if cosines is None:
        return {}
    return {post.id: cosine for post, cosine in zip(test.posts, cosines, strict=True) if post.caption.strip()}


def _in_order(posts: Sequence[Post], predictions: Sequence[Prediction]) -> list[Prediction]:
    prediction_of = {row.id: row for row in predictions}
    return [prediction_of[post.id] for post in posts]


def summarise(posts: ModalityPosts, predictions: ModalityPredictions, seed: int, adapter_digest: str) -> ModalityOutput:
    """Compute the content of modality.json from the predictions."""
    test = predictions.test
    group_of = posts.group_of
    shuffled = None
    if SHUFFLED in test:
        shuffled = modality.shuffling_effect(posts.test, posts.givers, test[SHUFFLED])
    return ModalityOutput(
        posts=len(posts.test),
        leak_free_posts=sum(post.id in posts.leak_free for post in posts.test),
        ablations=modality.ablation_results(test, group_of, posts.leak_free, seed),
        omitted=posts.omitted,
        shuffled=shuffled,
        hashtags=modality.hashtag_effect(posts.test, test[BOTH], test[NO_HASHTAGS], group_of, seed),
        by_agreement=modality.accuracy_by_agreement(posts.test, test, group_of, seed),
        disagreement=modality.disagreement(posts.disagreeing, predictions.disagreeing, posts.leak_free),
        similarity=similarity_correlation(predictions.cosine_of, test[BOTH], group_of, seed),
        adapter_digest=adapter_digest,
    )


def metrics_of(output: ModalityOutput) -> dict[str, float]:
    """Return the figures that compare two runs, under one name each, such as text_macro_f1."""
    results = {name.replace("-", "_"): result for name, result in output.ablations.items()}
    metrics = {
        f"{name}_{figure}": result.figures[figure].value
        for figure in ("accuracy", "macro_f1")
        for name, result in results.items()
    }
    metrics |= {
        f"{name}_accuracy_change": result.change.accuracy.value for name, result in results.items() if result.change
    }
    if output.disagreement.follows:
        adherence = output.disagreement.follows[BOTH]
        metrics |= {f"follows_{name}": getattr(adherence, name).value for name in ADHERENCE}
    if output.similarity and output.similarity.point_biserial:
        metrics["similarity_point_biserial"] = output.similarity.point_biserial.value
    return metrics


def _write_files(model: str, posts: ModalityPosts, predictions: ModalityPredictions, output: ModalityOutput) -> None:
    folder = stage_folder("modality", model)
    # DVC expects the file of an omitted ablation too.
    for name in (*predictions.test, *posts.omitted):
        write_predictions(folder / f"{name}.csv", predictions.test.get(name, ()))
    labels = labels_of(predictions.test[BOTH])
    rows = _disagreement_rows(posts.disagreeing, predictions.disagreeing)
    write_table(folder / "disagreement.csv", rows, _disagreement_columns(labels))
    cosines = [{"id": key, "cosine": cosine} for key, cosine in predictions.cosine_of.items()]
    write_table(folder / "similarity.csv", cosines, ("id", "cosine"))
    write_json(folder / METRICS_JSON, metrics_of(output))
    write_bytes(folder / "ablations.png", _accuracy_plot(model, output))
    output.write(folder / MODALITY_JSON)


def _disagreement_rows(posts: Sequence[Post], predictions: Mapping[str, Sequence[Prediction]]) -> list[dict[str, Any]]:
    """Return one row for each post with two labels, with the cells of `_disagreement_columns`."""
    return [
        {
            "id": post.id,
            "text_label": post.text_label,
            "image_label": post.image_label,
            "predicted": both.predicted,
            **both.probabilities,
            "predicted_from_text": text.predicted,
            "predicted_from_image": image.predicted,
        }
        for post, both, text, image in zip(posts, *(predictions[name] for name in (BOTH, "text", "image")), strict=True)
    ]


def _disagreement_columns(labels: Sequence[str]) -> tuple[str, ...]:
    before = ("id", "text_label", "image_label", "predicted")
    return (*before, *labels, "predicted_from_text", "predicted_from_image")


def _accuracy_plot(model: str, output: ModalityOutput) -> bytes:
    rows = {}
    for name, result in output.ablations.items():
        rows[name] = {"all test posts": result.figures["accuracy"]}
        if result.leak_free and output.leak_free_posts < output.posts:
            rows[name]["leak-free"] = result.leak_free["accuracy"]
    return forest(rows, {}, "accuracy", f"{model}, tuned, on the test part: with a half hidden or changed")
