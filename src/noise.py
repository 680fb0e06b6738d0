"""Stage `noise`: which labels are likely wrong, how many are, and how right a model can be at most.

python -m src.noise
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from src.cli.options import command
from src.cli.output import say, table, warn
from src.core.config import load_params
from src.core.errors import UserError
from src.core.files import read_json, write_json, write_table
from src.core.labels import PROTOCOLS, TONES, label_of
from src.core.paths import BASELINE, FINGERPRINTS, NOISE, POSTS, stage_folder
from src.core.records import Fingerprint, Post, Prediction, read_fingerprints, read_posts, read_predictions

if TYPE_CHECKING:
    from src.core.estimates import DuplicateAgreement
    from src.core.records import Interval
    from src.evaluation.label_noise import LabelIssue, PooledPredictions

# In which way twins are alike: in any, transitively; in what they say; in what they say and show.
ALIKE = ("any", "caption", "caption and looks")
COLUMNS = [
    *("rank", "id", "label", "suggested", "quality", "label_probability"),
    *("text_label", "image_label", "caption"),
]
Told = Mapping[str, Mapping[str, "DuplicateAgreement | None"]]


@command(example="python -m src.noise")
def main() -> None:
    """List the posts whose label is likely wrong, and estimate how right a model can be; write outputs/noise/."""
    params, posts, fingerprints = load_params(), read_posts(POSTS), read_fingerprints(FINGERPRINTS)
    places = {"tfidf": BASELINE / "tfidf", **{f"{each} probe": stage_folder("probe", each) for each in params.models}}
    tables = {name: read_predictions(folder / "out_of_fold.csv") for name, folder in places.items()}
    learned, wrong = _learned(posts, {name: rows for name, rows in tables.items() if rows})
    reasons = {name: read_json(folder / "omitted.json") for name, folder in places.items()}
    omitted = {} if learned else {"confident_learning": "; ".join(_reasons(reasons))}
    told = {protocol: _twins(posts, fingerprints, protocol, params.seed) for protocol in PROTOCOLS}
    write_table(NOISE / "mislabelled.csv", _rows(posts, wrong), COLUMNS)
    write_json(NOISE / "noise.json", {"confident_learning": learned, "twins": _content(told), "omitted": omitted})
    _tell(learned, omitted, told)


def _learned(
    posts: Sequence[Post], tables: Mapping[str, Sequence[Prediction]]
) -> "tuple[dict[str, Any] | None, list[LabelIssue]]":
    """What confident learning makes of predictions out of fold, and the posts that it suspects; nothing of none."""
    from src.evaluation.label_noise import joint_distribution, label_issues, pool_predictions

    if not tables:
        return None, []
    pooled = pool_predictions(tables)
    _require_current(posts, pooled)
    wrong, shares_KK = label_issues(pooled), joint_distribution(pooled).tolist()
    learned = {
        "posts": len(pooled.ids),
        "flagged": len(wrong),
        "noise_rate": 1 - sum(row[k] for k, row in enumerate(shares_KK)),
        "joint": {"labels": list(TONES), "rows_label_columns_true": shares_KK},
        "weights": pooled.weights,
    }
    return learned, wrong


def _reasons(omitted: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Why there are no predictions out of fold, each reason once."""
    return list(dict.fromkeys(reasons["out_of_fold"] for reasons in omitted.values()))


def _require_current(posts: Sequence[Post], pooled: "PooledPredictions") -> None:
    labels = {post.id: post.label for post in posts}
    if any(labels.get(key) != TONES[number] for key, number in zip(pooled.ids, pooled.labels_N, strict=True)):
        raise UserError(f"baseline and probe judged other posts or labels than {POSTS} has: run `dvc repro`")


def _twins(
    posts: Sequence[Post], fingerprints: Sequence[Fingerprint], protocol: str, seed: int
) -> dict[str, "DuplicateAgreement | None"]:
    """What twins say of the labels that a protocol makes, for each way of being alike."""
    from src.data.duplicates import CAPTION, LOOKS, find_duplicates
    from src.evaluation.label_noise import duplicate_agreement

    made = {post.id: label_of(protocol, post.text_label, post.image_label) for post in posts}
    labels = {key: label for key, label in made.items() if label}
    found = find_duplicates([post for post in posts if post.id in labels], fingerprints)
    says, shows = found.by_kind[CAPTION], found.by_kind[LOOKS]
    groups = (found.groups, says, {key: f"{says[key]} {shows[key]}" for key in labels})
    return {alike: duplicate_agreement(labels, group_of, seed) for alike, group_of in zip(ALIKE, groups, strict=True)}


def _rows(posts: Sequence[Post], wrong: "Sequence[LabelIssue]") -> list[dict[str, Any]]:
    by_id = {post.id: post for post in posts}
    return [
        {
            "rank": rank,
            **asdict(suspect),
            "text_label": by_id[suspect.id].text_label,
            "image_label": by_id[suspect.id].image_label,
            "caption": by_id[suspect.id].caption,
        }
        for rank, suspect in enumerate(wrong, start=1)
    ]


def _content(told: Told) -> dict[str, Any]:
    return {
        protocol: {alike: None if found is None else asdict(found) for alike, found in row.items()}
        for protocol, row in told.items()
    }


def _tell(learned: Mapping[str, Any] | None, omitted: Mapping[str, str], told: Told) -> None:
    for name, reason in omitted.items():
        warn(f"{name.replace('_', ' ')} is left out: {reason}")
    if learned:
        _tell_learned(learned)
    columns = ["alike in", "twins", "groups", "in conflict", "% disagree", "% wrong", "% best", "% of all"]
    for protocol, row in told.items():
        rows = [[alike, *_cells(found)] for alike, found in row.items()]
        table(f"What near-duplicates say of the {protocol} labels (95% intervals)", columns, rows)
    say(
        "wrong: labels, if each is wrong by itself. best: the accuracy of a classifier that gives twins one tone, on "
        "the twins, and on all posts if it is right on the others."
    )


def _tell_learned(learned: Mapping[str, Any]) -> None:
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in learned["weights"].items())
    say(f"{learned['posts']:,} posts judged out of fold by {weights} (weights)")
    say(
        f"confident learning: {learned['noise_rate']:.1%} of labels wrong, hard posts included; "
        f"{learned['flagged']:,} posts in {NOISE / 'mislabelled.csv'}"
    )


def _cells(found: "DuplicateAgreement | None") -> list[Any]:
    if found is None:
        return [0, *[None] * 6]
    counts = [found.twins, found.groups, found.conflicting_groups]
    shares = [found.disagreement, found.noise_rate, found.majority_accuracy]
    return [*counts, *map(_percent, shares), f"{100 * found.majority_accuracy_all:.1f}"]


def _percent(found: "Interval") -> str:
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f}"
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


if __name__ == "__main__":
    main()
