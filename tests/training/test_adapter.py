import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.core.errors import UsageError, UserError
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling.base import ToneModel
from src.registry.loading import dtype_of
from src.training import adapter as adapter_module
from src.training.adapter import (
    ADAPTER_FILE,
    HEAD_FILE,
    SETTINGS_FILE,
    attach_adapter,
    fresh_adapter,
    saved_adapter,
    trainable_state,
)
from src.training.batching import collate
from src.training.cache import Boundary, FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.inference import logits
from src.training.trainer import TrainingContext, fit

SETTINGS = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.1, lr=0.003, epochs=1, batch_size=8)
WORDS = replace(SETTINGS, readout="verbalizer")
HEAD_ALONE = replace(SETTINGS, rank=0)
MODELS = ("clip", "blip2", "llava", "tinyllava")


@pytest.fixture
def model(tiny_model: Callable[[str], ToneModel]) -> ToneModel:
    return tiny_model("tinyllava")


@pytest.fixture
def train(model: ToneModel, posts: list[Post], tmp_path: Path) -> LabelledFeatures:
    """Eight posts at the boundary of LoRA in the language model."""
    with fresh_adapter(model, SETTINGS, seed=0):
        store = FeatureStore.of(tmp_path / "cache", model)
        store.ensure(model, posts[:8], 8, lambda _: None)
    return LabelledFeatures(posts[:8], store.table(posts[:8]), TONES)


def trace(model: ToneModel) -> dict[str, Any]:
    """All that an adapter could leave behind: modules, hooks, flags and weights."""
    modules = {
        name: (type(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }
    flags = {name for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", False)}
    weights = {name: (weight.requires_grad, weight.grad) for name, weight in model.named_parameters()}
    return {"modules": modules, "flags": flags, "weights": weights}


def bits(model: ToneModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# On and off


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, WORDS, HEAD_ALONE, replace(SETTINGS, gradient_checkpointing=True)],
    ids=["lora", "words", "alone", "saving"],
)
def test_detaching_leaves_no_trace(model: ToneModel, train: LabelledFeatures, settings: TrainingConfig) -> None:
    model.eval()
    before, weights = trace(model), bits(model)
    for seed in (1, 2):
        with fresh_adapter(model, settings, seed) as adapter:
            fit(model, train, train, settings, TrainingContext(seed))
            assert model.trainable_names() or settings is HEAD_ALONE
            assert adapter.readout is model.readout
        assert trace(model) == before
        assert equal(bits(model), weights)
    assert model.readout is None


@pytest.mark.parametrize("name", MODELS)
def test_attaching_changes_no_logit(name: str, tiny_model: Callable[[str], ToneModel], posts: list[Post]) -> None:
    """LoRA starts as the identity, so zero-shot scores are the same with it on."""
    model = tiny_model(name)
    rows = model.preprocess([open_image(post.image) for post in posts[:4]], [post.caption for post in posts[:4]])
    inputs = collate(rows)
    with torch.no_grad():
        pooled_BD = model.encode(inputs)["pooled"]
        with fresh_adapter(model, SETTINGS, seed=1):
            model.eval()
            model.readout = nn.Identity()
            torch.testing.assert_close(model(model.encode(inputs)), pooled_BD.float(), rtol=0, atol=1e-6)


def stop_in_the_middle_of_an_epoch(model: ToneModel) -> None:
    model.train()
    raise KeyboardInterrupt


def test_errors_detach_the_adapter(model: ToneModel) -> None:
    model.eval()
    before = trace(model)
    with pytest.raises(KeyboardInterrupt), fresh_adapter(model, SETTINGS, seed=1):
        stop_in_the_middle_of_an_epoch(model)
    assert trace(model) == before


def test_failed_readout_leaves_no_adapter(model: ToneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> nn.Module:
        raise UserError("no single tokens")

    model.eval()
    before = trace(model)
    monkeypatch.setattr(model, "verbalizer_readout", refuse)
    with pytest.raises(UserError, match="no single tokens"):
        attach_adapter(model, WORDS, seed=1)
    assert trace(model) == before


def test_memory_that_runs_out_leaves_no_adapter(
    tiny_model: Callable[[str], ToneModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next trial of a search trains on the same base."""
    model = tiny_model("blip2")
    model.eval()
    before, segments = trace(model), model.segments
    originals: list[int] = []

    def run_out(weight: Tensor, *_: Any, **__: Any) -> Tensor:
        originals.append(1)
        if len(originals) > 3:
            raise torch.OutOfMemoryError("no memory for a copy")
        return clone(weight)

    clone = Tensor.clone
    settings = replace(SETTINGS, unfreeze="qformer", adapter_positions="text")
    monkeypatch.setattr(Tensor, "clone", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        attach_adapter(model, settings, seed=1)
    monkeypatch.undo()
    assert trace(model) == before
    assert (model.segments, model.text_weights) == (segments, frozenset())


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_memory_that_runs_out_at_a_layer_leaves_no_adapter(
    model: ToneModel, monkeypatch: pytest.MonkeyPatch, num_layers: int
) -> None:
    model.eval()
    before = trace(model)
    adapted: list[str] = []

    def run_out(layer: LoraLayer, *words: Any, **names: Any) -> None:
        if len(adapted) == num_layers:
            raise torch.OutOfMemoryError("no memory for a layer")
        adapted.append("")
        update_layer(layer, *words, **names)

    update_layer = LoraLinear.update_layer
    monkeypatch.setattr(LoraLinear, "update_layer", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        attach_adapter(model, SETTINGS, seed=1)
    monkeypatch.undo()
    assert trace(model) == before
    with fresh_adapter(model, SETTINGS, seed=1) as adapter:
        assert len(adapter.modules()) > num_layers


def test_precision_is_that_of_the_frozen_base(tiny_model: Callable[[str], ToneModel]) -> None:
    """`unfreeze` makes the first weight of BLIP-2 float32."""
    model = tiny_model("blip2").to(torch.bfloat16)
    with fresh_adapter(model, replace(SETTINGS, unfreeze="qformer"), seed=1):
        assert model.backbone.dtype is torch.float32
        assert Boundary.of(model).dtype == dtype_of(model) == "bfloat16"


# What is trainable


def test_layers_are_counted_in_the_named_segments(tiny_model: Callable[[str], ToneModel]) -> None:
    """As in a CLIP whose text tower has fewer layers than the last ones that its vision tower adapts."""
    model = tiny_model("clip")
    deep = max(segment.layers[1] for segment in model.segments if segment.layers)
    shallow = tuple(segment for segment in model.segments if segment.name != "text" or segment.layers == (0, 1))
    assert len(shallow) < len(model.segments)
    model.segments = shallow
    settings = replace(SETTINGS, adapter_layers=f"last-{deep}")
    with pytest.raises(UsageError, match="text of clip has 1 layers"), fresh_adapter(model, settings, seed=1):
        pass
    with fresh_adapter(model, replace(settings, adapter_segments="vision"), seed=1) as adapter:
        assert any("vision" in module for module in adapter.modules())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("settings", [SETTINGS, WORDS, HEAD_ALONE], ids=["head", "words", "alone"])
def test_only_adapter_and_head_train(
    name: str, settings: TrainingConfig, tiny_model: Callable[[str], ToneModel]
) -> None:
    model = tiny_model(name)
    with fresh_adapter(model, settings, seed=1) as adapter:
        trainable = {key for key, weight in model.named_parameters() if weight.requires_grad}
        wanted = {f"backbone.{key}.lora_{part}.default.weight" for key in adapter.modules() for part in "AB"}
        if settings.readout == "head":
            wanted |= {f"readout.{key}" for key, _ in adapter.readout.named_parameters()}
        assert trainable == wanted
        assert bool(adapter.modules()) == (settings.rank > 0)
        for key, weight in model.named_parameters():
            if "lora_A" in key:
                assert (weight.shape[0], weight.dtype) == (settings.rank, torch.float32)
            if "lora_B" in key:
                assert not weight.any()


def test_lora_is_float32_on_bfloat16(model: ToneModel) -> None:
    model.backbone.to(torch.bfloat16)
    with fresh_adapter(model, SETTINGS, seed=1):
        assert {weight.dtype for weight in trainable_state(model).values()} == {torch.float32}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_one_step_moves_every_lora_b(
    name: str, gradient_checkpointing: bool, tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    """With gradient checkpointing gradients may stop short of adapters in a frozen base (transformers issue 42489)."""
    model = tiny_model(name)
    settings = replace(SETTINGS, gradient_checkpointing=gradient_checkpointing)
    with fresh_adapter(model, settings, seed=1) as adapter:
        store = FeatureStore.of(tmp_path, model)
        store.ensure(model, posts[:8], 8, lambda _: None)
        data = LabelledFeatures(posts[:8], store.table(posts[:8]), TONES)
        before = trainable_state(model)
        fit(model, data, data, settings, TrainingContext(1))
        after = trainable_state(model)
        moved = {key for key in after if not torch.equal(after[key], before[key])}
        assert {f"backbone.{key}.lora_B.default.weight" for key in adapter.modules()} <= moved
        assert {f"readout.{key}" for key, _ in adapter.readout.named_parameters()} <= moved


def test_checkpointing_changes_no_gradient(model: ToneModel, train: LabelledFeatures) -> None:
    histories = []
    for gradient_checkpointing in (False, True):
        settings = replace(SETTINGS, gradient_checkpointing=gradient_checkpointing, dropout=0.0, epochs=2)
        with fresh_adapter(model, settings, seed=1):
            histories.append(
                [row["train_loss"] for row in fit(model, train, train, settings, TrainingContext(1)).history]
            )
    assert histories[0] == pytest.approx(histories[1], abs=1e-5)


# Seeds


def start(model: ToneModel, settings: TrainingConfig, seed: int) -> dict[str, Tensor]:
    with fresh_adapter(model, settings, seed):
        return trainable_state(model)


@pytest.mark.parametrize("settings", [SETTINGS, WORDS, HEAD_ALONE], ids=["head", "words", "alone"])
def test_seed_decides_initial_weights(
    model: ToneModel, train: LabelledFeatures, settings: TrainingConfig, tiny_model: Callable[[str], ToneModel]
) -> None:
    first = start(model, settings, seed=5)
    other = replace(SETTINGS, rank=2, head_layers=1)
    with fresh_adapter(model, other, seed=6):
        fit(model, train, train, other, TrainingContext(6))
    torch.manual_seed(123)
    assert equal(start(model, settings, seed=5), first)
    assert equal(start(tiny_model("tinyllava"), settings, seed=5), first)
    assert not equal(start(model, settings, seed=6), first)


# On disk


@pytest.fixture
def saved(model: ToneModel, train: LabelledFeatures, tmp_path: Path) -> tuple[Path, Tensor]:
    """A trained adapter on disk, and the logits it gives."""
    with fresh_adapter(model, replace(SETTINGS, lr=0.03), seed=1) as adapter:
        fit(model, train, train, adapter.settings, TrainingContext(1))
        adapter.save(tmp_path / "adapter")
        return tmp_path / "adapter", logits(model, train, 8)


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, WORDS, HEAD_ALONE, replace(SETTINGS, head_layers=2)],
    ids=["head", "words", "alone", "deep"],
)
def test_saved_adapter_gives_equal_logits(
    model: ToneModel,
    train: LabelledFeatures,
    settings: TrainingConfig,
    tiny_model: Callable[[str], ToneModel],
    tmp_path: Path,
) -> None:
    settings = replace(settings, lr=0.03)
    with fresh_adapter(model, settings, seed=1) as adapter:
        untrained_NK = logits(model, train, 8)
        fit(model, train, train, settings, TrainingContext(1))
        expected_NK = logits(model, train, 8)
        adapter.save(tmp_path / "adapter")
        adapter.save(tmp_path / "adapter")  # over itself
    assert (expected_NK - untrained_NK).abs().max() > 0.01
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "cache"}
    again = tiny_model("tinyllava").train()
    with saved_adapter(again, tmp_path / "adapter") as adapter:
        assert adapter.settings == settings
        assert not any(module.training for module in again.modules())
        assert torch.equal(logits(again, train, 8), expected_NK)


def test_saved_adapter_is_json_and_safetensors(saved: tuple[Path, Tensor]) -> None:
    folder, _ = saved
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {ADAPTER_FILE, HEAD_FILE, SETTINGS_FILE, "adapter_config.json"} <= names
    assert all(Path(name).suffix in (".safetensors", ".json", ".md") for name in names)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_alone_reads_a_saved_adapter(
    saved: tuple[Path, Tensor], train: LabelledFeatures, tiny_model: Callable[[str], ToneModel]
) -> None:
    folder, expected_NK = saved
    bare = tiny_model("tinyllava")
    with saved_adapter(bare, folder) as adapter:
        head = adapter.readout
    plain_NK = _logits_with(bare, head, train)
    bare.backbone = PeftModel.from_pretrained(bare.backbone, str(folder)).base_model.model
    assert torch.equal(_logits_with(bare, head, train), expected_NK)
    assert not torch.equal(plain_NK, expected_NK)


def _logits_with(model: ToneModel, head: nn.Module, data: LabelledFeatures) -> Tensor:
    model.readout = head
    return logits(model, data, 8)


def drop(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()

    return spoil


def edit(name: str, change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name)

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def other_rank(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    (folder / SETTINGS_FILE).write_text(json.dumps({**settings, "rank": 2}))


def unknown_setting(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    (folder / SETTINGS_FILE).write_text(json.dumps({**settings, "ranks": 2}))


def lose_one(state: dict[str, Tensor]) -> None:
    del state[min(state)]


def gain_one(state: dict[str, Tensor]) -> None:
    state["zzz"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop(ADAPTER_FILE), f"{ADAPTER_FILE} is missing: the adapter is not whole"),
        (drop(HEAD_FILE), f"{HEAD_FILE} is missing: the adapter is not whole"),
        (drop(SETTINGS_FILE), f"{SETTINGS_FILE} is missing"),
        (edit(ADAPTER_FILE, lose_one), "does not fit: 1 weights .* such as base_model"),
        (edit(ADAPTER_FILE, gain_one), "does not fit: 1 weights .* such as zzz"),
        (edit(HEAD_FILE, lose_one), f"{HEAD_FILE} does not fit: 1 weights .* such as 0.bias"),
        (edit(HEAD_FILE, gain_one), f"{HEAD_FILE} does not fit: 1 weights .* such as zzz"),
        (cut(ADAPTER_FILE), f"{ADAPTER_FILE} cannot be read"),
        (cut(HEAD_FILE), f"{HEAD_FILE} cannot be read"),
        (other_rank, f"{ADAPTER_FILE} does not fit: 8 weights"),
        (unknown_setting, "unknown key 'ranks'"),
    ],
)
def test_damaged_adapter_is_refused(
    saved: tuple[Path, Tensor], model: ToneModel, spoil: Callable[[Path], None], message: str
) -> None:
    folder, _ = saved
    spoil(folder)
    model.eval()
    before = trace(model)
    with pytest.raises(UserError, match=message) as refusal:
        adapter_module.load(model, folder)
    assert "\n" not in str(refusal.value)
    assert trace(model) == before


def test_the_head_alone_saves_no_lora(model: ToneModel, tmp_path: Path) -> None:
    with fresh_adapter(model, HEAD_ALONE, seed=1) as adapter:
        assert adapter.modules() == []
        assert model.cached_names() == ("length", "has_caption", "pooled_image", "pooled")
        adapter.save(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {HEAD_FILE, SETTINGS_FILE}


def test_weights_can_be_put_back(model: ToneModel, train: LabelledFeatures) -> None:
    with fresh_adapter(model, SETTINGS, seed=1):
        kept = trainable_state(model)
        fit(model, train, train, SETTINGS, TrainingContext(1))
        assert not equal(trainable_state(model), kept)
        adapter_module.restore(model, kept)
        assert equal(trainable_state(model), kept)
