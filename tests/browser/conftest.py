"""Fixtures: a tracked pipeline of one tiny model, MLflow's server, and a browser."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.browser.chromium import Page, chromium, needed_programs
from tests.pipeline import MODEL, store_in
from tests.search.mlflow_server import MlflowServer


@dataclass(frozen=True)
class Tracked:
    """A repository after the pipeline, and its runs by name."""

    folder: Path
    store: str
    experiment_id: str
    runs: dict[str, Any]

    def trials(self) -> list[Any]:
        """Return the trials' runs, the best first."""
        trials = [run for run in self.runs.values() if run.data.tags["stage"] == "trial"]
        return sorted(trials, key=lambda run: -run.data.metrics["best_val_macro_f1"])

    def artifact(self, run: str, name: str) -> str:
        """Return the address of an artifact's page."""
        return f"#/experiments/{self.experiment_id}/runs/{self.runs[run].info.run_id}/artifacts/{name}"


@pytest.fixture(scope="session")
def programs() -> tuple[Path, Path]:
    return needed_programs()


@pytest.fixture(scope="session")
def tracked(programs: tuple[Path, Path], made: Path) -> Tracked:
    """The repository after the stages of `dvc repro`, with its runs."""
    return _look(made, store_in(made))


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
    """A page without stored state. `tmp_path` keeps its last screenshot."""
    opened = Page(driver, server)
    yield opened
    driver.save_screenshot(str(tmp_path / "page.png"))
    opened.forget()
