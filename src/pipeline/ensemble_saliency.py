"""Saliency maps of the registered ensemble's predictions: of one post, or of its most confident mistakes."""

from collections.abc import Sequence
from pathlib import Path

from src.cli.output import progress
from src.core.config import Params
from src.core.errors import UserError
from src.core.paths import ENSEMBLE, SPLIT
from src.core.records import ENSEMBLE_DIGEST, Post, read_split
from src.core.saliency import SaliencyMap
from src.data.images import open_image
from src.evaluation.systems import COMBINED
from src.pipeline.ensemble import ensemble_digest, facts_of_ensemble
from src.pipeline.saliency import (
    ExplainedMistakes,
    Explanation,
    PostExplanation,
    chosen_post,
    log_mistakes,
    worst_mistakes,
    write_mistakes,
    write_post,
)
from src.registry import registry
from src.registry.explanation import LONGEST_SIDE, classified_by, labels_of
from src.reporting.saliency_page import ExplainedPost
from src.tracking.run_logging import open_ensemble
from src.training.occlusion import num_passes, saliency_map


def explain_ensemble_post(params: Params, post_id: str, label: str, folder: Path) -> PostExplanation:
    """Explain one post, labelled or not, by the champion of the ensembles, and write its heat map and its page.

    Args:
        params: the settings of params.yaml.
        post_id: the id in outputs/prepare/posts.csv.
        label: one of the labels. Empty for the predicted one.
        folder: where the files are written.

    Raises:
        UsageError: there is no such post or label.
        UserError: no ensemble is registered, it breaks its contract or has other labels, or the image cannot be read.
    """
    post = chosen_post(params, post_id, label)
    return write_post(params, COMBINED, _explain(params, registry.uri_of(COMBINED), [(post, label)]), folder)


def explain_ensemble_mistakes(params: Params, num_mistakes: int, folder: Path) -> ExplainedMistakes:
    """Explain the most confident mistakes of stage `ensemble`, and write their files and an MLflow run.

    The version that holds this ensemble is asked, whether it is the champion or not.

    Raises:
        UserError: an earlier stage has not run, its ensemble is not registered, or an image cannot be read.
    """
    mistakes = worst_mistakes(ENSEMBLE, num_mistakes)
    explanation = _explain(params, _registered().uri, mistakes.posts)
    explained = write_mistakes(params, COMBINED, COMBINED, mistakes, explanation, folder)
    log_mistakes(params, open_ensemble(), explained, explanation.facts, {ENSEMBLE_DIGEST: ensemble_digest()})
    return explained


def _registered() -> registry.Version:
    """Return the newest version of the ensemble in outputs/ensemble."""
    digest = ensemble_digest()
    for version in reversed(registry.versions(COMBINED)):
        if version.tags.get(ENSEMBLE_DIGEST) == digest:
            return version
    raise UserError(f"the ensemble in {ENSEMBLE} is not registered: run `{registry.register_command(COMBINED)}`")


def _explain(params: Params, uri: str, posts: Sequence[tuple[Post, str]]) -> Explanation:
    """Explain each post by a version, for a label, or for the predicted one where the label is empty."""
    part_of = read_split(SPLIT)
    version = registry.load(uri)
    if labels_of(version) != params.label_names:
        own, wanted = ", ".join(labels_of(version)), ", ".join(params.label_names)
        raise UserError(f"{uri} has the labels {own}, and params.yaml has {wanted}")
    with progress(sum(num_passes(post.caption) for post, _ in posts), f"{COMBINED}: occlusion", "passes") as bar:

        def map_of(post: Post, label: str) -> SaliencyMap:
            classified = classified_by(version, open_image(post.image, at_least=LONGEST_SIDE))
            return saliency_map(classified, post.caption, params.evaluate.batch_size, label, bar.advance)

        explained = [ExplainedPost(post, part_of.get(post.id, ""), map_of(post, label)) for post, label in posts]
    return Explanation(explained, None, facts_of_ensemble(params))
