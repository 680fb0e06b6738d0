"""The models at five sizes, with random weights, which cost as much time as trained ones.

tiny         the model of `scale: tiny`: one second per training, to check that a benchmark runs
medium       about 40M parameters and a vocabulary of 2,048. The language model's head is about 6% of its body, as in
             the real checkpoints. Figures on CPUs are quoted for this size.
medium-336   medium with images of 336 pixels, for models in LLaVA's format: 576 image tokens of about 646, the share
             of the published checkpoints, where medium has 64 of about 135
medium-32k   medium with a vocabulary of 32,064, whose head outweighs the narrow body
full         the published dimensions in bfloat16, built on the GPU, which it needs
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.core.errors import UserError
from src.core.labels import TONE_LABELS
from src.core.outputs import PretrainedWeights
from src.modeling import tiny
from src.modeling.base import ToneModel
from src.modeling.llava_format import IMAGE_TOKEN
from src.models.catalog import model_class, resolve_checkpoint
from src.training.workspace import load_model

LARGE_IMAGES = "medium-336"
SIZES = ("tiny", "medium", LARGE_IMAGES, "medium-32k", "full")
VOCABULARY = {"medium": 2048, LARGE_IMAGES: 2048, "medium-32k": 32_064}
GPU = "cuda"

Changes = Mapping[str, Any]

# Half of the range that keeps the variance of activations through random layers (`src.modeling.tiny`), which is about
# transformers' own 0.02. At the full range, float32 rounding grows to about 1e-5 of the loss within two epochs.
_VISION_384 = {
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "initializer_range": 0.5 * 384**-0.5,
}
_VISION_14 = {"image_size": 112, "patch_size": 14}
_LLAMA_512 = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 1376,
    "max_position_embeddings": 2048,
    "initializer_range": 0.5 * 512**-0.5,
}
_LLAVA = {
    "vision_config": {**_VISION_384, **_VISION_14, "num_hidden_layers": 10},
    "image_seq_length": 64,
    "initializer_range": 0.5 * 512**-0.5,
}
_TOWER_512 = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8}
MEDIUM: Mapping[str, Changes] = {
    "llava": {**_LLAVA, "text_config": _LLAMA_512},
    "tinyllava": {**_LLAVA, "text_config": {**_LLAMA_512, "num_key_value_heads": 2}},
    "smol": {**_LLAVA, "text_config": {**_LLAMA_512, "num_key_value_heads": 2}},
    # The vision tower takes 0.45 times the operations of the language model's step, like ViT-g beside OPT-2.7B.
    "blip2": {
        "vision_config": {
            "hidden_size": 512,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
            "num_hidden_layers": 8,
            "initializer_range": 0.5 * 512**-0.5,
            **_VISION_14,
        },
        "qformer_config": {
            "hidden_size": 384,
            "encoder_hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "initializer_range": 0.5 * 384**-0.5,
        },
        "text_config": {
            "hidden_size": 512,
            "word_embed_proj_dim": 512,
            "ffn_dim": 2048,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "init_std": 0.5 * 512**-0.5,
        },
        "num_query_tokens": 32,
    },
    # Half the layers of ViT-B/32 and of its text tower, at their widths. 49 patches, as ViT-B/32 has at 224 pixels.
    "clip": {
        "vision_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "image_size": 112,
            "patch_size": 16,
        },
        "text_config": _TOWER_512,
        "projection_dim": 512,
    },
}


_LLAVA_336: Changes = {"vision_config": {"image_size": 336}, "image_seq_length": 576}


@dataclass(frozen=True)
class Sized:
    """A model at one size."""

    name: str
    size: str
    # Holds the tokenizer and the processor, and below size full the weights.
    checkpoint: PretrainedWeights

    def load(self) -> ToneModel:
        """Return the project's model, on the device and in the precision that the commands use."""
        if self.size != "full":
            return load_model(self.name, self.checkpoint, TONE_LABELS)
        kind = model_class(self.name)
        processors = kind.load_processors(self.checkpoint.source)
        side = kind.image_side(kind.published_config())
        model = kind(_full(self.name, processors[0]), processors[0], _with_side(processors[1], side), self.checkpoint)
        return model.to(GPU)

    def backbone(self) -> Any:
        """Return the transformers model with the same weights, loaded as its documentation says."""
        kind = model_class(self.name)
        if self.size == "full":
            return _full(self.name, kind.load_processors(self.checkpoint.source)[0])
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        return kind.architecture().from_pretrained(self.checkpoint.source, dtype=dtype, attn_implementation="sdpa")


def make(name: str, size: str, folder: Path, captions: Sequence[str]) -> Sized:
    """Write the files of a model at a size to `folder`. The tokenizer is trained on `captions`.

    Raises:
        UserError: the size is full and there is no GPU, or it is of LLaVA's format and the model is not.
    """
    if size == LARGE_IMAGES and "image_seq_length" not in MEDIUM[name]:
        raise UserError(f"size {size} is for models in LLaVA's format: at medium {name} has as many image tokens")
    if size == "full" and not torch.cuda.is_available():
        raise UserError("size full needs a GPU that torch can see: run medium here")
    checkpoint = resolve_checkpoint(name, "tiny", folder / "tiny", captions)
    if size in VOCABULARY:
        checkpoint = _medium(name, size, Path(checkpoint.source), folder / size)
    if size == "full":
        checkpoint = PretrainedWeights(checkpoint.source, f"random-{tiny.SEED}", "full")
    return Sized(name, size, checkpoint)


def describe(model: ToneModel) -> dict[str, int]:
    """Return the number of weights: in all, and in the language model's head if the model has one."""
    head = getattr(model, "vocabulary_head", None)
    total = sum(weight.numel() for weight in model.backbone.parameters())
    return {"parameters": total, **({"head_parameters": head.weight.numel()} if head is not None else {})}


def _medium(name: str, size: str, source: Path, folder: Path) -> PretrainedWeights:
    kind = model_class(name)
    tokenizer, image_processor = kind.load_processors(str(source))
    # A few captions have few words, and a checkpoint is refused if its tokenizer lacks half of the vocabulary.
    tokenizer.add_tokens([f"<unused-{number}>" for number in range(len(tokenizer), VOCABULARY[size])])
    kind_of_config = kind.architecture().config_class
    small = kind_of_config.from_pretrained(source).to_dict()
    medium = _merged(MEDIUM[name], _LLAVA_336) if size == LARGE_IMAGES else MEDIUM[name]
    changes = _merged(medium, {"text_config": {**MEDIUM[name]["text_config"], "vocab_size": VOCABULARY[size]}})
    config = kind_of_config.from_dict(_merged(small, changes))
    side = kind.image_side(config)
    tiny.save(folder, lambda: _built(name, config), tokenizer, _with_side(image_processor, side))
    return PretrainedWeights.of_folder(folder, "tiny")


def _full(name: str, tokenizer: Any) -> Any:
    config = model_class(name).published_config()
    _fit_tokens_and_dropout(config, tokenizer)
    with torch.random.fork_rng(), torch.device(GPU), _default_dtype(torch.bfloat16):
        torch.manual_seed(tiny.SEED)
        return _built(name, config)


def _built(name: str, config: Any) -> Any:
    backbone = model_class(name).architecture()(config)
    if hasattr(backbone, "query_tokens"):
        # transformers initialises BLIP-2's queries to zero, so all queries would give the same output.
        nn.init.normal_(backbone.query_tokens)
    return backbone


def _fit_tokens_and_dropout(config: Any, tokenizer: Any) -> None:
    """Fit a published configuration to another tokenizer, and set the base's dropout to 0."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    config.text_config.update({name: getattr(tokenizer, name) for name in names})
    if IMAGE_TOKEN in tokenizer.get_vocab():
        config.image_token_index = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    for part in (config.text_config, getattr(config, "qformer_config", None)):
        for dropout in ("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"):
            if hasattr(part, dropout):
                setattr(part, dropout, 0.0)


def _with_side(image_processor: Any, side: int) -> Any:
    names = [name for name in ("size", "crop_size") if getattr(image_processor, name, None)]
    changes = {name: dict.fromkeys(dict(getattr(image_processor, name)), side) for name in names}
    return type(image_processor).from_dict({**image_processor.to_dict(), **changes})


def _merged(base: Changes, changes: Changes) -> dict[str, Any]:
    nested = {key: _merged(base[key], value) for key, value in changes.items() if isinstance(value, Mapping)}
    return {**base, **changes, **nested}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
