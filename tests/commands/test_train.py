"""A training that is killed, and goes on: real processes."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline import copied
from tests.warm import Running, WarmPython

pytestmark = pytest.mark.slow
COMMAND = ("src.train", "--model", "clip")
WRITTEN = Path("outputs/train/clip")
KEPT = Path("outputs/unfinished/clip.safetensors")
EPOCHS = 6
# Else a fast machine would be done before it is killed.
SLOWLY = """
import time
from src.training import trainer
train_epoch = trainer.Trainer.train_epoch
def slow(*args):
    time.sleep(0.3)
    return train_epoch(*args)
trainer.Trainer.train_epoch = slow
"""


@pytest.fixture(scope="module")
def repository(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository in which the winner is to be trained for longer than it was, and has a dropout."""
    with copied(made, tmp_path_factory, "train") as folder:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["training"]["common"].update(epochs=EPOCHS, patience=EPOCHS)
        Path("params.yaml").write_text(yaml.safe_dump(params))
        shutil.rmtree(WRITTEN)
        yield folder


def trained() -> dict[str, bytes]:
    """What a training has written, less the id of its run."""
    files = [path for path in sorted(WRITTEN.rglob("*")) if path.is_file() and path.name != "train.json"]
    return {str(path.relative_to(WRITTEN)): path.read_bytes() for path in files}


def runs() -> list[Any]:
    """The runs of all trainings, the newest first."""
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mvsa-clip")
    return list(
        client.search_runs([experiment.experiment_id], "tags.stage = 'train'", order_by=["attributes.start_time DESC"])
    )


def written_at(path: Path | None) -> int:
    return path.stat().st_mtime_ns if path and path.exists() else 0


def killed(process: Running, after: Path | None) -> None:
    """Kill it once it has written a file, or in its first epoch."""
    limit_s = time.monotonic() + 60
    before = written_at(after)
    while after and written_at(after) == before and time.monotonic() < limit_s:
        time.sleep(0.01)
    process.kill(signal.SIGKILL)
    assert process.wait()[0] == -signal.SIGKILL


def test_killed_training_resumes_to_same_result(repository: Path, warm_python: WarmPython) -> None:
    before = len(runs())
    warm_python.run(repository, *COMMAND)
    whole = trained()
    assert not KEPT.exists()
    shutil.rmtree(WRITTEN)

    for _ in range(2):
        killed(warm_python.start(repository, *COMMAND, before=SLOWLY), KEPT)
        assert not WRITTEN.exists()
    said = warm_python.run(repository, *COMMAND)
    assert "clip: goes on after epoch " in said and ", where it was interrupted" in said
    assert trained() == whole
    assert not KEPT.exists()

    (newest, first, *_) = runs()
    assert len(runs()) == before + 2
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert newest.data.metrics == pytest.approx(first.data.metrics) and newest.data.params == first.data.params
    from mlflow import MlflowClient

    history = MlflowClient("sqlite:///mlruns/mlflow.db").get_metric_history(newest.info.run_id, "val_macro_f1")
    assert [point.step for point in history] == list(range(1, EPOCHS + 1))


def test_kill_before_first_epoch_ends_its_run(repository: Path, warm_python: WarmPython) -> None:
    before = len(runs())
    process = warm_python.start(repository, *COMMAND, before=SLOWLY.replace("0.3", "60"))
    limit_s = time.monotonic() + 60
    while len(runs()) == before and time.monotonic() < limit_s:
        time.sleep(0.05)
    killed(process, None)
    assert runs()[0].info.status == "RUNNING"
    warm_python.run(repository, *COMMAND)
    assert [run.info.status for run in runs()[:2]] == ["FINISHED", "FAILED"]
    assert runs()[1].data.tags["state"] == "abandoned"


def test_one_process_trains_a_model(repository: Path, warm_python: WarmPython) -> None:
    process = warm_python.start(repository, *COMMAND, before=SLOWLY)
    limit_s = time.monotonic() + 60
    while not KEPT.exists() and time.monotonic() < limit_s:
        time.sleep(0.01)
    said = warm_python.run(repository, *COMMAND, code=1)
    assert f"error: another process (pid {process.pid}) is running the training of clip; wait or stop it" in said
    process.output()
