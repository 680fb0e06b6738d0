"""What a model version consists of, as MLflow saves and loads it: models from code, never a pickle."""

import binascii
import re
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from src.core.errors import UserError
from src.core.labels import TONES
from src.registry.vendoring import vendor

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from pandas import DataFrame

State = TypeVar("State")
# A post: the bytes of its picture, and its caption. An answer: the tone, and its probabilities in the order of `TONES`.
Row = tuple[bytes, str]
Answer = tuple[str, float, float, float]
# The parameter of a prediction that lets posts lack their captions.
HALVES = "halves"

# The code of a version begins with this name; a digest follows.
_VENDORED = "mvsa_tuner"
# The file that MLflow runs when it loads a version.
_ENTRY_FILE = "model.py"
_ENTRY = """from {name}.serve import load, predict
from {name}.registry.pyfunc import set_pyfunc_model

set_pyfunc_model(load, predict)
"""
_DATA_URL = re.compile(r"\s*data:[^,]*;\s*base64\s*,", re.IGNORECASE)


@dataclass(frozen=True)
class ModelPackage:
    """What travels with a version, so that it loads without this repository.

    `code` is the Python package that runs it, a copy of this project's: its module `serve` has the `load` and the
    `predict` that `publish` calls. `artifacts` are the files and folders handed to `load` by name, `requirements` the
    pip requirements, and `example` is a post to try it with.
    """

    code: Path
    artifacts: Mapping[str, Path]
    requirements: Sequence[str]
    example: Row


def set_pyfunc_model(
    load: Callable[[Mapping[str, str]], State], predict: Callable[[State, list[Row], bool], list[Answer]]
) -> None:
    """Make the file that calls this an MLflow model: tables of image and text in, tables of tones out.

    A `UserError` becomes an `MlflowException`, which programs that load a version know. MLflow's server answers one of
    `predict` with status 400 and the message.

    Args:
        load: makes what `predict` needs from the paths of the package's artifacts.
        predict: answers posts, in their order; the last argument says whether a post may lack its caption.
    """
    import mlflow.models
    import pandas as pd
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
    from mlflow.pyfunc import PythonModel, PythonModelContext

    class ServingError(MlflowException):  # type: ignore[misc]
        # MLflow's server puts a print of the whole table before the message of an error.
        @property
        def message(self) -> str:
            return str(self.args[0])

        @message.setter
        def message(self, _: str) -> None:
            pass

    @contextmanager
    def refusing() -> Iterator[None]:
        try:
            yield
        except UserError as refusal:
            raise ServingError(str(refusal), error_code=INVALID_PARAMETER_VALUE) from refusal

    class Published(PythonModel):  # type: ignore[misc]
        def load_context(self, context: PythonModelContext) -> None:
            with refusing():
                self.state = load(context.artifacts)

        def predict(
            self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
        ) -> pd.DataFrame:
            with refusing():
                return _answers(predict(self.state, _rows(model_input), bool((params or {}).get(HALVES))))

    mlflow.models.set_model(Published())


def save_package(folder: Path, package: ModelPackage, run_id: str, model_id: str) -> None:
    """Write a package in the layout of MLflow's models, with its code under a name of its own."""
    import mlflow.pyfunc
    from mlflow.models import Model

    with TemporaryDirectory() as place:
        name = vendor(package.code, Path(place), _VENDORED)
        entry = Path(place) / _ENTRY_FILE
        entry.write_text(_ENTRY.format(name=name), encoding="utf-8")
        with _importable(Path(place), name):
            mlflow.pyfunc.save_model(
                path=str(folder),
                python_model=str(entry),
                code_paths=[str(Path(place) / name)],
                artifacts={key: str(path) for key, path in package.artifacts.items()},
                # Given, for else MLflow would find them out by running the model.
                pip_requirements=list(package.requirements),
                signature=_signature(),
                input_example=table_of([package.example]),
                mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
            )


@contextmanager
def _importable(folder: Path, name: str) -> Iterator[None]:
    """Let MLflow import a package from `folder`, as it does once on saving; none of its modules stays loaded."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for module in set(sys.modules) - before:
            if module.split(".")[0] == name:
                del sys.modules[module]


def artifacts_in(folder: Path) -> dict[str, str]:
    """The paths of a saved package's artifacts by name, as `load` of `publish` is given them.

    Raises:
        UserError: the folder holds no such package.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        flavor = Model.load(str(folder)).flavors["python_function"]
        return {name: str(folder / entry["path"]) for name, entry in flavor["artifacts"].items()}
    except (MlflowException, KeyError, OSError) as error:
        raise UserError(f"{folder} holds no model version: {' '.join(str(error).split())}") from error


def code_package(folder: Path) -> str:
    """The name of the package of code in a saved package's folder `code`.

    Raises:
        UserError: there is not exactly one.
    """
    names = sorted(path.parent.name for path in (folder / "code").glob("*/__init__.py"))
    if len(names) != 1:
        raise UserError(f"{folder / 'code'} holds {len(names)} packages of code, and a version has one")
    return names[0]


def table_of(rows: Sequence[Row]) -> "DataFrame":
    """Posts as the table that a loaded version reads."""
    from pandas import DataFrame

    return DataFrame(rows, columns=["image", "text"])


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    # As `binary`, MLflow would decode base64 in two of its four JSON formats alone, and read data: URLs as base64.
    return ModelSignature(
        params=ParamSchema([ParamSpec(HALVES, "boolean", default=False)]),
        inputs=Schema([ColSpec(AnyType(), "image"), ColSpec("string", "text")]),
        outputs=Schema([ColSpec("string", "label"), *(ColSpec("double", tone) for tone in TONES)]),
    )


def _rows(table: "DataFrame") -> list[Row]:
    pairs = enumerate(zip(table["image"], table["text"], strict=True), start=1)
    return [(_content(number, image), _text(number, text)) for number, (image, text) in pairs]


def _content(number: int, image: object) -> bytes:
    """The content of a picture: bytes as they are; a string is base64, by itself or in a data: URL."""
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, str):
        url = _DATA_URL.match(image)
        code = unquote(image[url.end() :]) if url else image
        try:
            return b64decode("".join(code.split()), validate=True)
        except (binascii.Error, ValueError):
            pass
    raise UserError(f"post {number}: an image is bytes, or a string of base64, alone or in a data: URL")


def _text(number: int, text: object) -> str:
    if not isinstance(text, str):
        raise UserError(f"post {number}: a text is a string")
    return text


def _answers(answers: Sequence[Answer]) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(answers, columns=["label", *TONES])
