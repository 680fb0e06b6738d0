"""What the pipeline tracks of one small model, shown by MLflow's server in a browser."""

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
def tracked(programs: tuple[Path, Path], made: Path) -> Tracked:
    """What the stages that `dvc repro` would run have tracked."""
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
    """For somebody who has never been here; how it looked last stays in `tmp_path`."""
    found = Page(driver, server)
    yield found
    driver.save_screenshot(str(tmp_path / "page.png"))
    found.forget()
