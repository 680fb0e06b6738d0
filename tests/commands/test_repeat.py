"""Covers: the stage `repeat`, and `python -m src.repeat --change`."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from src.core.files import read_table, write_json, write_table
from src.core.locks import try_lock
from src.core.outputs import BestTrial, RepeatOutput, VariantOutput
from src.core.paths import GROUPS, SPLIT_REPORT
from src.core.records import Post, read_predictions, write_groups, write_posts, write_split
from src.evaluation.metrics import scores
from src.experiments.seeds import FIGURES
from src.repeat import main
from tests.pipeline import as_written
from tests.split_report import split_report

DEFAULT = {"rank": 2, "alpha": 4, "lr": 0.003, "dropout": 0.0}
WINNER = {"rank": 1, "alpha": 2, "lr": 0.004, "dropout": 0.0}
CACHE = Path("outputs/repeats/clip.csv")
SEEDS = Path("outputs/seeds/clip")
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
        write_groups(GROUPS, {post.id: post.id for post in some})
        checkpoint = resolve_checkpoint(
            "clip", "tiny", Path("outputs/encode/clip/checkpoint"), [post.caption for post in some]
        )
        write_json(Path("outputs/encode/clip/checkpoint.json"), asdict(checkpoint))
        yield folder


@dataclass(frozen=True)
class Ran:
    """The output of the stage, and what the command printed."""

    output: RepeatOutput
    printed: str


Repeat = Callable[[Mapping[str, Any]], Ran]


@pytest.fixture
def repeat(folder: Path) -> Repeat:
    """Run the command after a search that these settings won. Nothing is trained before."""
    shutil.rmtree(CACHE.parent, ignore_errors=True)
    split_report().write(SPLIT_REPORT)

    def run(winner: Mapping[str, Any]) -> Ran:
        best = BestTrial("clip-tiny-study", 3, 0, 1, 0.9, dict(winner))
        best.write(Path("outputs/tune/clip/best.json"))
        result = CliRunner().invoke(main, ["--model", "clip"])
        assert result.exit_code == 0, result.output
        return Ran(RepeatOutput.read(RESULT / "repeat.json"), result.output)

    return run


def cached_keys() -> set[str]:
    """Return the keys of the trainings in the cache; none before the first."""
    return {row["key"] for row in cached()} if CACHE.is_file() else set()


def cached() -> list[dict[str, str]]:
    """Return the trainings in the cache."""
    return read_table(CACHE)


def test_both_are_trained_on_same_seeds(repeat: Repeat, folder: Path) -> None:
    ran = repeat(WINNER)
    output = ran.output
    rows = read_table(RESULT / "runs.csv")
    assert [(row["settings"], row["seed"]) for row in rows] == [
        ("winner", "8"),
        ("winner", "9"),
        ("default", "8"),
        ("default", "9"),
    ]
    assert {row["epochs"] for row in rows} == {"2"}
    assert all(0 <= float(row[figure]) <= 1 for row in rows for figure in FIGURES)
    assert (output.seeds, output.study, output.winner_is_default) == ((8, 9), "clip-tiny-study", False)
    winner, default = (
        [float(row["test_macro_f1"]) for row in rows if row["settings"] == name] for name in output.scores
    )
    gain, val = output.gain["test_macro_f1"], output.scores["winner"]["val_macro_f1"]
    assert gain and gain.mean == as_written((sum(winner) - sum(default)) / 2)
    assert val and output.optimism == as_written(0.9 - val.mean)
    assert "Weights are random" in ran.printed


def test_run_holds_scores_and_files(repeat: Repeat, folder: Path) -> None:
    from mlflow import MlflowClient

    output = repeat(WINNER).output
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mvsa-clip")
    run = client.search_runs([experiment.experiment_id], "tags.stage = 'repeat'")[0]
    assert (run.info.status, run.data.tags["stage"], run.data.tags["study"]) == ("FINISHED", "repeat", output.study)
    assert run.data.params["rank"] == "1"
    gain, accuracy = output.gain["test_macro_f1"], output.scores["winner"]["val_accuracy"]
    assert gain and run.data.metrics["gain_test_macro_f1_mean"] == as_written(gain.mean)
    assert accuracy and run.data.metrics["winner_val_accuracy_sd"] == as_written(accuracy.sd)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "default_test_macro_f1")] == [8, 9]
    # Names of their own: those that begin with test_ are the evaluated model's.
    assert not [name for name in run.data.metrics if name.startswith("test_")]
    assert {item.path for item in client.list_artifacts(run.info.run_id, "repeat")} == {
        "repeat/repeat.json",
        "repeat/runs.csv",
    }


def test_finished_trainings_are_not_repeated(repeat: Repeat) -> None:
    repeat(WINNER)
    first, lost, *rest = cached()
    # Only a training that is not done again leaves this score in place.
    write_table(CACHE, [{**first, "val_macro_f1": "0.125"}, *rest])
    shutil.rmtree(RESULT)
    repeat(WINNER)
    after = {row["key"]: row for row in cached()}
    assert len(after) == 4
    assert after[first["key"]]["val_macro_f1"] == "0.125"
    assert after[lost["key"]] == lost
    assert {row["val_macro_f1"] for row in read_table(RESULT / "runs.csv")} == {
        row["val_macro_f1"] for row in after.values()
    }


def test_seeds_keep_predictions_and_adapters(repeat: Repeat, repo_root: Path) -> None:
    repeat(WINNER)
    rows = {row["seed"]: row for row in read_table(RESULT / "runs.csv") if row["settings"] == "winner"}
    assert {path.name for path in SEEDS.iterdir()} == rows.keys() == {"8", "9"}
    for seed, row in rows.items():
        folder = SEEDS / seed
        for name, figure in (("predictions", "test_macro_f1"), ("val_predictions", "val_macro_f1")):
            assert scores(read_predictions(folder / f"{name}.csv")).macro_f1 == as_written(float(row[figure]))
        assert (folder / "adapter" / "head.safetensors").is_file()


def test_training_without_kept_predictions_is_repeated(repeat: Repeat) -> None:
    repeat(WINNER)
    lost = cached()[0]["key"]
    shutil.rmtree(CACHE.parent / "clip-seeds" / lost)
    write_table(CACHE, [{**row, "val_macro_f1": "0.125"} for row in cached()])
    repeat(WINNER)
    assert {row["key"] for row in cached() if row["val_macro_f1"] != "0.125"} == {lost}


def test_no_seeds_train_nothing(repeat: Repeat, folder: Path) -> None:
    path = folder / "params.yaml"
    text = path.read_text()
    path.write_text(yaml.safe_dump({**yaml.safe_load(text), "repeat": {"seeds": 0}}))
    try:
        output = repeat(WINNER).output
    finally:
        path.write_text(text)
    assert (output.seeds, output.optimism, output.drop) == ((), None, None)
    assert not CACHE.exists() and not list(SEEDS.iterdir())


def test_other_split_or_winner_is_trained(repeat: Repeat) -> None:
    repeat(WINNER)
    before = {row["key"] for row in cached()}
    split_report(split_digest="another").write(SPLIT_REPORT)
    repeat(WINNER)
    divided = {row["key"] for row in cached()}
    assert len(before) == 4 and len(divided) == 8
    repeat({**WINNER, "lr": 0.005})
    assert len({row["key"] for row in cached()}) == 10, "the default of this split is cached"


def test_winner_equal_to_default_gains_nothing(repeat: Repeat) -> None:
    ran = repeat(DEFAULT)
    assert len(cached()) == 2
    assert ran.output.winner_is_default
    assert {(gain.mean, gain.low) for gain in ran.output.gain.values() if gain} == {(0.0, None)}
    assert [row["settings"] for row in read_table(RESULT / "runs.csv")] == ["winner", "winner"]
    assert "the winner of the search is the default itself" in ran.printed


def test_diverged_training_keeps_its_reason(repeat: Repeat) -> None:
    output = repeat({**WINNER, "lr": 1e30}).output
    assert set(output.failures) == {"winner, seed 8", "winner, seed 9"}
    assert all("no longer a number" in reason for reason in output.failures.values())
    assert output.scores["winner"]["val_macro_f1"] is None and output.gain["val_macro_f1"] is None
    assert output.optimism is None
    default = output.scores["default"]["val_macro_f1"]
    assert default and default.n == 2
    assert read_table(RESULT / "runs.csv")[0]["val_macro_f1"] == ""
    assert not list(SEEDS.iterdir())


def test_variant_is_compared_with_winner(repeat: Repeat, folder: Path) -> None:
    from mlflow import MlflowClient

    repeat(WINNER)
    before = cached()
    result = CliRunner().invoke(main, ["--model", "clip", "--change", "rank=2,dropout=0.1"])
    assert result.exit_code == 0, result.output
    output = VariantOutput.read(Path("outputs/variants/clip/rank=2,dropout=0.1/variant.json"))
    assert cached()[: len(before)] == before and len(cached()) == len(before) + 2, "the winner is not trained again"
    assert (output.seeds, output.failures) == ((8, 9), {})
    winner, variant = output.settings["winner"], output.settings["variant"]
    assert replace(winner, rank=2, dropout=0.1) == variant and (winner.rank, winner.dropout) == (1, 0.0)
    rows = read_table(Path("outputs/variants/clip/rank=2,dropout=0.1/runs.csv"))
    first, second = (
        [float(row["test_accuracy"]) for row in rows if row["settings"] == name] for name in ("variant", "winner")
    )
    difference = output.difference["test_accuracy"]
    assert difference and difference.mean == as_written((sum(first) - sum(second)) / 2)
    over_posts = output.over_posts["accuracy"]
    assert over_posts.value == as_written(difference.mean)
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mvsa-clip")
    run = client.search_runs([experiment.experiment_id], "tags.stage = 'variant'")[0]
    assert run.data.params == {"rank": "2", "dropout": "0.1"}
    assert run.data.metrics["difference_test_accuracy"] == as_written(difference.mean)


def test_variant_leaves_stages_output(repeat: Repeat) -> None:
    repeat(WINNER)
    before = {path: path.read_bytes() for path in (*SEEDS.rglob("*.csv"), RESULT / "repeat.json")}
    result = CliRunner().invoke(main, ["--model", "clip", "--change", "lr=0.005", "--seeds", "3"])
    assert result.exit_code == 0, result.output
    assert VariantOutput.read(Path("outputs/variants/clip/lr=0.005/variant.json")).seeds == (8, 9, 10)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--change", ""],
        ["--change", "rank"],
        ["--change", "rank=2,rank=4"],
        ["--change", "rnk=2"],
        ["--change", "rank=many"],
        ["--change", "rank=1"],
        ["--change", "unfreeze=tail"],
        ["--change", "rank=2", "--seeds", "1"],
        ["--change", "rank=2", "--folds"],
        ["--seeds", "3"],
    ],
)
def test_bad_change_is_one_line(repeat: Repeat, arguments: list[str]) -> None:
    BestTrial("clip-tiny-study", 3, 0, 1, 0.9, dict(WINNER)).write(Path("outputs/tune/clip/best.json"))
    result = CliRunner().invoke(main, ["--model", "clip", *arguments])
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert not cached_keys()


def test_second_repeat_at_once_is_refused(repeat: Repeat) -> None:
    with try_lock(Path("outputs/repeat-clip.lock"), "a test"):
        BestTrial("clip-tiny-study", 3, 0, 1, 0.9, dict(WINNER)).write(Path("outputs/tune/clip/best.json"))
        result = CliRunner().invoke(main, ["--model", "clip"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert str(os.getpid()) in result.output


def test_missing_search_is_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").symlink_to(folder / "params.yaml")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["--model", "clip"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "outputs/tune/clip/best.json is missing" in result.output
