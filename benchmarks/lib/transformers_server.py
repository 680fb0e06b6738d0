"""A classifier of posts with transformers and peft alone, as a competent user writes it for an exported version.

It loads an exported folder as the folder's model card says. Captions are padded on the left, so the logits of a
language model stand at the last position of every row.

Letters of tensor shapes: see `src.modeling.base`.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.auto.processing_auto import AutoProcessor

from src.core.files import read_json
from src.models.catalog import model_class
from src.registry.contract import Contract, read_contract
from src.registry.pyfunc import Row
from src.training.adapter import ClassifierHead

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class TransformersModel:
    """A loaded version: the transformers model with its adapter, its processor, and its readout."""

    contract: Contract
    model: Any
    processor: Any
    # None with a verbalizer.
    head: nn.Module | None
    # Token ids of the tones' words, which the verbalizer scores.
    word_ids: Sequence[int]

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row]) -> Tensor:
        """Return logits_BK of posts."""
        images = [Image.open(BytesIO(image)).convert("RGB") for image, _ in rows]
        texts = [text for _, text in rows]
        options = {"return_tensors": "pt", "padding": True}
        if self.contract.model == "clip":
            return self._clip(self.processor(images=images, text=texts, truncation=True, max_length=77, **options))
        prompts = [self.contract.prompt.format(caption=text) for text in texts]
        inputs = self.processor(images=images, text=prompts, padding_side="left", **options)
        return self._blip2(inputs) if self.contract.model == "blip2" else self._llava(inputs)

    def _clip(self, inputs: Inputs) -> Tensor:
        image_BD = self.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        text_BD = self.model.get_text_features(**texts).pooler_output
        return self._apply_head(torch.cat([image_BD, text_BD], dim=-1))

    def _llava(self, inputs: Inputs) -> Tensor:
        output = self.model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=self.head is not None)
        if self.head is None:
            return self._score_words(output.logits)
        return self._apply_head(output.hidden_states[-1][:, -1])

    def _blip2(self, inputs: Inputs) -> Tensor:
        image_BPD = self.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        text_BTD = self.model.get_input_embeddings()(inputs["input_ids"])
        image_mask_BP = torch.ones(image_BPD.shape[:2], dtype=torch.long)
        decoder_inputs = {
            "inputs_embeds": torch.cat([image_BPD, text_BTD], dim=1),
            "attention_mask": torch.cat([image_mask_BP, inputs["attention_mask"]], dim=1),
            "use_cache": False,
        }
        if self.head is None:
            return self._score_words(self.model.language_model(**decoder_inputs, logits_to_keep=1).logits)
        return self._apply_head(self.model.language_model.model(**decoder_inputs).last_hidden_state[:, -1])

    def _score_words(self, logits_BTV: Tensor) -> Tensor:
        return logits_BTV[:, -1, list(self.word_ids)].float()

    def _apply_head(self, pooled_BD: Tensor) -> Tensor:
        assert self.head is not None
        logits_BK: Tensor = self.head(pooled_BD.float())
        return logits_BK


def load(folder: Path) -> TransformersModel:
    """Load the model of an exported folder without merging its adapter."""
    contract = read_contract(folder)
    adapter = read_json(folder / "adapter_config.json")
    exported_base = folder / adapter["base_model_name_or_path"]
    source = exported_base if exported_base.is_dir() else adapter["base_model_name_or_path"]
    load_base: Callable[..., Any] = model_class(contract.model).architecture().from_pretrained
    base = load_base(source, revision=adapter["revision"], dtype=contract.dtype)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    space = "" if contract.prompt.endswith("\n") else " "
    words = processor.tokenizer([f"{contract.prompt}{space}{tone}" for tone in contract.labels])["input_ids"]
    with warnings.catch_warnings():
        # peft 0.21 uses a name that transformers 5.23 deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = PeftModel.from_pretrained(base, folder).eval()
    return TransformersModel(contract, model, processor, _head(contract, folder), [ids[-1] for ids in words])


def _head(contract: Contract, folder: Path) -> nn.Module | None:
    settings = contract.settings
    if settings.readout == "verbalizer":
        return None
    weights = load_file(folder / "head.safetensors")
    head = ClassifierHead(len(weights["0.weight"]), settings, 3).eval()
    head.load_state_dict(weights)
    return head
