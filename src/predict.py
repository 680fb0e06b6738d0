"""The tone of posts, by the adapter that outputs/ holds, or by another registered version.

python -m src.predict --model clip photo.jpg "what a day"
python -m src.predict --model clip posts.csv --out tones.csv
python -m src.predict --model clip folder/ --out tones.csv
python -m src.predict --model clip --version models:/mvsa-clip@champion photo.jpg "what a day"
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from src.core.errors import Refusal, UsageRefusal
from src.core.labels import TONES
from src.core.paths import stage_folder
from src.core.records import Prediction, write_table
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, progress, say, table, warn

if TYPE_CHECKING:
    from src.data.asked import Asked

BATCH_SIZE = 32
COLUMNS = ("id", "text", "missing", "problem", "tone", *TONES, "label")


@command(example="python -m src.predict --model clip posts.csv --out tones.csv")
@model_option(MODELS)
@click.option("--out", type=click.Path(path_type=Path), help="A CSV to write the tones of many posts to.")
@click.option("--version", help="Ask this one, such as models:/mvsa-clip@champion, and not what outputs/ holds.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("caption", required=False)
def main(model: str, source: Path, caption: str | None, out: Path | None, version: str | None) -> None:
    """Print the tone of one post (a picture SOURCE and its CAPTION), or write those of many.

    Many are a folder of pictures with captions in text files of the same names, or a CSV with the columns image and
    text, and label if their tones are known: then it says how often the model agrees. A post may lack its picture or
    its caption; a grey picture, or no words, then stand in their place.

    The answer is that of the adapter that outputs/ holds, as `dvc repro`, `dvc pull` or `dvc exp apply` has left it;
    where it holds none, that of the registered champion.
    """
    if not source.exists():
        raise Refusal(f"there is no file {source}")
    many = source.is_dir() or source.suffix.lower() == ".csv"
    if many != (out is not None) or (many and caption is not None):
        raise UsageRefusal("one post is a picture and a caption; many are a folder or a CSV, with --out")
    if out is None:
        _one(model, version, source, caption or "")
    else:
        _many(model, version, source, out)


def _one(model: str, version: str | None, image: Path, caption: str) -> None:
    from src.data.asked import Asked

    post = Asked(str(image), image, caption)
    if post.problem:
        raise Refusal(f"{image} cannot be used: {post.problem}")
    (row,) = _answers(model, version, [post])
    chances = ", ".join(f"{tone} {row[tone]:.3f}" for tone in TONES)
    say(f"{row['tone']} ({chances})" + (", from the picture alone" if row["missing"] else ""))


def _many(model: str, version: str | None, source: Path, out: Path) -> None:
    from src.data.asked import read_csv, read_folder

    posts = read_folder(source) if source.is_dir() else read_csv(source)
    rows = []
    with progress(len(posts), f"{model}: posts", "posts") as bar:
        for row in _answers(model, version, posts):
            rows.append(row)
            bar.advance()
    write_table(out, rows, COLUMNS)
    _summarise(rows, out)
    judged = [row for row in rows if row["tone"]]
    if not judged:
        raise Refusal(f"none of the posts could be used: {out} says why")
    if labelled := [row for row in judged if row["label"]]:
        _say_scores(labelled)


def _answers(model: str, version: str | None, posts: "Sequence[Asked]") -> Iterator[dict[str, Any]]:
    """A row of `COLUMNS` for each post, in their order."""
    from src.data.images import blank
    from src.services import registry

    loaded = registry.load(version or _address(model))
    for start in range(0, len(posts), BATCH_SIZE):
        batch = posts[start : start + BATCH_SIZE]
        rows = [_row(post) for post in batch]
        usable = [(post, row) for post, row in zip(batch, rows, strict=True) if not row["problem"]]
        asked = [(post.image.read_bytes() if post.image else blank(), post.text) for post, _ in usable]
        answers = registry.predict(loaded, asked, halves=True) if asked else []
        for (_, row), (tone, *chances) in zip(usable, answers, strict=True):
            row.update(tone=tone, **dict(zip(TONES, chances, strict=True)))
        yield from rows


def _address(model: str) -> str:
    """Return the address of the version whose adapter outputs/ holds, or where it holds none, of the champion.

    Raises:
        Refusal: that adapter is not registered.
    """
    from src.learning.trained import read_trained
    from src.services import registry

    if not stage_folder("train", model).is_dir():
        return registry.uri_of(model)
    trained = read_trained(model)
    found = registry.find(model, trained.digest)
    if found is None:
        remedy = f"run `python -m src.register --model {model}`, or name another with --version"
        raise Refusal(f"the adapter in {trained.adapter} is no registered version here: {remedy}")
    champion = registry.champion(model)
    if champion and champion.number != found.number:
        hint = f"the champion is version {champion.number}: --version {registry.uri_of(model)}"
        warn(f"{found.name} version {found.number} answers, which outputs/ holds; {hint}")
    return found.uri


def _row(post: "Asked") -> dict[str, Any]:
    known = {"id": post.id, "text": post.text, "missing": post.missing, "problem": post.problem, "label": post.label}
    return {**dict.fromkeys(COLUMNS, ""), **known}


def _summarise(rows: Sequence[dict[str, Any]], out: Path) -> None:
    for half, instead in (("image", "a grey one stands in its place"), ("text", "they are judged by their pictures")):
        count = sum(row["missing"] == half and not row["problem"] for row in rows)
        if count:
            warn(f"{count:,} posts have no {half}: {instead}")
    bad = sum(bool(row["problem"]) for row in rows)
    if bad:
        warn(f"{bad:,} of {len(rows):,} posts could not be used: see the column problem")
    tones = ", ".join(f"{sum(row['tone'] == tone for row in rows):,} {tone}" for tone in TONES)
    say(f"{len(rows) - bad:,} posts: {tones}. Table: {out}")


def _say_scores(rows: Sequence[dict[str, Any]]) -> None:
    from src.learning.metrics import report, scores

    found = [Prediction(row["id"], row["label"], row["tone"], *(row[tone] for tone in TONES)) for row in rows]
    headline = scores(found).headline()
    table(f"On the {len(found):,} posts with a label", list(headline), [list(headline.values())])
    say(report(found))


if __name__ == "__main__":
    main()
