import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.files import read_json, read_table
from src.core.outputs import read_trained
from src.core.paths import GROUPS, POSTS, SPLIT, stage_folder
from src.core.records import (
    ADAPTER_DIGEST,
    Prediction,
    read_groups,
    read_posts,
    read_predictions,
    read_split,
    write_groups,
    write_posts,
    write_predictions,
)
from src.data.ablations import CONDITIONS
from src.evaluation.metrics import scores
from tests.pipeline import MODEL, STORE, as_written, run, store_in

RESULT, EVALUATED = stage_folder("modality", MODEL), stage_folder("evaluate", MODEL) / "predictions.csv"


@pytest.fixture(scope="module")
def judged(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the stage has run; `said` is what it printed."""
    folder = tmp_path_factory.mktemp("modality") / "repository"
    shutil.copytree(made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(STORE, store_in(folder))
        (folder / "said").write_text(run("modality", "--model", MODEL).output)
    return folder


@pytest.fixture(autouse=True)
def here(judged: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(judged)
    monkeypatch.setenv(STORE, store_in(judged))
    return judged


@pytest.fixture
def spoilt(tmp_path: Path) -> Iterator[None]:
    """What a test changes, inputs of the stage and its results, is put back."""
    kept = shutil.copytree("outputs", tmp_path / "outputs")
    yield
    shutil.rmtree("outputs")
    shutil.move(kept, "outputs")


def test_each_condition_has_its_predictions_and_its_scores() -> None:
    found = {name: read_predictions(RESULT / f"{name}.csv") for name in CONDITIONS}
    summary, metrics = read_json(RESULT / "modality.json"), read_json(RESULT / "metrics.json")
    evaluated = read_predictions(EVALUATED)
    assert summary["posts"] == len(evaluated)
    assert list(summary["conditions"]) == list(CONDITIONS)
    for name, rows in found.items():
        assert [(row.id, row.actual) for row in rows] == [(row.id, row.actual) for row in evaluated]
        figures = summary["conditions"][name]["figures"]
        assert {key: each["value"] for key, each in figures.items()} == as_written(scores(rows).headline())
        assert metrics[f"{name.replace('-', '_')}_macro_f1"] == figures["macro_f1"]["value"]
    assert [row.positive for row in found["both"]] == pytest.approx([row.positive for row in evaluated], abs=1e-4)
    assert len({tuple(row.positive for row in rows) for rows in found.values()}) == len(CONDITIONS)
    change = metrics["text_accuracy"] - metrics["both_accuracy"]
    assert metrics["text_accuracy_change"] == as_written(change)


def test_posts_with_two_labels_are_judged_if_no_training_has_seen_them() -> None:
    part_of, rows = read_split(SPLIT), read_table(RESULT / "disagreement.csv")
    unseen = [post for post in read_posts(POSTS) if post.text_label != post.image_label]
    assert rows and not part_of.keys() & {post.id for post in unseen}, "of the agreement protocol"
    assert [(row["id"], row["text_label"], row["image_label"]) for row in rows] == [
        (post.id, post.text_label, post.image_label) for post in unseen
    ]
    follows = read_json(RESULT / "modality.json")["disagreement"]["follows"]
    for shown, column in {"both": "predicted", "text": "predicted_from_text", "image": "predicted_from_image"}.items():
        share = sum(row[column] == row["image_label"] for row in rows) / len(rows)
        assert follows[shown]["image"]["value"] == as_written(share)


def test_alignment_is_that_of_the_base_without_the_adapter() -> None:
    from src.training.inference import alignments
    from src.training.workspace import open_workspace

    workspace = open_workspace(MODEL)
    test = workspace.data("test")
    expected = dict(zip([post.id for post in test.posts], alignments(workspace.model, test, 8) or [], strict=True))
    found = {row["id"]: float(row["cosine"]) for row in read_table(RESULT / "alignment.csv")}
    assert found == pytest.approx(expected, abs=1e-6)
    assert read_json(RESULT / "modality.json")["alignment"]["n"] == len(expected)


def test_the_run_holds_the_figures_and_the_files(here: Path) -> None:
    from mlflow import MlflowClient

    summary, client = read_json(RESULT / "modality.json"), MlflowClient(store_in(here))
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    (logged,) = client.search_runs([experiment.experiment_id], "tags.stage = 'modality'")
    assert (logged.info.status, logged.data.tags["stage"]) == ("FINISHED", "modality")
    assert logged.data.tags[ADAPTER_DIGEST] == summary[ADAPTER_DIGEST] == read_trained(MODEL).digest
    assert logged.data.metrics == as_written(read_json(RESULT / "metrics.json"))
    names = {item.path for item in client.list_artifacts(logged.info.run_id, "modality")}
    assert {"modality/modality.json", "modality/conditions.png", "modality/no-hashtags.csv"} <= names


def test_it_says_what_each_half_is_worth_and_that_weights_are_random(here: Path) -> None:
    said = (here / "said").read_text()
    assert all(f"  {name} " in said for name in CONDITIONS)
    assert "posts with two labels, shown both, it follows: text" in said
    assert "Weights are random" in said


def test_test_posts_with_two_labels_are_asked_once_and_told_apart(spoilt: None) -> None:
    """As the standard protocol has them."""
    part_of, posts = read_split(SPLIT), read_posts(POSTS)
    torn = [post.id for post in posts if part_of.get(post.id) == "test" and post.label == "positive"][:3]
    write_posts(POSTS, [replace(post, text_label="neutral") if post.id in torn else post for post in posts])
    before = read_json(RESULT / "modality.json")["disagreement"]["posts"]
    run("modality", "--model", MODEL)
    summary, both = read_json(RESULT / "modality.json"), read_predictions(RESULT / "both.csv")
    assert summary["disagreement"]["posts"] == before + 3
    assert {kind: each["n"] for kind, each in summary["by_agreement"].items()} == {
        "agree": len(both) - 3,
        "disagree": 3,
    }
    rows = {row["id"]: row["predicted"] for row in read_table(RESULT / "disagreement.csv")}
    assert {row.id: row.predicted for row in both if row.id in torn} == {key: rows[key] for key in torn}


def test_without_posts_of_two_labels_there_is_nothing_to_follow(spoilt: None) -> None:
    write_posts(POSTS, [post for post in read_posts(POSTS) if post.label])
    said = run("modality", "--model", MODEL).output
    assert read_table(RESULT / "disagreement.csv") == []
    assert read_json(RESULT / "modality.json")["disagreement"]["follows"] == {}
    assert "follows_text" not in read_json(RESULT / "metrics.json")
    assert "it follows" not in said


def test_where_most_test_posts_are_alike_the_shuffled_alone_is_left_out(spoilt: None) -> None:
    write_groups(GROUPS, dict.fromkeys(read_groups(GROUPS), "1"))
    said = run("modality", "--model", MODEL).output
    summary = read_json(RESULT / "modality.json")
    assert list(summary["conditions"]) == [name for name in CONDITIONS if name != "shuffled"]
    assert summary["shuffled"] is None
    assert "near-duplicates" in summary["omitted"]["shuffled"]
    assert summary["omitted"]["shuffled"] in said
    assert read_table(RESULT / "shuffled.csv") == []


def off(row: Prediction) -> Prediction:
    return replace(row, negative=row.positive, positive=row.negative)


def test_predictions_of_another_adapter_or_of_other_posts_are_refused(spoilt: None) -> None:
    first, *others = read_predictions(EVALUATED)
    for rows, why in (([off(first), *others], "of another adapter (up to 0."), (others, "of other posts: run")):
        write_predictions(EVALUATED, rows)
        said = run("modality", "--model", MODEL, code=1).output
        assert said.count("\n") == 1
        assert said.startswith(f"error: outputs/evaluate/ holds the predictions {why}")


def test_before_the_evaluation_it_says_what_to_run(spoilt: None) -> None:
    EVALUATED.unlink()
    said = run("modality", "--model", MODEL, code=1).output
    assert said == f"error: {EVALUATED} is missing: run `dvc repro` first, which makes it\n"
