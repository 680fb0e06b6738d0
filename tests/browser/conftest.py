"""What the pipeline tracks of one small model, shown by MLflow's server in a browser."""

import importlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from selenium.webdriver import Chrome

from tests.browser.chromium import Page, chromium, needed_programs
from tests.search.mlflow_server import MlflowServer

MODEL = "clip"
TRIALS = 3
STAGES = ("encode", "zeroshot", "tune", "train", "evaluate", "register")


@dataclass(frozen=True)
class Tracked:
    """A repository after the pipeline, and its runs by name."""

    folder: Path
    store: str
    experiment_id: str
    runs: dict[str, Any]

    def trials(self) -> list[Any]:
        """The trials' runs, the best first."""
        found = [run for run in self.runs.values() if run.data.tags["stage"] == "trial"]
        return sorted(found, key=lambda run: -run.data.metrics["best_val_macro_f1"])

    def artifact(self, run: str, name: str) -> str:
        """The address of the page that shows an artifact."""
        return f"#/experiments/{self.experiment_id}/runs/{self.runs[run].info.run_id}/artifacts/{name}"


@pytest.fixture(scope="session")
def programs() -> tuple[Path, Path]:
    return needed_programs()


@pytest.fixture(scope="session")
def tracked(programs: tuple[Path, Path], repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """Made once, in this process, by the stages that `dvc repro` would run."""
    folder = tmp_path_factory.mktemp("reviewed")
    shutil.copytree(repo_root / "sample", folder / "data")
    (folder / "src").symlink_to(repo_root / "src")
    params = yaml.safe_load((repo_root / "params.yaml").read_text())
    params["models"] = [MODEL]
    params["fit"]["common"].update(epochs=2, batch_size=32)
    params["tune"].update(trials=TRIALS, pruner="none")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    store = f"sqlite:///{folder}/mlruns/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store)
        for words in (["prepare"], ["split"], *([stage, "--model", MODEL] for stage in STAGES)):
            _run(*words)
    return _look(folder, store)


def _run(stage: str, *words: str) -> None:
    result = CliRunner().invoke(importlib.import_module(f"src.{stage}").main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def _look(folder: Path, store: str) -> Tracked:
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment_id = client.get_experiment_by_name(f"mvsa-{MODEL}").experiment_id
    runs = {run.data.tags["stage"]: run for run in client.search_runs([experiment_id])}
    trials = client.search_runs([experiment_id], "tags.stage = 'trial'")
    named = {run.info.run_name: run for run in trials}
    return Tracked(folder, store, experiment_id, {**{name: runs[name] for name in runs if name != "trial"}, **named})


@pytest.fixture(scope="session")
def server(tracked: Tracked) -> Iterator[str]:
    running = MlflowServer(tracked.store, tracked.folder)
    try:
        running.start()
        yield running.url
    finally:
        running.kill()


@pytest.fixture(scope="session")
def driver(programs: tuple[Path, Path]) -> Iterator[Chrome]:
    with chromium(programs) as running:
        yield running


@pytest.fixture
def page(driver: Chrome, server: str, tmp_path: Path) -> Iterator[Page]:
    """For somebody who has never been here; how it looked last stays in `tmp_path`."""
    found = Page(driver, server)
    yield found
    driver.save_screenshot(str(tmp_path / "page.png"))
    found.forget()
