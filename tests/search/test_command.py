"""Covers: `python -m src.tune` as a user types it, stopped, resumed, with other settings, and out of memory."""

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

from src.core.config import load_params
from src.core.files import read_table
from src.core.outputs import BestTrial, SearchSummary
from src.core.paths import BEST_FILE, SEARCH_FILE, stage_folder
from tests.search.logged import runs, trial_runs
from tests.search.warm import WarmCommand
from tests.warm import BEFORE

pytestmark = pytest.mark.slow
BEST = stage_folder("tune", "clip") / BEST_FILE


def edit_tune(**changes: Any) -> None:
    _edit(lambda params: params["tune"].update(changes))


def edit_fit(**changes: Any) -> None:
    _edit(lambda params: params["training"]["common"].update(changes))


def _edit(change: Callable[[dict[str, Any]], None]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    change(params)
    Path("params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_search_within_step(repository: Path, warm: WarmCommand, number: signal.Signals) -> None:
    edit_fit(epochs=200, patience=200)
    process = warm.start("--trials", "1")
    _wait_for_an_epoch()
    process.kill(number)
    code, output = process.wait()
    assert code == 128 + number
    assert f"stopped by {number.name}" in output and "`python " in output
    assert {run.info.status for run in runs()} == {"FAILED"}
    assert trial_runs()[0].data.tags["state"] == "interrupted"

    process = warm.start("--trials", "1")
    _wait_for_an_epoch(of_trials=2)
    process.kill(number)
    output = process.wait()[1]
    assert "Trial" not in output  # a stopped command recovers its trial itself
    runs_of_trials = trial_runs()
    (retry,) = [run for run in runs_of_trials.values() if run.data.tags.get("retry_of") == "0"]
    assert retry.data.params == runs_of_trials[0].data.params


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


def test_sync_rebuilds_mlflow(repository: Path, warm: WarmCommand) -> None:
    warm.run("--trials", "2")
    logged = facts()
    assert "all 2 trials of the study; 0 were missing" in warm.run("--sync")
    assert facts() == logged
    shutil.rmtree("mlruns")
    assert "all 2 trials of the study; 2 were missing" in warm.run("--sync")
    assert facts() == logged


def facts() -> list[Any]:
    """Return what MLflow shows, without ids and places."""
    return [
        (run.info.run_name, run.info.status, run.data.params, run.data.metrics, run.data.tags.get("state"))
        for run in sorted(runs(), key=lambda run: str(run.info.run_name))
    ]


def test_changed_settings_begin_new_study(repository: Path, warm: WarmCommand) -> None:
    warm.run("--trials", "1")
    edit_tune(reduction_factor=4)
    output = warm.run("--trials", "1")
    assert "New study clip-tiny-" in output
    assert "reduction_factor changed since clip-tiny-" in output
    assert "[1/1] trial 0 complete" in output
    assert len([run for run in runs() if run.data.tags["stage"] == "study"]) == 2
    assert "New study" not in warm.run("--trials", "1")


def test_search_survives_out_of_memory(repository: Path, warm: WarmCommand) -> None:
    output = warm.run("--trials", "2", fault="if len(calls) == 2: torch.empty(2**50)")
    assert re.search(r"\[1/2\] trial 1 failed: .*out of memory: .*can't allocate memory", output)
    assert "0 trials pruned, 1 failed (1 × out of memory)" in output
    failed = trial_runs()[1]
    assert failed.info.status == "FAILED"
    assert (failed.data.tags["state"], failed.data.tags["cause"]) == ("failed", "out of memory")
    assert "can't allocate memory" in failed.data.tags["reason"]
    assert [row["state"] for row in read_table(Path("outputs/tune/clip/trials.csv"))] == ["complete", "complete"]


def test_three_equal_failures_end_command(repository: Path, warm: WarmCommand) -> None:
    output = warm.run("--trials", "6", fault="raise KeyError('vision_tower')", code=1)
    assert "KeyError: 'vision_tower'" in output
    assert "Traceback" not in output
    assert sorted(trial_runs()) == [0, 1, 2]
    assert {run.info.status for run in runs()} == {"FAILED"}
    assert "[2/2]" in warm.run("--trials", "2")


def test_gpu_error_restarts_process(repository: Path, warm: WarmCommand) -> None:
    # The new process inherits no fault.
    lost_once = f"if len(calls) == 2: del os.environ['{BEFORE}']; raise torch.AcceleratorError('CUDA error', 1)"
    output = warm.run("--trials", "3", fault=lost_once)
    assert "new process" in output
    assert "1 failed (1 × the GPU failed)" in output
    assert trial_runs()[1].data.tags["cause"] == "the GPU failed"
    assert {run.info.status for run in runs()} == {"FINISHED", "FAILED"}


@pytest.mark.parametrize(
    ("name", "choices"), [("adapter_positions", ["all", "text"]), ("image_head", ["none", "linear"])]
)
def test_settings_of_other_models_are_refused_at_once(
    name: str, choices: list[str], repository: Path, warm: WarmCommand
) -> None:
    _edit(lambda params: params["tune"]["spaces"]["clip"].update({name: {"choices": choices}}))
    output = warm.run("--trials", "3", code=2)
    assert output.count("\n") == 1 and name in output
    assert not Path("outputs/studies.db").exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--storage", "nonsense"], 2, "error: --storage takes an SQLAlchemy URL or grpc://HOST:PORT"),
        (["--storage", "grpc://nowhere"], 2, "error: --storage grpc://nowhere: a proxy is named grpc://HOST:PORT"),
        (["--time-budget", "soon"], 2, "error: 'soon' is no length of time: write 6h, 90m, 1h30m or 45s"),
        (["--workers", "0"], 2, "error: Invalid value for '--workers'"),
        (["--sync", "--dry-run", "--scale", "full"], 2, "error: a dry run is"),
        (["--sync", "--sampler", "random"], 2, "error: no search of clip has begun"),
        (["--sampler", "magic"], 2, "error: Invalid value for '--sampler'"),
    ],
)
def test_misuse_is_one_line(repository: Path, warm: WarmCommand, words: list[str], code: int, line: str) -> None:
    output = warm.run(*words, code=code)
    assert output.startswith(line)
    assert output.count("\n") == 1


def test_time_budget_ends_search(repository: Path, warm: WarmCommand) -> None:
    an_hour_later = "if len(calls) == 2: import time; now = time.time; time.time = lambda: now() + 3600"
    output = warm.run("--trials", "500", "--time-budget", "30m", fault=an_hour_later)
    assert BestTrial.read(BEST).trials == 2
    assert "best of 2 trials" in output


def test_environment_names_storage(repository: Path, warm: WarmCommand) -> None:
    environment = {"MVSA_STORAGE": f"sqlite:///{repository}/elsewhere/studies.db"}
    warm.run("--trials", "1", "--sampler", "random", "--pruner", "hyperband", environment=environment)
    assert Path("elsewhere/studies.db").is_file()
    assert not Path("outputs/studies.db").exists()


def test_word_settings_are_searched(repository: Path, warm: WarmCommand) -> None:
    """The first choices and the last ones appear in the printed lines, in MLflow and in best.json."""
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
    output = warm.run("--trials", "2")
    assert "augment -, " in output and "augment image caption, " in output
    assert "clip: best of 2 trials is trial " in output and "0 trials pruned, 0 failed" in output
    settings = [run.data.params for run in trial_runs().values()]
    assert {params["curriculum"] for params in settings} == {"none", "loss"}
    assert BestTrial.read(BEST).params in (all_first, all_last)


def test_search_runs_without_click(repository: Path) -> None:
    from src.pipeline.tune import run_search
    from src.search.session import SearchResources

    result = run_search(load_params(), "clip", SearchResources(), total=1)
    best = BestTrial.read(BEST)
    assert (result.best.number, best.best_trial, best.trials) == (0, 0, 1)
    assert best.params == result.best.params
    assert SearchSummary.read(BEST.with_name(SEARCH_FILE)).finished == 1
