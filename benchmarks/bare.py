"""The champion by transformers and peft alone, any number of posts at a time: what a competent user writes.

It is loaded from an exported folder as that folder's model card says. Captions are padded on the left, so that a
language model's answer is read at the last position of every row.

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

from src.core.config_parser import build
from src.core.files import read_json
from src.core.training_config import TrainingConfig
from src.models.catalog import model_class
from src.registry.contract import Contract, read_contract
from src.registry.pyfunc import Row
from src.training.adapter import ClassifierHead

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Bare:
    """A loaded model, its processor, and how logits are read out of it."""

    contract: Contract
    model: Any
    processor: Any
    head: nn.Module | None
    words: Sequence[int]

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row]) -> Tensor:
        """logits_BK of posts."""
        images = [Image.open(BytesIO(image)).convert("RGB") for image, _ in rows]
        texts, options = [text for _, text in rows], {"return_tensors": "pt", "padding": True}
        if self.contract.model == "clip":
            return self._towers(self.processor(images=images, text=texts, truncation=True, max_length=77, **options))
        prompts = [self.contract.prompt.format(caption=text) for text in texts]
        inputs = self.processor(images=images, text=prompts, padding_side="left", **options)
        return self._blip2(inputs) if self.contract.model == "blip2" else self._llava(inputs)

    def _towers(self, inputs: Inputs) -> Tensor:
        image_BD = self.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        text_BD = self.model.get_text_features(**texts).pooler_output
        return self._read(torch.cat([image_BD, text_BD], dim=-1))

    def _llava(self, inputs: Inputs) -> Tensor:
        found = self.model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=self.head is not None)
        return self._words(found.logits) if self.head is None else self._read(found.hidden_states[-1][:, -1])

    def _blip2(self, inputs: Inputs) -> Tensor:
        image_BPD = self.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        text_BTD = self.model.get_input_embeddings()(inputs["input_ids"])
        seen_BP = torch.ones(image_BPD.shape[:2], dtype=torch.long)
        asked = {
            "inputs_embeds": torch.cat([image_BPD, text_BTD], dim=1),
            "attention_mask": torch.cat([seen_BP, inputs["attention_mask"]], dim=1),
            "use_cache": False,
        }
        if self.head is None:
            return self._words(self.model.language_model(**asked, logits_to_keep=1).logits)
        return self._read(self.model.language_model.model(**asked).last_hidden_state[:, -1])

    def _words(self, logits_BTV: Tensor) -> Tensor:
        return logits_BTV[:, -1, list(self.words)].float()

    def _read(self, pooled_BD: Tensor) -> Tensor:
        assert self.head is not None
        logits_BK: Tensor = self.head(pooled_BD.float())
        return logits_BK


def load(folder: Path) -> Bare:
    """The model in an exported folder, its adapter apart."""
    contract, adapter = read_contract(folder), read_json(folder / "adapter_config.json")
    carried = folder / adapter["base_model_name_or_path"]
    source = carried if carried.is_dir() else adapter["base_model_name_or_path"]
    load_base: Callable[..., Any] = model_class(contract.model).architecture().from_pretrained
    base = load_base(source, revision=adapter["revision"], dtype=contract.dtype)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    words = processor.tokenizer([f"{contract.prompt} {tone}" for tone in contract.labels])["input_ids"]
    with warnings.catch_warnings():
        # peft 0.21 asks for a name that transformers 5.23 has begun to rename.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = PeftModel.from_pretrained(base, folder).eval()
    return Bare(contract, model, processor, _head(contract, folder), [ids[-1] for ids in words])


def _head(contract: Contract, folder: Path) -> nn.Module | None:
    settings = build(TrainingConfig, contract.settings, "the contract's settings")
    if settings.readout == "verbalizer":
        return None
    weights = load_file(folder / "head.safetensors")
    head = ClassifierHead(len(weights["0.weight"]), settings).eval()
    head.load_state_dict(weights)
    return head
