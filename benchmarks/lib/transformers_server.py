"""A classifier of posts with transformers and peft alone, by the code of an exported version's model card.

Letters of tensor shapes: see `src.modeling.base`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from torch import Tensor
from transformers.models.auto.processing_auto import AutoProcessor

from src.registry.contract import Contract, read_contract
from src.registry.export import BASE_FOLDER
from src.registry.loading import LoadedVersion
from src.registry.model_card import LoadingSnippet
from src.registry.pyfunc import Row
from src.training.adapter import HEAD_FILE, IMAGE_HEAD_FILE


@dataclass(frozen=True)
class TransformersModel:
    """A loaded version: the card's lines for one post, and what they use by name."""

    # Of the exported folder: its golden posts are the images as the model reads them.
    contract: Contract
    code: CodeType
    names: Mapping[str, Any]

    @torch.inference_mode()
    def answer(self, row: Row) -> Tensor:
        """Return logits_1K of a post."""
        content, caption = row
        names = {**self.names, "image": Image.open(BytesIO(content)).convert("RGB"), "caption": caption}
        exec(self.code, names)  # noqa: S102 - lines of this repository's own models
        logits_1K: Tensor = names["logits"].float()
        return logits_1K


def load(loaded: LoadedVersion, snippet: LoadingSnippet, folder: Path) -> TransformersModel:
    """Load the model of an exported folder without merging its adapter.

    Args:
        loaded: the version that was exported.
        snippet: the parts of its card's code.
        folder: the exported folder.
    """
    weights = loaded.contract.checkpoint
    local = folder / BASE_FOLDER
    source, revision = (local, {}) if local.is_dir() else (weights.source, {"revision": weights.revision})
    model = type(loaded.model).architecture().from_pretrained(source, dtype=loaded.contract.dtype, **revision)
    with warnings.catch_warnings():
        # peft 0.21 uses a name that transformers 5.23 deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = PeftModel.from_pretrained(model, folder) if snippet.is_adapter else model
    heads = loaded.adapter.heads()
    readout = heads.get(HEAD_FILE)
    names = {
        "torch": torch,
        "Image": Image,
        "model": model.eval(),
        "processor": AutoProcessor.from_pretrained(folder, backend="pil"),
        "contract": {"prompt": loaded.contract.prompt},
        "head": dict(readout.named_buffers()) if readout else {},
        "classifier": readout,
        "image_head": heads.get(IMAGE_HEAD_FILE),
    }
    inputs = f'inputs = processor(images=image, {snippet.usage.text}, return_tensors="pt")'
    return TransformersModel(read_contract(folder), compile("\n".join([inputs, *snippet.lines]), "card", "exec"), names)
