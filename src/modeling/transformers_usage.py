"""The model-specific part of the Python in a model card, which computes a `ToneModel` with transformers alone."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TransformersUsage:
    """The parts of a model card's Python that only the model's own file knows.

    The card's script runs as it stands. Its lines may use `model` (the backbone, perhaps in peft's wrapper), `inputs`
    (the processor's result for one post), `contract`, and `head` (the weights of the readout by name).
    """

    # A processor of transformers that makes the same inputs as the model itself.
    processor: Any
    # The arguments of the processor besides the image, as Python that uses `caption`.
    text: str
    # Lines that compute `pooled` (pooled_BD) for a head, or `logits` (logits_BK) if the readout is the verbalizer; and
    # `pooled_image` (pooled_image_BI) for an image head.
    lines: tuple[str, ...]
    # Sentences about changes that the model makes to captions and the processor does not.
    remarks: tuple[str, ...] = ()
