"""What a run in MLflow says of the posts that it reads: their name, digest and number, and nothing of their content."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from src.core.errors import UserError
from src.core.files import read_json
from src.core.paths import DATA_DVC, SPLIT_REPORT
from src.tracking.markdown import with_section
from src.tracking.store import (
    artifact_location,
    folder_of,
    mlflow_errors_as_user_errors,
    one_line,
    open_store,
    restore_command,
    tracking_uri,
)

if TYPE_CHECKING:
    import mlflow.entities
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Dataset:
    """Posts that a run reads.

    Attributes:
        name: what they are called; of two with the same name and digest MLflow keeps one.
        digest: at most 36 characters that another content changes.
        source: where they are from.
        context: what for, such as train.
        counts: how many there are of each tone.
    """

    name: str
    digest: str
    source: str
    context: str
    counts: Mapping[str, int]


def parts_read(*parts: str) -> list[Dataset]:
    """Parts of the posts as `split` has divided them.

    Raises:
        UserError: it has not run.
    """
    report = read_json(SPLIT_REPORT)
    # What is posted and labelled, and which posts are in which part.
    digest = f"{report['data_digest']}-{report['split_digest']}"
    name = f"mvsa-{report['protocol']}"
    return [Dataset(f"{name}-{part}", digest, str(DATA_DVC), part, report["parts"][part]) for part in parts]


# MLflow's own upper limit to one search.
_MOST_RUNS = 50_000


_NOTE = "mlflow.note.content"


_WATCH_S = 60.0


@dataclass(frozen=True)
class Child:
    """A run below another: its id, its tags, and whether it still counts as running."""

    id: str
    tags: Mapping[str, str]
    running: bool


class Run:
    """A run that is open. As a context it ends the run: FINISHED, or FAILED if an error was raised.

    A failed run says why in its tag `failure`. No error is swallowed, or hidden by one of MLflow's on top of it. Every
    method raises `UserError` where MLflow fails.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client = client
        self._monitor: Any = None
        self.id = run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.end("FINISHED")
            return
        with suppress(UserError):
            self.tags({"failure": one_line(error)})
            self.end("FAILED")

    @mlflow_errors_as_user_errors()
    def metrics(self, values: Mapping[str, float], step: int | None = None, at_ms: int | None = None) -> None:
        """Log metrics; `step` is the epoch, counted from 1, where there are several, `at_ms` the time, if not now.

        The same value at the same step and time is kept once, however often it is logged.
        """
        from mlflow.entities import Metric

        when_ms = at_ms or time.time_ns() // 1_000_000
        batch = [Metric(name, float(value), when_ms, step or 0) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=batch)

    @mlflow_errors_as_user_errors()
    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters. Logging them again is harmless; MLflow refuses to change one."""
        from mlflow.entities import Param

        self._client.log_batch(self.id, params=[Param(name, str(value)) for name, value in values.items()])

    @mlflow_errors_as_user_errors()
    def inputs(self, datasets: Sequence[Dataset]) -> None:
        """Log what the run reads. Logging it again is harmless."""
        from mlflow.entities import Dataset as Logged
        from mlflow.entities import DatasetInput, InputTag

        found = []
        for each in datasets:
            source, counts = json.dumps({"uri": each.source}), json.dumps(each.counts)
            logged = Logged(each.name, each.digest, "local", source, profile=counts)
            found.append(DatasetInput(logged, [InputTag("mlflow.data.context", each.context)]))
        self._client.log_inputs(self.id, found)

    def section(self, heading: str, text: str) -> None:
        """Put a section into the run's Markdown note, in place of an earlier one under the same heading."""
        self.tags({_NOTE: with_section(self.tag(_NOTE), heading, text)})

    @mlflow_errors_as_user_errors()
    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, over those of the same name."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    @mlflow_errors_as_user_errors()
    def json(self, name: str, content: Any) -> None:
        """Log an artifact `name` (a path ending in .json)."""
        self._client.log_dict(self.id, content, name)

    @mlflow_errors_as_user_errors()
    def text(self, name: str, text: str) -> None:
        """Log a text as an artifact `name` (a path such as report.txt or gallery.html)."""
        self._client.log_text(self.id, text, name)

    @mlflow_errors_as_user_errors()
    def figure(self, name: str, png: bytes | Path) -> None:
        """Log a picture, given as bytes or as a file, as an artifact `name` (a path ending in .png)."""
        target = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / target.name
            file.write_bytes(png if isinstance(png, bytes) else png.read_bytes())
            parent = str(target.parent) if target.parent.name else None
            self._client.log_artifact(self.id, str(file), parent)

    @mlflow_errors_as_user_errors()
    def folder(self, path: Path, artifact_path: str) -> None:
        """Log the files of a folder under `artifact_path`: on a disk all of them or none, whatever dies meanwhile."""
        place = folder_of(self._client.get_run(self.id).info.artifact_uri)
        if place is None:  # such as mlflow-artifacts:/1/run of a server's
            self._client.log_artifacts(self.id, str(path), artifact_path)
            return
        target = place / artifact_path
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copytree(path, temporary, dirs_exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)

    @mlflow_errors_as_user_errors()
    def tag(self, name: str) -> str:
        """A tag's value; empty if there is no such tag."""
        return str(self._client.get_run(self.id).data.tags.get(name, ""))

    @mlflow_errors_as_user_errors()
    def last_metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return dict(self._client.get_run(self.id).data.metrics)

    @mlflow_errors_as_user_errors()
    def experiment_id(self) -> str:
        """The experiment that the run is in."""
        return str(self._client.get_run(self.id).info.experiment_id)

    @mlflow_errors_as_user_errors()
    def log_system_metrics(self, every_s: float = _WATCH_S) -> None:
        """Log how busy the machine is, as MLflow's system metrics, until `end`; nothing of a run within `every_s`.

        MLflow does it in a thread, which ends with the run or the process. GPUs are seen where nvidia-ml-py is there.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # While the server is away it would say so on the screen; whoever logs the run's scores says it in one line.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        self._monitor = SystemMetricsMonitor(self.id, every_s, resume_logging=True, tracking_uri=tracking_uri())
        self._monitor.start()

    @mlflow_errors_as_user_errors()
    def end(self, status: str, at_ms: int | None = None) -> None:
        """End the run as FINISHED, KILLED or FAILED, at a time if not now."""
        if self._monitor:
            self._monitor.finish()
        self._client.set_terminated(self.id, status, at_ms)


class Tracker:
    """The runs of one experiment, which is made if it is new.

    Then it gets the `tags`. It gets its Markdown description once; `{id}` in there becomes its own id. `client` is that
    of an open store, if there is one.

    Raises:
        UserError: the tracking store cannot be opened.
    """

    def __init__(
        self,
        experiment: str,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        client: "MlflowClient | None" = None,
    ) -> None:
        self._client = client or open_store()
        self._experiment_id = _experiment(self._client, experiment, tags or {})
        if description and not self._note():
            self.tag(_NOTE, description.replace("{id}", self._experiment_id))

    @mlflow_errors_as_user_errors()
    def tag(self, name: str, value: str) -> None:
        """Set a tag of the experiment."""
        self._client.set_experiment_tag(self._experiment_id, name, value)

    def section(self, heading: str, text: str) -> None:
        """Put a section into the experiment's description, in place of an earlier one under the same heading."""
        self.tag(_NOTE, with_section(self._note(), heading, text))

    @mlflow_errors_as_user_errors()
    def experiments(self, prefix: str) -> "dict[str, Tracker]":
        """The experiments whose names begin like this, by the rest of their names."""
        names = [each.name for each in self._client.search_experiments() if each.name.startswith(prefix)]
        return {name.removeprefix(prefix): Tracker(name, client=self._client) for name in sorted(names)}

    @mlflow_errors_as_user_errors()
    def _note(self) -> str:
        return str(self._client.get_experiment(self._experiment_id).tags.get(_NOTE, ""))

    @mlflow_errors_as_user_errors()
    def run(
        self,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        began_ms: int | None = None,
    ) -> Run:
        """Begin a run, as a child of the run with the id `parent` if there is one. To be used as a context."""
        lineage = {"mlflow.parentRunId": parent} if parent else {}
        labels = {key: str(value) for key, value in (tags or {}).items()}
        made = self._client.create_run(self._experiment_id, began_ms, run_name=name, tags={**labels, **lineage})
        run = Run(self._client, made.info.run_id)
        if params:
            run.params(params)
        return run

    @mlflow_errors_as_user_errors()
    def resume(self, run_id: str) -> Run:
        """Open a run that has ended, or whose process died. To be used as a context."""
        self._client.update_run(run_id, status="RUNNING")
        return self.reopen(run_id)

    def reopen(self, run_id: str) -> Run:
        """A run of this experiment, in whatever state it is."""
        return Run(self._client, run_id)

    def find(self, tags: Mapping[str, object], *conditions: str) -> list[str]:
        """The ids of the runs that bear all these tags and meet MLflow's own conditions, the newest first."""
        found = self._search([*(f"tags.`{key}` = '{value}'" for key, value in tags.items()), *conditions])
        return [run.info.run_id for run in found]

    def children(self, parent: str) -> list[Child]:
        """The runs below a run, the newest first."""
        found = self._search([f"tags.`mlflow.parentRunId` = '{parent}'"])
        return [Child(run.info.run_id, dict(run.data.tags), run.info.status == "RUNNING") for run in found]

    @mlflow_errors_as_user_errors()
    def remove(self, run_id: str) -> None:
        """Put a run into MLflow's bin, where `mlflow gc` empties it."""
        self._client.delete_run(run_id)

    @mlflow_errors_as_user_errors()
    def close_abandoned(self, parent: str) -> None:
        """Mark a run that nobody will go on with, and those of its children that still run, as failed."""
        for run_id in [child.id for child in self.children(parent) if child.running] + [parent]:
            self._client.set_tag(run_id, "state", "abandoned")
            self._client.set_terminated(run_id, "FAILED")

    @mlflow_errors_as_user_errors()
    def _search(self, conditions: list[str]) -> "list[mlflow.entities.Run]":
        return list(
            self._client.search_runs(
                [self._experiment_id], " and ".join(conditions), max_results=_MOST_RUNS, order_by=["start_time DESC"]
            )
        )


@mlflow_errors_as_user_errors()
def _experiment(client: "MlflowClient", name: str, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location(name), dict(tags)))
        except MlflowException as error:
            # Another process was faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        remedy = restore_command(experiment.experiment_id)
        raise UserError(f"the MLflow experiment {name} was deleted: bring it back with `{remedy}`")
    return str(experiment.experiment_id)
