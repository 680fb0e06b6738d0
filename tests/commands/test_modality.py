"""Covers: the ablations of stage `evaluate`, src/evaluate.py and src/pipeline/modality.py."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.config import load_params
from src.core.files import read_json, read_table
from src.core.outputs import ModalityOutput, read_trained
from src.core.paths import GROUPS, MODALITY_JSON, POSTS, SPLIT, stage_folder
from src.core.records import (
    ADAPTER_DIGEST,
    read_groups,
    read_posts,
    read_predictions,
    read_split,
    write_groups,
    write_posts,
)
from src.data.ablations import BOTH, IMAGE, NO_HASHTAGS, SHUFFLED, TEXT
from src.evaluation.metrics import scores
from tests.pipeline import MODEL, STORE, as_written, store_in

RESULT = stage_folder("modality", MODEL)
EVALUATED = stage_folder("evaluate", MODEL) / "predictions.csv"
ABLATIONS = (BOTH, TEXT, IMAGE, SHUFFLED, NO_HASHTAGS)


@pytest.fixture(scope="module")
def repository(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the stage has run."""
    folder = tmp_path_factory.mktemp("modality") / "repository"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture(autouse=True)
def here(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(repository)
    monkeypatch.setenv(STORE, store_in(repository))
    return repository


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[None]:
    """Restore inputs and outputs of the stage after the test."""
    copy = shutil.copytree("outputs", tmp_path / "outputs")
    yield
    shutil.rmtree("outputs")
    shutil.move(copy, "outputs")


def run_again() -> ModalityOutput:
    """Predict the ablated posts again, without the rest of the stage."""
    from src.pipeline.modality import run_modality
    from src.training.workspace import open_workspace

    return run_modality(load_params(), open_workspace(load_params(), MODEL))


def read_output() -> ModalityOutput:
    return ModalityOutput.read(RESULT / MODALITY_JSON)


def test_each_ablation_is_predicted_and_scored() -> None:
    predictions = {name: read_predictions(RESULT / f"{name}.csv") for name in ABLATIONS}
    output = read_output()
    metrics = read_json(RESULT / "metrics.json")
    evaluated = read_predictions(EVALUATED)
    assert output.posts == len(evaluated)
    assert list(output.ablations) == list(ABLATIONS)
    for name, rows in predictions.items():
        assert [(row.id, row.actual) for row in rows] == [(row.id, row.actual) for row in evaluated]
        figures = output.ablations[name].figures
        assert {key: interval.value for key, interval in figures.items()} == as_written(scores(rows).headline())
        assert metrics[f"{name.replace('-', '_')}_macro_f1"] == figures["macro_f1"].value
    both = [row.probabilities["positive"] for row in predictions["both"]]
    assert both == pytest.approx([row.probabilities["positive"] for row in evaluated], abs=1e-4)
    assert len({tuple(row.probabilities["positive"] for row in rows) for rows in predictions.values()}) == len(
        ABLATIONS
    )
    change = metrics["text_accuracy"] - metrics["both_accuracy"]
    assert metrics["text_accuracy_change"] == as_written(change)


def test_unseen_disagreeing_posts_are_predicted() -> None:
    part_of = read_split(SPLIT)
    rows = read_table(RESULT / "disagreement.csv")
    unseen = [post for post in read_posts(POSTS) if post.text_label != post.image_label]
    assert rows and not part_of.keys() & {post.id for post in unseen}, "the agreement protocol leaves them out"
    assert [(row["id"], row["text_label"], row["image_label"]) for row in rows] == [
        (post.id, post.text_label, post.image_label) for post in unseen
    ]
    follows = read_output().disagreement.follows
    for shown, column in {"both": "predicted", "text": "predicted_from_text", "image": "predicted_from_image"}.items():
        share = sum(row[column] == row["image_label"] for row in rows) / len(rows)
        assert follows[shown].image.value == as_written(share)


def test_similarity_is_the_base_models() -> None:
    from src.training.inference import similarities
    from src.training.workspace import open_workspace

    workspace = open_workspace(load_params(), MODEL)
    test = workspace.data("test")
    expected = dict(zip([post.id for post in test.posts], similarities(workspace.model, test, 8) or [], strict=True))
    written = {row["id"]: float(row["cosine"]) for row in read_table(RESULT / "similarity.csv")}
    assert written == pytest.approx(expected, abs=1e-6)
    similarity = read_output().similarity
    assert similarity and similarity.n == len(expected)


def test_run_holds_figures_and_files(here: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store_in(here))
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    logged = client.search_runs([experiment.experiment_id], "tags.stage = 'modality'")[0]
    assert logged.info.status == "FINISHED"
    assert logged.data.tags[ADAPTER_DIGEST] == read_output().adapter_digest == read_trained(MODEL).digest
    assert logged.data.metrics == as_written(read_json(RESULT / "metrics.json"))
    names = {item.path for item in client.list_artifacts(logged.info.run_id, "modality")}
    assert {"modality/modality.json", "modality/ablations.png", "modality/no-hashtags.csv"} <= names


def test_command_prints_ablations_and_notice(here: Path) -> None:
    printed = (here / "printed" / "evaluate").read_text()
    assert all(f"  {name} " in printed for name in ABLATIONS)
    assert "shown both: the prediction follows text" in printed
    assert "Weights are random" in printed


def test_disagreeing_test_posts_are_predicted_once(restored: None) -> None:
    """Under the standard protocol the test part holds posts with two labels."""
    part_of = read_split(SPLIT)
    posts = read_posts(POSTS)
    changed = [post.id for post in posts if part_of.get(post.id) == "test" and post.label == "positive"][:3]
    write_posts(POSTS, [replace(post, text_label="neutral") if post.id in changed else post for post in posts])
    num_before = read_output().disagreement.posts
    output = run_again()
    both = read_predictions(RESULT / "both.csv")
    assert output.disagreement.posts == num_before + 3
    assert {kind: accuracy.n for kind, accuracy in output.by_agreement.items()} == {
        "agree": len(both) - 3,
        "disagree": 3,
    }
    rows = {row["id"]: row["predicted"] for row in read_table(RESULT / "disagreement.csv")}
    assert {row.id: row.predicted for row in both if row.id in changed} == {key: rows[key] for key in changed}


def test_no_disagreeing_post_gives_no_adherence(restored: None) -> None:
    write_posts(POSTS, [post for post in read_posts(POSTS) if post.label])
    run_again()
    assert read_table(RESULT / "disagreement.csv") == []
    assert read_output().disagreement.follows == {}
    assert "follows_text" not in read_json(RESULT / "metrics.json")


def test_infeasible_shuffling_is_omitted(restored: None) -> None:
    write_groups(GROUPS, dict.fromkeys(read_groups(GROUPS), "1"))
    output = run_again()
    assert list(output.ablations) == [name for name in ABLATIONS if name != "shuffled"]
    assert output.shuffled is None
    assert "near-duplicates" in output.omitted["shuffled"]
    assert read_table(RESULT / "shuffled.csv") == []
