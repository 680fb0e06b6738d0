"""Model versions as MLflow's pyfunc models: saved from code without pickles, and loaded as tables in, tables out.

Clients send and get tables, so a request holds many posts. A request cannot name files or addresses to read.
"""

import binascii
import re
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from src.core.errors import UserError
from src.registry.vendoring import vendor

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from pandas import DataFrame

State = TypeVar("State")
# The bytes of a post's image, and its caption.
Row = tuple[bytes, str]
# The parameter of a prediction that allows empty captions.
HALVES = "halves"

# The prefix of the package name of a version's code; a digest follows.
_VENDORED_PREFIX = "mvsa_tuner"
# The file that MLflow runs when it loads a version.
_ENTRY_FILE = "model.py"
_ENTRY = """from {name}.serve import load, predict
from {name}.registry.pyfunc import set_pyfunc_model

set_pyfunc_model(load, predict)
"""
_DATA_URL = re.compile(r"\s*data:[^,]*;\s*base64\s*,", re.IGNORECASE)


@dataclass(frozen=True)
class Answers:
    """A version's answers to posts, in their order."""

    labels: tuple[str, ...]
    # A row for each post, in the order of the labels.
    probabilities: Sequence[Sequence[float]]

    def table(self) -> "DataFrame":
        """Return the answers as a loaded version's table: the predicted label, and a column for each label."""
        from pandas import DataFrame

        rows = [(self.labels[row.index(max(row))], *row) for row in self.probabilities]
        return DataFrame(rows, columns=["label", *self.labels])


@dataclass(frozen=True)
class ModelPackage:
    """The content of a version, with which it loads without this repository."""

    # The Python package whose module `serve` has the functions `load` and `predict` for `set_pyfunc_model`.
    code: Path
    # Files and folders by name, the argument of `load`.
    artifacts: Mapping[str, Path]
    # In pip's format.
    requirements: Sequence[str]
    # The labels in the order of the logits.
    labels: tuple[str, ...]
    # A post for MLflow's input example.
    example: Row


def set_pyfunc_model(
    load: Callable[[Mapping[str, str]], State], predict: Callable[[State, list[Row], bool], Answers]
) -> None:
    """Make the file that calls this function an MLflow model: tables of image and text in, tables of labels out.

    A `UserError` becomes an `MlflowException`, which programs that load a version expect. MLflow's server answers an
    error of `predict` with status 400 and its message.

    Args:
        load: returns the state for `predict`, given the paths of the package's artifacts.
        predict: answers posts in their order; its last argument says whether captions may be empty.
    """
    import mlflow.models
    import pandas as pd
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
    from mlflow.pyfunc import PythonModel, PythonModelContext

    class ServingError(MlflowException):  # type: ignore[misc]
        # MLflow's server would put a print of the whole table before the message of an error.
        @property
        def message(self) -> str:
            return str(self.args[0])

        @message.setter
        def message(self, _: str) -> None:
            pass

    @contextmanager
    def user_errors_as_serving_errors() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise ServingError(str(error), error_code=INVALID_PARAMETER_VALUE) from error

    class ToneClassifier(PythonModel):  # type: ignore[misc]
        def load_context(self, context: PythonModelContext) -> None:
            # MLflow's server answers each request in a thread of its own, and the members of an ensemble share a base.
            self.turn = threading.Lock()
            with user_errors_as_serving_errors():
                self.state = load(context.artifacts)

        def predict(
            self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
        ) -> pd.DataFrame:
            with user_errors_as_serving_errors(), self.turn:
                return predict(self.state, _rows_of(model_input), bool((params or {}).get(HALVES))).table()

    mlflow.models.set_model(ToneClassifier())


def save_package(folder: Path, package: ModelPackage, run_id: str, model_id: str) -> None:
    """Write a package in the layout of MLflow's models, with its code under a unique name (see `vendoring`).

    Raises:
        UserError: two artifacts have one name.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    names = [path.name for path in package.artifacts.values()]
    if len(set(names)) < len(names):
        # MLflow would put both into one folder.
        raise UserError(f"two folders of a version have one name ({', '.join(names)}): rename the folder of its base")
    with TemporaryDirectory() as temporary:
        name = vendor(package.code, Path(temporary), _VENDORED_PREFIX)
        entry = Path(temporary) / _ENTRY_FILE
        entry.write_text(_ENTRY.format(name=name), encoding="utf-8")
        with _importable(Path(temporary), name):
            mlflow.pyfunc.save_model(
                path=str(folder),
                python_model=str(entry),
                code_paths=[str(Path(temporary) / name)],
                artifacts={key: str(path) for key, path in package.artifacts.items()},
                # Without this list MLflow would load the model in another process to infer the requirements.
                pip_requirements=list(package.requirements),
                signature=_signature(package.labels),
                input_example=table_of([package.example]),
                mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
            )


@contextmanager
def _importable(folder: Path, name: str) -> Iterator[None]:
    """Make a package in `folder` importable while MLflow saves it, and unload its modules afterwards."""
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
    """Return the paths of a saved package's artifacts by name.

    Raises:
        UserError: the folder is not a saved package.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        flavor = Model.load(str(folder)).flavors["python_function"]
        return {name: str(folder / entry["path"]) for name, entry in flavor["artifacts"].items()}
    except (MlflowException, KeyError, TypeError, OSError) as error:
        raise UserError(f"{folder} holds no model version: {' '.join(str(error).split())}") from error


def code_package(folder: Path) -> str:
    """Return the name of the Python package in a saved package's folder `code`.

    Raises:
        UserError: the folder does not hold exactly one package.
    """
    names = sorted(path.parent.name for path in (folder / "code").glob("*/__init__.py"))
    if len(names) != 1:
        raise UserError(f"{folder / 'code'} holds {len(names)} packages of code, and a version has one")
    return names[0]


def table_of(rows: Sequence[Row]) -> "DataFrame":
    """Return posts as the table that a loaded version reads."""
    from pandas import DataFrame

    return DataFrame(rows, columns=["image", "text"])


def _signature(labels: Sequence[str]) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    # For the type `binary` MLflow decodes base64 in only two of its four JSON formats, and misreads data: URLs.
    return ModelSignature(
        params=ParamSchema([ParamSpec(HALVES, "boolean", default=False)]),
        inputs=Schema([ColSpec(AnyType(), "image"), ColSpec("string", "text")]),
        outputs=Schema([ColSpec("string", "label"), *(ColSpec("double", label) for label in labels)]),
    )


def _rows_of(table: "DataFrame") -> list[Row]:
    pairs = enumerate(zip(table["image"], table["text"], strict=True), start=1)
    return [(_image_bytes(number, image), _text(number, text)) for number, (image, text) in pairs]


def _image_bytes(number: int, image: object) -> bytes:
    """Return the bytes of an image that is given as bytes or as base64, alone or in a data: URL."""
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, str):
        url = _DATA_URL.match(image)
        encoded = unquote(image[url.end() :]) if url else image
        try:
            return b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            pass
    raise UserError(f"post {number}: an image is bytes, or a string of base64, alone or in a data: URL")


def _text(number: int, text: object) -> str:
    if not isinstance(text, str):
        raise UserError(f"post {number}: a text is a string")
    return text
