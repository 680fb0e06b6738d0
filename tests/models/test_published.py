"""The checkpoints as their publishers describe them: sizes, and the names that their weights bear on the Hub."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from src.models.base import Checkpoint, ToneModel
from src.models.catalog import MODELS, model_class
from src.models.language import LanguageToneModel
from src.sizing.outline import META, WordTokenizer, blank_inputs, outline

CPU = torch.device("cpu")


# Sizes


@pytest.mark.parametrize(
    ("name", "parameters", "side", "num_image"),
    [
        ("clip", 151_277_313, 224, 0),
        ("blip2", 3_744_761_856, 224, 32),
        ("llava", 7_063_427_072, 336, 576),
        ("tinyllava", 1_410_113_536, 336, 576),
    ],
)
def test_an_outline_has_the_published_size_and_no_weights(
    name: str, parameters: int, side: int, num_image: int
) -> None:
    model = outline(model_class(name), torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    assert {weight.device for weight in model.parameters()} == {META}
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not model.trainable_names()
    assert model.checkpoint == Checkpoint(model.spec.checkpoint, model.spec.revision, "full")
    inputs = blank_inputs(model, caption_tokens=20)
    assert inputs["pixels"].shape == (1, 3, side, side)
    if isinstance(model, LanguageToneModel):
        for segment in model.segments[:-1]:
            inputs[segment.writes] = model.run_segment(segment, inputs)
        assert inputs["image"].shape == (1, num_image, model.width)


@pytest.mark.parametrize("name", MODELS)
def test_a_captions_tokens_are_counted_on_top_of_the_prompts(name: str) -> None:
    model = outline(model_class(name), torch.bfloat16)
    none, some, many = (blank_inputs(model, count)["tokens"].shape[1] for count in (0, 12, 400))
    assert some == none + 12
    assert many == (model.backbone.config.text_config.max_position_embeddings if name == "clip" else none + 256)


@pytest.mark.parametrize("name", ["blip2", "llava", "tinyllava"])
def test_the_stand_in_tokenizer_knows_the_picture_and_the_tones(name: str) -> None:
    model = outline(model_class(name), torch.bfloat16)
    assert isinstance(model, LanguageToneModel)
    assert bool(model.prefix_ids()) == ("<image>" in model.spec.prompt)
    assert model.word_readout()(torch.empty(2, model.width, device=META)).shape == (2, 3)


def test_the_stand_in_tokenizer_counts_words_and_marks() -> None:
    tokenizer = WordTokenizer(image_id=7)
    first, second = tokenizer(["USER: <image>\nso, so", "so"])["input_ids"]
    assert len(first) == 1 + len(["USER", ":", "<image>", "so", ",", "so"])
    assert first[3] == 7
    assert first[4] == first[6] == second[1]
    assert tokenizer("a bc")["offset_mapping"] == [(0, 1), (2, 4)]


# Names

# How a module of transformers 5.23 is called in the published file; what is not here is called the same.
# LLaVA: the names that convert_llava_weights_to_hf.py of transformers made when these checkpoints were (commit
# 01080c6), KEYS_TO_MODIFY_MAPPING; the vision tower had a `vision_model` of its own until 5.6 (transformers 44431).
LLAVA_NAMES = {
    r"^lm_head": "language_model.lm_head",
    r"^model\.language_model": "language_model.model",
    r"^model\.vision_tower": "vision_tower.vision_model",
    r"^model\.multi_modal_projector": "multi_modal_projector",
}
RENAMED = {"clip": {}, "blip2": {}, "llava": LLAVA_NAMES, "tinyllava": LLAVA_NAMES}

# Names that the sources give, to hold the table above to them.
# BLIP-2: convert_blip_2_original_to_pytorch.py of transformers (commit 0038185), create_rename_keys and below it.
# CLIP: the two buffers that the file has besides the weights are listed in transformers' pull request 45385.
SOURCES = {
    "clip": {
        "logit_scale",
        "text_model.embeddings.position_ids",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
        "text_projection.weight",
        "vision_model.embeddings.position_ids",
        "vision_model.encoder.layers.1.self_attn.v_proj.bias",
        "vision_model.pre_layrnorm.weight",
        "visual_projection.weight",
    },
    "blip2": {
        "language_model.lm_head.weight",
        "language_model.model.decoder.layers.0.self_attn.q_proj.weight",
        "language_projection.weight",
        "qformer.encoder.layer.0.attention.attention.query.weight",
        "qformer.encoder.layer.0.crossattention.output.dense.bias",
        "qformer.encoder.layer.1.output_query.LayerNorm.weight",
        "qformer.layernorm.weight",
        "query_tokens",
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding",
        "vision_model.encoder.layers.1.self_attn.projection.weight",
        "vision_model.encoder.layers.1.self_attn.qkv.bias",
        "vision_model.post_layernorm.weight",
    },
    "llava": {
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.o_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.bias",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.pre_layrnorm.weight",
    },
}
SOURCES["tinyllava"] = SOURCES["llava"]


def published_state(model: ToneModel) -> dict[str, Tensor]:
    """A model's weights under the names that they bear on the Hub."""
    state = {}
    for own, weight in model.backbone.state_dict().items():
        name = own
        for pattern, replacement in RENAMED[model.spec.name].items():
            name = re.sub(pattern, replacement, name)
        state[name] = weight.clone()
    if model.spec.name == "clip":
        config = model.backbone.config
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        state["text_model.embeddings.position_ids"] = torch.arange(config.text_config.max_position_embeddings)[None]
        state["vision_model.embeddings.position_ids"] = torch.arange(patches + 1)[None]
    return state


@pytest.mark.parametrize("name", MODELS)
def test_weights_under_their_published_names_are_found_and_none_is_left_over(
    name: str, tiny_model: Callable[[str], ToneModel], tmp_path: Path
) -> None:
    model = tiny_model(name)
    folder = Path(shutil.copytree(model.checkpoint.source, tmp_path / "published"))
    state = published_state(model)
    assert SOURCES[name] <= state.keys()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    # It would refuse missing and unexpected names.
    loaded = type(model).load(Checkpoint(str(folder), "x", "tiny"), CPU, torch.float32)
    expected, found = model.backbone.state_dict(), loaded.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_blip2_is_whole_without_the_head_that_it_shares_with_its_embedding(
    tiny_model: Callable[[str], ToneModel],
) -> None:
    # safetensors keeps what two names share under one of them, and later versions keep another than earlier ones did.
    model = tiny_model("blip2")
    saved = load_file(Path(model.checkpoint.source) / "model.safetensors")
    assert published_state(model).keys() - saved.keys() == {"language_model.lm_head.weight"}
