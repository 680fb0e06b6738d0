"""Model versions in MLflow's registry: register, find, tag, alias, download, load and ask versions."""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.core.errors import UsageError, UserError
from src.core.paths import CONTRACT_FOLDER
from src.core.records import ADAPTER_DIGEST
from src.registry.ensemble_contract import ENSEMBLE
from src.registry.pyfunc import HALVES, ModelPackage, Row, save_package, table_of
from src.tracking.addresses import without_password
from src.tracking.store import folder_of, mlflow_errors_as_user_errors, open_store, readable_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

CHAMPION = "champion"
CHALLENGER = "challenger"
# Markdown for the page that lists a model's versions.
_DESCRIPTION = """\
Adapters of {model} for the labels of posts. `champion` is the best version by validation macro-F1, or the one that
`python -m src.promote --model {model}` chose, and `challenger` the best other one of the same posts, split and scale.
The tags `champion_change` list each change."""
_ENSEMBLE_DESCRIPTION = """\
Ensembles for the labels of posts: weighted means of several systems' probabilities. `champion` is the best version by
validation macro-F1, or the one that `python -m src.promote --model ensemble` chose, and `challenger` the best
other one of the same posts, split and scale."""
_ADDRESS = re.compile(r"models:/mvsa-(?P<model>[^@/]+)(@(?P<alias>[^@/]+)|/(?P<number>\d+))")


@dataclass(frozen=True)
class Version:
    """A registered version of a model."""

    # The registered name, such as mvsa-clip.
    name: str
    number: int
    # Whether this call registered the version.
    created: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    # The run whose result the version is; empty if unknown.
    run_id: str = ""

    @property
    def uri(self) -> str:
        """The address, such as models:/mvsa-clip/3."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class Answer:
    """A version's answer to one post."""

    label: str
    # By label, in the version's order.
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """A run's id, tags and parameters."""

    id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]


def registered_name(model: str) -> str:
    """Return the name under which a model's versions are registered, such as mvsa-clip."""
    return f"mvsa-{model}"


def register_command(model: str) -> str:
    """Return the command that registers a version of a model or of the ensemble."""
    return "python -m src.register_ensemble" if model == ENSEMBLE else f"python -m src.register --model {model}"


def uri_of(model: str) -> str:
    """Return the address of a model's champion, such as models:/mvsa-clip@champion."""
    return f"models:/{registered_name(model)}@{CHAMPION}"


def find_by_digest(model: str, digest: str) -> Version | None:
    """Return the version whose adapter has this digest, or None."""
    client = _open_registry()
    condition = f"name = '{registered_name(model)}' and tags.{ADAPTER_DIGEST} = '{digest}'"
    with mlflow_errors_as_user_errors():
        entities = client.search_model_versions(condition)
    return _version(entities[0]) if entities else None


def register(
    model: str, package: ModelPackage, *, run_id: str, digest: str, tags: Mapping[str, object], description: str = ""
) -> Version:
    """Register an adapter as a new version of its model, unless a version has the same digest.

    Args:
        model: the model's name in the catalog.
        package: the content of the version.
        run_id: the run whose result the adapter is.
        digest: the digest of the adapter's files.
        tags: further tags of the version.
        description: Markdown for the version's page.

    Raises:
        UserError: the registry does not answer.
    """
    existing = find_by_digest(model, digest)
    if existing:
        return existing
    client = _open_registry()
    name = registered_name(model)
    all_tags = {key: str(value) for key, value in tags.items()} | {ADAPTER_DIGEST: digest}
    with mlflow_errors_as_user_errors():
        model_id = _log_model(client, model, package, run_id)
        if not client.search_registered_models(f"name = '{name}'"):
            template = _ENSEMBLE_DESCRIPTION if model == ENSEMBLE else _DESCRIPTION
            client.create_registered_model(name, description=template.format(model=model))
        entity = client.create_model_version(
            name, f"models:/{model_id}", run_id, all_tags, description=description, model_id=model_id
        )
    return _version(entity, created=True)


def versions(model: str) -> list[Version]:
    """Return all registered versions of a model, the oldest first."""
    client = _open_registry()
    with mlflow_errors_as_user_errors():
        entities = client.search_model_versions(f"name = '{registered_name(model)}'")
    return sorted(map(_version, entities), key=lambda version: version.number)


def version_at_alias(model: str, alias: str = CHAMPION) -> Version | None:
    """Return the version that a model's alias points at, or None."""
    client = _open_registry()
    name = registered_name(model)
    with mlflow_errors_as_user_errors():
        registered = client.search_registered_models(f"name = '{name}'")
        if not registered or alias not in registered[0].aliases:
            return None
        return _version(client.get_model_version(name, registered[0].aliases[alias]))


def version_at(uri: str) -> tuple[str, Version]:
    """Return the model's name in the catalog and the version at an address such as models:/mvsa-clip@champion or /3.

    Raises:
        UsageError: the text is not such an address.
        UserError: there is no such version.
    """
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        example = "models:/mvsa-clip@champion or models:/mvsa-clip/3"
        raise UsageError(f"{uri} is not the address of a version, such as {example}")
    model = match["model"]
    if match["alias"]:
        aliased = version_at_alias(model, match["alias"])
        if aliased is None:
            raise UserError(f"no {match['alias']} of {model} is registered: run `{register_command(model)}`")
        return model, aliased
    for version in versions(model):
        if version.number == int(match["number"]):
            return model, version
    raise UserError(f"{model} has no version {match['number']}")


def set_alias(name: str, alias: str, number: int) -> None:
    """Point an alias of a registered model, such as `CHAMPION`, at a version."""
    with mlflow_errors_as_user_errors():
        _open_registry().set_registered_model_alias(name, alias, str(number))


def remove_alias(name: str, alias: str) -> None:
    """Remove an alias of a registered model. A missing alias is no error."""
    with mlflow_errors_as_user_errors():
        _open_registry().delete_registered_model_alias(name, alias)


def tag_version(version: Version, key: str, value: str) -> None:
    """Set a tag of a version."""
    with mlflow_errors_as_user_errors():
        _open_registry().set_model_version_tag(version.name, str(version.number), key, value)


def tag_model(model: str, key: str, value: str) -> None:
    """Set a tag of a registered model, which all its versions share."""
    with mlflow_errors_as_user_errors():
        _open_registry().set_registered_model_tag(registered_name(model), key, value)


def model_tags(model: str) -> dict[str, str]:
    """Return the tags of a registered model; empty if the model is not registered."""
    client = _open_registry()
    with mlflow_errors_as_user_errors():
        registered = client.search_registered_models(f"name = '{registered_name(model)}'")
    return dict(registered[0].tags) if registered else {}


def run_record(run_id: str) -> RunRecord | None:
    """Return a run of the tracking store; None if it is missing or deleted."""
    from mlflow.exceptions import MlflowException

    client = _open_registry()
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    alive = run.info.lifecycle_stage == "active"
    return RunRecord(run_id, dict(run.data.tags), dict(run.data.params)) if alive else None


def runs_tagged(model: str, tags: Mapping[str, object]) -> list[RunRecord]:
    """Return the finished runs of a model's experiment that have all these tags, the newest first."""
    client = _open_registry()
    conditions = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    query = " and ".join([*conditions, "attributes.status = 'FINISHED'"])
    with mlflow_errors_as_user_errors():
        experiment = client.get_experiment_by_name(registered_name(model))
        ids = [experiment.experiment_id] if experiment else []
        runs = client.search_runs(ids, query, order_by=["start_time DESC"]) if ids else []
    return [RunRecord(run.info.run_id, dict(run.data.tags), dict(run.data.params)) for run in runs]


def download(version: Version, folder: Path) -> Path:
    """Copy a version's files into a folder, and return their folder.

    Raises:
        UserError: the files are gone, or the store does not answer.
    """
    import mlflow.artifacts

    _open_registry()
    with mlflow_errors_as_user_errors():
        files = Path(mlflow.artifacts.download_artifacts(artifact_uri=version.uri, dst_path=str(folder)))
    if not (files / "MLmodel").is_file():
        raise UserError(f"the files of {version.uri} are gone from the MLflow store")
    return files


def download_contract(uri: str, folder: Path) -> Path:
    """Copy the contract of the version at an address, and the files beside it, into a folder. Return their folder.

    Raises:
        UserError: there is no such version, its files are gone, or the store does not answer.
    """
    import mlflow.artifacts

    if _ADDRESS.fullmatch(uri):
        version_at(uri)
    _open_registry()
    artifacts = f"{uri}/artifacts"
    with mlflow_errors_as_user_errors():
        names = {Path(entry.path).name for entry in mlflow.artifacts.list_artifacts(artifact_uri=artifacts) or []}
        for name in {CONTRACT_FOLDER, ENSEMBLE} & names:
            address = f"{artifacts}/{name}"
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder)))
    raise UserError(f"{uri} has no contract: its files are gone, or it is no version of this project")


def title_of(uri: str) -> str:
    """Return the name and number of the version at an address of the registry; another address stays as it is."""
    if not _ADDRESS.fullmatch(uri):
        return uri
    _, version = version_at(uri)
    return f"{version.name} version {version.number}"


def scale_of(uri: str) -> str:
    """Return the scale of the version at an address of the registry, by its tags; empty if it is unknown."""
    if not _ADDRESS.fullmatch(uri):
        return ""
    _, version = version_at(uri)
    return version.tags.get("scale", "")


def load(uri: str) -> "PyFuncModel":
    """Load a version by its address; it predicts from a table (see `set_pyfunc_model`).

    Raises:
        UserError: there is no such version, its files are gone, its own code fails, or it breaks its contract.
    """
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    if _ADDRESS.fullmatch(uri):
        _, version = version_at(uri)
        uri = _read_only_folder(version) or uri
    _open_registry()
    try:
        return mlflow.pyfunc.load_model(uri)
    except UserError:
        raise
    except Exception as error:
        # The version's own code runs here. Code of another time may fail with any error.
        message = " ".join(str(error).split())
        reason = (
            message if isinstance(error, MlflowException) else f"its code fails with {type(error).__name__}: {message}"
        )
        raise UserError(f"{uri} cannot be loaded: {without_password(reason, readable_uri())}") from error


def predict(model: "PyFuncModel", rows: Sequence[Row], halves: bool = False) -> list[Answer]:
    """Return a loaded version's answers to posts, in their order.

    Args:
        model: the loaded version.
        rows: the posts.
        halves: whether captions may be empty.

    Raises:
        UserError: a post cannot be used.
    """
    from mlflow.exceptions import MlflowException

    try:
        table = model.predict(table_of(rows), params={HALVES: halves})
    except MlflowException as error:
        raise UserError(str(error.message)) from error
    return [
        Answer(str(row.pop("label")), {str(label): float(value) for label, value in row.items()})
        for row in table.to_dict("records")
    ]


def _read_only_folder(version: Version) -> str | None:
    """Return the local folder of a version's files if this process may not write there, otherwise None.

    By a version's address MLflow writes a file beside the version's own, in every load. By the folder it only reads.
    """
    client = _open_registry()
    with mlflow_errors_as_user_errors():
        folder = folder_of(client.get_model_version_download_uri(version.name, str(version.number)))
    if folder is None or not folder.is_dir() or os.access(folder, os.W_OK):
        return None
    return str(folder)


def _open_registry() -> "MlflowClient":
    import mlflow

    client = open_store()
    # MLflow resolves models:/ addresses in the store that is set for the process, not in that of the client.
    mlflow.set_tracking_uri(readable_uri())
    return client


def _version(entity: Any, created: bool = False) -> Version:
    return Version(entity.name, int(entity.version), created, dict(entity.tags), str(entity.run_id or ""))


def _log_model(client: "MlflowClient", model: str, package: ModelPackage, run_id: str) -> str:
    """Save the package, upload it, link it to its run, and return the id of the logged model."""
    from mlflow.entities import LoggedModelOutput

    experiment_id = client.get_run(run_id).info.experiment_id
    model_id = client.create_logged_model(experiment_id, name=model, source_run_id=run_id).model_id
    with tempfile.TemporaryDirectory() as folder:
        package_folder = Path(folder) / "model"
        save_package(package_folder, package, run_id, model_id)
        client.log_model_artifacts(model_id, str(package_folder))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return str(model_id)
