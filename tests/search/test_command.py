"""`python -m src.tune` as a user types it: stopped, resumed, changed, short of memory, its picture redrawn."""

import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.files import read_json, read_table
from tests.search.logged import runs, trial_runs
from tests.search.warm import WarmCommand

pytestmark = pytest.mark.slow


def edit_tune(**changes: Any) -> None:
    _edit(lambda params: params["tune"].update(changes))


def edit_fit(**changes: Any) -> None:
    _edit(lambda params: params["training"]["common"].update(changes))


def _edit(change: Callable[[dict[str, Any]], None]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    change(params)
    Path("params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_search_within_a_step_and_the_printed_command_goes_on(
    repository: Path, warm: WarmCommand, number: signal.Signals
) -> None:
    edit_fit(epochs=200, patience=200)
    process = warm.start("--trials", "1")
    _wait_for_an_epoch()
    process.kill(number)
    code, said = process.wait()
    assert code == 128 + number
    assert f"error: stopped by {number.name}; what is finished is kept. To go on: python " in said
    assert {run.info.status for run in runs()} == {"FAILED"}
    assert trial_runs()[0].data.tags["state"] == "interrupted"

    process = warm.start("--trials", "1")
    _wait_for_an_epoch(of_trials=2)
    process.kill(number)
    said = process.wait()[1]
    assert "Trial" not in said  # it was stopped in good order, so nothing had to be recovered
    found = trial_runs()
    (again,) = [run for run in found.values() if run.data.tags.get("retry_of") == "0"]
    assert again.data.params == found[0].data.params


def _wait_for_an_epoch(of_trials: int = 1) -> None:
    count = "SELECT count(DISTINCT trial_id) FROM trial_intermediate_values"
    for _ in range(600):
        time.sleep(0.1)
        if Path("outputs/studies.db").exists():
            try:
                with sqlite3.connect("file:outputs/studies.db?mode=ro", uri=True) as database:
                    if database.execute(count).fetchone()[0] >= of_trials:
                        return
            except sqlite3.OperationalError:
                continue
    raise AssertionError("no epoch has ended")


def test_mlflow_is_redrawn_from_the_storage_as_often_as_asked(repository: Path, warm: WarmCommand) -> None:
    warm.run("--trials", "2")
    drawn = facts()
    assert warm.run("--sync").startswith("clip: MLflow shows all 2 trials of the study; 0 were missing")
    assert facts() == drawn
    shutil.rmtree("mlruns")
    assert "all 2 trials of the study; 2 were missing" in warm.run("--sync")
    assert facts() == drawn


def facts() -> list[Any]:
    """What MLflow shows, less what is its own: ids and places."""
    found = sorted(runs(), key=lambda run: str(run.info.run_name))
    return [
        (run.info.run_name, run.info.status, run.data.params, run.data.metrics, run.data.tags.get("state"))
        for run in found
    ]


def test_a_changed_space_begins_a_new_study_and_says_what_changed(repository: Path, warm: WarmCommand) -> None:
    warm.run("--trials", "1")
    edit_tune(reduction_factor=4)
    said = warm.run("--trials", "1")
    assert "A new study, clip-tiny-" in said
    assert "these have changed: reduction_factor. Their trials are not mixed." in said
    assert "[1/1] trial 0 complete" in said
    assert len([run for run in runs() if run.data.tags["stage"] == "study"]) == 2
    assert "A new study" not in warm.run("--trials", "1")


def test_trials_that_run_out_of_memory_say_so_and_the_search_goes_on(repository: Path, warm: WarmCommand) -> None:
    said = warm.run("--trials", "2", fault="if len(calls) == 2: torch.empty(2**50)")
    assert re.search(r"\[1/2\] trial 1 failed: .*out of memory: .*can't allocate memory", said)
    assert "0 trials pruned, 1 failed (1 × out of memory)" in said
    failed = trial_runs()[1]
    assert failed.info.status == "FAILED"
    assert (failed.data.tags["state"], failed.data.tags["cause"]) == ("failed", "out of memory")
    assert "can't allocate memory" in failed.data.tags["reason"]
    assert [row["state"] for row in read_table(Path("outputs/tune/clip/trials.csv"))] == ["complete", "complete"]


def test_three_failures_for_one_cause_stop_the_search_in_one_line(repository: Path, warm: WarmCommand) -> None:
    said = warm.run("--trials", "6", fault="raise KeyError('vision_tower')", code=1)
    assert "error: 3 trials in a row failed for the same cause: KeyError: 'vision_tower'" in said
    assert "Traceback" not in said
    assert sorted(trial_runs()) == [0, 1, 2]
    assert {run.info.status for run in runs()} == {"FAILED"}
    assert "[2/2]" in warm.run("--trials", "2")


def test_after_an_error_of_the_gpu_a_new_process_goes_on(repository: Path, warm: WarmCommand) -> None:
    said = warm.run("--trials", "3", fault="if len(calls) == 2: raise torch.AcceleratorError('CUDA error', 1)")
    assert "another one goes on" in said
    assert "1 failed (1 × the GPU failed)" in said
    assert trial_runs()[1].data.tags["cause"] == "the GPU failed"
    assert {run.info.status for run in runs()} == {"FINISHED", "FAILED"}


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--storage", "nonsense"], 2, "error: --storage takes an SQLAlchemy URL or grpc://HOST:PORT"),
        (["--storage", "grpc://nowhere"], 2, "error: --storage grpc://nowhere: a proxy is named grpc://HOST:PORT"),
        (["--time-budget", "soon"], 2, "error: 'soon' is no length of time: write 6h, 90m, 1h30m or 45s"),
        (["--workers", "0"], 2, "error: Invalid value for '--workers'"),
        (["--sync", "--dry-run", "--scale", "full"], 2, "error: a dry run is"),
        (["--sampler", "magic"], 2, "error: Invalid value for '--sampler'"),
    ],
)
def test_misuse_is_one_line(repository: Path, warm: WarmCommand, words: list[str], code: int, line: str) -> None:
    said = warm.run(*words, code=code)
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_the_time_budget_ends_a_search_with_what_it_has(repository: Path, warm: WarmCommand) -> None:
    an_hour_later = "if len(calls) == 2: import time; now = time.time; time.time = lambda: now() + 3600"
    said = warm.run("--trials", "500", "--time-budget", "30m", fault=an_hour_later)
    assert read_json(Path("outputs/tune/clip/best.json"))["trials"] == 2
    assert "best of 2 trials" in said


def test_the_environment_may_name_the_storage(repository: Path, warm: WarmCommand) -> None:
    environment = {"MVSA_STORAGE": f"sqlite:///{repository}/elsewhere/studies.db"}
    warm.run("--trials", "1", "--sampler", "random", "--pruner", "hyperband", environment=environment)
    assert Path("elsewhere/studies.db").is_file()
    assert not Path("outputs/studies.db").exists()


def test_settings_that_are_words_are_searched_as_well(repository: Path, warm: WarmCommand) -> None:
    """The first choice of each, and the last, from the board to the file that the winner is trained by."""
    space: dict[str, dict[str, Any]] = {
        "target_projections": {"choices": ["qv", "qkvo"]},
        "curriculum": {"choices": ["none", "loss"]},
        "augment": {"choices": ["", "image caption"]},
        "loss": {"choices": ["cross_entropy", "focal"]},
        "class_weights": {"choices": ["none", "balanced"]},
        "sampling": {"choices": ["uniform", "balanced"]},
        "adapter": {"choices": ["lora", "dora", "rslora"]},
        "lr": {"low": 0.001, "high": 0.01},
    }
    all_first = {name: choice.get("choices", [0.002])[0] for name, choice in space.items()}
    all_last = {name: choice.get("choices", [0.002])[-1] for name, choice in space.items()}
    edit_tune(spaces={"clip": space}, initial_trials={"clip": [all_first, all_last]})
    said = warm.run("--trials", "2")
    assert "augment -, " in said and "augment image caption, " in said
    assert "clip: best of 2 trials is trial " in said and "0 trials pruned, 0 failed" in said
    settings = [run.data.params for run in trial_runs().values()]
    assert {each["curriculum"] for each in settings} == {"none", "loss"}
    assert read_json(Path("outputs/tune/clip/best.json"))["params"] in (all_first, all_last)
