"""The tone of posts, by the adapter that outputs/ holds, or by another registered version.

python -m src.predict --model clip photo.jpg "what a day"
python -m src.predict --model clip posts.csv --out tones.csv
python -m src.predict --model clip folder/ --out tones.csv
python -m src.predict --model clip --version models:/mvsa-clip@champion photo.jpg "what a day"
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from src.cli.options import command, model_option
from src.cli.output import progress, say, table, warn
from src.core.errors import UsageError, UserError
from src.core.files import require_writable, write_table
from src.core.labels import TONES
from src.core.paths import stage_folder
from src.core.records import Prediction
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from src.data.inputs import InputPost
    from src.registry.pyfunc import Answer, Row

BATCH_SIZE = 32
COLUMNS = ("id", "text", "missing", "problem", "tone", *TONES, "label")
MOST_NAMED = 8


def _columns(_context: click.Context, _option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    from src.data.inputs import COLUMNS as KNOWN

    names = dict(value.partition("=")[::2] for value in values)
    for role, name in names.items():
        if role not in KNOWN or not name:
            raise UsageError(f"--column {role}={name}: give {', '.join(KNOWN)} and the column that holds it")
    return names


@command(example="python -m src.predict --model clip posts.csv --out tones.csv")
@model_option(MODELS)
@click.option("--out", type=click.Path(path_type=Path), help="A CSV to write the tones of many posts to.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_columns,
    metavar="WHAT=NAME",
    help="The column of a CSV that holds the id, image, text or label, such as text=tweet.",
)
@click.option("--version", help="Ask this one, such as models:/mvsa-clip@champion, and not what outputs/ holds.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("caption", required=False)
def main(
    model: str, source: Path, caption: str | None, out: Path | None, columns: Mapping[str, str], version: str | None
) -> None:
    """Print the tone of one post (a picture SOURCE and its CAPTION), or write those of many.

    Many are a folder of pictures with captions in text files of the same names, or a CSV with the columns image (or
    image_path, picture) and text (or caption). A column label gives their tones, if they are known: then it says how
    often the model agrees. A column id names them. A post may lack its picture or its caption; a grey picture, or no
    words, then stand in their place. A post that cannot be judged is a row too, which says why.

    The answer is that of the adapter that outputs/ holds, as `dvc repro`, `dvc pull` or `dvc exp apply` has left it;
    where it holds none, that of the registered champion.
    """
    if not source.exists():
        raise UserError(f"there is no file {source}")
    is_csv = source.suffix.lower() == ".csv" and not source.is_dir()
    many = source.is_dir() or is_csv
    if many != (out is not None) or (many and caption is not None):
        raise UsageError("one post is a picture and a caption; many are a folder or a CSV, with --out")
    if columns and not is_csv:
        raise UsageError(f"--column is for a CSV, and {source} is none")
    if out is None:
        _one(model, version, source, caption or "")
    else:
        _many(model, version, source, columns, out)


def _one(model: str, version: str | None, image: Path, caption: str) -> None:
    from src.data.inputs import InputPost

    post = InputPost(str(image), image, caption)
    try:
        post.read()
    except UserError as refusal:
        raise UserError(f"{image} cannot be used: {refusal}") from refusal
    (row,) = _answers(model, version, [post])
    if not row["tone"]:
        raise UserError(f"{image} with this caption cannot be used: {row['problem']}")
    probabilities = ", ".join(f"{tone} {row[tone]:.3f}" for tone in TONES)
    say(f"{row['tone']} ({probabilities})" + (", from the picture alone" if row["missing"] else ""))


def _many(model: str, version: str | None, source: Path, columns: Mapping[str, str], out: Path) -> None:
    from src.data.inputs import read_csv, read_folder

    require_writable(out)
    listing = read_folder(source) if source.is_dir() else read_csv(source, columns)
    if out.exists() and any(path.is_file() and out.samefile(path) for path in listing.files):
        raise UsageError(f"--out {out} would overwrite what is read: name another file")
    if listing.ignored:
        rest = len(listing.ignored) - MOST_NAMED
        more = f" and {rest:,} more" if rest > 0 else ""
        what = "files" if source.is_dir() else "columns"
        warn(f"{what} that are not read: {', '.join(listing.ignored[:MOST_NAMED])}{more}")
    rows = []
    with progress(len(listing.posts), f"{model}: posts", "posts") as bar:
        for row in _answers(model, version, listing.posts):
            rows.append(row)
            bar.advance()
    write_table(out, rows, COLUMNS)
    _summarise(rows, out)
    judged = [row for row in rows if row["tone"]]
    if not judged:
        raise UserError(f"none of the posts could be used: {out} says why")
    if labelled := [row for row in judged if row["label"] in TONES]:
        _say_scores(labelled)


def _answers(model: str, version: str | None, posts: "Sequence[InputPost]") -> Iterator[dict[str, Any]]:
    """A row of `COLUMNS` for each post, in their order."""
    from src.registry import registry

    loaded = registry.load(version or _address(model))
    ask = partial(registry.predict, loaded, halves=True)
    for start in range(0, len(posts), BATCH_SIZE):
        batch = posts[start : start + BATCH_SIZE]
        rows, usable, contents = [_row(post) for post in batch], [], []
        for post, row in zip(batch, rows, strict=True):
            try:
                contents.append((post.read(), post.text))
                usable.append(row)
            except UserError as refusal:
                row.update(problem=str(refusal))
        for row, answer in zip(usable, _ask(ask, contents), strict=True):
            row.update(answer)
        yield from rows


def _address(model: str) -> str:
    """Return the address of the version whose adapter outputs/ holds, or where it holds none, of the champion.

    Raises:
        UserError: that adapter is not registered.
    """
    from src.core.outputs import read_trained
    from src.registry import registry

    if not stage_folder("train", model).is_dir():
        return registry.uri_of(model)
    trained = read_trained(model)
    found = registry.find_by_digest(model, trained.digest)
    if found is None:
        remedy = f"run `python -m src.register --model {model}`, or name another with --version"
        raise UserError(f"the adapter in {trained.adapter} is no registered version here: {remedy}")
    champion = registry.version_at_alias(model)
    if champion and champion.number != found.number:
        hint = f"the champion is version {champion.number}: --version {registry.uri_of(model)}"
        warn(f"{found.name} version {found.number} answers, which outputs/ holds; {hint}")
    return found.uri


def _ask(ask: "Callable[[Sequence[Row]], list[Answer]]", posts: "Sequence[Row]") -> list[dict[str, Any]]:
    """Ask a version for the tones of posts; in the place of a post that it refuses stands the reason.

    A version refuses a whole call for one of its posts, so the halves of that call are asked anew.
    """
    if not posts:
        return []
    try:
        return list(map(_answered, ask(posts)))
    except UserError as refusal:
        if len(posts) == 1:
            # The version counts the posts of a call.
            return [{"problem": str(refusal).removeprefix("post 1").lstrip(": ")}]
    middle = len(posts) // 2
    return _ask(ask, posts[:middle]) + _ask(ask, posts[middle:])


def _answered(answer: "Answer") -> dict[str, Any]:
    tone, *probabilities = answer
    return {"tone": tone, **dict(zip(TONES, probabilities, strict=True))}


def _row(post: "InputPost") -> dict[str, Any]:
    known = {"id": post.id, "text": post.text, "missing": post.missing, "problem": post.remark, "label": post.label}
    return {**dict.fromkeys(COLUMNS, ""), **known}


def _summarise(rows: Sequence[dict[str, Any]], out: Path) -> None:
    for half, instead in (("image", "a grey one stands in its place"), ("text", "they are judged by their pictures")):
        count = sum(row["missing"] == half and bool(row["tone"]) for row in rows)
        if count:
            warn(f"{count:,} posts have no {half}: {instead}")
    bad = sum(not row["tone"] for row in rows)
    if bad:
        warn(f"{bad:,} of {len(rows):,} posts could not be used: see the column problem")
    stray = sum(bool(row["tone"] and row["problem"]) for row in rows)
    if stray:
        warn(f"{stray:,} labels are no tones, and no score counts them: see the column problem")
    tones = ", ".join(f"{sum(row['tone'] == tone for row in rows):,} {tone}" for tone in TONES)
    say(f"{len(rows) - bad:,} posts: {tones}. Table: {out}")


def _say_scores(rows: Sequence[dict[str, Any]]) -> None:
    from src.evaluation.metrics import report, scores

    predictions = [Prediction(row["id"], row["label"], row["tone"], *(row[tone] for tone in TONES)) for row in rows]
    headline = scores(predictions).headline()
    table(f"On the {len(predictions):,} posts with a label", list(headline), [list(headline.values())])
    say(report(predictions))


if __name__ == "__main__":
    main()
