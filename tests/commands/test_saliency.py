"""Covers: the saliency maps of stage `evaluate` and of one post, src/saliency.py and src/pipeline/saliency.py."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from src.core.config import load_params
from src.core.errors import UserError
from src.core.outputs import SaliencyOutput, read_trained
from src.core.paths import SALIENCY_JSON
from src.core.records import ADAPTER_DIGEST, Post, read_posts, read_predictions, read_split, write_predictions
from src.reporting.mistakes import mistaken
from src.tracking.store import open_store
from tests.pipeline import MODEL, copied, run

FOLDER = Path("outputs/saliency") / MODEL
PREDICTIONS = Path("outputs/evaluate") / MODEL / "predictions.csv"


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the repository, as the current folder."""
    with copied(made, tmp_path_factory, "saliency") as copy:
        yield copy


Saliency = Callable[..., str]


@pytest.fixture
def saliency(folder: Path) -> Saliency:
    """Run the command and return its output. The folder of the stage is empty before."""
    shutil.rmtree(FOLDER, ignore_errors=True)

    def command(*words: str, code: int = 0) -> str:
        return run("saliency", "--model", MODEL, *words, code=code).output

    return command


def a_post(part: str | None) -> Post:
    """Return the first post of a part, or of the posts without a label for None."""
    part_of = read_split(Path("outputs/split/split.csv"))
    return next(post for post in read_posts(Path("outputs/prepare/posts.csv")) if part_of.get(post.id) == part)


def read_output() -> SaliencyOutput:
    return SaliencyOutput.read(FOLDER / SALIENCY_JSON)


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "PNG"


# One post


def test_post_gets_map_and_page(saliency: Saliency) -> None:
    post = a_post("test")
    printed = saliency(post.id)
    assert is_png(FOLDER / f"{post.id}.png")
    page = (FOLDER / f"{post.id}.html").read_text()
    assert f"Post {post.id}: predicted" in page
    assert f"labelled {post.label}" in page
    assert "Weights are random" in page
    assert "the image as a whole" in printed
    assert any(word in printed for word in post.caption.split())
    assert "Sanity" not in page + printed


def test_explained_prediction_equals_evaluates(saliency: Saliency) -> None:
    row = read_predictions(PREDICTIONS)[0]
    printed = saliency(row.id)
    assert f"Post {row.id}: predicted {row.predicted}, labelled {row.actual}" in printed
    assert ", ".join(f"{tone} {share:.3f}" for tone, share in row.probabilities.items()) in printed


def test_other_label_with_sanity_check(saliency: Saliency, tmp_path: Path) -> None:
    row = read_predictions(PREDICTIONS)[0]
    other = "neutral" if row.predicted != "neutral" else "negative"
    printed = saliency(row.id, "--label", other, "--sanity", "--out", str(tmp_path / "elsewhere"))
    assert f"Contributions to {other}" in printed
    assert "Sanity check" in printed
    assert "on average of 10" in printed
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == [f"{row.id}.html", f"{row.id}.png"]
    assert not FOLDER.exists()


def test_unlabelled_post_is_explained(saliency: Saliency) -> None:
    post = a_post(None)
    assert "without a label" in saliency(post.id)
    assert "in no part of the split" in (FOLDER / f"{post.id}.html").read_text()


# The most confident mistakes


def test_most_confident_mistakes_come_first(saliency: Saliency) -> None:
    wrong = mistaken(read_predictions(PREDICTIONS))[:2]
    printed = saliency("--mistakes", "2")
    assert f"{MODEL}: {len(wrong)} mistakes explained" in printed
    output = read_output()
    assert [mistake.id for mistake in output.mistakes] == [row.id for row in wrong]
    captions = {post.id: post.caption for post in read_posts(Path("outputs/prepare/posts.csv"))}
    for mistake, row in zip(output.mistakes, wrong, strict=True):
        assert (mistake.actual, mistake.predicted) == (row.actual, row.predicted)
        assert mistake.probability == pytest.approx(row.confidence, abs=1e-3)
        assert [word.text for word in mistake.words] == captions[mistake.id].split()
        assert is_png(FOLDER / mistake.png)
    assert output.sanity and output.sanity.post == wrong[0].id
    assert output.sanity.mean is not None and output.sanity.mean < 0.5
    assert len(output.sanity.correlations) == 10
    assert "Weights are random" in output.notice


def test_maps_of_earlier_mistakes_are_removed(saliency: Saliency) -> None:
    stale = FOLDER / "mistakes" / "gone.png"
    by_hand = FOLDER / "5.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    by_hand.touch()
    saliency("--mistakes", "1")
    assert not stale.exists()
    assert by_hand.exists()
    assert len(list(stale.parent.iterdir())) == 1


def test_run_names_the_explained_adapter(saliency: Saliency) -> None:
    saliency("--mistakes", "1")
    client = open_store()
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    assert experiment is not None
    logged = client.search_runs([experiment.experiment_id], "tags.stage = 'saliency'")[0]
    assert logged.data.tags[ADAPTER_DIGEST] == read_trained(MODEL).digest
    assert {item.path for item in client.list_artifacts(logged.info.run_id)} == {"mistakes.html", "saliency.json"}


def test_no_mistake_still_writes_outputs(saliency: Saliency) -> None:
    before = PREDICTIONS.read_bytes()
    write_predictions(PREDICTIONS, [row for row in read_predictions(PREDICTIONS) if row.actual == row.predicted])
    try:
        printed = saliency()
    finally:
        PREDICTIONS.write_bytes(before)
    assert "0 mistakes explained" in printed
    assert "makes no mistake" in (FOLDER / "mistakes.html").read_text()
    assert (read_output().mistakes, read_output().sanity) == ((), None)
    assert (FOLDER / "mistakes").is_dir()


# Misuse and missing inputs


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("nonsense",), "there is no post 'nonsense'; there are 120, from 1 to"),
        (("11111",), "there is no post '11111'; close to it: "),
        (("1", "--label", "glad"), "unknown label 'glad'; known: negative, neutral, positive"),
        (("--label", "neutral"), "--label and --sanity are for one post: give its ID"),
        (("--sanity",), "--label and --sanity are for one post: give its ID"),
        (("1", "--mistakes", "3"), "give the ID of one post or --mistakes, not both"),
        (("--mistakes", "0"), "0 is not in the range x>=1"),
    ],
)
def test_misuse_is_one_line(saliency: Saliency, words: tuple[str, ...], wanted: str) -> None:
    printed = saliency(*words, code=2)
    assert wanted in printed and printed.count("\n") == 1


def test_mistakes_of_another_adapter_are_refused(folder: Path, saliency: Saliency) -> None:
    evaluated = Path(f"outputs/evaluate/{MODEL}/evaluate.json")
    before = evaluated.read_text()
    evaluated.write_text('{"adapter_digest": "another"}')
    try:
        assert "dvc repro" in saliency(code=1)
    finally:
        evaluated.write_text(before)


def test_missing_training_is_named(folder: Path) -> None:
    from src.pipeline.saliency import explain_post

    trained = Path(f"outputs/train/{MODEL}")
    trained.rename("outputs/away")
    try:
        with pytest.raises(UserError, match=r"train\.json"):
            explain_post(load_params(), MODEL, "1", label="", sanity=False, folder=FOLDER)
    finally:
        Path("outputs/away").rename(trained)


def test_missing_image_is_named(saliency: Saliency) -> None:
    image = Path(a_post("test").image)
    image.rename("away.jpg")
    try:
        printed = saliency(a_post("test").id, code=1)
    finally:
        Path("away.jpg").rename(image)
    assert printed.count("\n") == 1
    assert str(image) in printed
