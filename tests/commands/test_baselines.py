"""The stages `baseline`, `zeroshot`, `probe` and `noise`, one after the other, on the sample and one small model."""

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
    per_model = {stage: run(stage, "--model", MODEL).output for stage in ("zeroshot", "probe")}
    return {"baseline": run("baseline").output, **per_model, "noise": run("noise").output}


@pytest.fixture(scope="module")
def runs(said: dict[str, str], folder: Path) -> dict[str, Any]:
    """The runs of the experiment of baselines, by name."""
    client = MlflowClient(store_in(folder))
    experiment = client.get_experiment_by_name("mvsa-baselines")
    assert experiment is not None
    return {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}


def ids(part: str) -> set[str]:
    return {key for key, its_part in read_split(SPLIT).items() if its_part == part}


# baseline, zeroshot, probe


@pytest.mark.parametrize("system", [BASELINE / "majority", BASELINE / "tfidf", PROBE, stage_folder("zeroshot", MODEL)])
def test_a_system_judges_validation_and_test(said: dict[str, str], system: Path) -> None:
    test, val = (read_predictions(system / name) for name in ("predictions.csv", "val_predictions.csv"))
    assert {row.id for row in test} == ids("test")
    assert {row.id for row in val} == ids("val")
    labels = {post.id: post.label for post in read_posts(POSTS)}
    for row in (*test, *val):
        assert row.actual == labels[row.id]
        assert row.negative + row.neutral + row.positive == as_written(1)
    assert read_json(system / "metrics.json") == as_written(scores(test).summary())


@pytest.mark.parametrize("system", [BASELINE / "tfidf", PROBE])
def test_every_labelled_post_is_judged_out_of_fold(said: dict[str, str], system: Path) -> None:
    rows = read_predictions(system / "out_of_fold.csv")
    assert sorted(row.id for row in rows) == sorted(read_split(SPLIT))
    # The captions of the sample say their tone, and the small models can read them.
    assert scores(rows).accuracy > 0.6


def test_the_largest_class_is_said_of_every_post(said: dict[str, str]) -> None:
    assert {row.predicted for row in read_predictions(BASELINE / "majority" / "predictions.csv")} == {"positive"}


def test_what_was_tried_is_listed_and_the_best_of_it_printed(said: dict[str, str]) -> None:
    tried = read_table(BASELINE / "tfidf" / "candidates.csv")
    best = max(tried, key=lambda row: float(row["val_macro_f1"]))
    assert f"tfidf, features {best['features']}, C {best['C']}, 21 test posts" in said["baseline"]
    best = max(read_table(PROBE / "candidates.csv"), key=lambda row: float(row["val_macro_f1"]))
    assert f"{MODEL}, linear probe, C {best['C']}, 21 test posts" in said["probe"]
    assert "Weights are random" in said["probe"]


def test_each_baseline_is_a_run_with_scores_and_artifacts(runs: dict[str, Any], folder: Path) -> None:
    places = {"majority": BASELINE / "majority", "tfidf": BASELINE / "tfidf", f"{MODEL} probe": PROBE}
    assert set(runs) == set(places)
    client = MlflowClient(store_in(folder))
    for name, place in places.items():
        data = runs[name].data
        assert data.metrics["test_macro_f1"] == as_written(read_json(place / "metrics.json")["macro_f1"])
        assert data.metrics["val_macro_f1"] == as_written(
            scores(read_predictions(place / "val_predictions.csv")).macro_f1
        )
        found = {item.path for item in client.list_artifacts(runs[name].info.run_id)}
        assert {"confusion_matrix.png", "confusion_matrix.json", "classification_report.txt"} <= found
        assert {"data_digest", "split_digest", "stage", "model"} <= data.tags.keys()


def test_only_runs_of_a_model_say_what_weights_they_have(runs: dict[str, Any]) -> None:
    assert runs[f"{MODEL} probe"].data.tags["weights"] == "random"
    assert "weights" not in runs["tfidf"].data.tags
    assert "No pretrained weights" in runs["tfidf"].data.tags["mlflow.note.content"]
    assert runs["tfidf"].data.params.keys() == {"features", "C"}


# noise


def test_suspects_are_listed_with_what_a_reader_needs(said: dict[str, str]) -> None:
    rows, posts = read_table(NOISE / "mislabelled.csv"), {post.id: post for post in read_posts(POSTS)}
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        post = posts[row["id"]]
        given = (row["label"], row["text_label"], row["image_label"], row["caption"])
        assert given == (post.label, post.text_label, post.image_label, post.caption)
        assert row["suggested"] != row["label"]
    assert f"{len(rows)} posts in {NOISE / 'mislabelled.csv'}" in said["noise"]


def test_the_summary_has_both_estimates(said: dict[str, str]) -> None:
    found = read_json(NOISE / "noise.json")
    learned = found["confident_learning"]
    assert learned["posts"] == len(read_split(SPLIT))
    assert list(learned["weights"]) == ["tfidf", f"{MODEL} probe"]
    joint = learned["joint"]["rows_label_columns_true"]
    assert learned["noise_rate"] == as_written(sum(joint[i][j] for i in range(3) for j in range(3) if i != j))
    assert set(found["twins"]) == {"agreement", "standard"}
    for protocol in ("agreement", "standard"):
        assert f"What near-duplicates say of the {protocol} labels" in said["noise"]


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


def twins_told() -> Any:
    """What twins say now."""
    run("noise")
    return read_json(NOISE / "noise.json")["twins"]


def test_twins_with_two_labels_count_under_each_protocol_that_labels_them(workplace: Path) -> None:
    before, posts = twins_told(), read_posts(POSTS)
    first = next(post for post in posts if post.label == "positive")
    second = next(
        post for post in posts if not post.label and {post.text_label, post.image_label} == {"negative", "neutral"}
    )
    images = {each.id: each for each in read_fingerprints(FINGERPRINTS)}
    rewrite({second.id: first.caption}, {second.id: images[first.id]})
    after = twins_told()
    # Only the standard protocol labels the second.
    assert after["agreement"] == before["agreement"]
    for alike in ("any", "caption", "caption and looks"):
        old, new = before["standard"][alike], after["standard"][alike]
        assert new["conflicting_groups"] == old["conflicting_groups"] + 1
        assert new["disagreeing_pairs"] > old["disagreeing_pairs"]
        assert new["majority_accuracy_all"] < old["majority_accuracy_all"]


def test_posts_without_twins_say_nothing_and_fail_nothing(workplace: Path) -> None:
    chance, keys = random.Random(4), [post.id for post in read_posts(POSTS)]
    looks = {key: Fingerprint(key, f"digest {key}", f"{chance.getrandbits(64):016x}") for key in keys}
    rewrite({key: f"caption {key}" for key in keys}, looks)
    nothing = {"any": None, "caption": None, "caption and looks": None}
    assert twins_told() == {"agreement": nothing, "standard": nothing}


def test_posts_that_are_all_alike_leave_confident_learning_out_and_twins_in(workplace: Path) -> None:
    write_groups(GROUPS, dict.fromkeys(read_groups(GROUPS), "1"))
    said = [run("baseline").output, run("probe", "--model", MODEL).output, run("noise").output]
    noise = read_json(NOISE / "noise.json")
    reason = noise["omitted"]["confident_learning"]
    assert "all posts are near-duplicates of each other" in reason
    assert all(reason in output for output in said)
    assert noise["confident_learning"] is None
    assert noise["twins"]["agreement"]["any"]["groups"] > 0
    assert read_table(NOISE / "mislabelled.csv") == read_table(PROBE / "out_of_fold.csv") == []


def test_one_system_without_predictions_out_of_fold_leaves_it_to_the_others(workplace: Path) -> None:
    write_predictions(BASELINE / "tfidf" / "out_of_fold.csv", [])
    run("noise")
    assert list(read_json(NOISE / "noise.json")["confident_learning"]["weights"]) == [f"{MODEL} probe"]


def test_without_captions_tfidf_is_the_largest_class_and_says_so(workplace: Path) -> None:
    write_posts(POSTS, [replace(post, caption="") for post in read_posts(POSTS)])
    run("baseline")
    assert "no caption" in read_json(BASELINE / "tfidf" / "omitted.json")["words"]
    files = [read_predictions(BASELINE / name / "predictions.csv") for name in ("tfidf", "majority")]
    assert files[0] == files[1]


def test_predictions_of_other_posts_are_refused_in_one_line(workplace: Path) -> None:
    rows = read_predictions(PROBE / "out_of_fold.csv")
    write_predictions(PROBE / "out_of_fold.csv", rows[1:])
    result = run("noise", code=1)
    assert result.stderr == f"error: {MODEL} probe and tfidf judged other posts or labels: run `dvc repro` on both\n"


def test_labels_that_have_changed_since_are_refused_in_one_line(workplace: Path) -> None:
    write_posts(POSTS, [replace(post, label="neutral") for post in read_posts(POSTS)])
    assert run("noise", code=1).stderr.startswith("error: baseline and probe judged other posts or labels than")


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("baseline", "outputs/split/groups.csv"),
        ("noise", "outputs/prepare/fingerprints.csv"),
        ("noise", f"outputs/probe/{MODEL}/out_of_fold.csv"),
    ],
)
def test_a_stage_that_has_not_run_is_named(workplace: Path, command: str, missing: str) -> None:
    Path(missing).unlink()
    assert run(command, code=1).stderr == f"error: {missing} is missing: run `dvc repro` first, which makes it\n"
