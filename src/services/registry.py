"""Model versions in MLflow's registry: models from code with safetensors beside them, never a pickle."""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from src.core.errors import Refusal
from src.core.labels import TONES
from src.services.store import open_store, refusing, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import PyFuncModel
    from pandas import DataFrame

CHAMPION = "champion"
DIGEST_TAG = "adapter_digest"
State = TypeVar("State")
_ADDRESS = re.compile(r"models:/mvsa-(?P<model>[^@/]+)@(?P<label>.+)")

# A post: the bytes of its picture, and its caption. An answer: the tone, and its probabilities in the order of `TONES`.
Row = tuple[bytes, str]
Answer = tuple[str, float, float, float]


@dataclass(frozen=True)
class Package:
    """What travels with a version, so that it loads without this repository.

    `code_file` is a Python file that calls `publish`, `code_paths` are the packages it imports, `artifacts` the files
    and folders handed to it by name, `requirements` its pip requirements, and `example` a post to try it with.
    """

    code_file: Path
    code_paths: Sequence[Path]
    artifacts: Mapping[str, Path]
    requirements: Sequence[str]
    example: Row


@dataclass(frozen=True)
class Version:
    """A registered version of a model; `created` tells whether it is new or was there already."""

    name: str
    number: int
    created: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


def registered_name(model: str) -> str:
    """The name under which a model's adapters are registered, such as mvsa-clip."""
    return f"mvsa-{model}"


def uri_of(model: str, alias: str = CHAMPION) -> str:
    """The address by which MLflow finds the version at a model's alias, such as models:/mvsa-clip@champion."""
    return f"models:/{registered_name(model)}@{alias}"


def register(
    model: str, package: Package, *, run_id: str, digest: str, tags: Mapping[str, object], description: str = ""
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
        Refusal: the registry does not answer.
    """
    client, name = _open_registry(), registered_name(model)
    labels = {key: str(value) for key, value in tags.items()} | {DIGEST_TAG: digest}
    with refusing():
        known = client.search_model_versions(f"name = '{name}' and tags.{DIGEST_TAG} = '{digest}'")
        if known:
            return _version(known[0])
        model_id = _log_model(client, model, package, run_id)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(
            name, f"models:/{model_id}", run_id, labels, description=description, model_id=model_id
        )
    return _version(made, created=True)


def alias(name: str, label: str, number: int) -> None:
    """Point an alias, such as `CHAMPION`, of a registered model at a version; it leaves the version it was at."""
    with refusing():
        _open_registry().set_registered_model_alias(name, label, str(number))


def champion(model: str, label: str = CHAMPION) -> Version | None:
    """The version that a model's alias points at, or None."""
    client, name = _open_registry(), registered_name(model)
    with refusing():
        registered = client.search_registered_models(f"name = '{name}'")
        if not registered or label not in registered[0].aliases:
            return None
        return _version(client.get_model_version(name, registered[0].aliases[label]))


def load(uri: str) -> "PyFuncModel":
    """Load a version by its address, such as `uri_of` gives; it predicts from a table as `publish` says.

    Raises:
        Refusal: there is no such version, or its files are gone.
    """
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    named = _ADDRESS.fullmatch(uri)
    if named and champion(named["model"], named["label"]) is None:
        remedy = f"run `python -m src.register --model {named['model']}`"
        raise Refusal(f"no {named['label']} of {named['model']} is registered: {remedy}")
    try:
        _open_registry()
        return mlflow.pyfunc.load_model(uri)
    except MlflowException as error:
        raise Refusal(f"{uri} cannot be loaded: {' '.join(str(error).split())}") from error


def predict(model: "PyFuncModel", rows: Sequence[Row]) -> list[Answer]:
    """What a loaded version answers to posts, in their order."""
    answers = model.predict(_posts(rows))[["label", *TONES]].values.tolist()
    return [
        (str(label), float(negative), float(neutral), float(positive)) for label, negative, neutral, positive in answers
    ]


def publish(load: Callable[[Mapping[str, str]], State], predict: Callable[[State, list[Row]], list[Answer]]) -> None:
    """Make the file that calls this an MLflow model: tables of image and text in, tables of tones out.

    Args:
        load: makes what `predict` needs from the paths of the package's artifacts.
        predict: answers posts, in their order.
    """
    import mlflow.models
    import pandas as pd
    from mlflow.pyfunc import PythonModel, PythonModelContext

    class Published(PythonModel):  # type: ignore[misc]
        def load_context(self, context: PythonModelContext) -> None:
            self.state = load(context.artifacts)

        def predict(
            self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
        ) -> pd.DataFrame:
            return _answers(predict(self.state, _rows(model_input)))

    mlflow.models.set_model(Published())


def _open_registry() -> "MlflowClient":
    import mlflow

    client = open_store()
    # Resolving models:/ addresses, MLflow asks the store of this process's setting and not the client's own.
    mlflow.set_tracking_uri(tracking_uri())
    return client


def _version(found: Any, created: bool = False) -> Version:
    return Version(found.name, int(found.version), created, dict(found.tags))


def _log_model(client: "MlflowClient", model: str, package: Package, run_id: str) -> str:
    """Save the package, upload it, and link it to its run; returns the id that MLflow gives it."""
    from mlflow.entities import LoggedModelOutput

    experiment_id = client.get_run(run_id).info.experiment_id
    model_id = client.create_logged_model(experiment_id, name=model, source_run_id=run_id).model_id
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        _save_model(saved, package, run_id, model_id)
        client.log_model_artifacts(model_id, str(saved))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return str(model_id)


def _save_model(folder: Path, package: Package, run_id: str, model_id: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(package.code_file),
        code_paths=[str(path) for path in package.code_paths],
        artifacts={name: str(path) for name, path in package.artifacts.items()},
        # Given, for else MLflow would find them out by running the model.
        pip_requirements=list(package.requirements),
        signature=_signature(),
        input_example=_posts([package.example]),
        mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
    )


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image"), ColSpec("string", "text")]),
        outputs=Schema([ColSpec("string", "label"), *(ColSpec("double", tone) for tone in TONES)]),
    )


def _posts(rows: Sequence[Row]) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(rows, columns=["image", "text"])


def _rows(table: "DataFrame") -> list[Row]:
    return [(bytes(image), str(text)) for image, text in zip(table["image"], table["text"], strict=True)]


def _answers(answers: Sequence[Answer]) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(answers, columns=["label", *TONES])
