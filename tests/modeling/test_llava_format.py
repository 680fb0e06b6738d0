"""Covers: LLaVA's format with the language models and vision towers that checkpoints have."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from src.core.config import CheckpointParams
from src.core.errors import UserError
from src.core.labels import TONE_LABELS, TONES
from src.core.outputs import PretrainedWeights
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling import tiny
from src.modeling.language import LanguageToneModel
from src.models.catalog import resolve_checkpoint
from src.models.tinyllava import Model
from src.training.adapter import fresh_adapter
from src.training.batching import collate
from tests.hub import published_state

SIDE = 56
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 64**-0.5}
LANGUAGE = {**SHAPE, "intermediate_size": 128, "num_key_value_heads": 2}
LANGUAGE_MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2Config, {}),
}
VISION = {**SHAPE, "image_size": SIDE, "patch_size": 14}
CROPPED = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
# Configuration, image processor, and what the LLaVA configuration says of the states that it reads.
TOWERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "clip": (CLIPVisionConfig(**VISION, intermediate_size=128), CLIPImageProcessorPil(**CROPPED), {}),
    "siglip": (
        SiglipVisionConfig(**VISION, intermediate_size=128, vision_use_head=False),
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        {"vision_feature_select_strategy": "full", "vision_feature_layer": -1},
    ),
    # Its positions are those of larger images.
    "dinov2": (
        Dinov2Config(**{**VISION, "image_size": 2 * SIDE}, mlp_ratio=2),
        BitImageProcessorPil(size={"shortest_edge": SIDE + 8}, crop_size=CROPPED["crop_size"]),
        {"vision_feature_layer": [-2, -1]},
    ),
}
LORA = TrainingConfig(readout="verbalizer", rank=4, alpha=8, dropout=0.0, lr=0.003, adapter_layers="last-1")


def write_checkpoint(
    folder: Path, language: str, tower: str, *, begin: bool = True, tied: bool = False, **changes: Any
) -> Path:
    """Write a small checkpoint of these two models, with changes in the language model's configuration."""
    prompt = Model.prompt_for(TONE_LABELS)
    prompts = [prompt.format(caption=caption) for caption in ("so happy today", "so sad")]
    tokenizer = tiny.train_tokenizer(
        prompts, "<s>" if begin else "", "</s>", "<pad>", tiny.answers(TONE_LABELS), extra=["<image>"]
    )
    config_class, settings = LANGUAGE_MODELS[language]
    text = {**LANGUAGE, **settings, "vocab_size": len(tokenizer), "tie_word_embeddings": tied, **changes}
    vision, image_processor, states = TOWERS[tower]
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=config_class(**text).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=64**-0.5,
        **states,
    )
    tiny.save(folder, lambda: LlavaForConditionalGeneration(config), tokenizer, image_processor)
    return folder


def load(folder: Path) -> Model:
    return Model.load(PretrainedWeights(str(folder), "x", "tiny"), torch.device("cpu"), torch.float32)


def plain_logits(model: LanguageToneModel, folder: Path, post: Post, caption: str) -> Tensor:
    """Return the logits of the tones' words that transformers computes, with its own processor."""
    processor = model.transformers_usage().processor
    text = model.prompt.format(caption=caption)
    backbone = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(text=text, images=open_image(post.image), return_tensors="pt")
    words = model.tokenizer.convert_tokens_to_ids([f"Ġ{tone}" for tone in TONES])
    assert isinstance(words, list)
    with torch.no_grad():
        return backbone(**inputs).logits[:, -1, words]  # type: ignore[no-any-return]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("language", "tower"), list(product(LANGUAGE_MODELS, TOWERS)))
def test_pairs_agree_with_transformers(language: str, tower: str, posts: list[Post], tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "pair", language, tower, begin=language == "llama", tied=language == "qwen2")
    model = load(folder)
    captions = ["so sad", "a long day " * 8]
    inputs = collate(model.preprocess([open_image(post.image) for post in posts[:2]], captions))
    with fresh_adapter(model, LORA, seed=1), torch.no_grad():
        cached = model(model.encode(inputs))
        close(cached, model(inputs))
    with fresh_adapter(model, replace(LORA, adapter_positions="text"), seed=1), torch.no_grad():
        close(model(model.encode(inputs)), cached)
        close(model(inputs), cached)
    theirs = [plain_logits(model, folder, post, caption) for post, caption in zip(posts[:2], captions, strict=True)]
    close(cached, torch.cat(theirs))
    assert (cached[0] - cached[1]).abs().max() > 1e-3


# llava-hf/llava-interleave-qwen-0.5b-hf, as transformers' convert_llava_weights_to_hf.py writes it: the configurations
# of Qwen1.5-0.5B-Chat and of SigLIP so400m with a patch of 14, and an image token behind Qwen's own.
INTERLEAVE: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "text_config": {
        "architectures": ["Qwen2ForCausalLM"],
        "max_window_layers": 21,
        "model_type": "qwen2",
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        **LANGUAGE,
        "num_key_value_heads": 4,
    },
    "vision_config": {
        **VISION,
        "intermediate_size": 128,
        "model_type": "siglip_vision_model",
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}


@pytest.fixture
def interleave(tmp_path: Path) -> Path:
    """Write a checkpoint like the published one, small, and with a vocabulary that is padded to a multiple of 64."""
    folder = write_checkpoint(tmp_path / "interleave", "qwen2", "siglip", begin=False, tied=True)
    tokenizer, _ = Model.load_processors(str(folder))
    config = {**INTERLEAVE, "image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    size = -(-len(tokenizer) // 64) * 64
    config["text_config"] = {**INTERLEAVE["text_config"], "vocab_size": size}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    backbone = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(folder))
    save_file(published_state("llava", backbone), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("has_head", [False, True])
def test_interleave_loads_by_published_names(has_head: bool, interleave: Path, posts: list[Post]) -> None:
    state = load_file(interleave / "model.safetensors")
    names = {"language_model.model.layers.0.self_attn.q_proj.bias", "multi_modal_projector.linear_1.weight"}
    assert names < set(state)
    head = state.pop("language_model.lm_head.weight", state["language_model.model.embed_tokens.weight"].clone())
    if has_head:
        state["language_model.lm_head.weight"] = head
    save_file(state, interleave / "model.safetensors", metadata={"format": "pt"})
    model = load(interleave)
    assert model.opening_ids() == model.tokenizer("USER: ")["input_ids"]
    model.readout = model.verbalizer_readout()
    with torch.no_grad():
        ours = model(collate(model.preprocess([open_image(posts[0].image)], ["so sad"])))
    close(ours, plain_logits(model, interleave, posts[0], "so sad"))


def write_config(folder: Path, changes: Mapping[str, Any]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def narrow_window(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    write_config(folder, {"text_config": {**text, "sliding_window": 300}})


def other_image_token(folder: Path) -> None:
    write_config(folder, {"image_token_index": 1})


def no_image_token(folder: Path) -> None:
    tiny.train_tokenizer(["so sad"], "<s>", "</s>", "<pad>", []).save_pretrained(folder)


def several_crops(folder: Path) -> None:
    LlavaNextImageProcessorPil(**CROPPED).save_pretrained(folder)


def unknown_image_processor(folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_processor_type": "OwnImageProcessor"}))


def proportions_kept(folder: Path) -> None:
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, do_center_crop=False).save_pretrained(folder)


def newline_of_anyres(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({**state, "image_newline": torch.zeros(64)}, folder / "model.safetensors", metadata={"format": "pt"})


def projector_without_second_layer(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in state.items() if "linear_2" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (narrow_window, "sliding_window of 300"),
        (other_image_token, "image_token_index"),
        (no_image_token, "image_token_index"),
        (several_crops, "LlavaNextImageProcessor"),
        (unknown_image_processor, "image processor"),
        (proportions_kept, "crop_size"),
        (newline_of_anyres, "image_newline"),
        (projector_without_second_layer, "multi_modal_projector.linear_2"),
    ],
)
def test_checkpoints_that_do_not_fit(change: Callable[[Path], None], part: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "mistral", "mistral", "clip")
    load(folder)
    change(folder)
    with pytest.raises(UserError, match=part) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_chat_template_is_not_needed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "plain", "llama", "clip")
    assert not (folder / "chat_template.jinja").exists()
    assert load(folder).tokenizer.chat_template is None


def test_answer_follows_line_end_without_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(write_checkpoint(tmp_path / "plain", "llama", "clip"))
    vocabulary = model.tokenizer.get_vocab()
    assert model.word_ids() == [vocabulary[f"Ġ{tone}"] for tone in TONES]
    monkeypatch.setattr(Model, "spec", replace(Model.spec, prompt="<image>{caption}\nASSISTANT\n"))
    with pytest.raises(UserError, match="one token"):  # this tokenizer knows the words behind a space alone
        model.word_ids()


def test_joined_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that holds the prompt's end and the answer's start is no answer."""
    model = load(write_checkpoint(tmp_path / "plain", "llama", "clip"))
    ids = {"": [5, 6], "negative": [5, 7, 8], "neutral": [5, 7, 9], "positive": [5, 7, 10]}

    def tokenize(texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [next(ids[word] for word in (*TONES, "") if text.endswith(word)) for text in texts]}

    monkeypatch.setattr(model, "tokenizer", tokenize)
    with pytest.raises(UserError, match="prompt before it"):
        model.word_ids()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"text_config": {"model_type": "mixtral"}}, "text_config is mixtral"),
        ({"text_config": {"model_type": "qwen2_moe"}}, "text_config is qwen2_moe"),
        ({"vision_config": {"model_type": "siglip2_vision_model"}}, "vision_config is siglip2_vision_model"),
        ({"model_type": "llava_next"}, "architecture is llava_next"),
    ],
)
def test_other_architectures_are_named(changes: dict[str, Any], part: str, interleave: Path) -> None:
    given = CheckpointParams(folder=str(interleave))
    assert resolve_checkpoint("tinyllava", "full", Path("unused"), [], given).is_local
    write_config(interleave, changes)
    with pytest.raises(UserError, match=part) as error:
        resolve_checkpoint("tinyllava", "full", Path("unused"), [], given)
    assert "\n" not in str(error.value)
