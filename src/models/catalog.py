"""The list of models. A new model is one file in this folder, with a class `Model`, and one line below."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.config import CheckpointParams, Params
from src.core.errors import UsageError, unknown
from src.core.labels import TONE_LABELS, Labels
from src.core.outputs import PretrainedWeights
from src.core.paths import PARAMS

if TYPE_CHECKING:
    from src.modeling.base import ToneModel

MODELS = (
    "clip",
    "blip2",
    "llava",
    "tinyllava",
    "smol",
)
# The models whose own file builds the published checkpoint. Those of the others are on the Hub.
BUILT = ("smol",)


def model_class(name: str) -> "type[ToneModel]":
    """Import and return the class of a model.

    Raises:
        UsageError: the catalog has no such model; the message lists its models.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model_type: type[ToneModel] = import_module(f".{name}", __package__).Model
    return model_type


def needs_hub(params: Params, model: str) -> bool:
    """Return whether the checkpoint that params.yaml asks for is on the Hub."""
    given = params.checkpoint(model)
    return params.scale == "full" and (given.hub is not None if given else model not in BUILT)


def resolve_checkpoint(
    name: str,
    scale: str,
    folder: Path,
    captions: Sequence[str],
    given: CheckpointParams | None = None,
    labels: Labels = TONE_LABELS,
) -> PretrainedWeights:
    """Return the checkpoint of a model: the published or the given one, or a tiny one that is written to `folder`.

    Args:
        name: the model's name in the catalog.
        scale: `full` or `tiny`, as in params.yaml.
        folder: the folder for a tiny checkpoint; an existing one is replaced.
        captions: the texts that the tokenizer of a tiny checkpoint is trained on.
        given: the checkpoint that params.yaml gives in place of the published one; None for the published one.
        labels: their words are tokens of a tiny checkpoint's tokenizer.

    Raises:
        UsageError: a checkpoint is given, and the scale is tiny.
        UserError: the given checkpoint is missing, or is not of the model's architecture; or the published one cannot
            be built.
    """
    model_type = model_class(name)
    if scale == "tiny":
        if given:
            raise UsageError(
                f"checkpoints.{name} in {PARAMS} needs scale: full, and the scale is tiny: change one of the two"
            )
        model_type.make_tiny(folder, captions, labels)
        return PretrainedWeights.of_folder(folder, scale)
    if given:
        from src.modeling.checkpoints import resolve_given

        return resolve_given(model_type, given)
    return model_type.published_checkpoint()
