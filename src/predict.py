"""Predict the labels of posts with the adapter in outputs/, or with another registered version.

python -m src.predict --model clip photo.jpg "what a day"
python -m src.predict --model clip posts.csv --out tones.csv
python -m src.predict --model clip folder/ --out tones.csv
python -m src.predict --model clip --version models:/mvsa-clip@champion photo.jpg "what a day"
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from src.cli.options import column_option, command, model_option
from src.cli.output import progress, say, table, warn
from src.core.errors import UsageError, UserError
from src.core.files import require_writable
from src.data.columns import INPUT_COLUMNS
from src.data.tables import SUFFIXES
from src.models.catalog import MODELS
from src.registry.ensemble_contract import ENSEMBLE

if TYPE_CHECKING:
    from src.core.records import Prediction
    from src.data.inputs import Listing
    from src.registry.prediction import PredictedPost

# The number of ignored files or columns that a warning names.
MAX_NAMES = 8


@command(example="python -m src.predict --model clip posts.csv --out tones.csv")
@model_option((*MODELS, ENSEMBLE))
@click.option("--out", type=click.Path(path_type=Path), help="The CSV for the answers to many posts.")
@column_option(INPUT_COLUMNS)
@click.option("--version", help="Ask this version, such as models:/mvsa-clip@champion, instead of that in outputs/.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("caption", required=False)
def main(
    model: str, source: Path, caption: str | None, out: Path | None, columns: Mapping[str, str], version: str | None
) -> None:
    """Print the label of one post (an image SOURCE and its CAPTION), or write the labels of many posts.

    Many posts are a folder or a table (CSV, TSV, JSON Lines or Parquet). A folder holds images, and captions in text
    files of the same names. A table has the columns image (or image_path, picture, file_name) and text (or caption).
    Its column label may hold known labels; the command then prints scores. Its column id may hold names. A post may
    lack its image or its caption; a grey image or an empty text replaces it. A post that cannot be used gets a row with
    the reason.

    The adapter in outputs/ answers, as `dvc repro`, `dvc pull` or `dvc exp apply` left it. Without one, the registered
    champion answers.
    """
    if not source.exists():
        raise UserError(f"there is no file {source}")
    is_table = source.suffix.lower() in SUFFIXES and not source.is_dir()
    are_many = source.is_dir() or is_table
    if are_many != (out is not None) or (are_many and caption is not None):
        raise UsageError("one post is an image and a caption; many posts are a folder or a table, with --out")
    if columns and not is_table:
        raise UsageError(f"--column is for a table, and {source} is none")
    if out is None:
        _predict_one(model, version, source, caption or "")
    else:
        _predict_many(model, version, source, columns, out)


def _predict_one(model: str, version: str | None, image: Path, caption: str) -> None:
    from src.registry.prediction import answering_version, predict_post

    answering = answering_version(model, version)
    if answering.warning:
        warn(answering.warning)
    post = predict_post(answering.uri, image, caption)
    probabilities = ", ".join(f"{label} {value:.3f}" for label, value in post.probabilities.items())
    say(f"{post.tone} ({probabilities})" + (", from the image alone" if post.missing else ""))


def _predict_many(model: str, version: str | None, source: Path, columns: Mapping[str, str], out: Path) -> None:
    from src.data.encodings import UTF_8
    from src.data.inputs import read_folder, read_table
    from src.registry.prediction import (
        answering_version,
        predict_posts,
        require_other_file,
        write_predictions_table,
    )

    require_writable(out)
    listing = read_folder(source) if source.is_dir() else read_table(source, columns)
    require_other_file(out, listing)
    _warn_of_ignored(listing, "files" if source.is_dir() else "columns")
    if listing.encoding != UTF_8:
        warn(f"{source} is read as {listing.encoding}")
    answering = answering_version(model, version)
    if answering.warning:
        warn(answering.warning)
    rows = []
    with progress(len(listing.posts), f"{model}: posts", "posts") as bar:
        for row in predict_posts(answering.uri, listing.posts):
            rows.append(row)
            bar.advance()
    write_predictions_table(out, rows)
    _print_summary(rows, out)
    if not any(row.tone for row in rows):
        raise UserError(f"none of the posts could be used: {out} says why")
    labelled = [prediction for row in rows if (prediction := row.as_prediction())]
    if labelled:
        _print_scores(labelled)


def _warn_of_ignored(listing: "Listing", kind: str) -> None:
    if listing.ignored:
        rest = len(listing.ignored) - MAX_NAMES
        more = f" and {rest:,} more" if rest > 0 else ""
        warn(f"{kind} that are not read: {', '.join(listing.ignored[:MAX_NAMES])}{more}")


def _print_summary(rows: "Sequence[PredictedPost]", out: Path) -> None:
    for half, consequence in (("image", "a grey image replaces it"), ("text", "the image alone is used")):
        count = sum(row.missing == half and bool(row.tone) for row in rows)
        if count:
            warn(f"{count:,} posts have no {half}: {consequence}")
    unusable = sum(not row.tone for row in rows)
    if unusable:
        warn(f"{unusable:,} of {len(rows):,} posts could not be used: see the column problem")
    ignored_labels = sum(bool(row.tone and row.problem) for row in rows)
    if ignored_labels:
        warn(f"{ignored_labels:,} labels are none of the version's, and no score counts them: see the column problem")
    labels = next((tuple(row.probabilities) for row in rows if row.tone), ())
    tones = ", ".join(f"{sum(row.tone == label for row in rows):,} {label}" for label in labels)
    say(f"{len(rows) - unusable:,} posts: {tones}. Table: {out}")


def _print_scores(predictions: "Sequence[Prediction]") -> None:
    from src.evaluation.metrics import report, scores

    headline = scores(predictions).headline()
    table(f"On the {len(predictions):,} posts with a label", list(headline), [list(headline.values())])
    say(report(predictions))


if __name__ == "__main__":
    main()
