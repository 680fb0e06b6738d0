"""The stages `baseline`, `frozen` and `noise`, one after the other, on the sample and one small model."""

import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from src.core.files import read_json, read_table
from src.core.paths import BASELINE, FINGERPRINTS, GROUPS, NOISE, POSTS, SPLIT, stage_folder
from src.core.records import (
    Fingerprint,
    read_fingerprints,
    read_groups,
    read_posts,
    read_predictions,
    read_split,
    write_fingerprints,
    write_groups,
    write_posts,
    write_predictions,
)
from src.evaluation.metrics import scores
from tests.pipeline import MODEL, as_written, copied, run, store_in

PROBE = stage_folder("probe", MODEL)


@pytest.fixture(scope="module")
def folder(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy in which the stages have run, as the current folder; tests leave it as it is."""
    with copied(encoded, tmp_path_factory, "baselines") as folder:
        yield folder


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, str]:
    """What each stage printed."""
    frozen = run("frozen", "--model", MODEL).output
    return {"baseline": run("baseline").output, "frozen": frozen, "noise": run("noise").output}


@pytest.fixture(scope="module")
def runs(said: dict[str, str], folder: Path) -> dict[str, Any]:
    """The runs of the experiment of baselines, by name."""
    client = MlflowClient(store_in(folder))
    experiment = client.get_experiment_by_name("mvsa-baselines")
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def ids(part: str) -> set[str]:
    return {key for key, its_part in read_split(SPLIT).items() if its_part == part}


# baseline, frozen


@pytest.mark.parametrize("system", [BASELINE / "majority", BASELINE / "tfidf", PROBE, stage_folder("zeroshot", MODEL)])
def test_systems_predict_validation_and_test(said: dict[str, str], system: Path) -> None:
    test, val = (read_predictions(system / name) for name in ("predictions.csv", "val_predictions.csv"))
    assert {row.id for row in test} == ids("test")
    assert {row.id for row in val} == ids("val")
    labels = {post.id: post.label for post in read_posts(POSTS)}
    for row in (*test, *val):
        assert row.actual == labels[row.id]
        assert sum(row.probabilities.values()) == as_written(1)
    assert read_json(system / "metrics.json") == as_written(scores(test).summary())


@pytest.mark.parametrize("system", [BASELINE / "tfidf", PROBE])
def test_out_of_fold_covers_labelled_posts(said: dict[str, str], system: Path) -> None:
    rows = read_predictions(system / "out_of_fold.csv")
    assert sorted(row.id for row in rows) == sorted(read_split(SPLIT))
    # The captions of the sample say their tone, and the small models can read them.
    assert scores(rows).accuracy > 0.6


def test_majority_predicts_largest_class(said: dict[str, str]) -> None:
    assert {row.predicted for row in read_predictions(BASELINE / "majority" / "predictions.csv")} == {"positive"}


def test_candidates_are_listed_best_printed(said: dict[str, str]) -> None:
    tried = read_table(BASELINE / "tfidf" / "candidates.csv")
    best = max(tried, key=lambda row: float(row["val_macro_f1"]))
    assert f"tfidf, features {best['features']}, C {best['C']}, 21 test posts" in said["baseline"]
    best = max(read_table(PROBE / "candidates.csv"), key=lambda row: float(row["val_macro_f1"]))
    assert f"{MODEL}, linear probe, C {best['C']}, 21 test posts" in said["frozen"]
    assert "Weights are random" in said["frozen"]


def test_baselines_are_runs_with_artifacts(runs: dict[str, Any], folder: Path) -> None:
    places = {"majority": BASELINE / "majority", "tfidf": BASELINE / "tfidf", f"{MODEL} probe": PROBE}
    assert set(runs) == set(places)
    client = MlflowClient(store_in(folder))
    for name, place in places.items():
        data = runs[name].data
        assert data.metrics["test_macro_f1"] == as_written(read_json(place / "metrics.json")["macro_f1"])
        assert data.metrics["val_macro_f1"] == as_written(
            scores(read_predictions(place / "val_predictions.csv")).macro_f1
        )
        paths = {item.path for item in client.list_artifacts(runs[name].info.run_id)}
        assert {"confusion_matrix.png", "confusion_matrix.json", "classification_report.txt"} <= paths
        assert {"data_digest", "split_digest", "stage", "model"} <= data.tags.keys()


def test_only_model_runs_name_weights(runs: dict[str, Any]) -> None:
    assert runs[f"{MODEL} probe"].data.tags["weights"] == "random"
    assert "weights" not in runs["tfidf"].data.tags
    assert "No pretrained weights" in runs["tfidf"].data.tags["mlflow.note.content"]
    assert runs["tfidf"].data.params.keys() == {"features", "C"}


# noise


def test_label_issues_are_listed_with_posts(said: dict[str, str]) -> None:
    rows, posts = read_table(NOISE / "mislabelled.csv"), {post.id: post for post in read_posts(POSTS)}
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        post = posts[row["id"]]
        given = (row["label"], row["text_label"], row["image_label"], row["caption"])
        assert given == (post.label, post.text_label, post.image_label, post.caption)
        assert row["suggested"] != row["label"]
    assert f"{len(rows)} posts in {NOISE / 'mislabelled.csv'}" in said["noise"]


def test_summary_has_both_noise_estimates(said: dict[str, str]) -> None:
    noise = read_json(NOISE / "noise.json")
    learned = noise["confident_learning"]
    assert learned["posts"] == len(read_split(SPLIT))
    assert list(learned["weights"]) == ["tfidf", f"{MODEL} probe"]
    joint = learned["joint"]["rows_label_columns_true"]
    assert learned["noise_rate"] == as_written(sum(joint[i][j] for i in range(3) for j in range(3) if i != j))
    assert set(noise["near_duplicates"]) == {"agreement", "standard"}
    for protocol in ("agreement", "standard"):
        assert f"{protocol} labels among near-duplicates" in said["noise"]


@pytest.fixture
def workplace(folder: Path, said: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be changed, as the current folder; `noise` needs no more of it."""
    for name in ("params.yaml", "outputs/prepare", "outputs/split", "outputs/baseline", "outputs/probe"):
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewrite(caption_of: Mapping[str, str], image_of: Mapping[str, Fingerprint]) -> None:
    """Have posts say or show something else, and keep their labels."""
    posts, prints = read_posts(POSTS), read_fingerprints(FINGERPRINTS)
    write_posts(POSTS, [replace(post, caption=caption_of.get(post.id, post.caption)) for post in posts])
    write_fingerprints(FINGERPRINTS, [replace(image_of.get(each.id, each), id=each.id) for each in prints])


def estimated_duplicates() -> Any:
    """What near-duplicates say now."""
    run("noise")
    return read_json(NOISE / "noise.json")["near_duplicates"]


def test_conflicts_count_under_labelling_protocols(workplace: Path) -> None:
    before, posts = estimated_duplicates(), read_posts(POSTS)
    first = next(post for post in posts if post.label == "positive")
    second = next(
        post for post in posts if not post.label and {post.text_label, post.image_label} == {"negative", "neutral"}
    )
    images = {each.id: each for each in read_fingerprints(FINGERPRINTS)}
    rewrite({second.id: first.caption}, {second.id: images[first.id]})
    after = estimated_duplicates()
    # Only the standard protocol labels the second.
    assert after["agreement"] == before["agreement"]
    for alike in ("any", "caption", "caption and looks"):
        old, new = before["standard"][alike], after["standard"][alike]
        assert new["conflicting_groups"] == old["conflicting_groups"] + 1
        assert new["disagreeing_pairs"] > old["disagreeing_pairs"]
        assert new["majority_accuracy_all"] < old["majority_accuracy_all"]


def test_groups_of_authors_are_no_duplicates(workplace: Path) -> None:
    before = estimated_duplicates()
    write_posts(POSTS, [replace(post, group="author") for post in read_posts(POSTS)])
    assert estimated_duplicates() == before


def test_posts_without_duplicates_give_no_estimate(workplace: Path) -> None:
    rng = random.Random(4)
    keys = [post.id for post in read_posts(POSTS)]
    looks = {key: Fingerprint(key, f"digest {key}", f"{rng.getrandbits(64):016x}") for key in keys}
    rewrite({key: f"caption {key}" for key in keys}, looks)
    nothing = {"any": None, "caption": None, "caption and looks": None}
    assert estimated_duplicates() == {"agreement": nothing, "standard": nothing}


def test_one_group_leaves_confident_learning_out(folder: Path, workplace: Path) -> None:
    for name in ("data", "outputs/encode", "outputs/cache"):  # which `frozen` reads
        (workplace / name).symlink_to(folder / name)
    write_groups(GROUPS, dict.fromkeys(read_groups(GROUPS), "1"))
    said = [run("baseline").output, run("frozen", "--model", MODEL).output, run("noise").output]
    noise = read_json(NOISE / "noise.json")
    reason = noise["omitted"]["confident_learning"]
    assert "all posts are near-duplicates of each other" in reason
    assert all(reason in output for output in said)
    assert noise["confident_learning"] is None
    assert noise["near_duplicates"]["agreement"]["any"]["groups"] > 0
    assert read_table(NOISE / "mislabelled.csv") == read_table(PROBE / "out_of_fold.csv") == []


def test_empty_out_of_fold_leaves_others(workplace: Path) -> None:
    write_predictions(BASELINE / "tfidf" / "out_of_fold.csv", [])
    run("noise")
    assert list(read_json(NOISE / "noise.json")["confident_learning"]["weights"]) == [f"{MODEL} probe"]


def test_empty_captions_make_tfidf_majority(workplace: Path) -> None:
    write_posts(POSTS, [replace(post, caption="") for post in read_posts(POSTS)])
    run("baseline")
    assert "no caption" in read_json(BASELINE / "tfidf" / "omitted.json")["words"]
    files = [read_predictions(BASELINE / name / "predictions.csv") for name in ("tfidf", "majority")]
    assert files[0] == files[1]


def test_predictions_of_other_posts_are_refused(workplace: Path) -> None:
    rows = read_predictions(PROBE / "out_of_fold.csv")
    write_predictions(PROBE / "out_of_fold.csv", rows[1:])
    result = run("noise", code=1)
    assert f"{MODEL} probe and tfidf" in result.stderr


def test_changed_labels_are_refused(workplace: Path) -> None:
    write_posts(POSTS, [replace(post, label="neutral") for post in read_posts(POSTS)])
    assert str(POSTS) in run("noise", code=1).stderr


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("baseline", "outputs/split/groups.csv"),
        ("noise", "outputs/prepare/fingerprints.csv"),
        ("noise", f"outputs/probe/{MODEL}/out_of_fold.csv"),
    ],
)
def test_missing_stage_is_named(workplace: Path, command: str, missing: str) -> None:
    Path(missing).unlink()
    assert missing in run(command, code=1).stderr
