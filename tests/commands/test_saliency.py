"""`python -m src.saliency`, in a repository in which a small model has been trained and scored."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.core.outputs import read_trained
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
    """Runs the command; returns what it said. Nothing has run before."""
    shutil.rmtree(FOLDER, ignore_errors=True)

    def command(*words: str, code: int = 0) -> str:
        return run("saliency", "--model", MODEL, *words, code=code).output

    return command


def a_post(part: str | None) -> Post:
    """The first post of a part; None: one that the protocol gives no label."""
    part_of = read_split(Path("outputs/split/split.csv"))
    return next(post for post in read_posts(Path("outputs/prepare/posts.csv")) if part_of.get(post.id) == part)


def is_png(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.format == "PNG"


# One post


def test_a_post_gets_a_picture_and_a_page_and_the_heaviest_parts_are_printed(saliency: Saliency) -> None:
    post = a_post("test")
    said = saliency(post.id)
    assert is_png(FOLDER / f"{post.id}.png")
    page = (FOLDER / f"{post.id}.html").read_text()
    assert f"Post {post.id}: predicted" in page
    assert f"labelled {post.label}" in page
    assert "Weights are random" in page
    assert "the image as a whole" in said
    assert any(word in said for word in post.caption.split())
    assert "Sanity" not in page + said


def test_the_prediction_explained_is_that_of_evaluate(saliency: Saliency) -> None:
    found = read_predictions(PREDICTIONS)[0]
    said = saliency(found.id)
    assert f"Post {found.id}: predicted {found.predicted}, labelled {found.actual}" in said
    assert f"negative {found.negative:.3f}, neutral {found.neutral:.3f}, positive {found.positive:.3f}" in said


def test_another_tone_may_be_explained_elsewhere_with_a_sanity_check(saliency: Saliency, tmp_path: Path) -> None:
    found = read_predictions(PREDICTIONS)[0]
    tone = "neutral" if found.predicted != "neutral" else "negative"
    said = saliency(found.id, "--tone", tone, "--sanity", "--out", str(tmp_path / "elsewhere"))
    assert f"What speaks for {tone}" in said
    assert "Sanity check" in said
    assert "on average of 10" in said
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == [f"{found.id}.html", f"{found.id}.png"]
    assert not FOLDER.exists()


def test_a_post_without_a_label_may_be_explained(saliency: Saliency) -> None:
    post = a_post(None)
    assert "without a label" in saliency(post.id)
    assert "in no part of the split" in (FOLDER / f"{post.id}.html").read_text()


# The most confident mistakes


def test_without_an_id_the_surest_mistakes_are_explained_the_surest_first(saliency: Saliency) -> None:
    wrong = mistaken(read_predictions(PREDICTIONS))[:2]
    said = saliency("--mistakes", "2")
    assert f"{MODEL}: {len(wrong)} mistakes explained" in said
    found: dict[str, Any] = json.loads((FOLDER / "saliency.json").read_text())
    assert [each["id"] for each in found["mistakes"]] == [each.id for each in wrong]
    captions = {post.id: post.caption for post in read_posts(Path("outputs/prepare/posts.csv"))}
    for each, prediction in zip(found["mistakes"], wrong, strict=True):
        assert (each["actual"], each["predicted"]) == (prediction.actual, prediction.predicted)
        assert each["probability"] == pytest.approx(getattr(prediction, prediction.predicted), abs=1e-3)
        assert [word["word"] for word in each["words"]] == captions[each["id"]].split()
        assert is_png(FOLDER / each["png"])
    assert found["sanity"]["post"] == wrong[0].id
    assert found["sanity"]["mean"] < 0.5
    assert len(found["sanity"]["each"]) == 10
    assert "Weights are random" in found["notice"]


def test_pictures_of_earlier_mistakes_go_and_those_asked_for_by_hand_stay(saliency: Saliency) -> None:
    stale, by_hand = FOLDER / "mistakes" / "gone.png", FOLDER / "5.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    by_hand.touch()
    saliency("--mistakes", "1")
    assert not stale.exists()
    assert by_hand.exists()
    assert len(list(stale.parent.iterdir())) == 1


def test_the_gallery_is_logged_with_the_training_that_it_explains(saliency: Saliency) -> None:
    saliency("--mistakes", "1")
    client = open_store()
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.stage = 'saliency'")[0]
    assert found.data.tags[ADAPTER_DIGEST] == read_trained(MODEL).digest
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == {"mistakes.html", "saliency.json"}


def test_a_model_without_mistakes_leaves_what_the_stage_promises(saliency: Saliency) -> None:
    before = PREDICTIONS.read_bytes()
    write_predictions(PREDICTIONS, [each for each in read_predictions(PREDICTIONS) if each.actual == each.predicted])
    try:
        said = saliency()
    finally:
        PREDICTIONS.write_bytes(before)
    assert "0 mistakes explained" in said
    assert "makes no mistake" in (FOLDER / "mistakes.html").read_text()
    found = json.loads((FOLDER / "saliency.json").read_text())
    assert (found["mistakes"], found["sanity"]) == ([], None)
    assert (FOLDER / "mistakes").is_dir()


# What is refused


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        (("nonsense",), 2, "there is no post 'nonsense'; there are 120, from 1 to"),
        (("1",), 0, "Post 1: predicted"),
        (("11111",), 2, "there is no post '11111'; close to it: "),
        (("1", "--tone", "glad"), 2, "'glad' is not one of 'negative', 'neutral', 'positive'"),
        (("--tone", "neutral"), 2, "--tone and --sanity are for one post: give its ID"),
        (("--sanity",), 2, "--tone and --sanity are for one post: give its ID"),
        (("1", "--mistakes", "3"), 2, "give the ID of one post or --mistakes, not both"),
        (("--mistakes", "0"), 2, "0 is not in the range x>=1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    saliency: Saliency, words: tuple[str, ...], code: int, wanted: str
) -> None:
    said = saliency(*words, code=code)
    assert wanted in said
    assert code == 0 or said.count("\n") == 1


def test_before_a_training_there_is_nothing_to_explain(saliency: Saliency) -> None:
    trained = Path(f"outputs/train/{MODEL}")
    trained.rename("outputs/away")
    try:
        said = saliency("1", code=1)
    finally:
        Path("outputs/away").rename(trained)
    assert said == f"error: {trained}/train.json is missing: run `dvc repro` first, which makes it\n"


def test_a_picture_that_is_gone_is_named(saliency: Saliency) -> None:
    picture = Path(a_post("test").image)
    picture.rename("away.jpg")
    try:
        said = saliency(a_post("test").id, code=1)
    finally:
        Path("away.jpg").rename(picture)
    assert said.count("\n") == 1
    assert str(picture) in said
