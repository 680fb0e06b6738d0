"""Model versions in MLflow's registry: what is registered, where its aliases point, what it says of itself."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.core.errors import UsageError, UserError
from src.core.labels import TONES
from src.core.records import ADAPTER_DIGEST
from src.registry.pyfunc import HALVES, Answer, ModelPackage, Row, save_package, table_of
from src.tracking.addresses import without_password
from src.tracking.store import mlflow_errors_as_user_errors, open_store, readable_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

CHAMPION = "champion"
CHALLENGER = "challenger"
_ADDRESS = re.compile(r"models:/mvsa-(?P<model>[^@/]+)(@(?P<label>[^@/]+)|/(?P<number>\d+))")


@dataclass(frozen=True)
class Version:
    """A registered version of a model; `created` tells whether it is new or was there already."""

    name: str
    number: int
    created: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    run_id: str = ""

    @property
    def uri(self) -> str:
        """Its address, such as models:/mvsa-clip/3."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class RunRecord:
    """What a run says of itself."""

    id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]


def registered_name(model: str) -> str:
    """The name under which a model's adapters are registered, such as mvsa-clip."""
    return f"mvsa-{model}"


def uri_of(model: str, alias: str = CHAMPION) -> str:
    """The address by which MLflow finds the version at a model's alias, such as models:/mvsa-clip@champion."""
    return f"models:/{registered_name(model)}@{alias}"


def find_by_digest(model: str, digest: str) -> Version | None:
    """The version whose adapter has this digest, or None."""
    client, name = _open_registry(), registered_name(model)
    with mlflow_errors_as_user_errors():
        known = client.search_model_versions(f"name = '{name}' and tags.{ADAPTER_DIGEST} = '{digest}'")
    return _version(known[0]) if known else None


def register(
    model: str, package: ModelPackage, *, run_id: str, digest: str, tags: Mapping[str, object], description: str = ""
) -> Version:
    """Register an adapter as a new version of its model, unless one with this digest is registered already.

    Args:
        model: the model's name in the catalog.
        package: what the version consists of.
        run_id: the run whose result this is.
        digest: the digest of the adapter's files.
        tags: what else the version should say of itself.
        description: Markdown, shown on the version's page.

    Raises:
        UserError: the registry does not answer.
    """
    known = find_by_digest(model, digest)
    if known:
        return known
    client, name = _open_registry(), registered_name(model)
    labels = {key: str(value) for key, value in tags.items()} | {ADAPTER_DIGEST: digest}
    with mlflow_errors_as_user_errors():
        model_id = _log_model(client, model, package, run_id)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(
            name, f"models:/{model_id}", run_id, labels, description=description, model_id=model_id
        )
    return _version(made, created=True)


def versions(model: str) -> list[Version]:
    """All registered versions of a model, the oldest first."""
    client = _open_registry()
    with mlflow_errors_as_user_errors():
        found = client.search_model_versions(f"name = '{registered_name(model)}'")
    return sorted(map(_version, found), key=lambda each: each.number)


def version_at_alias(model: str, alias: str = CHAMPION) -> Version | None:
    """The version that a model's alias points at, or None."""
    client, name = _open_registry(), registered_name(model)
    with mlflow_errors_as_user_errors():
        registered = client.search_registered_models(f"name = '{name}'")
        if not registered or alias not in registered[0].aliases:
            return None
        return _version(client.get_model_version(name, registered[0].aliases[alias]))


def version_at(uri: str) -> tuple[str, Version]:
    """The model's name in the catalog, and the version, at an address such as models:/mvsa-clip@champion or /3.

    Raises:
        UsageError: it is no such address.
        UserError: there is no such version.
    """
    named = _ADDRESS.fullmatch(uri)
    if named is None:
        raise UsageError(f"{uri} is no address of a version, such as models:/mvsa-clip@champion or models:/mvsa-clip/3")
    model = named["model"]
    if named["label"]:
        found = version_at_alias(model, named["label"])
        if found is None:
            remedy = f"run `python -m src.register --model {model}`"
            raise UserError(f"no {named['label']} of {model} is registered: {remedy}")
        return model, found
    for version in versions(model):
        if version.number == int(named["number"]):
            return model, version
    raise UserError(f"{model} has no version {named['number']}")


def set_alias(name: str, label: str, number: int) -> None:
    """Point an alias, such as `CHAMPION`, of a registered model at a version; it leaves the version it was at."""
    with mlflow_errors_as_user_errors():
        _open_registry().set_registered_model_alias(name, label, str(number))


def remove_alias(name: str, label: str) -> None:
    """Take an alias off a registered model; harmless where there is none."""
    with mlflow_errors_as_user_errors():
        _open_registry().delete_registered_model_alias(name, label)


def tag_version(version: Version, key: str, value: str) -> None:
    """Set a tag of a version."""
    with mlflow_errors_as_user_errors():
        _open_registry().set_model_version_tag(version.name, str(version.number), key, value)


def tag_model(model: str, key: str, value: str) -> None:
    """Set a tag of a registered model, which all its versions share."""
    with mlflow_errors_as_user_errors():
        _open_registry().set_registered_model_tag(registered_name(model), key, value)


def model_tags(model: str) -> dict[str, str]:
    """The tags of a registered model; none if it is not registered."""
    client = _open_registry()
    with mlflow_errors_as_user_errors():
        registered = client.search_registered_models(f"name = '{registered_name(model)}'")
    return dict(registered[0].tags) if registered else {}


def run_record(run_id: str) -> RunRecord | None:
    """What a run of the tracking store says of itself; None if it is not there, or in the bin."""
    from mlflow.exceptions import MlflowException

    client = _open_registry()
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    alive = run.info.lifecycle_stage == "active"
    return RunRecord(run_id, dict(run.data.tags), dict(run.data.params)) if alive else None


def runs_tagged(model: str, tags: Mapping[str, object]) -> list[RunRecord]:
    """Return the finished runs of a model's experiment that bear all these tags, the newest first."""
    client = _open_registry()
    conditions = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    wanted = " and ".join([*conditions, "attributes.status = 'FINISHED'"])
    with mlflow_errors_as_user_errors():
        experiment = client.get_experiment_by_name(registered_name(model))
        ids = [experiment.experiment_id] if experiment else []
        runs = client.search_runs(ids, wanted, order_by=["start_time DESC"]) if ids else []
    return [RunRecord(run.info.run_id, dict(run.data.tags), dict(run.data.params)) for run in runs]


def download(version: Version, folder: Path) -> Path:
    """Copy a version's files to a folder; returns where they are.

    Raises:
        UserError: they are gone, or the store does not answer.
    """
    import mlflow.artifacts

    _open_registry()
    with mlflow_errors_as_user_errors():
        place = Path(mlflow.artifacts.download_artifacts(artifact_uri=version.uri, dst_path=str(folder)))
    if not (place / "MLmodel").is_file():
        raise UserError(f"the files of {version.uri} are gone from the MLflow store")
    return place


def load(uri: str) -> "PyFuncModel":
    """Load a version by its address, such as `uri_of` gives; it predicts from a table as `publish` says.

    Raises:
        UserError: there is no such version, its files are gone, or it does not hold its contract.
    """
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    if _ADDRESS.fullmatch(uri):
        version_at(uri)
    try:
        _open_registry()
        return mlflow.pyfunc.load_model(uri)
    except MlflowException as error:
        raise UserError(
            f"{uri} cannot be loaded: {without_password(' '.join(str(error).split()), readable_uri())}"
        ) from error


def predict(model: "PyFuncModel", rows: Sequence[Row], halves: bool = False) -> list[Answer]:
    """What a loaded version answers to posts, in their order; with `halves`, captions may be empty.

    Raises:
        UserError: it refuses one of them.
    """
    from mlflow.exceptions import MlflowException

    try:
        answers = model.predict(table_of(rows), params={HALVES: halves})[["label", *TONES]].values.tolist()
    except MlflowException as error:
        raise UserError(str(error.message)) from error
    return [
        (str(label), float(negative), float(neutral), float(positive)) for label, negative, neutral, positive in answers
    ]


def _open_registry() -> "MlflowClient":
    import mlflow

    client = open_store()
    # Resolving models:/ addresses, MLflow asks the store of this process's setting and not the client's own.
    mlflow.set_tracking_uri(readable_uri())
    return client


def _version(found: Any, created: bool = False) -> Version:
    return Version(found.name, int(found.version), created, dict(found.tags), str(found.run_id or ""))


def _log_model(client: "MlflowClient", model: str, package: ModelPackage, run_id: str) -> str:
    """Save the package, upload it, and link it to its run; returns the id that MLflow gives it."""
    from mlflow.entities import LoggedModelOutput

    experiment_id = client.get_run(run_id).info.experiment_id
    model_id = client.create_logged_model(experiment_id, name=model, source_run_id=run_id).model_id
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        save_package(saved, package, run_id, model_id)
        client.log_model_artifacts(model_id, str(saved))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return str(model_id)
