"""The list of models. A new model is one file in this folder, with a class `Model`, and one line below."""

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
    """Import and return the class of a model.

    Raises:
        UsageError: the catalog has no such model; the message lists its models.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model_type: type[ToneModel] = import_module(f".{name}", __package__).Model
    return model_type


def resolve_checkpoint(name: str, scale: str, folder: Path, captions: Sequence[str]) -> PretrainedWeights:
    """Return the checkpoint of a model: the pinned one of the Hub, or a tiny one that is written to `folder`.

    Args:
        name: the model's name in the catalog.
        scale: `full` or `tiny`, as in params.yaml.
        folder: the folder for a tiny checkpoint; an existing one is replaced.
        captions: the texts that the tokenizer of a tiny checkpoint is trained on.
    """
    model_type = model_class(name)
    if scale == "full":
        return PretrainedWeights(model_type.spec.checkpoint, model_type.spec.revision, scale)
    model_type.make_tiny(folder, captions)
    return PretrainedWeights(str(folder), folder_digest(folder), scale)
