"""`python -m src.repeat --folds`, on folds made up of the sample."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from src.core.files import read_json, read_table, write_json
from src.core.paths import GROUPS, POSTS, SPLIT, SPLIT_REPORT
from src.core.records import (
    Post,
    Prediction,
    read_predictions,
    write_groups,
    write_posts,
    write_predictions,
    write_split,
)
from src.repeat import main
from tests.pipeline import as_written
from tests.split_report import split_report

WINNER = {"rank": 1, "alpha": 2, "lr": 0.004, "dropout": 0.0}
DONE = Path("outputs/repeats/clip-folds")
RESULT = Path("outputs/folds/clip")
NUM_FOLDS = 3


def fold_lists(folder: Path, posts: list[Post]) -> None:
    """Folds that test each post once; what stands before the tested posts is validated on."""
    (folder / "splits").mkdir(parents=True)
    (folder / "valid_pairlist.txt").write_text("".join(f"{post.id},0,0,0\n" for post in posts))
    dealt = [[line for line in range(len(posts)) if line % NUM_FOLDS == rest] for rest in range(NUM_FOLDS)]
    for fold in range(NUM_FOLDS):
        parts = {"test": dealt[fold], "val": dealt[fold - 1][::2]}
        parts["train"] = [line for line in range(len(posts)) if line not in {*parts["test"], *parts["val"]}]
        for part, lines in parts.items():
            (folder / "splits" / f"{part}_{fold + 1}.txt").write_text("\n".join(map(str, lines)))


@pytest.fixture(scope="module")
def some(posts: list[Post]) -> list[Post]:
    """By tone, so that every third post makes a part of all tones."""
    return sorted(posts[:48], key=lambda post: post.label)


@pytest.fixture(scope="module")
def folder(repo_root: Path, some: list[Post], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which everything up to `tune` has run for one model, and which has folds."""
    from src.data.split import stratified
    from src.models.catalog import resolve_checkpoint

    folder = tmp_path_factory.mktemp("folds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        params = yaml.safe_load((repo_root / "params.yaml").read_text())
        params["training"]["common"].update(epochs=2, patience=2)
        params["split"]["predefined"] = {"folder": "lists"}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        (folder / "sample").symlink_to(repo_root / "sample")
        fold_lists(folder / "lists", some)
        write_posts(POSTS, some)
        write_split(SPLIT, stratified(some, 0.2, 0.2, seed=7))
        # The first two posts, of which the first fold tests one and the second the other, are twins.
        write_groups(GROUPS, {post.id: post.id for post in some} | {some[1].id: some[0].id})
        split_report().write(SPLIT_REPORT)
        write_json(
            Path("outputs/tune/clip/best.json"), {"study": "a study", "best_val_macro_f1": 0.9, "params": WINNER}
        )
        checkpoint = resolve_checkpoint(
            "clip", "tiny", Path("outputs/encode/clip/checkpoint"), [post.caption for post in some]
        )
        write_json(Path("outputs/encode/clip/checkpoint.json"), asdict(checkpoint))
        yield folder


def invoke() -> Result:
    return CliRunner().invoke(main, ["--model", "clip", "--folds"])


def run() -> dict[str, Any]:
    done = invoke()
    assert done.exit_code == 0, done.output
    return {**read_json(RESULT / "folds.json"), "said": done.output}


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What it writes and says of three folds."""
    return run()


def test_every_post_is_predicted_once_by_a_model_that_has_not_seen_it(found: dict[str, Any], some: list[Post]) -> None:
    rows = read_table(RESULT / "predictions.csv")
    assert sorted(row["id"] for row in rows) == sorted(post.id for post in some)
    fold_of = {row["id"]: int(row["fold"]) for row in rows}
    assert fold_of == {post.id: line % NUM_FOLDS + 1 for line, post in enumerate(some)}
    assert {row.id: row.actual for row in read_predictions(RESULT / "predictions.csv")} == {
        post.id: post.label for post in some
    }


def test_pooled_scores_are_of_all_predictions_and_the_spread_of_the_folds(found: dict[str, Any]) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    rows = read_predictions(RESULT / "predictions.csv")
    actual, predicted = [row.actual for row in rows], [row.predicted for row in rows]
    assert found["posts"] == 48
    assert found["pooled"]["accuracy"] == as_written(accuracy_score(actual, predicted))
    assert found["pooled"]["macro_f1"] == as_written(f1_score(actual, predicted, average="macro"))
    each = [row["macro_f1"] for row in found["folds"]]
    assert [row["fold"] for row in found["folds"]] == [1, 2, 3]
    mean = sum(each) / 3
    assert found["spread"]["macro_f1"]["mean"] == as_written(mean)
    assert found["spread"]["macro_f1"]["sd"] == as_written((sum((f1 - mean) ** 2 for f1 in each) / 2) ** 0.5)


def test_a_post_whose_twin_is_in_its_folds_other_parts_is_not_leak_free(
    found: dict[str, Any], some: list[Post]
) -> None:
    twins = {some[0].id, some[1].id}
    rows = [row for row in read_predictions(RESULT / "predictions.csv") if row.id not in twins]
    assert found["leak_free_posts"] == 46
    assert found["pooled_leak_free"]["accuracy"] == as_written(sum(row.actual == row.predicted for row in rows) / 46)


def test_one_run_holds_each_fold_the_pool_and_the_files(found: dict[str, Any], folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mvsa-clip")
    (tracked,) = client.search_runs([experiment.experiment_id], "tags.stage = 'folds'")
    assert (tracked.info.status, tracked.data.tags["stage"]) == ("FINISHED", "folds")
    assert (tracked.data.tags["study"], tracked.data.params["rank"]) == ("a study", "1")
    assert tracked.data.tags["split_digest"] != "s", "it is of the folds, not of the split of the search"
    assert tracked.data.metrics["pooled_accuracy"] == as_written(found["pooled"]["accuracy"])
    history = client.get_metric_history(tracked.info.run_id, "fold_macro_f1")
    assert {point.step: point.value for point in history} == {
        row["fold"]: as_written(row["macro_f1"]) for row in found["folds"]
    }
    assert not [name for name in tracked.data.metrics if name.startswith("test_")]
    assert {item.path for item in client.list_artifacts(tracked.info.run_id, "folds")} == {
        "folds/folds.json",
        "folds/predictions.csv",
    }
    assert "Weights are random" in found["said"]


def test_a_fold_that_is_done_is_not_done_again_and_what_a_kill_left_out_is(found: dict[str, Any]) -> None:
    first, lost, _ = sorted(DONE.glob("*.csv"))
    before = lost.read_bytes()
    kept = [Prediction(row.id, row.actual, row.predicted, 0.5, 0.25, 0.25) for row in read_predictions(first)]
    # Only a fold that is not done again leaves these in place.
    write_predictions(first, kept)
    lost.unlink()
    run()
    assert read_predictions(first) == kept
    assert lost.read_bytes() == before


def change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    """A copy of the folder that may be spoilt."""
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")


Edit = Callable[[], object]


def other_winner() -> None:
    best = read_json(Path("outputs/tune/clip/best.json"))
    write_json(Path("outputs/tune/clip/best.json"), {**best, "params": {**WINNER, "lr": 0.001}})


def other_fold() -> None:
    """Fold 2 without one of the posts that it trains on."""
    path = Path("lists/splits/train_2.txt")
    path.write_text("\n".join(path.read_text().split()[1:]))


@pytest.mark.parametrize(("edit", "new"), [(other_winner, 3), (other_fold, 1)])
def test_other_settings_and_another_fold_are_trained_anew(
    found: dict[str, Any], edit: Edit, new: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    change(monkeypatch, tmp_path, folder)
    edit()
    run()
    assert len(list(DONE.glob("*.csv"))) == NUM_FOLDS + new


def test_a_fold_that_tests_posts_again_is_left_out(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    change(monkeypatch, tmp_path, folder)
    for part in ("train", "val", "test"):
        shutil.copy(f"lists/splits/{part}_1.txt", f"lists/splits/{part}_4.txt")
    again = run()
    assert "fold 4 is left out: it tests posts that an earlier fold tests" in again["said"]
    assert again["posts"] == 48


def test_a_training_that_diverges_names_its_fold(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    change(monkeypatch, tmp_path, folder)
    best = read_json(Path("outputs/tune/clip/best.json"))
    write_json(Path("outputs/tune/clip/best.json"), {**best, "params": {**WINNER, "lr": 1e30}})
    done = invoke()
    assert done.exit_code == 1
    assert "error: fold 1: the loss is no longer a number" in done.output


def test_without_folds_it_says_where_to_name_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    change(monkeypatch, tmp_path, folder)
    shutil.rmtree("lists")
    done = invoke()
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "lists holds no folds (train_1.txt and so on): say in split.predefined where they are" in done.output


# Folds of any kind of system


def test_folds_pool_whatever_predicts(tmp_path: Path, some: list[Post], folder: Path) -> None:
    """The majority class, which needs no model."""
    from src.experiments.cross_validation import Fold, predict_folds, read_folds, summarise

    labels = {post.id: post.label for post in some}
    asked: list[int] = []

    def majority(fold: Fold) -> list[Prediction]:
        asked.append(fold.number)
        return [Prediction(key, labels[key], "positive", 0, 0, 1) for key in sorted(fold.tested())]

    folds = read_folds(some, folder / "lists")

    def run() -> dict[int, list[Prediction]]:
        return predict_folds(folds, lambda fold: tmp_path / f"{fold.number}.csv", majority)

    predicted = run()
    assert run() == predicted
    assert asked == [1, 2, 3], "each once"
    summary = summarise(folds, predicted, dict.fromkeys(labels, "one group"))
    assert summary["pooled"]["accuracy"] == pytest.approx(Counter(labels.values())["positive"] / 48)
    assert (summary["leak_free_posts"], summary["pooled_leak_free"]) == (0, {})
