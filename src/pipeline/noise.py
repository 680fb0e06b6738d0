"""Work of stage `noise`: likely wrong labels, and the best possible score on such labels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from src.core.errors import UserError
from src.core.estimates import DuplicateAgreement
from src.core.labels import label_of, protocols_of
from src.core.outputs import BaselineOmissions, ConfidentLearning, JointDistribution, MislabelledRow, NoiseOutput
from src.core.paths import (
    BASELINE,
    FINGERPRINTS,
    MISLABELLED_TABLE,
    NOISE,
    NOISE_JSON,
    OMITTED_JSON,
    OUT_OF_FOLD_TABLE,
    POSTS,
    stage_folder,
)
from src.core.records import Fingerprint, Post, Prediction, read_fingerprints, read_posts, read_predictions
from src.core.rows import write_rows
from src.data.duplicates import CAPTION, LOOKS, find_duplicates
from src.evaluation.label_noise import (
    LabelIssue,
    PooledPredictions,
    duplicate_agreement,
    joint_distribution,
    label_issues,
    pool_predictions,
)
from src.evaluation.systems import TFIDF

# What near-duplicates share: any likeness, through other posts too; the caption; caption and looks of the image.
SHARED = ("any", "caption", "caption and looks")


def run_noise(models: Sequence[str], label_names: Sequence[str], seed: int) -> NoiseOutput:
    """Estimate label noise in two ways, and write outputs/noise/."""
    posts = read_posts(POSTS)
    fingerprints = read_fingerprints(FINGERPRINTS)
    folders = {TFIDF: BASELINE / TFIDF, **{f"{model} probe": stage_folder("probe", model) for model in models}}
    tables = {name: read_predictions(folder / OUT_OF_FOLD_TABLE) for name, folder in folders.items()}
    learned, issues = _confident_learning(posts, {name: rows for name, rows in tables.items() if rows})
    omitted = {}
    if learned is None:
        omissions = [BaselineOmissions.read(folder / OMITTED_JSON) for folder in folders.values()]
        # Several classifiers may have the same reason.
        reasons = dict.fromkeys(omission.out_of_fold for omission in omissions if omission.out_of_fold)
        omitted["confident_learning"] = "; ".join(reasons)
    output = NoiseOutput(
        confident_learning=learned,
        near_duplicates={
            protocol: _agreement_of_duplicates(posts, fingerprints, protocol, len(label_names), seed)
            for protocol in protocols_of(label_names)
        },
        omitted=omitted,
    )
    write_rows(NOISE / MISLABELLED_TABLE, MislabelledRow, _mislabelled(posts, issues))
    output.write(NOISE / NOISE_JSON)
    return output


def _confident_learning(
    posts: Sequence[Post], tables: Mapping[str, Sequence[Prediction]]
) -> tuple[ConfidentLearning | None, list[LabelIssue]]:
    """Apply confident learning to out-of-fold predictions; return its summary and the label issues."""
    if not tables:
        return None, []
    pooled = pool_predictions(tables)
    _require_current(posts, pooled)
    issues = label_issues(pooled)
    joint_KK = joint_distribution(pooled).tolist()
    summary = ConfidentLearning(
        posts=len(pooled.ids),
        flagged=len(issues),
        noise_rate=1 - sum(row[k] for k, row in enumerate(joint_KK)),
        joint=JointDistribution(pooled.labels, tuple(tuple(row) for row in joint_KK)),
        weights=pooled.weights,
    )
    return summary, issues


def _require_current(posts: Sequence[Post], pooled: PooledPredictions) -> None:
    labels = {post.id: post.label for post in posts}
    if any(labels.get(key) != pooled.labels[number] for key, number in zip(pooled.ids, pooled.labels_N, strict=True)):
        raise UserError(f"baseline and probe have predictions for other posts or labels than {POSTS}: run `dvc repro`")


def _agreement_of_duplicates(
    posts: Sequence[Post], fingerprints: Sequence[Fingerprint], protocol: str, num_labels: int, seed: int
) -> dict[str, DuplicateAgreement | None]:
    """Measure the agreement of a protocol's labels among near-duplicates, by what these share."""
    label_by_id = {post.id: label_of(protocol, post.text_label, post.image_label) for post in posts}
    labels = {key: label for key, label in label_by_id.items() if label}
    # Groups that came with the posts, such as those of an author, need not be alike.
    labelled = [replace(post, group="") for post in posts if post.id in labels]
    duplicates = find_duplicates(labelled, fingerprints)
    by_caption = duplicates.by_kind[CAPTION]
    by_looks = duplicates.by_kind[LOOKS]
    by_both = {key: f"{by_caption[key]} {by_looks[key]}" for key in labels}
    groupings = (duplicates.groups, by_caption, by_both)
    return {
        shared: duplicate_agreement(labels, group_of, num_labels, seed)
        for shared, group_of in zip(SHARED, groupings, strict=True)
    }


def _mislabelled(posts: Sequence[Post], issues: Sequence[LabelIssue]) -> list[MislabelledRow]:
    by_id = {post.id: post for post in posts}
    return [
        MislabelledRow(
            rank=rank,
            **asdict(issue),
            text_label=by_id[issue.id].text_label,
            image_label=by_id[issue.id].image_label,
            caption=by_id[issue.id].caption,
        )
        for rank, issue in enumerate(issues, start=1)
    ]
