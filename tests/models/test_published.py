"""Covers: the published sizes of the checkpoints, and the names of their weights on the Hub."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.core.labels import TONE_LABELS
from src.core.outputs import PretrainedWeights
from src.modeling.base import ToneModel
from src.modeling.language import LanguageToneModel
from src.models.catalog import model_class
from src.sizing.meta_model import META, MeasuredTokenizer, blank_inputs, build_on_meta
from tests.hub import HUB_MODELS, published_state

CPU = torch.device("cpu")


# Sizes


@pytest.mark.parametrize(
    ("name", "parameters", "side", "num_image"),
    [
        ("clip", 151_277_313, 224, 0),
        ("blip2", 3_744_761_856, 224, 32),
        ("llava", 7_063_427_072, 336, 576),
        ("tinyllava", 1_410_113_536, 336, 576),
        ("smol", 157_126_272, 112, 64),
    ],
)
def test_meta_model_has_published_size(name: str, parameters: int, side: int, num_image: int) -> None:
    model = build_on_meta(model_class(name), torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    assert {weight.device for weight in model.parameters()} == {META}
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not model.trainable_names()
    assert model.checkpoint == PretrainedWeights(model.spec.checkpoint, model.spec.revision, "full")
    inputs = blank_inputs(model, caption_tokens=20)
    assert inputs["pixels"].shape == (1, 3, side, side)
    if isinstance(model, LanguageToneModel):
        for segment in model.segments[:-1]:
            inputs[segment.writes] = model.run_segment(segment, inputs)
        assert inputs["image"].shape == (1, num_image, model.width)


@pytest.mark.parametrize(
    ("name", "opening", "prompt", "caption"),
    [("clip", 0, 2, 46), ("blip2", 0, 27, 51), ("llava", 5, 35, 58), ("tinyllava", 5, 30, 58), ("smol", 3, 34, 55)],
)
def test_meta_model_reads_measured_lengths(name: str, opening: int, prompt: int, caption: int) -> None:
    model = build_on_meta(model_class(name), torch.bfloat16)
    none, some, many, usual = (blank_inputs(model, count)["tokens"].shape[1] for count in (0, 12, 400, None))
    assert (none, some, usual) == (prompt, prompt + 12, prompt + caption)
    assert many == (77 if name == "clip" else prompt + 256)
    if isinstance(model, LanguageToneModel):
        assert len(model.opening_ids()) == opening
        assert len(set(model.word_ids())) == 3


def test_measured_tokenizer_counts_caption_words() -> None:
    spec = model_class("llava").spec
    prompt = model_class("llava").prompt_for(TONE_LABELS)
    tokenizer = MeasuredTokenizer(spec, prompt, image_id=7)
    bare, prompted, answered = (
        tokenizer(text)["input_ids"] for text in ("so, so", prompt.format(caption="so, so"), prompt + " so")
    )
    assert len(bare) == len(prompted) == 5 + 1 + 35 + 2
    assert prompted[:6] == [0, 0, 0, 0, 0, 7]
    assert answered[-1] == bare[-1]
    words = tokenizer("a bc", add_special_tokens=False)
    assert (len(words["input_ids"]), words["offset_mapping"]) == (2, [(0, 1), (2, 4)])


# Names

# Published names, with their sources.
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


@pytest.mark.parametrize("name", HUB_MODELS)
def test_published_weight_names_load_completely(
    name: str, tiny_model: Callable[[str], ToneModel], tmp_path: Path
) -> None:
    model = tiny_model(name)
    folder = Path(shutil.copytree(model.checkpoint.source, tmp_path / "published"))
    state = published_state(model.spec.name, model.backbone)
    assert SOURCES[name] <= state.keys()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    # `load` raises an error for missing and for unexpected names.
    loaded = type(model).load(PretrainedWeights.of_folder(folder, "tiny"), CPU, torch.float32)
    expected = model.backbone.state_dict()
    actual = loaded.backbone.state_dict()
    assert actual.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(actual[key], expected[key])] == []


def test_blip2_saves_shared_head_once(
    tiny_model: Callable[[str], ToneModel],
) -> None:
    # safetensors saves a shared tensor under one of its names. Which name it is has changed between versions.
    model = tiny_model("blip2")
    saved = load_file(Path(model.checkpoint.source) / "model.safetensors")
    assert published_state(model.spec.name, model.backbone).keys() - saved.keys() == {"language_model.lm_head.weight"}
