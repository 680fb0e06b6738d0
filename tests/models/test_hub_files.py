"""Covers: models loaded from the checkpoints' own files, with two layers a tower and random weights.

The results are compared with transformers alone.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.blip_2.processing_blip_2 import Blip2Processor
from transformers.models.clip.processing_clip import CLIPProcessor
from transformers.models.llava.processing_llava import LlavaProcessor

from src.core.labels import TONES
from src.core.records import Post
from src.data.encodings import decode_caption
from src.data.images import open_image
from src.data.mvsa import survey
from src.modeling.base import ToneModel
from src.modeling.language import LanguageToneModel
from src.models.catalog import model_class, resolve_checkpoint
from src.training.batching import collate
from tests.hub import HUB_MODELS, INDEX, fetch_models, other_requests, published_state, repository_folder, write_weights

pytestmark = [pytest.mark.hub, pytest.mark.slow]

TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
OPT = {"ffn_dim": 128, "word_embed_proj_dim": 64, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
SMALL: dict[str, dict[str, dict[str, int]]] = {
    "clip": {"text_config": TOWER, "vision_config": TOWER},
    "blip2": {"vision_config": TOWER, "qformer_config": {**TOWER, "encoder_hidden_size": 64}, "text_config": OPT},
    "llava": {"vision_config": TOWER, "text_config": TOWER},
    "tinyllava": {"vision_config": TOWER, "text_config": {**TOWER, "num_key_value_heads": 2}},
}
PROCESSORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "clip": (CLIPProcessor, {}),
    "blip2": (Blip2Processor, {}),
    "llava": (LlavaProcessor, {}),
    # This checkpoint has no processor_config.json.
    "tinyllava": (
        LlavaProcessor,
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
}
LANGUAGE = ("blip2", "llava", "tinyllava")
# The number of image embeddings that the language model reads, and the token that stands for each.
IMAGE_TOKENS = {"blip2": (32, 50265), "llava": (576, 32000), "tinyllava": (576, 32000)}
WORDS = {"blip2": [2430, 7974, 1313], "llava": [8178, 21104, 6374], "tinyllava": [8178, 21104, 6374]}
CAPTIONS = [
    "",
    "so happy today #blessed",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{GRINNING FACE} http://t.co/x " * 5,
]


def write_checkpoint(name: str, hub_files: Path, root: Path) -> None:
    """Write a small checkpoint: the Hub's own files, but for the sizes in its configuration, and random weights."""
    model_type = model_class(name)
    folder = repository_folder(root, name)
    shutil.copytree(hub_files / model_type.spec.checkpoint.split("/")[1], folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    config = json.loads((folder / "config.json").read_text())
    for part, sizes in SMALL[name].items():
        config[part] = {**config[part], **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    backbone = model_type.architecture()(AutoConfig.from_pretrained(folder))
    if name == "blip2":
        nn.init.normal_(backbone.query_tokens)  # zero queries would all give the same result
    write_weights(name, backbone, folder)


@pytest.fixture(scope="module")
def hub_cache(hub_files: Path, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the Hub's cache after all four models were loaded from a fake Hub, and the requests of that."""
    root, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("home")
    for name in HUB_MODELS:
        write_checkpoint(name, hub_files, root)
    requests, threads = fetch_models(root, home, HUB_MODELS, repo_root)
    assert set(threads) <= {"MainThread", "tqdm_monitor"}
    return home / "hub", requests


@dataclass(frozen=True)
class LoadedPair:
    """A model as `scale: full` loads it, and the objects that transformers loads from the same commit."""

    model: ToneModel
    backbone: Any
    processor: Any


@pytest.fixture(scope="module")
def load(hub_cache: tuple[Path, list[str]]) -> Iterator[Callable[[str], LoadedPair]]:
    """Return a function that loads a model from the cache alone, and only once."""

    @cache
    def loaded(name: str) -> LoadedPair:
        model_type, (processor, words) = model_class(name), PROCESSORS[name]
        commit = {"revision": model_type.spec.revision}
        return LoadedPair(
            model_type.load(resolve_checkpoint(name, "full", Path("unused"), []), torch.device("cpu"), torch.float32),
            model_type.architecture().from_pretrained(model_type.spec.checkpoint, dtype=torch.float32, **commit).eval(),
            processor.from_pretrained(model_type.spec.checkpoint, backend="pil", **commit, **words),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache[0]))
        yield loaded


@pytest.fixture(params=HUB_MODELS)
def loaded(request: pytest.FixtureRequest, load: Callable[[str], LoadedPair]) -> LoadedPair:
    return load(request.param)


@pytest.fixture(params=LANGUAGE)
def language(request: pytest.FixtureRequest, load: Callable[[str], LoadedPair]) -> LoadedPair:
    return load(request.param)


@pytest.fixture(scope="module")
def images(posts: list[Post]) -> list[Image]:
    opened = [open_image(post.image) for post in posts[:2]]
    return [*opened, opened[0].resize((500, 130))]


def processed(loaded: LoadedPair, caption: str, image: Image) -> Any:
    """Return the inputs that transformers' processor makes of a post."""
    return loaded.processor(text=loaded.model.prompt.format(caption=caption), images=image, return_tensors="pt")


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def count(model: ToneModel, text: str) -> int:
    """Return the number of tokens of a text, without special tokens."""
    return len(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


# The files


def test_only_pinned_commits_were_requested(hub_cache: tuple[Path, list[str]]) -> None:
    assert other_requests(hub_cache[1], HUB_MODELS) == []


@pytest.mark.parametrize("name", LANGUAGE)
def test_weight_names_match_hub_index(name: str, hub_files: Path, load: Callable[[str], LoadedPair]) -> None:
    index = json.loads((hub_files / model_class(name).spec.checkpoint.split("/")[1] / INDEX).read_text())
    first = {key for key in index["weight_map"] if all(int(n) < 2 for n in re.findall(r"layers?\.(\d+)\.", key))}
    names = set(published_state(name, load(name).backbone))
    assert names - first == ({"language_model.lm_head.weight"} if name == "blip2" else set())
    assert first <= names


# Against plain transformers


def test_pixels_equal_plain_processor(loaded: LoadedPair, images: list[Image]) -> None:
    model, plain = loaded.model, loaded.processor.image_processor
    pixels = torch.stack([row["pixels"] for row in model.preprocess(images, [""] * len(images))])
    whole = plain(images, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, whole.to(torch.uint8))
    torch.testing.assert_close(
        model.normalize(pixels), plain(images, return_tensors="pt")["pixel_values"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("caption", CAPTIONS)
def test_tokens_equal_plain_processor(language: LoadedPair, caption: str, images: list[Image]) -> None:
    model = language.model
    assert isinstance(model, LanguageToneModel)
    number, token = IMAGE_TOKENS[model.spec.name]
    (ids,) = processed(language, caption, images[0])["input_ids"].tolist()
    assert ids == [*model.opening_ids(), *[token] * number, *model.token_ids([caption])[0]]


def test_word_ids_are_known_tokens(language: LoadedPair) -> None:
    assert isinstance(language.model, LanguageToneModel)
    assert language.model.word_ids() == WORDS[language.model.spec.name]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_logits_equal_plain_forward(language: LoadedPair, caption: str, images: list[Image]) -> None:
    model, words = language.model, WORDS[language.model.spec.name]
    model.readout = model.verbalizer_readout()
    with torch.no_grad():
        ours = model(collate(model.preprocess(images, [caption] * len(images))))
        theirs = [language.backbone(**processed(language, caption, image)).logits[:, -1, words] for image in images]
    close(ours, torch.cat(theirs))
    assert len({tuple(row) for row in ours.tolist()}) == len(images)


def test_clip_agrees_with_plain_transformers(load: Callable[[str], LoadedPair], images: list[Image]) -> None:
    clip = load("clip")
    model = clip.model
    words = {"images": images, "return_tensors": "pt", "padding": True, "truncation": True}
    prompts = clip.processor(text=[f"a photo with a {tone} tone" for tone in TONES], **words)
    posts = clip.processor(text=CAPTIONS, **words)
    rows = model.preprocess(images, CAPTIONS)
    for row, ids, mask in zip(rows, posts["input_ids"], posts["attention_mask"], strict=True):
        assert torch.equal(row["tokens"], ids[mask.bool()])
    inputs = collate(rows)
    model.readout = model.verbalizer_readout()
    with torch.no_grad():
        close(model(inputs), clip.backbone(**prompts).logits_per_image)
        theirs, (image_BD, text_BD) = clip.backbone(**posts), model.forward_pooled(inputs)["pooled"].chunk(2, dim=-1)
    close(nn.functional.normalize(image_BD, dim=-1), theirs.image_embeds)
    close(nn.functional.normalize(text_BD, dim=-1), theirs.text_embeds)


# Captions


def test_special_tokens_in_any_case(loaded: LoadedPair) -> None:
    model = loaded.model
    specials = model.tokenizer.added_tokens_decoder
    (bare,) = model.token_ids([""])
    for token in specials.values():
        for spelling in (token.content, token.content.upper(), token.content.title(), token.content.swapcase()):
            assert model.strip_special_tokens(f"so{spelling}happy") == "so happy"
            (ids,) = model.token_ids([f"so{spelling}happy {spelling}"])
            assert [index for index in ids if index in specials] == [index for index in bare if index in specials]


# A character that the vocabulary lacks becomes one token for each byte. Llama's tokenizer adds a space in front.
EMOJI, WIDE = "\N{GRINNING FACE}", "\N{FULLWIDTH LATIN SMALL LETTER X}"
CUT = {
    "blip2": {EMOJI: (128, 256), WIDE: (85, 255), "word ": (256, 256)},
    "llava": {EMOJI: (63, 253), WIDE: (85, 256), "word ": (256, 256)},
    "tinyllava": {EMOJI: (63, 253), WIDE: (85, 256), "word ": (256, 256)},
}


@pytest.fixture
def warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, loaded: LoadedPair
) -> list[logging.LogRecord]:
    """Return the warnings of transformers. It warns once for each tokenizer, so its memory is cleared."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    loaded.model.tokenizer.deprecation_warnings.clear()
    return caplog.records


@pytest.mark.parametrize(("piece", "number"), [(EMOJI, 300), (WIDE, 300), ("word ", 3000)], ids=["emoji", "x", "word"])
def test_long_caption_gives_no_warning(
    loaded: LoadedPair, piece: str, number: int, warnings: list[logging.LogRecord]
) -> None:
    model, caption = loaded.model, piece * number
    (ids,) = model.token_ids([caption])
    assert not warnings
    if model.spec.name == "clip":  # whose tokenizer cuts
        assert (model.strip_special_tokens(caption), len(ids)) == (caption, 77)
        return
    pieces, tokens = CUT[model.spec.name][piece]
    assert model.strip_special_tokens(caption) == (piece * pieces).rstrip()
    assert count(model, model.strip_special_tokens(caption)) == tokens
    assert len(ids) <= model.spec.tokens.prompt + 256


# The lengths that a dry run counts with


def test_dry_run_prompt_lengths(loaded: LoadedPair) -> None:
    model = loaded.model
    assert len(model.token_ids([""])[0]) == model.spec.tokens.prompt
    assert model.spec.tokens.opening == (len(model.opening_ids()) if isinstance(model, LanguageToneModel) else 0)


@pytest.mark.real_data
def test_dry_run_caption_length(loaded: LoadedPair, real_mvsa: Path) -> None:
    data = survey(real_mvsa)
    captions = [decode_caption((data.root / "data" / f"{post}.txt").read_bytes())[0] for post in data.pairs]
    assert len(captions) == 4869
    lengths = [count(loaded.model, loaded.model.strip_special_tokens(caption)) for caption in captions]
    assert np.percentile(lengths, 95) == loaded.model.spec.tokens.caption
