"""Covers: `python -m src.repeat --folds` and src/experiments/cross_validation.py, on folds of the sample."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from src.core.config import load_params
from src.core.errors import DivergenceError, UserError
from src.core.files import read_table, write_json
from src.core.outputs import AlignedWeights, BestTrial, FoldsOutput
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
from src.training.workspace import open_workspace
from tests.fold_lists import NUM_FOLDS, write_fold_lists
from tests.pipeline import as_written
from tests.split_report import split_report

WINNER = {"rank": 1, "alpha": 2, "lr": 0.004, "dropout": 0.0}
BEST = BestTrial("a study", 3, 0, 1, 0.9, dict(WINNER))
CACHE = Path("outputs/repeats/clip-folds")
RESULT = Path("outputs/folds/clip")


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
        write_fold_lists(folder / "lists", some)
        write_posts(POSTS, some)
        write_split(SPLIT, stratified(some, 0.2, 0.2, seed=7))
        # The first two posts, of which the first fold tests one and the second the other, are near-duplicates.
        write_groups(GROUPS, {post.id: post.id for post in some} | {some[1].id: some[0].id})
        split_report().write(SPLIT_REPORT)
        BEST.write(Path("outputs/tune/clip/best.json"))
        checkpoint = resolve_checkpoint(
            "clip", "tiny", Path("outputs/encode/clip/checkpoint"), [post.caption for post in some]
        )
        write_json(Path("outputs/encode/clip/checkpoint.json"), asdict(checkpoint))
        yield folder


def invoke() -> Result:
    return CliRunner().invoke(main, ["--model", "clip", "--folds"])


def run() -> FoldsOutput:
    """Run the folds without the command."""
    from src.experiments.cross_validation import run_folds

    return run_folds(load_params(), "clip")


@dataclass(frozen=True)
class Ran:
    """The output of three folds, and what the command printed."""

    output: FoldsOutput
    printed: str


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    result = invoke()
    assert result.exit_code == 0, result.output
    return Ran(FoldsOutput.read(RESULT / "folds.json"), result.output)


def test_every_post_is_predicted_once(ran: Ran, some: list[Post]) -> None:
    rows = read_table(RESULT / "predictions.csv")
    assert sorted(row["id"] for row in rows) == sorted(post.id for post in some)
    fold_of = {row["id"]: int(row["fold"]) for row in rows}
    assert fold_of == {post.id: line % NUM_FOLDS + 1 for line, post in enumerate(some)}
    assert {row.id: row.actual for row in read_predictions(RESULT / "predictions.csv")} == {
        post.id: post.label for post in some
    }


def test_pooled_scores_and_spread(ran: Ran) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    rows = read_predictions(RESULT / "predictions.csv")
    actual, predicted = [row.actual for row in rows], [row.predicted for row in rows]
    output = ran.output
    assert output.posts == 48
    assert output.pooled["accuracy"] == as_written(accuracy_score(actual, predicted))
    assert output.pooled["macro_f1"] == as_written(f1_score(actual, predicted, average="macro"))
    of_folds = [fold.macro_f1 for fold in output.folds]
    assert [fold.fold for fold in output.folds] == [1, 2, 3]
    mean = sum(of_folds) / 3
    spread = output.spread["macro_f1"]
    assert (spread.mean, spread.low, spread.high) == (as_written(mean), None, None)
    assert spread.sd == as_written((sum((f1 - mean) ** 2 for f1 in of_folds) / 2) ** 0.5)


def test_leak_free_scores_exclude_near_duplicates(ran: Ran, some: list[Post]) -> None:
    near_duplicates = {some[0].id, some[1].id}
    rows = [row for row in read_predictions(RESULT / "predictions.csv") if row.id not in near_duplicates]
    assert ran.output.leak_free_posts == 46
    assert ran.output.pooled_leak_free["accuracy"] == as_written(sum(row.actual == row.predicted for row in rows) / 46)


def test_run_holds_folds_and_files(ran: Ran, folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mvsa-clip")
    (tracked,) = client.search_runs([experiment.experiment_id], "tags.stage = 'folds'")
    assert (tracked.info.status, tracked.data.tags["stage"]) == ("FINISHED", "folds")
    assert (tracked.data.tags["study"], tracked.data.params["rank"]) == ("a study", "1")
    assert tracked.data.tags["split_digest"] != "s", "it is of the folds, not of the split of the search"
    assert tracked.data.metrics["pooled_accuracy"] == as_written(ran.output.pooled["accuracy"])
    history = client.get_metric_history(tracked.info.run_id, "fold_macro_f1")
    assert {point.step: point.value for point in history} == {
        fold.fold: as_written(fold.macro_f1) for fold in ran.output.folds
    }
    assert not [name for name in tracked.data.metrics if name.startswith("test_")]
    assert {item.path for item in client.list_artifacts(tracked.info.run_id, "folds")} == {
        "folds/folds.json",
        "folds/predictions.csv",
    }
    assert "Weights are random" in ran.printed


def test_finished_folds_are_not_repeated(ran: Ran) -> None:
    first, lost, _ = sorted(CACHE.glob("*.csv"))
    before = lost.read_bytes()
    shares = {"negative": 0.5, "neutral": 0.25, "positive": 0.25}
    kept = [Prediction(row.id, row.actual, row.predicted, shares) for row in read_predictions(first)]
    # Only a fold that is not done again leaves these in place.
    write_predictions(first, kept)
    lost.unlink()
    run()
    assert read_predictions(first) == kept
    assert lost.read_bytes() == before


def work_in_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    """Work in a copy of the folder."""
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")


Edit = Callable[[], object]


def other_winner() -> None:
    replace(BEST, params={**WINNER, "lr": 0.001}).write(Path("outputs/tune/clip/best.json"))


def other_fold() -> None:
    """Fold 2 without one of the posts that it trains on."""
    path = Path("lists/splits/train_2.txt")
    path.write_text("\n".join(path.read_text().split()[1:]))


@pytest.mark.parametrize(("edit", "new"), [(other_winner, 3), (other_fold, 1)])
def test_changed_folds_are_trained_again(
    ran: Ran, edit: Edit, new: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    work_in_copy(monkeypatch, tmp_path, folder)
    edit()
    run()
    assert len(list(CACHE.glob("*.csv"))) == NUM_FOLDS + new


def test_fold_testing_posts_again_is_omitted(
    ran: Ran, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    work_in_copy(monkeypatch, tmp_path, folder)
    for part in ("train", "val", "test"):
        shutil.copy(f"lists/splits/{part}_1.txt", f"lists/splits/{part}_4.txt")
    assert run().posts == 48
    assert "fold 4 is left out" in capsys.readouterr().err


def test_divergence_names_the_fold(ran: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    work_in_copy(monkeypatch, tmp_path, folder)
    replace(BEST, params={**WINNER, "lr": 1e30}).write(Path("outputs/tune/clip/best.json"))
    with pytest.raises(DivergenceError, match="fold 1"):
        run()


def test_aligned_weights_would_leak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    work_in_copy(monkeypatch, tmp_path, folder)
    opened = open_workspace(load_params(), "clip")
    aligned = replace(opened.model.checkpoint, aligned=AlignedWeights("aligned.safetensors", "0123", ("text",)))
    monkeypatch.setattr(opened.model, "checkpoint", aligned)
    monkeypatch.setattr("src.experiments.cross_validation.open_workspace", lambda *_: opened)
    with pytest.raises(UserError, match="folds would leak"):
        run()


def test_missing_folds_name_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    work_in_copy(monkeypatch, tmp_path, folder)
    shutil.rmtree("lists")
    result = invoke()
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "split.predefined" in result.output
