import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from src.core.config import Params, RepeatParams, load_params
from src.core.config_parser import build
from src.core.errors import UsageError
from src.core.files import read_json, read_table, write_json, write_table
from src.core.paths import SPLIT_REPORT
from src.core.records import Post, write_posts, write_split
from src.core.training_config import TrainingConfig
from src.repeat import FIGURES, Training, contenders, main, summarise
from tests.pipeline import as_written
from tests.split_report import split_report

DEFAULT = {"rank": 2, "alpha": 4, "lr": 0.003, "dropout": 0.0}
WINNER = {"rank": 1, "alpha": 2, "lr": 0.004, "dropout": 0.0}
JOURNAL = Path("outputs/repeats/clip.csv")
RESULT = Path("outputs/repeat/clip")


@pytest.fixture(scope="module")
def folder(repo_root: Path, posts: list[Post], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which everything up to `encode` has run for one model, on some posts of the sample."""
    from src.data.split import stratified
    from src.models.catalog import resolve_checkpoint

    folder = tmp_path_factory.mktemp("repeat")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Absolute, for within one process MLflow keeps a store by its address.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        params = yaml.safe_load((repo_root / "params.yaml").read_text())
        params["training"]["common"].update(epochs=2, patience=2)
        params["tune"]["initial_trials"]["clip"] = [DEFAULT, WINNER]
        params["repeat"]["seeds"] = 2
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        (folder / "sample").symlink_to(repo_root / "sample")
        some = posts[:45]
        write_posts(Path("outputs/prepare/posts.csv"), some)
        write_split(Path("outputs/split/split.csv"), stratified(some, 0.2, 0.2, seed=7))
        checkpoint = resolve_checkpoint(
            "clip", "tiny", Path("outputs/encode/clip/checkpoint"), [post.caption for post in some]
        )
        write_json(Path("outputs/encode/clip/checkpoint.json"), asdict(checkpoint))
        yield folder


@pytest.fixture
def repeat(folder: Path) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Runs the stage after a search that these settings won; returns what it wrote. Nothing has run before."""
    shutil.rmtree(JOURNAL.parent, ignore_errors=True)
    split_report().write(SPLIT_REPORT)

    def run(winner: Mapping[str, Any]) -> dict[str, Any]:
        best = {"study": "clip-tiny-study", "best_val_macro_f1": 0.9, "params": winner}
        write_json(Path("outputs/tune/clip/best.json"), best)
        done = CliRunner().invoke(main, ["--model", "clip"])
        assert done.exit_code == 0, done.output
        return {**read_json(RESULT / "repeat.json"), "said": done.output}

    return run


Repeat = Callable[[Mapping[str, Any]], dict[str, Any]]


def trained() -> list[dict[str, str]]:
    """The trainings that the journal knows."""
    return read_table(JOURNAL)


# The stage


def test_the_winner_and_the_default_are_trained_on_the_same_new_seeds(repeat: Repeat, folder: Path) -> None:
    found = repeat(WINNER)
    rows = read_table(RESULT / "runs.csv")
    assert [(row["settings"], row["seed"]) for row in rows] == [
        ("winner", "8"),
        ("winner", "9"),
        ("default", "8"),
        ("default", "9"),
    ]
    assert {row["epochs"] for row in rows} == {"2"}
    assert all(0 <= float(row[figure]) <= 1 for row in rows for figure in FIGURES)
    assert (found["seeds"], found["study"], found["winner_is_default"]) == ([8, 9], "clip-tiny-study", False)
    winner, default = (
        [float(row["test_macro_f1"]) for row in rows if row["settings"] == name] for name in found["scores"]
    )
    assert found["gain"]["test_macro_f1"]["mean"] == as_written((sum(winner) - sum(default)) / 2)
    assert found["optimism"] == as_written(0.9 - found["scores"]["winner"]["val_macro_f1"]["mean"])
    assert "Weights are random" in found["said"]


def test_one_run_holds_the_scores_of_each_seed_their_spread_and_the_files(repeat: Repeat, folder: Path) -> None:
    from mlflow import MlflowClient

    found, client = repeat(WINNER), MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mvsa-clip")
    run = client.search_runs([experiment.experiment_id], "tags.stage = 'repeat'")[0]
    assert (run.info.status, run.data.tags["stage"], run.data.tags["study"]) == ("FINISHED", "repeat", found["study"])
    assert run.data.params["rank"] == "1"
    assert run.data.metrics["gain_test_macro_f1_mean"] == as_written(found["gain"]["test_macro_f1"]["mean"])
    assert run.data.metrics["winner_val_accuracy_sd"] == as_written(found["scores"]["winner"]["val_accuracy"]["sd"])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "default_test_macro_f1")] == [8, 9]
    # Names of their own: those that begin with test_ are the evaluated model's.
    assert not [name for name in run.data.metrics if name.startswith("test_")]
    assert {item.path for item in client.list_artifacts(run.info.run_id, "repeat")} == {
        "repeat/repeat.json",
        "repeat/runs.csv",
    }


def test_what_is_done_is_not_done_again_and_what_a_kill_left_out_is(repeat: Repeat) -> None:
    repeat(WINNER)
    first, lost, *rest = trained()
    # Only a training that is not done again leaves this score in place.
    write_table(JOURNAL, [{**first, "val_macro_f1": "0.125"}, *rest])
    shutil.rmtree(RESULT)
    repeat(WINNER)
    after = {row["key"]: row for row in trained()}
    assert len(after) == 4
    assert after[first["key"]]["val_macro_f1"] == "0.125"
    assert after[lost["key"]] == lost
    assert {row["val_macro_f1"] for row in read_table(RESULT / "runs.csv")} == {
        row["val_macro_f1"] for row in after.values()
    }


def test_another_division_or_another_winner_is_trained_anew(repeat: Repeat) -> None:
    repeat(WINNER)
    before = {row["key"] for row in trained()}
    split_report(split_digest="another").write(SPLIT_REPORT)
    repeat(WINNER)
    divided = {row["key"] for row in trained()}
    assert len(before) == 4 and len(divided) == 8
    repeat({**WINNER, "lr": 0.005})
    assert len({row["key"] for row in trained()}) == 10, "the default of this division is known"


def test_a_winner_that_is_the_default_is_trained_once_and_gains_nothing(repeat: Repeat) -> None:
    found = repeat(DEFAULT)
    assert len(trained()) == 2
    assert found["winner_is_default"]
    assert {(gain["mean"], gain["low"]) for gain in found["gain"].values()} == {(0.0, None)}
    assert [row["settings"] for row in read_table(RESULT / "runs.csv")] == ["winner", "winner"]
    assert "the winner of the search is the default itself" in found["said"]


def test_a_training_that_diverges_is_left_out_with_its_reason(repeat: Repeat) -> None:
    found = repeat({**WINNER, "lr": 1e30})
    assert set(found["failures"]) == {"winner, seed 8", "winner, seed 9"}
    assert all("the loss is no longer a number" in why for why in found["failures"].values())
    assert found["scores"]["winner"]["val_macro_f1"] is found["gain"]["val_macro_f1"] is found["optimism"] is None
    assert found["scores"]["default"]["val_macro_f1"]["n"] == 2
    assert read_table(RESULT / "runs.csv")[0]["val_macro_f1"] == ""


def test_without_a_search_it_says_what_to_run(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").symlink_to(folder / "params.yaml")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["--model", "clip"])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith("error: outputs/tune/clip/best.json is missing: run `dvc repro` first")


# What is compared


@pytest.fixture
def params(repo_root: Path) -> Params:
    return load_params(repo_root / "params.yaml")


def known(params: Params, *settings: dict[str, Any]) -> Params:
    return replace(params, tune=replace(params.tune, initial_trials={"clip": settings}))


def test_the_default_is_the_first_that_is_known_to_be_good_at_the_winners_budget(params: Params) -> None:
    found = contenders(known(params, {**DEFAULT, "epochs": 50}, WINNER), "clip", {**WINNER, "epochs": 3, "patience": 1})
    assert (found["default"].rank, found["default"].lr) == (2, 0.003)
    assert {(each.epochs, each.patience) for each in found.values()} == {(3, 1)}


def test_a_model_of_which_nothing_is_known_has_no_default(params: Params) -> None:
    found = contenders(known(params), "clip", WINNER)
    assert list(found) == ["winner"]
    summary = summarise(found, {"winner": [training(8, 0.7), training(9, 0.8)]}, 0.8)
    assert set(summary["gain"].values()) == {None}
    assert not summary["winner_is_default"]


def training(seed: int, val: float, test: float = 0.5) -> Training:
    scores = {"val_macro_f1": val, "val_accuracy": val, "test_macro_f1": test, "test_accuracy": test}
    return Training(seed, 2, scores)


def test_gain_and_drop_are_paired_by_seed(params: Params) -> None:
    settings: dict[str, TrainingConfig] = contenders(known(params, DEFAULT), "clip", WINNER)
    runs = {
        "winner": [training(8, 0.7, 0.6), Training(9, 0, {}, "failed"), training(10, 0.9, 0.7)],
        "default": [training(8, 0.5), training(9, 0.9), training(10, 0.6)],
    }
    found = summarise(settings, runs, best_val_macro_f1=0.95)
    gain, drop = found["gain"]["val_macro_f1"], found["drop"]
    assert (gain["n"], gain["mean"]) == (2, pytest.approx(0.25)), "seed 9 has no pair"
    assert gain["sd"] == pytest.approx(0.05 * 2**0.5)
    assert (drop["n"], drop["mean"]) == (2, pytest.approx(0.15))
    assert found["optimism"] == pytest.approx(0.15)
    assert found["failures"] == {"winner, seed 9": "failed"}
    assert json.loads(json.dumps(found)) == found


def test_one_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seeds must be at least 2: one score has no spread"):
        build(RepeatParams, {"seeds": 1}, "repeat")
