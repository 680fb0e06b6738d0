"""The list of models. A new one is one file here, with a class `Model`, and one line below."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import unknown
from src.core.files import folder_digest

if TYPE_CHECKING:
    from src.modeling.base import Checkpoint, ToneModel

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


def resolve(name: str, scale: str, folder: Path, captions: Sequence[str]) -> "Checkpoint":
    """Where a model's weights are: the Hub's pinned ones, or tiny ones written to `folder` now."""
    from src.modeling.base import Checkpoint

    kind = model_class(name)
    if scale == "full":
        return Checkpoint(kind.spec.checkpoint, kind.spec.revision, scale)
    kind.make_tiny(folder, captions)
    return Checkpoint(str(folder), folder_digest(folder), scale)
