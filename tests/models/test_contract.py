"""Covers: the contract of `ToneModel`, for every model of the catalog and for another one that is added here."""

import logging
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import src.models
from src.core.errors import UsageError, UserError
from src.core.files import folder_digest
from src.core.labels import TONES
from src.core.outputs import PretrainedWeights
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling import tiny
from src.modeling.base import Features, ToneModel
from src.modeling.language import LanguageToneModel
from src.modeling.segments import INPUTS
from src.models import catalog
from src.models.catalog import BUILT, MODELS, model_class, resolve_checkpoint
from src.training import adapter as adapter_module
from src.training.adapter import ClassifierHead, fresh_adapter
from src.training.batching import collate
from src.training.cache import FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.inference import logits
from src.training.trainer import TrainingContext, fit

NAMES = (*MODELS, "toy")
WEIGHTS = "model.safetensors"
CPU = torch.device("cpu")
HEAD = TrainingConfig(readout="head", rank=0, alpha=1, dropout=0.0, lr=0.003)
LORA = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.0, lr=0.003, epochs=2, batch_size=8)

ODD_CAPTIONS = [
    "",
    " ",
    "so happy today",
    "x" * 10_000,
    "so happy " * 1_200,
    "\N{GRINNING FACE}" * 3_000,
    "<image> </s> <s> <pad> <|endoftext|> <|startoftext|>",
    "<image>" * 300,
    "{caption} {0} %s \0\n\t",
    "\N{RIGHT-TO-LEFT OVERRIDE}مرحبا",
]


@pytest.fixture(scope="module", autouse=True)
def one_more_model() -> Iterator[None]:
    """Add the toy model to the catalog, and `toy.py` to the models' folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "MODELS", NAMES)
        patch.setattr(src.models, "__path__", [*src.models.__path__, str(Path(__file__).parent)])
        yield
    sys.modules.pop("src.models.toy", None)


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], ToneModel]) -> ToneModel:
    return tiny_model(request.param)


def inputs_of(model: ToneModel, posts: Sequence[Post], captions: Sequence[str] | None = None) -> Features:
    images = [open_image(post.image) for post in posts]
    return collate(model.preprocess(images, captions or [post.caption for post in posts]))


def seeded_head(model: ToneModel) -> nn.Module:
    torch.manual_seed(1)
    return ClassifierHead(model.width, HEAD, 3).eval()


@contextmanager
def training(model: ToneModel, names: Sequence[str]) -> Iterator[None]:
    """Make these weights of the backbone trainable, and attach a head."""
    model.readout = seeded_head(model)
    for name, weight in model.backbone.named_parameters():
        weight.requires_grad_(name in names)
    yield
    model.requires_grad_(False).zero_grad(set_to_none=True)
    model.readout = None


def weights_in(model: ToneModel, prefixes: Sequence[str]) -> list[str]:
    return [name for name, _ in model.backbone.named_parameters() if name.startswith(tuple(prefixes))]


def weights_of(model: ToneModel, segment: str) -> list[str]:
    return weights_in(model, [prefix for step in model.segments if step.name == segment for prefix in step.modules])


@contextmanager
def working_lora(model: ToneModel) -> Iterator[adapter_module.Adapter]:
    """Attach an adapter that changes the logits; a fresh adapter does not."""
    with fresh_adapter(model, LORA, seed=3) as adapter:
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
        yield adapter


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# The checkpoint


def test_load_keeps_every_weight(model: ToneModel, tmp_path: Path) -> None:
    model.backbone.save_pretrained(tmp_path)
    original = load_file(Path(model.checkpoint.source) / WEIGHTS)
    saved = load_file(tmp_path / WEIGHTS)
    assert original.keys() == saved.keys()
    assert [name for name in original if not torch.equal(original[name], saved[name])] == []
    assert not model.trainable_names()
    assert not any(module.training for module in model.backbone.modules())


def test_loaded_model_knows_its_checkpoint(model: ToneModel) -> None:
    folder = Path(model.checkpoint.source)
    assert model.checkpoint == PretrainedWeights(str(folder), folder_digest(folder), "tiny", is_local=True)
    assert model.checkpoint.is_local


def drop_first(state: dict[str, Tensor]) -> None:
    del state[min(state)]


def drop_last(state: dict[str, Tensor]) -> None:
    del state[max(state)]


def add_one(state: dict[str, Tensor]) -> None:
    state["a.spare.weight"] = torch.zeros(2)


def widen_first(state: dict[str, Tensor]) -> None:
    name = min(name for name, weight in state.items() if weight.ndim == 2)
    state[name] = torch.cat([state[name], state[name]])


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (drop_first, "[12] missing keys"),  # smol's embeddings are its head, too
        (drop_last, "1 missing keys"),
        (add_one, "1 unexpected keys, such as a.spare.weight"),
        (widen_first, "1 mismatched keys"),
    ],
)
def test_weights_that_do_not_fit(
    model: ToneModel, tamper: Callable[[dict[str, Tensor]], None], fault: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model.checkpoint.source, tmp_path / "tampered"))
    state = load_file(folder / WEIGHTS)
    tamper(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"tampered: {fault}") as error:
        type(model).load(PretrainedWeights.of_folder(folder, "tiny"), CPU, torch.float32)
    assert "\n" not in str(error.value)


def test_damaged_weights_raise_user_error(model: ToneModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model.checkpoint.source, tmp_path / "damaged"))
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged cannot be loaded: ") as error:
        type(model).load(PretrainedWeights.of_folder(folder, "tiny"), CPU, torch.float32)
    assert "\n" not in str(error.value)


def test_weights_run_no_code(model: ToneModel, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.mkdir, (tmp_path / "run",)

    folder = Path(shutil.copytree(model.checkpoint.source, tmp_path / "pickled"))
    (folder / WEIGHTS).unlink()
    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors") as error:
        type(model).load(PretrainedWeights.of_folder(folder, "tiny"), CPU, torch.float32)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_missing_checkpoint_raises_user_error(model: ToneModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none cannot be loaded: ") as error:
        type(model).load(PretrainedWeights(str(tmp_path / "none"), "x", "tiny", is_local=True), CPU, torch.float32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_checkpoint_is_deterministic(name: str, tmp_path: Path) -> None:
    captions = ["a happy day", "a sad day"] * 20
    torch.manual_seed(1)
    first = resolve_checkpoint(name, "tiny", tmp_path / "first", captions)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = resolve_checkpoint(name, "tiny", tmp_path / "second", captions)
    assert first.revision == second.revision
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    # It replaces an existing folder with an equal one.
    assert resolve_checkpoint(name, "tiny", tmp_path / "first", captions) == first
    assert resolve_checkpoint(name, "tiny", tmp_path / "first", ["other words"] * 40).revision != first.revision


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BUILT])
def test_full_checkpoint_is_pinned_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    checkpoint = resolve_checkpoint(name, "full", tmp_path / "unused", ["a caption"])
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint.source)
    assert re.fullmatch(r"[0-9a-f]{40}", checkpoint.revision)
    assert not checkpoint.is_local
    assert not (tmp_path / "unused").exists()


def test_checkpoints_are_the_requested_ones() -> None:
    assert {name: model_class(name).spec.checkpoint for name in MODELS} == {
        "clip": "openai/clip-vit-base-patch32",
        "blip2": "Salesforce/blip2-opt-2.7b",
        "llava": "llava-hf/llava-1.5-7b-hf",
        "tinyllava": "bczhou/tiny-llava-v1-hf",
        "smol": "SmolLM2-135M-Instruct with DINOv2 ViT-S/14",
    }


@pytest.mark.parametrize(
    ("name", "hint"), [("blip", "did you mean 'blip2'?"), ("gpt", "known: blip2, clip, llava, smol, tinyllava, toy")]
)
def test_unknown_model_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        model_class(name)
    assert name in str(error.value)
    assert hint in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_model_name_equals_file_name(name: str) -> None:
    model_type = model_class(name)
    assert (model_type.spec.name, model_type.__module__) == (name, f"src.models.{name}")


# What goes in


def test_inputs_have_documented_shapes(model: ToneModel, posts: list[Post]) -> None:
    rows = model.preprocess([open_image(post.image) for post in posts[:3]], [post.caption for post in posts[:3]])
    assert len(rows) == 3
    for row in rows:
        assert tuple(row) == INPUTS
        assert (row["pixels"].dtype, row["pixels"].shape) == (torch.uint8, (3, tiny.IMAGE_SIDE, tiny.IMAGE_SIDE))
        assert (row["tokens"].dtype, row["tokens"].ndim) == (torch.int64, 1)
        assert (row["length"].shape, int(row["length"])) == ((), len(row["tokens"]))
        assert (row["has_caption"].dtype, row["has_caption"].shape) == (torch.bool, ())


def test_caption_of_spaces_is_none(model: ToneModel) -> None:
    rows = model.read_captions(["", " ", "\t \n", "sad", "!", "#"])
    assert [bool(row["has_caption"]) for row in rows] == [False] * 3 + [True] * 3


def test_pixels_equal_those_of_transformers(model: ToneModel, posts: list[Post]) -> None:
    images = [open_image(post.image) for post in posts[:6]]
    images.append(images[0].resize((40, 150)))
    pixels = torch.stack([row["pixels"] for row in model.preprocess(images, [""] * len(images))])
    assert pixels.float().std() > 10  # not all black
    close(model.normalize(pixels), model.image_processor(images, return_tensors="pt")["pixel_values"], atol=1e-6)


def test_preprocessing_digest_follows_image_processor(model: ToneModel, tiny_model: Callable[[str], ToneModel]) -> None:
    other = tiny_model(model.spec.name)
    assert other.preprocessing_digest() == model.preprocessing_digest()
    other.image_processor.image_mean = [0.5, 0.5, 0.5]
    assert other.preprocessing_digest() != model.preprocessing_digest()


def test_odd_captions_give_finite_logits(model: ToneModel, posts: list[Post]) -> None:
    model.readout = seeded_head(model)
    inputs = inputs_of(model, [posts[0]] * len(ODD_CAPTIONS), ODD_CAPTIONS)
    assert int(inputs["length"].max()) < 500
    with torch.no_grad():
        logits_BK = model(inputs)
    assert logits_BK.shape == (len(ODD_CAPTIONS), len(TONES))
    assert logits_BK.isfinite().all()


def specials_of(model: ToneModel) -> dict[int, str]:
    return {index: str(token) for index, token in model.tokenizer.added_tokens_decoder.items() if token.special}


def test_special_tokens_in_captions_are_gaps(model: ToneModel) -> None:
    without_token = model.token_ids(["so happy"])[0]
    specials = specials_of(model)
    for token in specials.values():
        with_token = model.token_ids([f"so{token}happy {token}"])[0]
        assert [index for index in with_token if index in specials] == [
            index for index in without_token if index in specials
        ]


def test_special_tokens_in_any_case(model: ToneModel) -> None:
    for token in specials_of(model).values():
        for spelling in (token, token.upper(), token.title(), token.swapcase()):
            assert model.strip_special_tokens(f"so{spelling}happy") == "so happy"


@pytest.mark.parametrize("name", ["blip2", "llava", "tinyllava", "smol"])
@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        # Of three bytes: the 256th token is the first byte of the 86th letter.
        ("\N{FULLWIDTH LATIN SMALL LETTER X}" * 300, 85),
        ("<" * 256, 256),
        ("<" * 257, 256),
    ],
)
def test_cut_captions_have_256_tokens(
    name: str, caption: str, kept: int, tiny_model: Callable[[str], ToneModel]
) -> None:
    model = tiny_model(name)
    assert model.strip_special_tokens(caption) == caption[:kept]
    assert len(model.tokenizer(caption[:kept], add_special_tokens=False)["input_ids"]) <= 256


@pytest.mark.parametrize("name", MODELS)
def test_long_caption_gives_no_warning(
    name: str,
    tiny_model: Callable[[str], ToneModel],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(name)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model.tokenizer.model_max_length = 512
    model.token_ids(["so happy " * 1_200])
    assert not caplog.records


def test_caption_after_special_token_matters(model: ToneModel, posts: list[Post]) -> None:
    model.readout = seeded_head(model)
    for token in specials_of(model).values():
        captions = [f"so {token} happy", f"so {token} sad"]
        with torch.no_grad():
            one, other = model(inputs_of(model, [posts[0]] * 2, captions))
        assert (one - other).abs().max() > 1e-4, token


# Where the frozen part ends

BOUNDARIES = {
    "clip": {
        "head": {"length", "has_caption", "pooled"},
        "lora": {"pixels", "tokens", "length", "has_caption"},
        "vision": {"pixels", "text", "length", "has_caption"},
        "text": {"tokens", "length", "has_caption", "image"},
    },
    "blip2": {
        "head": {"length", "has_caption", "pooled"},
        "lora": {"tokens", "length", "has_caption", "image"},
        "vision": {"pixels", "tokens", "length", "has_caption"},
        "qformer": {"tokens", "length", "has_caption", "vision"},
        "connector": {"tokens", "length", "has_caption", "queries"},
        "language": {"tokens", "length", "has_caption", "image"},
    },
    "llava": {
        "head": {"length", "has_caption", "pooled"},
        "lora": {"tokens", "length", "has_caption", "image"},
        "vision": {"pixels", "tokens", "length", "has_caption"},
        "connector": {"tokens", "length", "has_caption", "vision"},
        "language": {"tokens", "length", "has_caption", "image"},
    },
    "toy": {
        "head": {"length", "has_caption", "pooled"},
        "lora": {"image", "text", "length", "has_caption"},
        "vision": {"pixels", "text", "length", "has_caption"},
        "caption": {"tokens", "length", "has_caption", "image"},
        "mixer": {"image", "text", "length", "has_caption"},
    },
}
BOUNDARIES["tinyllava"] = BOUNDARIES["smol"] = BOUNDARIES["llava"]


@contextmanager
def boundary(model: ToneModel, name: str) -> Iterator[None]:
    if name == "lora":
        with working_lora(model):
            yield
    else:
        with training(model, [] if name == "head" else weights_of(model, name)):
            yield


@pytest.mark.parametrize(("name", "trained"), [(name, trained) for name in NAMES for trained in BOUNDARIES[name]])
def test_cached_and_uncached_results_are_equal(
    name: str, trained: str, tiny_model: Callable[[str], ToneModel], posts: list[Post]
) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, posts[:3])
    with boundary(model, trained):
        cached = model.encode(inputs)
        image = {"pooled_image"} if model.pools_image and "pixels" not in BOUNDARIES[name][trained] else set()
        assert cached.keys() == BOUNDARIES[name][trained] | image
        assert not any(value.requires_grad for value in cached.values())
        results = []
        for features in (cached, inputs):
            logits_BK = model(features)
            assert (logits_BK.shape, logits_BK.dtype) == ((3, len(TONES)), torch.float32)
            if trained != "head":
                logits_BK.square().sum().backward()
            named = {key: weight.grad for key, weight in model.backbone.named_parameters() if weight.requires_grad}
            results.append((logits_BK.detach(), named))
            model.zero_grad(set_to_none=True)
    (logits_BK, gradients), (expected_BK, wanted) = results
    close(logits_BK, expected_BK)
    assert {key for key, value in gradients.items() if value is None} == {k for k, v in wanted.items() if v is None}
    for key, value in gradients.items():
        if value is not None:
            torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-4)
    assert trained == "head" or any(value is not None and value.any() for value in gradients.values())


def test_every_segment_uses_its_modules(model: ToneModel, posts: list[Post]) -> None:
    """A segment names the modules that it computes with."""
    inputs = inputs_of(model, posts[:2])
    model.readout = seeded_head(model)
    with torch.no_grad():
        before = model(inputs)
        for segment in model.segments:
            names = set(weights_in(model, segment.modules))
            kept = {key: weight.clone() for key, weight in model.backbone.named_parameters() if key in names}
            for key, weight in model.backbone.named_parameters():
                if key in names:
                    weight.add_(torch.randn_like(weight))
            assert not names or (model(inputs) - before).abs().max() > 1e-4, segment.name
            for key, weight in model.backbone.named_parameters():
                if key in names:
                    weight.copy_(kept[key])


def test_weights_outside_segments_do_not_matter(model: ToneModel, posts: list[Post]) -> None:
    inputs = inputs_of(model, posts[:2])
    model.readout = seeded_head(model)
    prefixes = [prefix for segment in model.segments for prefix in segment.modules]
    known = set(weights_in(model, prefixes))
    with torch.no_grad():
        before = model(inputs)
        for key, weight in model.backbone.named_parameters():
            if key not in known:
                weight.add_(1.0)
        assert torch.equal(model(inputs), before)


@contextmanager
def watched(model: ToneModel) -> Iterator[set[str]]:
    """Collect the names of the backbone's modules with weights that run in the context."""
    ran: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.add(name)

    weighty = [
        (name, module) for name, module in model.backbone.named_modules() if any(True for _ in module.parameters())
    ]
    handles = [module.register_forward_hook(note(name)) for name, module in weighty]
    yield ran
    for handle in handles:
        handle.remove()


def test_encode_runs_frozen_modules_once(model: ToneModel, posts: list[Post]) -> None:
    inputs = inputs_of(model, posts[:2])
    names = [name for name, _ in model.backbone.named_parameters()]
    rng = random.Random(5)
    for chosen in [[], *(rng.sample(names, rng.choice((1, 1, 2, 5))) for _ in range(8))]:
        with training(model, chosen):
            with watched(model) as in_encode:
                features = model.encode(inputs)
            with watched(model) as in_forward, torch.no_grad():
                model(features)
            with watched(model) as in_all, torch.no_grad():
                model(inputs)
            close(model(features).detach(), model(inputs).detach())
            assert in_encode.isdisjoint(in_forward), chosen
            assert in_encode | in_forward == in_all, chosen
            assert in_encode.isdisjoint(name.rpartition(".")[0] for name in chosen), chosen
            for segment in model.frozen_segments():
                assert not [name for name in in_forward if name.startswith(segment.modules)], (chosen, segment.name)
            # The same by values: any change of the trained weights leaves the encoded features equal.
            with torch.no_grad():
                kept = [weight.clone() for weight in model.backbone.parameters() if weight.requires_grad]
                trained = [weight for weight in model.backbone.parameters() if weight.requires_grad]
                for weight in trained:
                    weight.add_(torch.randn_like(weight))
                again = model.encode(inputs)
                for weight, value in zip(trained, kept, strict=True):
                    weight.copy_(value)
            assert all(torch.equal(features[key], again[key]) for key in features), chosen


def test_frozen_model_runs_only_the_readout(model: ToneModel, posts: list[Post]) -> None:
    model.readout = seeded_head(model)
    features = model.encode(inputs_of(model, posts[:2]))
    assert features["pooled"].shape == (2, model.width)
    with watched(model) as ran:
        model(features)
    assert not ran


# What comes out


def test_logits_do_not_depend_on_batch(model: ToneModel, posts: list[Post]) -> None:
    chosen, captions = posts[:4], ["happy", "", "a long day " * 8, "sad"]
    with working_lora(model), torch.no_grad():
        model.eval()
        logits_BK = model(inputs_of(model, chosen, captions))
        for row, (post, caption) in enumerate(zip(chosen, captions, strict=True)):
            close(model(inputs_of(model, [post], [caption])), logits_BK[row : row + 1])


def test_image_and_caption_both_matter(model: ToneModel, posts: list[Post]) -> None:
    model.readout = seeded_head(model)
    by_label = {post.label: post for post in posts}
    one, other = by_label["positive"], by_label["negative"]
    captions = [one.caption, one.caption, other.caption]
    with torch.no_grad():
        both, image, caption = model(inputs_of(model, [one, other, one], captions))
    assert (both - image).abs().max() > 1e-3
    assert (both - caption).abs().max() > 1e-3


def test_verbalizer_scores_every_tone(model: ToneModel, posts: list[Post]) -> None:
    model.readout = model.verbalizer_readout()
    assert not list(model.readout.parameters())
    with torch.no_grad():
        logits_BK = model(inputs_of(model, posts[:4]))
    assert logits_BK.shape == (4, len(TONES))
    assert logits_BK.isfinite().all()
    assert all(len(set(row)) == len(TONES) for row in logits_BK.tolist())


@pytest.mark.parametrize("name", MODELS)
def test_checkpoint_needs_its_tokenizer(name: str, tiny_model: Callable[[str], ToneModel], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(name).checkpoint.source, tmp_path / "mute"))
    for file in folder.glob("*token*"):
        file.unlink()
    mute = PretrainedWeights(str(folder), folder_digest(folder), "full", is_local=True)
    with pytest.raises(UserError, match="mute"):
        model_class(name).load(mute, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", ["blip2", "llava", "tinyllava", "smol"])
def test_export_needs_words_of_one_token(
    name: str, tiny_model: Callable[[str], ToneModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(name)
    monkeypatch.setattr(tiny, "VOCABULARY", 270)
    model.tokenizer = tiny.train_tokenizer(["x"], "<s>", "</s>", "<pad>", [], extra=["<image>"])
    assert isinstance(model, LanguageToneModel)
    model.readout = model.verbalizer_readout()
    with pytest.raises(UserError, match=f"{name} cannot answer .* 'negative' is not one token"):
        model.transformers_usage()


def prompt_text(model: ToneModel, caption: str, num_images: int) -> str:
    return model.prompt.format(caption=caption).replace("<image>", "<image>" * num_images)


def tone_ids(model: ToneModel) -> list[int]:
    """Return the tokens of the three answers, computed by the tokenizer alone."""
    space = "" if model.prompt.endswith("\n") else " "
    rows = [model.tokenizer.encode(f"{space}{tone}", add_special_tokens=False) for tone in TONES]
    assert [len(row) for row in rows] == [1, 1, 1]
    return [row[0] for row in rows]


LONG = "so happy today " * 15


@pytest.mark.parametrize("name", ["llava", "tinyllava", "smol"])
@pytest.mark.parametrize("caption", ["so sad", "", LONG])
def test_llava_agrees_with_transformers(
    name: str, caption: str, tiny_model: Callable[[str], ToneModel], posts: list[Post]
) -> None:
    model = tiny_model(name)
    image = open_image(posts[0].image)
    num_patches = (tiny.IMAGE_SIDE // tiny.PATCH_SIDE) ** 2
    ids = model.tokenizer([prompt_text(model, caption, num_patches)], return_tensors="pt")
    assert int((ids["input_ids"] == model.backbone.config.image_token_id).sum()) == num_patches
    pixels = model.image_processor([image], return_tensors="pt")["pixel_values"]
    model.readout = model.verbalizer_readout()
    with torch.no_grad():
        theirs = model.backbone(**ids, pixel_values=pixels).logits[:, -1, tone_ids(model)]
        close(model(inputs_of(model, posts[:1], [caption])), theirs)


@pytest.mark.parametrize("caption", ["so sad", "", LONG])
def test_blip2_agrees_with_transformers(
    caption: str, tiny_model: Callable[[str], ToneModel], posts: list[Post]
) -> None:
    model = tiny_model("blip2")
    config = model.backbone.config
    config.image_token_index = placeholder = model.tokenizer.pad_token_id
    text = model.tokenizer([prompt_text(model, caption, 0)], return_tensors="pt")["input_ids"]
    ids = torch.cat([torch.full((1, config.num_query_tokens), placeholder), text], dim=1)
    pixels = model.image_processor([open_image(posts[0].image)], return_tensors="pt")["pixel_values"]
    model.readout = model.verbalizer_readout()
    with torch.no_grad():
        theirs = model.backbone(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
        close(model(inputs_of(model, posts[:1], [caption])), theirs.logits[:, -1, tone_ids(model)])


def test_clip_agrees_with_transformers(tiny_model: Callable[[str], ToneModel], posts: list[Post]) -> None:
    model = tiny_model("clip")
    pixels = model.image_processor([open_image(post.image) for post in posts[:3]], return_tensors="pt")["pixel_values"]
    prompts = [f"a photo with a {tone} tone" for tone in TONES]
    model.readout = model.verbalizer_readout()
    inputs = inputs_of(model, posts[:3])
    with torch.no_grad():
        zero_shot = model.backbone(**model.tokenizer(prompts, padding=True, return_tensors="pt"), pixel_values=pixels)
        close(model(inputs), zero_shot.logits_per_image)
        captions = model.tokenizer([post.caption for post in posts[:3]], padding=True, truncation=True, max_length=77)
        theirs = model.backbone(**captions.convert_to_tensors("pt"), pixel_values=pixels)
        pooled_BD = model.encode(inputs)["pooled"]
    halves = [nn.functional.normalize(half_BD, dim=-1) for half_BD in pooled_BD.chunk(2, dim=-1)]
    close(halves[0], theirs.image_embeds)
    close(halves[1], theirs.text_embeds)


@pytest.mark.parametrize("name", ["blip2", "llava", "tinyllava", "smol"])
def test_long_caption_keeps_question_and_image(
    name: str, tiny_model: Callable[[str], ToneModel], posts: list[Post]
) -> None:
    model = tiny_model(name)
    assert isinstance(model, LanguageToneModel)
    question = model.prompt.partition("{caption}")[2]
    widths: list[int] = []
    model.decoder.layers[0].register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    model.readout = seeded_head(model)
    for caption in ("x" * 10_000, "<image>" * 2_000, "\N{GRINNING FACE}" * 3_000):
        (ids,) = model.token_ids([caption])
        assert model.tokenizer.decode(ids).endswith(question)
        features = model.encode(inputs_of(model, posts[:1], [caption]))
        with torch.no_grad():
            model(features)
        num_image = {"blip2": 8}.get(name, 16)
        assert widths.pop() == len(model.opening_ids()) + num_image + len(ids)


# What LoRA adapts


def layers(prefix: str, count: int, projections: str) -> set[str]:
    return {f"{prefix}.{layer}.self_attn.{name}_proj" for layer in range(count) for name in projections}


TINY_TARGETS = {
    "clip": layers("text_model.encoder.layers", 2, "qv") | layers("vision_model.encoder.layers", 2, "qv"),
    "blip2": layers("language_model.model.decoder.layers", 2, "qv"),
    "llava": layers("model.language_model.layers", 3, "qkvo"),
    "tinyllava": layers("model.language_model.layers", 2, "qv"),
    "smol": layers("model.language_model.layers", 3, "qkvo"),
    "toy": {"mixer"},
}


def test_lora_adapts_only_its_targets(model: ToneModel) -> None:
    with fresh_adapter(model, LORA, seed=1) as adapter:
        assert len(adapter.modules()) == len(set(adapter.modules()))
        assert set(adapter.modules()) == TINY_TARGETS[model.spec.name]
        assert {name.rsplit(".", 3)[1] for name in model.trainable_names()} == {"lora_A", "lora_B"}


def test_letter_m_adapts_the_feed_forward_network(model: ToneModel) -> None:
    if "m" not in model.spec.projections:
        with (
            pytest.raises(UsageError, match="'m'"),
            fresh_adapter(model, replace(LORA, target_projections="m"), seed=1),
        ):
            pass
        return
    layers = {name.rsplit(".self_attn.", 1)[0] for name in TINY_TARGETS[model.spec.name]}
    linear = {name for name, module in model.backbone.named_modules() if isinstance(module, nn.Linear)}
    wanted = {name for name in linear if name.startswith(tuple(f"{layer}." for layer in layers))}
    with fresh_adapter(model, replace(LORA, target_projections="m"), seed=1) as adapter:
        assert set(adapter.modules()) == {name for name in wanted if ".self_attn." not in name}


def full_config(name: str) -> Any:
    """Return the configuration of the architecture at its published size."""
    from transformers.models.blip_2.configuration_blip_2 import Blip2Config
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llava.configuration_llava import LlavaConfig
    from transformers.models.opt.configuration_opt import OPTConfig

    if name == "clip":
        return CLIPConfig()
    if name == "blip2":
        return Blip2Config(
            text_config=OPTConfig(
                hidden_size=2560,
                num_hidden_layers=32,
                num_attention_heads=32,
                ffn_dim=10240,
                word_embed_proj_dim=2560,
            )
        )
    if name == "llava":
        return LlavaConfig(text_config=LlamaConfig(num_hidden_layers=32, hidden_size=4096, vocab_size=32064))
    if name == "smol":
        vision = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6)
        language = LlamaConfig(num_hidden_layers=30, hidden_size=576, num_attention_heads=9, intermediate_size=1536)
        return LlavaConfig(vision_config=vision, text_config=language, tie_word_embeddings=True)
    return LlavaConfig(
        text_config=LlamaConfig(
            num_hidden_layers=22,
            hidden_size=2048,
            num_attention_heads=32,
            num_key_value_heads=4,
            intermediate_size=5632,
            vocab_size=32064,
        )
    )


@pytest.mark.parametrize(
    ("name", "billions", "count", "pattern"),
    [
        ("clip", 0.15, 12 * 2 * 2, r"(text|vision)_model\..*\.(q|v)_proj"),
        ("blip2", 3.74, 32 * 2, r"language_model\..*\.(q|v)_proj"),
        ("llava", 7.06, 32 * 4, r"model\.language_model\..*\.(q|k|v|o)_proj"),
        ("tinyllava", 1.41, 22 * 2, r"model\.language_model\..*\.(q|v)_proj"),
        ("smol", 0.16, 30 * 4, r"model\.language_model\..*\.(q|k|v|o)_proj"),
    ],
)
def test_targets_fit_the_published_size(name: str, billions: float, count: int, pattern: str) -> None:
    model_type = model_class(name)
    with torch.device("meta"):
        backbone = model_type.architecture()(full_config(name))
    assert sum(weight.numel() for weight in backbone.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
    # peft reads `target_modules` as a pattern that must match the whole name.
    hits = [key for key, _ in backbone.named_modules() if re.fullmatch(model_type.spec.target_modules(), key)]
    assert len(hits) == count
    assert all(re.fullmatch(pattern, key) for key in hits)
    prefixes = tuple(prefix for segment in model_type.build_segments(full_config(name)) for prefix in segment.modules)
    names = [key for key, _ in backbone.named_parameters()]
    assert all(any(key.startswith(prefix) for key in names) for prefix in prefixes)
    assert [key for key in names if not key.startswith(prefixes)] in ([], ["logit_scale"], ["lm_head.weight"])


# The whole of it


def test_short_training_learns_and_reloads(
    model: ToneModel, posts: list[Post], tiny_model: Callable[[str], ToneModel], tmp_path: Path
) -> None:
    base = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    train, val = posts[:32], posts[32:48]
    with fresh_adapter(model, LORA, seed=1) as adapter:
        store = FeatureStore.of(tmp_path / "cache", model)
        assert store.ensure(model, [*train, *val], 16, lambda _: None) == 48
        data = LabelledFeatures(val, store.table(val), TONES)
        result = fit(model, LabelledFeatures(train, store.table(train), TONES), data, LORA, TrainingContext(1))
        assert result.history[1]["train_loss"] < result.history[0]["train_loss"]
        expected_NK = logits(model, data, 8)
        adapter.save(tmp_path / "adapter")
    assert model.backbone.state_dict().keys() == base.keys()
    assert all(torch.equal(value, base[key]) for key, value in model.backbone.state_dict().items())
    again = tiny_model(model.spec.name)
    with adapter_module.saved_adapter(again, tmp_path / "adapter"):
        assert torch.equal(logits(again, data, 8), expected_NK)
