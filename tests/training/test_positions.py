"""Covers: adapters that act on the text alone, with the prefix's keys and values cached or computed in the step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from src.core.errors import UsageError, UserError
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling.base import Features, ToneModel
from src.modeling.language import LanguageToneModel
from src.modeling.prefix import dequantize, quantize
from src.models.catalog import MODELS
from src.training.adapter import Adapter, fresh_adapter, saved_adapter
from src.training.batching import collate
from src.training.cache import FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.distributed import DistributedContext
from src.training.inference import logits, logits_uncached
from src.training.memory import set_checkpointing
from src.training.trainer import TrainingContext, TrainingResult, fit
from src.training.workspace import Workspace

NAMES = [name for name in MODELS if name != "clip"]
TEXT = TrainingConfig(
    readout="head", rank=4, alpha=8, dropout=0.0, lr=0.003, epochs=2, batch_size=8, adapter_positions="text"
)
# An empty caption, and one that is cut.
CAPTIONS = ["so happy today", "", "x " * 2_000, "a sad day"]
CASES: dict[str, dict[str, Any]] = {
    "all layers": {},
    "words": {"readout": "verbalizer"},
    "last layer": {"adapter_layers": "last-1"},
    "all projections": {"target_projections": "qkvom"},
    "DoRA": {"adapter": "dora"},
    "IA3": {"adapter": "ia3"},
    "checkpointing": {"gradient_checkpointing": True},
    "trained connector": {"unfreeze": "connector"},
    "trained connector, checkpointing": {"unfreeze": "connector", "gradient_checkpointing": True},
    "trained connector, last layer": {"unfreeze": "connector", "adapter_layers": "last-1"},
}


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], ToneModel]) -> LanguageToneModel:
    model = tiny_model(request.param)
    assert isinstance(model, LanguageToneModel)
    return model


@contextmanager
def working(model: ToneModel, **changes: Any) -> Iterator[Adapter]:
    """Attach an adapter that changes the logits; a fresh adapter does not."""
    settings = replace(TEXT, **changes)
    with fresh_adapter(model, settings, seed=3) as adapter:
        torch.manual_seed(5)
        for name, weight in model.named_parameters():
            if "lora_B" in name or "ia3" in name:
                nn.init.normal_(weight, std=0.1)
        set_checkpointing(model.backbone, settings.gradient_checkpointing)
        yield adapter


def inputs_of(model: ToneModel, posts: Sequence[Post], captions: Sequence[str] = CAPTIONS) -> Features:
    images = [open_image(post.image) for post in posts[: len(captions)]]
    return collate(model.preprocess(images, captions))


def encodings(model: ToneModel, inputs: Features) -> dict[str, Features]:
    """Return what a step may start from."""
    model.eval()
    cached = model.encode(inputs)
    model.recomputes_prefix = True
    recomputed = model.encode(inputs)
    model.recomputes_prefix = False
    return {"cached": cached, "recomputed": recomputed, "inputs": inputs}


def step(model: ToneModel, forward: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits and the gradients of a step."""
    model.train()
    model.zero_grad(set_to_none=True)
    logits_BK = forward()
    logits_BK.square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return logits_BK.detach(), gradients


# The reference: transformers' own forward pass


def ids_of(model: LanguageToneModel, captions: Sequence[str]) -> list[list[int]]:
    """Return the tokens of whole prompts, with the image's token once for each of its positions."""
    prompts = [model.prompt.format(caption=model.strip_special_tokens(caption)) for caption in captions]
    rows = model.tokenizer(prompts)["input_ids"]
    image_id = getattr(model.backbone.config, "image_token_id", None)
    if image_id is None:
        return list(rows)
    return [[each for id_ in row for each in [id_] * (16 if id_ == image_id else 1)] for row in rows]


def whole_states(model: LanguageToneModel, posts: Sequence[Post], rows: list[list[int]]) -> Tensor:
    """Return transformers' states of all positions behind the last norm, captions padded at their end."""
    ids_BT = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask_BT = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    images = [open_image(post.image) for post in posts]
    pixels = model.image_processor(images, return_tensors="pt")["pixel_values"]
    backbone = model.backbone
    if model.spec.name == "blip2":
        image_BPD = backbone.get_image_features(pixel_values=pixels).pooler_output
        embeds = torch.cat([image_BPD, backbone.get_input_embeddings()(ids_BT)], dim=1)
        mask_BT = torch.cat([mask_BT.new_ones(image_BPD.shape[:2]), mask_BT], dim=1)
        states: Tensor = backbone.language_model.model(inputs_embeds=embeds, attention_mask=mask_BT).last_hidden_state
        return states
    outputs = backbone.model(input_ids=ids_BT, attention_mask=mask_BT, pixel_values=pixels)
    return outputs.last_hidden_state  # type: ignore[no-any-return]


@contextmanager
def masked_adapters(model: LanguageToneModel) -> Iterator[None]:
    """Undo each adapter on the positions of the prefix, by hand."""
    num_prefix = model.num_prefix_positions

    def undo(module: Any, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        # OPT's feed-forward network reads all positions of a batch in one dimension.
        bare, adapted = (
            states.view(len(CAPTIONS), -1, output.shape[-1]) for states in (module.base_layer(*arguments), output)
        )
        return torch.cat([bare[:, :num_prefix], adapted[:, num_prefix:]], dim=1).view_as(output)

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    assert layers
    handles = [layer.register_forward_hook(undo) for layer in layers]
    yield
    for handle in handles:
        handle.remove()


def by_transformers(model: LanguageToneModel, posts: Sequence[Post]) -> Tensor:
    rows = ids_of(model, CAPTIONS)
    before = model.num_image_positions if model.spec.name == "blip2" else 0
    states_BTD = whole_states(model, posts[: len(CAPTIONS)], rows)
    ends_B = torch.tensor([before + len(row) - 1 for row in rows])
    assert model.readout is not None
    return model.readout(states_BTD[torch.arange(len(rows)), ends_B].float())  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_masked_transformers(model: LanguageToneModel, case: str, posts: list[Post]) -> None:
    with working(model, **CASES[case]):
        results = {
            name: step(model, lambda features=features: model(features))  # type: ignore[misc]
            for name, features in encodings(model, inputs_of(model, posts)).items()
        }
        with masked_adapters(model):
            expected_BK, expected = step(model, lambda: by_transformers(model, posts))
        everywhere_BK = by_transformers(model, posts)
    assert (everywhere_BK - expected_BK).abs().max() > 1e-3  # the positions matter
    for logits_BK, gradients in results.values():
        torch.testing.assert_close(logits_BK, expected_BK, rtol=0, atol=1e-4)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-3)
    connector = ("backbone.model.multi_modal_projector", "backbone.language_projection")
    assert any(name.startswith(connector) for name in expected) == ("unfreeze" in CASES[case])


def test_rows_do_not_depend_on_padding(model: LanguageToneModel, posts: list[Post]) -> None:
    with working(model), torch.no_grad():
        model.eval()
        logits_BK = model(model.encode(inputs_of(model, posts)))
        for row, caption in enumerate(CAPTIONS):
            alone_1K = model(model.encode(inputs_of(model, posts[row:], [caption])))
            torch.testing.assert_close(alone_1K, logits_BK[row : row + 1], rtol=0, atol=1e-4)


# What runs where

CACHED = {
    "all layers": {"tokens", "length", "has_caption", "pooled_image", "prefix.0"},
    "last layer": {"text", "length", "has_caption", "pooled_image", "prefix"},
    "trained connector": {"tokens", "length", "has_caption", "pooled_image", "connector's input"},
}


def kinds_of(names: Sequence[str]) -> set[str]:
    """Return the names of cached features without the number of a layer."""
    return {"connector's input" if name in ("queries", "vision") else name.partition(".")[0] for name in names}


@pytest.mark.parametrize("case", ["all layers", "last layer", "trained connector"])
def test_cached_features_follow_the_rule(model: LanguageToneModel, case: str, posts: list[Post]) -> None:
    with working(model, **CASES[case]):
        assert kinds_of(model.cached_names()) == kinds_of(sorted(CACHED[case]))
        model.recomputes_prefix = True
        split = set(model.cached_names())
    with working(model, **CASES[case], adapter_positions="all"):
        assert split == set(model.cached_names())  # the store that adapters on all positions share


def test_whole_language_model_unfreezes_prefix(model: LanguageToneModel) -> None:
    with working(model, unfreeze="language"):
        assert set(model.cached_names()) == {"tokens", "length", "has_caption", "pooled_image", "image"}
        assert model.prefix_bytes() == 0


def test_rank_zero_caches_pooled_states(model: LanguageToneModel) -> None:
    with fresh_adapter(model, replace(TEXT, rank=0), seed=1):
        assert model.cached_names() == ("length", "has_caption", "pooled_image", "pooled")


@contextmanager
def lengths_of_runs(modules: Sequence[nn.Module]) -> Iterator[set[int]]:
    """Collect the number of positions with which these modules run."""
    lengths: set[int] = set()
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: lengths.add(inputs[0].shape[1])) for module in modules
    ]
    yield lengths
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("case", ["all layers", "last layer"])
def test_cached_step_runs_no_prefix(model: LanguageToneModel, case: str, posts: list[Post]) -> None:
    with working(model, **CASES[case]):
        features = encodings(model, inputs_of(model, posts))
        num_text = int(features["inputs"]["length"].max())
        weighty = [module for module in model.backbone.modules() if isinstance(module, nn.Linear)]
        with lengths_of_runs(weighty) as ran:
            step(model, lambda: model(features["cached"]))
        assert num_text in ran
        assert ran.isdisjoint({model.num_prefix_positions, num_text + model.num_prefix_positions})
        with lengths_of_runs(weighty) as ran:
            step(model, lambda: model(features["recomputed"]))
        assert model.num_prefix_positions in ran


@pytest.mark.parametrize("start", ["cached", "recomputed", "inputs"])
@pytest.mark.parametrize("case", ["all projections", "last layer", "DoRA", "trained connector, checkpointing"])
def test_adapters_see_the_text_alone(model: LanguageToneModel, case: str, start: str, posts: list[Post]) -> None:
    with working(model, **CASES[case]):
        features = encodings(model, inputs_of(model, posts))
        num_text = int(features["inputs"]["length"].max())
        adapted = [module for name, module in model.named_modules() if name.endswith("lora_A.default")]
        # A query of the last layer is [B, D].
        widths = {module.in_features for module in adapted if isinstance(module, nn.Linear)}
        with lengths_of_runs(adapted) as ran:
            step(model, lambda: model(features[start]))
        assert num_text in ran
        assert ran <= {num_text, *widths}


def test_cached_features_ignore_adapters(model: LanguageToneModel, posts: list[Post]) -> None:
    inputs = inputs_of(model, posts)
    with working(model):
        one = model.encode(inputs)
        for name, weight in model.named_parameters():
            if name.removeprefix("backbone.") in model.text_weights:
                nn.init.normal_(weight)
        other = model.encode(inputs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_grouped_heads_are_stored_once(tiny_model: Callable[[str], ToneModel], posts: list[Post]) -> None:
    model = tiny_model("tinyllava")
    config = model.backbone.config.text_config
    assert config.num_key_value_heads < config.num_attention_heads
    with working(model):
        features = model.encode(inputs_of(model, posts))
        assert features["prefix.0"].shape[:4] == (4, config.num_hidden_layers, 2, config.num_key_value_heads)
        assert model.prefix_bytes() == features["prefix.0"][0].nbytes


# The prefix in 8 bits

ROUNDED: dict[str, Any] = {"prefix_dtype": "int8"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_moves_no_number_by_more_than_half_a_scale(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    # A width and a length that are no multiples of the four bytes of a scale.
    sizes_W = torch.tensor([1e-4, 1.0, 30.0, 0.0, 2.0])
    numbers = (torch.randn(2, 3, 2, 3, 7, 5) * sizes_W).to(dtype)
    packed = quantize(numbers)
    assert packed.dtype is torch.int8 and packed.shape == (2, 3, 2, 3, 7 + 4, 5)
    assert torch.equal(dequantize(packed[:, 1], dtype), dequantize(packed, dtype)[:, 1])
    scales = numbers.float().abs().amax(-2, keepdim=True) / 127
    moved = (dequantize(packed, torch.float32) - numbers.float()).abs()
    assert (moved <= 0.5001 * scales).all()
    assert moved.max() > 0.4 * scales.max()  # it does round
    assert dequantize(packed, dtype).dtype is dtype


@pytest.mark.parametrize("changes", [{}, {"adapter_layers": "last-1"}])
def test_rounded_prefix_is_the_same_wherever_it_is_computed(
    model: LanguageToneModel, changes: dict[str, Any], posts: list[Post], tmp_path: Path
) -> None:
    inputs = inputs_of(model, posts)
    with working(model, **changes):
        exact_BK, _ = step(model, lambda: model(inputs))
    with working(model, **changes, **ROUNDED):
        (prefix,) = (name for name in model.cached_names() if name.startswith("prefix"))
        features = model.encode(inputs)
        assert features[prefix].dtype is torch.int8
        assert model.prefix_bytes() == features[prefix][0].nbytes
        results = {
            name: step(model, lambda start=start: model(start))  # type: ignore[misc]
            for name, start in encodings(model, inputs).items()
        }
        store = FeatureStore.of(tmp_path, model)
        store.ensure(model, posts[:4], 4, lambda _: None)
        assert torch.equal(store.table(posts[:1])[0][prefix], features[prefix][0])
    for logits_BK, gradients in results.values():
        torch.testing.assert_close(logits_BK, results["cached"][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(gradients, results["cached"][1], rtol=1e-3, atol=1e-3)
        assert 0 < (logits_BK - exact_BK).abs().max() < 0.05


@pytest.mark.parametrize("changes", [{}, {"rank": 0}])
def test_rounded_prefix_is_no_start_of_exact_states(
    tiny_model: Callable[[str], ToneModel],
    changes: dict[str, Any],
    posts: list[Post],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("tinyllava")
    with working(model, **ROUNDED):
        FeatureStore.of(tmp_path, model).ensure(model, posts[:3], 4, lambda _: None)
    decoded = []

    def count(image: Any, **sides: Any) -> Any:
        decoded.append(image)
        return open_image(image, **sides)

    monkeypatch.setattr("src.training.cache_encoder.open_image", count)
    with fresh_adapter(model, replace(TEXT, **changes), seed=1):
        FeatureStore.of(tmp_path, model).ensure(model, posts[:3], 4, lambda _: None)
    assert len(decoded) == 3


def test_training_on_a_rounded_prefix_is_served_alike(
    model: LanguageToneModel, posts: list[Post], tiny_model: Callable[[str], ToneModel], tmp_path: Path
) -> None:
    workspace, settings = workspace_of(model, posts, tmp_path / "cache"), replace(TEXT, **ROUNDED)
    with fresh_adapter(model, settings, seed=1) as adapter:
        fit(model, workspace.training(settings), workspace.data("val"), settings, TrainingContext(1))
        expected_NK = logits(model, workspace.data("test"), 8)
        adapter.save(tmp_path / "adapter")
    again, test = tiny_model(model.spec.name), workspace.parts["test"]
    with saved_adapter(again, tmp_path / "adapter"):
        found_NK = logits_uncached(again, [post.image for post in test], [post.caption for post in test], 8)
    torch.testing.assert_close(found_NK, expected_NK, rtol=0, atol=1e-3)


@pytest.mark.parametrize("changes", [{"adapter_positions": "all"}, {"unfreeze": "connector"}])
def test_rounding_needs_a_frozen_prefix(model: LanguageToneModel, changes: dict[str, Any]) -> None:
    with working(model, **changes):
        expected = model.cached_segments()
    with working(model, **changes, **ROUNDED):
        assert model.cached_segments() == expected
        assert not any(segment.rounded for segment in model.segments)


def test_detaching_restores_the_chain(model: LanguageToneModel) -> None:
    before = model.segments
    with working(model):
        assert model.segments != before
    assert (model.segments, model.text_weights) == (before, frozenset())


# Trainings, with the cache and where it does not fit


def workspace_of(model: ToneModel, posts: list[Post], folder: Path) -> Workspace:
    return Workspace(model, {"train": posts[:24], "val": posts[24:44], "test": posts[44:52]}, cache=folder)


def trained(workspace: Workspace, settings: TrainingConfig) -> tuple[TrainingResult, bool]:
    with fresh_adapter(workspace.model, settings, seed=1):
        train, val = workspace.training(settings), workspace.data("val")
        recomputes = workspace.model.recomputes_prefix
        return fit(workspace.model, train, val, settings, TrainingContext(1)), recomputes


@pytest.mark.parametrize("changes", [{}, {"adapter_layers": "last-1", "augment": "caption", "num_augmented_views": 1}])
def test_training_is_the_same_without_room(
    model: LanguageToneModel,
    changes: dict[str, Any],
    posts: list[Post],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = replace(TEXT, dropout=0.1, **changes)
    one, recomputes = trained(workspace_of(model, posts, tmp_path / "roomy"), settings)
    said = capsys.readouterr().out
    assert not recomputes and "cached" in said and said.count("\n") == 1
    monkeypatch.setattr("src.training.workspace.free_bytes", lambda _: 10_000)
    other, recomputes = trained(workspace_of(model, posts, tmp_path / "full"), settings)
    said = capsys.readouterr().out
    assert recomputes and "do not fit" in said and said.count("\n") == 1
    assert one.best_epoch == other.best_epoch
    for row, expected in zip(one.history, other.history, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


class WithCrampedProcess(DistributedContext):
    """Two processes, the other one without room."""

    def sum(self, values: Tensor) -> Tensor:
        return values + 1


def test_one_process_without_room_decides_for_all(
    model: LanguageToneModel, posts: list[Post], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = workspace_of(model, posts, tmp_path)
    with fresh_adapter(model, TEXT, seed=1):
        replace(workspace, distributed=WithCrampedProcess(num_processes=2)).training(TEXT)
        assert model.recomputes_prefix
        assert "another process" in capsys.readouterr().out
        workspace.training(TEXT)
        assert not model.recomputes_prefix


def test_trained_connector_is_said(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = workspace_of(tiny_model("tinyllava"), posts, tmp_path)
    with fresh_adapter(workspace.model, replace(TEXT, unfreeze="connector"), seed=1):
        workspace.store()
        workspace.store()
    assert capsys.readouterr().out.count("with gradients") == 1


def test_boundaries_start_from_each_other(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    """Stores of other positions and layers hold other features of the same names, or serve as a start."""
    model = tiny_model("llava")
    for changes in (
        {"adapter_positions": "all"},
        {},
        {"adapter_layers": "last-2"},
        {"adapter_positions": "all", "adapter_layers": "last-1"},
        {"adapter_layers": "last-1"},
    ):
        with working(model, **changes):
            store = FeatureStore.of(tmp_path, model)
            store.ensure(model, posts[:6], 4, lambda _: None)
            data = LabelledFeatures(posts[:6], store.table(posts[:6]), TONES)
            bare_NK = logits_uncached(model, [p.image for p in posts[:6]], [p.caption for p in posts[:6]], 3)
            torch.testing.assert_close(logits(model, data, 4), bare_NK, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layers", ["all", "last-1"])
def test_bare_states_start_from_a_split(
    model: LanguageToneModel, layers: str, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working(model, adapter_layers=layers):
        FeatureStore.of(tmp_path, model).ensure(model, posts[:4], 4, lambda _: None)
    expected = [model.encode(collate(model.preprocess([open_image(p.image)], [p.caption]))) for p in posts[:4]]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image is read again")

    monkeypatch.setattr("src.training.cache_encoder.open_image", refuse)
    store = FeatureStore.of(tmp_path, model)
    assert store.ensure(model, posts[:4], 4, lambda _: None) == 4
    table = store.table(posts[:4])
    for row, features in enumerate(expected):
        torch.testing.assert_close(table[row]["pooled"], features["pooled"][0], rtol=0, atol=1e-4)
    assert all(segment.positions == "all" for segment in model.segments)


def test_saved_adapter_answers_as_trained(
    model: LanguageToneModel, posts: list[Post], tiny_model: Callable[[str], ToneModel], tmp_path: Path
) -> None:
    workspace = workspace_of(model, posts, tmp_path / "cache")
    with fresh_adapter(model, TEXT, seed=1) as adapter:
        fit(model, workspace.training(TEXT), workspace.data("val"), TEXT, TrainingContext(1))
        expected_NK = logits(model, workspace.data("test"), 8)
        adapter.save(tmp_path / "adapter")
    again = tiny_model(model.spec.name)
    test = workspace.parts["test"]
    with saved_adapter(again, tmp_path / "adapter"):
        found_NK = logits_uncached(again, [post.image for post in test], [post.caption for post in test], 8)
    torch.testing.assert_close(found_NK, expected_NK, rtol=0, atol=1e-4)


# What is refused


def test_two_towers_refuse_text(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("clip")
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(UsageError, match="adapter_positions"), fresh_adapter(model, TEXT, seed=1):
        pass
    assert [name for name, _ in model.named_parameters()] == names


def test_merging_is_refused(tiny_model: Callable[[str], ToneModel]) -> None:
    with working(tiny_model("tinyllava")) as adapter, pytest.raises(UserError, match="adapter_positions"):
        adapter.merge()
