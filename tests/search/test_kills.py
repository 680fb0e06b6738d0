"""Covers: a search that is killed again and again ends like one that was never interrupted."""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from src.core.config import load_params
from src.core.labels import TONE_LABELS
from src.search.plan import plan_of
from src.search.study import Study, open_study
from src.training.workspace import checkpoint_of, facts_of
from tests.search.logged import runs, trial_runs
from tests.search.warm import WarmCommand

TRIALS = 6
ROUNDS = 6
pytestmark = pytest.mark.slow


def study() -> Study:
    return open_study(
        "sqlite:///outputs/studies.db",
        plan_of(load_params(), "clip", facts_of("clip", checkpoint_of(load_params(), "clip"), TONE_LABELS)),
    )


def test_many_kills_lose_nothing(repository: Path, warm: WarmCommand) -> None:
    rng = random.Random(7)
    killed = 0
    shutil.rmtree("mlruns")  # a kill may come while it is made
    for _ in range(ROUNDS):
        # Trainings are slowed down, because a fast machine would finish before all kills.
        process = warm.start("--trials", str(TRIALS), fault="import time; time.sleep(0.5)")
        time.sleep(rng.uniform(0, 2))
        process.kill(signal.SIGKILL)
        killed += process.wait()[0] == -signal.SIGKILL
    warm.run("--trials", str(TRIALS))
    interrupted = study()
    finished = [(trial.params, trial.value, trial.epochs) for trial in interrupted.finished()]
    assert len(finished) == TRIALS
    assert killed >= ROUNDS // 2
    shown = trial_runs()
    assert len(shown) == len(interrupted.trials())
    for trial in interrupted.trials():
        agree(trial, shown[trial.number])
    assert "RUNNING" not in {run.info.status for run in runs()}

    Path("outputs/studies.db").rename("outputs/interrupted.db")
    warm.run("--trials", str(TRIALS))
    assert [(trial.params, trial.value, trial.epochs) for trial in study().trials()] == finished


def agree(trial: Any, run: Any) -> None:
    """Check that the storage and MLflow agree about a trial."""
    status = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[trial.state]
    assert run.info.status == status
    assert run.data.tags["state"] == ("interrupted" if trial.cause == "interrupted" else trial.state)
    settings = {name: run.data.params[name] for name in trial.params}
    assert settings == {name: str(value) for name, value in trial.params.items()}
    if trial.state == "complete":
        assert run.data.metrics["best_val_macro_f1"] == pytest.approx(trial.value)
        assert (Path(run.info.artifact_uri) / "adapter" / "head.safetensors").is_file()
        assert not list(Path(run.info.artifact_uri).glob(".*"))
