"""How plain transformers computes what a `ToneModel` does: Python for a model card, where it is run as it stands."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TransformersUsage:
    """What of that only the model's own file knows.

    The lines may use `model` (the backbone, perhaps in peft's wrapper), `inputs` (what the processor gives for one
    post), `contract`, and `head`, the weights of the readout by name.

    Attributes:
        processor: of transformers; makes the inputs of pictures and texts that the model itself makes.
        text: what it is called with besides the picture, from `caption`.
        lines: make `pooled`, pooled_BD, for a classifier; or `logits`, logits_BK, where the readout is the model's own.
        remarks: what the model does besides to captions, a sentence each.
    """

    processor: Any
    text: str
    lines: tuple[str, ...]
    remarks: tuple[str, ...] = ()
