"""Predict the labels of posts with the adapter in outputs/, or with another registered version.

python -m src.predict --model clip photo.jpg "what a day"
python -m src.predict --model clip posts.csv --out counts.csv
python -m src.predict --model clip folder/ --out counts.csv --accuracy 0.9
python -m src.predict --model clip --version models:/mvsa-clip@champion photo.jpg "what a day"
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from src.cli.options import column_option, command, model_option
from src.cli.output import say, table, warn
from src.core.errors import UsageError, UserError
from src.data.columns import INPUT_COLUMNS
from src.data.tables import SUFFIXES
from src.models.catalog import MODELS
from src.registry.ensemble_contract import ENSEMBLE

if TYPE_CHECKING:
    from src.core.records import Prediction
    from src.registry.answers import AnsweredPosts
    from src.registry.predict_many import AnswerFiles
    from src.registry.prediction import PredictedPost


def _share(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise UsageError(f"--accuracy {value:g}: give a share between 0 and 1, such as 0.9")
    return value


@command(example="python -m src.predict --model clip posts.csv --out counts.csv --accuracy 0.9")
@model_option((*MODELS, ENSEMBLE))
@click.option("--out", type=click.Path(path_type=Path), help="The CSV for the answers to many posts.")
@click.option("--page", type=click.Path(path_type=Path), help="The page of the answers; beside --out by default.")
@click.option("--no-page", is_flag=True, help="Write no page.")
@click.option(
    "--accuracy",
    type=float,
    callback=_share,
    metavar="SHARE",
    help="The accuracy that you want of the posts that are not left to a person, such as 0.9.",
)
@column_option(INPUT_COLUMNS)
@click.option("--version", help="Ask this version, such as models:/mvsa-clip@champion, instead of that in outputs/.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("caption", required=False)
def main(
    model: str,
    source: Path,
    caption: str | None,
    out: Path | None,
    page: Path | None,
    no_page: bool,
    accuracy: float | None,
    columns: Mapping[str, str],
    version: str | None,
) -> None:
    """Print the label of one post (an image SOURCE and its CAPTION), or write the labels of many posts.

    Many posts are a folder or a table (CSV, TSV, JSON Lines or Parquet). A folder holds images, and captions in text
    files of the same names. A table has the columns image (or image_path, picture, file_name, image_file_name) and text
    (or caption). Its column label may hold known labels; the command then prints scores. Its column id may hold names.
    A post may lack its image or its caption; a placeholder or an empty text replaces it. A post that cannot be used
    gets a row with the reason.

    An HTML page beside the table (tones.html beside tones.csv) shows the answers with their images, the least certain
    first. With --accuracy 0.9, the column review says which posts to leave to a person so that the other answers have
    an accuracy of at least 90%, judged by the version's validation posts.

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
        if page or no_page or accuracy is not None:
            raise UsageError("--page, --no-page and --accuracy are for many posts: a folder or a table, with --out")
        _predict_one(model, version, source, caption or "")
        return
    from src.registry.predict_many import AnswerFiles, predict_many

    files = AnswerFiles.of_options(out, page, no_page)
    _print_answers(predict_many(model, version, source, columns, files, accuracy), files)


def _predict_one(model: str, version: str | None, image: Path, caption: str) -> None:
    from src.registry.prediction import answering_version, predict_post

    answering = answering_version(model, version)
    if answering.warning:
        warn(answering.warning)
    post = predict_post(answering.uri, image, caption)
    probabilities = ", ".join(f"{label} {value:.3f}" for label, value in post.probabilities.items())
    say(f"{post.predicted} ({probabilities})" + (", from the image alone" if post.missing else ""))


def _print_answers(content: "AnsweredPosts", files: "AnswerFiles") -> None:
    from src.registry.answers import advice

    _print_summary(content.rows, files)
    if not content.answered:
        raise UserError(f"none of the posts could be used: {files.table} says why")
    if content.wanted is not None:
        for sentence in advice(content):
            say(sentence)
    if content.labelled:
        _print_scores(content.labelled)


def _print_summary(rows: "Sequence[PredictedPost]", files: "AnswerFiles") -> None:
    for half, consequence in (("image", "a placeholder replaces it"), ("text", "the image alone is used")):
        count = sum(row.missing == half and bool(row.predicted) for row in rows)
        if count:
            warn(f"posts without {half}: {count:,}; {consequence}")
    unusable = sum(not row.predicted for row in rows)
    if unusable:
        warn(f"{unusable:,} of {len(rows):,} posts could not be used: see the column problem")
    ignored_labels = sum(bool(row.predicted and row.problem) for row in rows)
    if ignored_labels:
        warn(f"labels that the version does not know: {ignored_labels:,}; no score counts them, see the column problem")
    labels = next((tuple(row.probabilities) for row in rows if row.predicted), ())
    counts = ", ".join(f"{sum(row.predicted == label for row in rows):,} {label}" for label in labels)
    page = f", page: {files.page}" if files.page else ""
    say(f"{len(rows) - unusable:,} posts: {counts}. Table: {files.table}{page}")


def _print_scores(predictions: "Sequence[Prediction]") -> None:
    from src.evaluation.metrics import report, scores

    headline = scores(predictions).headline()
    table(f"On the {len(predictions):,} posts with a label", list(headline), [list(headline.values())])
    say(report(predictions))


if __name__ == "__main__":
    main()
