"""The list of models. A new one is one file here, with a class `Model`, and one line below."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import unknown
from src.core.files import folder_digest
from src.core.outputs import PretrainedWeights

if TYPE_CHECKING:
    from src.modeling.base import ToneModel

MODELS = (
    "clip",
    "blip2",
    "llava",
    "tinyllava",
)


def model_class(name: str) -> "type[ToneModel]":
    """The class of a model of the catalog.

    Raises:
        UsageError: there is no such model; the message lists those there are.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    kind: type[ToneModel] = import_module(f".{name}", __package__).Model
    return kind


def resolve_checkpoint(name: str, scale: str, folder: Path, captions: Sequence[str]) -> PretrainedWeights:
    """Where a model's weights are: the Hub's pinned ones, or tiny ones written to `folder` now."""
    kind = model_class(name)
    if scale == "full":
        return PretrainedWeights(kind.spec.checkpoint, kind.spec.revision, scale)
    kind.make_tiny(folder, captions)
    return PretrainedWeights(str(folder), folder_digest(folder), scale)
