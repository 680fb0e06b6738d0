"""What a model version consists of, as MLflow saves and loads it: models from code, never a pickle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from src.core.errors import Refusal
from src.core.labels import TONES

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from pandas import DataFrame

State = TypeVar("State")
# A post: the bytes of its picture, and its caption. An answer: the tone, and its probabilities in the order of `TONES`.
Row = tuple[bytes, str]
Answer = tuple[str, float, float, float]
# The parameter of a prediction that lets posts lack their captions.
HALVES = "halves"


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


def publish(
    load: Callable[[Mapping[str, str]], State], predict: Callable[[State, list[Row], bool], list[Answer]]
) -> None:
    """Make the file that calls this an MLflow model: tables of image and text in, tables of tones out.

    A `Refusal` of `predict` becomes an error that MLflow's server answers with status 400 and the message.

    Args:
        load: makes what `predict` needs from the paths of the package's artifacts.
        predict: answers posts, in their order; the last argument says whether a post may lack its caption.
    """
    import mlflow.models
    import pandas as pd
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
    from mlflow.pyfunc import PythonModel, PythonModelContext

    class Refused(MlflowException):  # type: ignore[misc]
        # MLflow's server puts a print of the whole table before the message of an error.
        @property
        def message(self) -> str:
            return str(self.args[0])

        @message.setter
        def message(self, _: str) -> None:
            pass

    class Published(PythonModel):  # type: ignore[misc]
        def load_context(self, context: PythonModelContext) -> None:
            self.state = load(context.artifacts)

        def predict(
            self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
        ) -> pd.DataFrame:
            try:
                return _answers(predict(self.state, _rows(model_input), bool((params or {}).get(HALVES))))
            except Refusal as refusal:
                raise Refused(str(refusal), error_code=INVALID_PARAMETER_VALUE) from refusal

    mlflow.models.set_model(Published())


def save_package(folder: Path, package: Package, run_id: str, model_id: str) -> None:
    """Write a package in the layout of MLflow's models."""
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
        input_example=table_of([package.example]),
        mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
    )


def artifacts_in(folder: Path) -> dict[str, str]:
    """The paths of a saved package's artifacts by name, as `load` of `publish` is given them.

    Raises:
        Refusal: the folder holds no such package.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        flavor = Model.load(str(folder)).flavors["python_function"]
        return {name: str(folder / entry["path"]) for name, entry in flavor["artifacts"].items()}
    except (MlflowException, KeyError, OSError) as error:
        raise Refusal(f"{folder} holds no model version: {' '.join(str(error).split())}") from error


def table_of(rows: Sequence[Row]) -> "DataFrame":
    """Posts as the table that a loaded version reads."""
    from pandas import DataFrame

    return DataFrame(rows, columns=["image", "text"])


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        params=ParamSchema([ParamSpec(HALVES, "boolean", default=False)]),
        inputs=Schema([ColSpec("binary", "image"), ColSpec("string", "text")]),
        outputs=Schema([ColSpec("string", "label"), *(ColSpec("double", tone) for tone in TONES)]),
    )


def _rows(table: "DataFrame") -> list[Row]:
    rows = list(zip(table["image"], table["text"], strict=True))
    for number, (image, text) in enumerate(rows, start=1):
        if not isinstance(image, bytes | bytearray) or not isinstance(text, str):
            raise Refusal(f"post {number}: an image is bytes (base64 in JSON) and a text is a string")
    return [(bytes(image), text) for image, text in rows]


def _answers(answers: Sequence[Answer]) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(answers, columns=["label", *TONES])
