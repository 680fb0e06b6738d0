"""Covers: `tune` with two Ray workers, steered from other processes, while a worker and then the search are killed."""

import os
import signal
from pathlib import Path

import pytest

from src.core.config import load_params
from src.core.outputs import BestTrial
from src.core.paths import BEST_FILE, stage_folder
from src.search.plan import plan_of
from src.search.steering import requests_of
from src.search.study import Study, open_study
from src.training.workspace import checkpoint_of, facts_of
from tests.search.logged import runs, trial_runs
from tests.search.warm import HELD, WarmCommand, hold_from, running, wait

pytestmark = pytest.mark.slow
SEARCH = ("--trials", "3", "--workers", "2")
TRIED = {"rank": 4, "lr": 0.003}


@pytest.fixture
def study(repository: Path) -> Study:
    params = load_params()
    facts = facts_of("clip", checkpoint_of(params, "clip"), params.labels)
    return open_study("sqlite:///outputs/studies.db", plan_of(params, "clip", facts))


def test_requests_outlive_worker_and_search(study: Study, warm: WarmCommand) -> None:
    hold_from(0)
    search = warm.start_held(*SEARCH)
    wait(lambda: len(running(study)) == 2, search)
    stopped, killed = running(study)
    assert "no new trial begins" in warm.run("--pause")
    warm.run("--stop-trial", str(stopped.number))
    os.kill(int(killed.attrs["process"].rpartition(":")[2]), signal.SIGKILL)
    HELD.unlink()
    wait(lambda: [trial.state for trial in study.trials()] == ["pruned", "failed", "waiting"], search)
    assert "trial 3 waits" in warm.run("--try", "rank=4,lr=3e-3")
    assert "trial 4 waits" in warm.run("--clone", "3,lr=2e-3")
    assert search.is_running
    search.kill(signal.SIGKILL)
    search.wait()

    for misuse in (["--stop-trial", "0"], ["--clone", "9"], ["--try", "rank=3"], ["--pause", "--resume"]):
        assert warm.run(*misuse, code=2).count("\n") == 1
    warm.run("--more", "1")
    search = warm.start(*SEARCH)
    warm.run("--resume")
    output = search.output()
    assert "best of 4 trials" in output
    trials = study.trials()
    assert [trial.state for trial in trials] == ["pruned", "failed", "complete", "complete", "complete"]
    assert trials[2].params == killed.params
    assert [trials[3].params[name] for name in TRIED] == list(TRIED.values())
    assert [trials[4].params[name] for name in TRIED] == [4, 0.002]
    assert BestTrial.read(stage_folder("tune", "clip") / BEST_FILE).trials == 4
    assert [request.option for request in requests_of(study)] == ["--pause", "--more", "--resume"]
    assert "asked for by --clone 3 at" in output

    logged = trial_runs()
    assert logged[0].data.tags["reason"].startswith("stopped by --stop-trial at")
    assert (logged[0].info.status, logged[0].data.tags["state"]) == ("KILLED", "pruned")
    assert [logged[number].data.tags["request"][:8] for number in (3, 4)] == ["--try at", "--clone "]
    (parent,) = [run for run in runs() if run.data.tags["stage"] == "study"]
    assert [parent.data.tags[f"request_{number}"][:6] for number in (1, 2, 3)] == ["--paus", "--more", "--resu"]
