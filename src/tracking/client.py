"""Experiments and runs in MLflow.

A `Tracker` is one experiment, and a `Run` is one open run. Runs log names, digests and counts of the posts that they
read, and never the content of a post.
"""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import atomic_folder
from src.core.paths import DATA_DVC, SPLIT_REPORT
from src.tracking.markdown import with_section
from src.tracking.store import (
    artifact_location,
    folder_of,
    mlflow_errors_as_user_errors,
    one_line_message,
    open_store,
    restore_command,
    tracking_uri,
)

if TYPE_CHECKING:
    import mlflow.entities
    from mlflow import MlflowClient


# The most runs that MLflow returns from one search.
_MAX_RUNS = 50_000
# MLflow shows the Markdown in this tag as the description of a run or an experiment.
DESCRIPTION_TAG = "mlflow.note.content"
# The tag of a failed run with the error's message.
FAILURE_TAG = "failure"
# The value of the tag `state` of a run that no process will resume.
ABANDONED = "abandoned"
_SAMPLING_INTERVAL_S = 60.0


@dataclass(frozen=True)
class Dataset:
    """Posts that a run reads, as MLflow's dataset."""

    # MLflow keeps one of two datasets with equal name and digest.
    name: str
    # At most 36 characters.
    digest: str
    source: str
    # The use of the posts in the run, such as train.
    context: str
    # The number of posts of each label.
    counts: Mapping[str, int]


def parts_read(*parts: str) -> list[Dataset]:
    """Return the datasets of some parts of the split.

    Raises:
        UserError: stage `split` has not run.
    """
    report = SplitReport.read(SPLIT_REPORT)
    # The digest covers the content and labels of posts, and the assignment to parts.
    digest = f"{report.data_digest}-{report.split_digest}"
    name = f"mvsa-{report.protocol}"
    return [Dataset(f"{name}-{part}", digest, str(DATA_DVC), part, report.parts[part]) for part in parts]


@dataclass(frozen=True)
class Child:
    """A child run: its id, its tags, and whether its status is RUNNING."""

    id: str
    tags: Mapping[str, str]
    running: bool


class Run:
    """An open run.

    As a context manager it ends the run: FINISHED, or FAILED if an error was raised. The tag `failure` of a failed run
    holds the error's message. The error propagates, even if MLflow fails as well.

    Every method raises `UserError` if MLflow fails.
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
            self.tags({FAILURE_TAG: one_line_message(error)})
            self.end("FAILED")

    @mlflow_errors_as_user_errors()
    def metrics(self, values: Mapping[str, float], step: int | None = None, at_ms: int | None = None) -> None:
        """Log metrics.

        Logging the same value again at the same step and time is harmless: MLflow keeps it once.

        Args:
            values: metrics by name.
            step: the epoch, counted from 1, for metrics that have several values.
            at_ms: the time in milliseconds since 1970; now by default.
        """
        from mlflow.entities import Metric

        when_ms = at_ms or time.time_ns() // 1_000_000
        batch = [Metric(name, float(value), when_ms, step or 0) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=batch)

    @mlflow_errors_as_user_errors()
    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters. Logging equal values again is harmless, and MLflow refuses to change a value."""
        from mlflow.entities import Param

        self._client.log_batch(self.id, params=[Param(name, str(value)) for name, value in values.items()])

    @mlflow_errors_as_user_errors()
    def inputs(self, datasets: Sequence[Dataset]) -> None:
        """Log the datasets that the run reads. Logging them again is harmless."""
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag

        inputs = []
        for dataset in datasets:
            source = json.dumps({"uri": dataset.source})
            entity = MlflowDataset(dataset.name, dataset.digest, "local", source, profile=json.dumps(dataset.counts))
            inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)]))
        self._client.log_inputs(self.id, inputs)

    def section(self, heading: str, text: str) -> None:
        """Write a section of the run's description; it replaces a section with the same heading."""
        self.tags({DESCRIPTION_TAG: with_section(self.tag(DESCRIPTION_TAG), heading, text)})

    @mlflow_errors_as_user_errors()
    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; a tag with the same name is replaced."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    @mlflow_errors_as_user_errors()
    def json(self, name: str, content: Any) -> None:
        """Log content as JSON in the artifact `name` (a path that ends in .json)."""
        self._client.log_dict(self.id, content, name)

    @mlflow_errors_as_user_errors()
    def text(self, name: str, text: str) -> None:
        """Log a text as the artifact `name` (a path such as report.txt or mistakes.html)."""
        self._client.log_text(self.id, text, name)

    @mlflow_errors_as_user_errors()
    def figure(self, name: str, png: bytes) -> None:
        """Log a plot, as the artifact `name` (a path that ends in .png)."""
        target = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            # MLflow takes the artifact's name from the file's name.
            file = Path(folder) / target.name
            file.write_bytes(png)
            parent = str(target.parent) if target.parent.name else None
            self._client.log_artifact(self.id, str(file), parent)

    @mlflow_errors_as_user_errors()
    def folder(self, path: Path, artifact_path: str) -> None:
        """Log the files of a folder under `artifact_path`, in place of an earlier folder there.

        On a local disk the folder appears whole or not at all, even if the process is killed.
        """
        artifacts = folder_of(self._client.get_run(self.id).info.artifact_uri)
        if artifacts is None:
            # A server keeps the artifacts, at a location such as mlflow-artifacts:/1/<run>.
            self._client.log_artifacts(self.id, str(path), artifact_path)
            return
        # MLflow copies file by file, and a reader of a half-copied adapter would take it for damaged.
        with atomic_folder(artifacts / artifact_path) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True)

    @mlflow_errors_as_user_errors()
    def tag(self, name: str) -> str:
        """Return the value of a tag; empty if the run does not have it."""
        return str(self._client.get_run(self.id).data.tags.get(name, ""))

    @mlflow_errors_as_user_errors()
    def last_metrics(self) -> dict[str, float]:
        """Return the last value of each metric."""
        return dict(self._client.get_run(self.id).data.metrics)

    @mlflow_errors_as_user_errors()
    def steps(self, metric: str) -> set[int]:
        """Return the steps at which a metric has been logged."""
        return {point.step for point in self._client.get_metric_history(self.id, metric)}

    @mlflow_errors_as_user_errors()
    def experiment_id(self) -> str:
        """Return the id of the run's experiment."""
        return str(self._client.get_run(self.id).info.experiment_id)

    @mlflow_errors_as_user_errors()
    def log_system_metrics(self, every_s: float = _SAMPLING_INTERVAL_S) -> None:
        """Log the load of CPU, memory, disk and GPU as MLflow's system metrics until `end`.

        A thread of MLflow takes a sample every `every_s` seconds, so a shorter run has none. GPUs are sampled if
        nvidia-ml-py is installed.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # The thread would print a stack trace for each sample that an unreachable server misses. The code that logs the
        # run's scores reports the same outage in one line.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        self._monitor = SystemMetricsMonitor(self.id, every_s, resume_logging=True, tracking_uri=tracking_uri())
        self._monitor.start()

    @mlflow_errors_as_user_errors()
    def end(self, status: str, at_ms: int | None = None) -> None:
        """End the run as FINISHED, KILLED or FAILED; `at_ms` is the end's time, now by default."""
        if self._monitor:
            self._monitor.finish()
        self._client.set_terminated(self.id, status, at_ms)


class Tracker:
    """The runs of one experiment. The experiment is created if it does not exist.

    Args:
        experiment: the name.
        description: Markdown for an experiment without a description; `{id}` becomes the experiment's id.
        tags: tags for a new experiment.
        client: the client of an open store; by default the store is opened.

    Raises:
        UserError: the tracking store cannot be opened, or the experiment was deleted.
    """

    def __init__(
        self,
        experiment: str,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        client: "MlflowClient | None" = None,
    ) -> None:
        self._client = client or open_store()
        self._experiment_id = _get_or_create_experiment(self._client, experiment, tags or {})
        if description and not self._description():
            self.tag(DESCRIPTION_TAG, description.replace("{id}", self._experiment_id))

    @mlflow_errors_as_user_errors()
    def tag(self, name: str, value: str) -> None:
        """Set a tag of the experiment."""
        self._client.set_experiment_tag(self._experiment_id, name, value)

    def section(self, heading: str, text: str) -> None:
        """Write a section of the experiment's description; it replaces a section with the same heading."""
        self.tag(DESCRIPTION_TAG, with_section(self._description(), heading, text))

    @mlflow_errors_as_user_errors()
    def experiments(self, prefix: str) -> "dict[str, Tracker]":
        """Return the experiments whose names begin with `prefix`, by the rest of their names."""
        names = [item.name for item in self._client.search_experiments() if item.name.startswith(prefix)]
        return {name.removeprefix(prefix): Tracker(name, client=self._client) for name in sorted(names)}

    @mlflow_errors_as_user_errors()
    def _description(self) -> str:
        return str(self._client.get_experiment(self._experiment_id).tags.get(DESCRIPTION_TAG, ""))

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
        """Start a run and return it as a context manager.

        Args:
            name: the run's name.
            parent: the id of the parent run, for a child run.
            tags: tags by name.
            params: parameters by name.
            began_ms: the start in milliseconds since 1970; now by default.
        """
        all_tags = {key: str(value) for key, value in (tags or {}).items()}
        if parent:
            all_tags["mlflow.parentRunId"] = parent
        entity = self._client.create_run(self._experiment_id, began_ms, run_name=name, tags=all_tags)
        run = Run(self._client, entity.info.run_id)
        if params:
            run.params(params)
        return run

    @mlflow_errors_as_user_errors()
    def resume(self, run_id: str) -> Run:
        """Set an ended or abandoned run to RUNNING again, and return it as a context manager.

        The tag `failure` of an interrupted run is deleted.
        """
        self._client.update_run(run_id, status="RUNNING")
        if FAILURE_TAG in self._client.get_run(run_id).data.tags:
            self._client.delete_tag(run_id, FAILURE_TAG)
        return self.reopen(run_id)

    def reopen(self, run_id: str) -> Run:
        """Return a run of this experiment; its status does not change."""
        return Run(self._client, run_id)

    def find(self, tags: Mapping[str, object], *conditions: str) -> list[str]:
        """Return the ids of the runs that have all these tags, the newest first.

        Args:
            tags: tags by name.
            conditions: further conditions in MLflow's search syntax.
        """
        runs = self._search([*(f"tags.`{key}` = '{value}'" for key, value in tags.items()), *conditions])
        return [run.info.run_id for run in runs]

    @mlflow_errors_as_user_errors()
    def download(self, run_id: str, artifact: str, folder: Path) -> Path | None:
        """Copy a folder of a run's artifacts into `folder`, and return the copy; None if the run has no such folder."""
        if not self._client.list_artifacts(run_id, artifact):
            return None
        return Path(self._client.download_artifacts(run_id, artifact, str(folder)))

    def children(self, parent: str) -> list[Child]:
        """Return the children of a run, the newest first."""
        runs = self._search([f"tags.`mlflow.parentRunId` = '{parent}'"])
        return [Child(run.info.run_id, dict(run.data.tags), run.info.status == "RUNNING") for run in runs]

    @mlflow_errors_as_user_errors()
    def remove(self, run_id: str) -> None:
        """Mark a run as deleted; `mlflow gc` removes such runs for good."""
        self._client.delete_run(run_id)

    @mlflow_errors_as_user_errors()
    def close_abandoned(self, parent: str) -> None:
        """End a run that no process will resume, and its RUNNING children, as FAILED with the state `ABANDONED`."""
        for run_id in [child.id for child in self.children(parent) if child.running] + [parent]:
            self._client.set_tag(run_id, "state", ABANDONED)
            self._client.set_terminated(run_id, "FAILED")

    @mlflow_errors_as_user_errors()
    def _search(self, conditions: list[str]) -> "list[mlflow.entities.Run]":
        return list(
            self._client.search_runs(
                [self._experiment_id], " and ".join(conditions), max_results=_MAX_RUNS, order_by=["start_time DESC"]
            )
        )


@mlflow_errors_as_user_errors()
def _get_or_create_experiment(client: "MlflowClient", name: str, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location(name), dict(tags)))
        except MlflowException as error:
            # Another process created the experiment meanwhile.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        command = restore_command(experiment.experiment_id)
        raise UserError(f"the MLflow experiment {name} was deleted: restore it with `{command}`")
    return str(experiment.experiment_id)
