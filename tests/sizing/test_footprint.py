"""Covers: src/sizing, whose counts are compared with exact numbers, real memory and real files."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from src.core.records import Post
from src.core.training_config import Setting, TrainingConfig
from src.modeling.base import Features, ToneModel
from src.models.catalog import MODELS, model_class
from src.sizing.cost_profile import Cost, gpu_semantics_on_meta, measure, profile_encode, profile_step
from src.sizing.footprint import FREE_SHARE, BatchPlan, Footprint, count_trained_parameters, measure_footprint
from src.sizing.meta_model import META, blank_inputs, build_on_meta
from src.sizing.tables import GIB, footprint_tables, initial_trials_table, verdict
from src.training.adapter import attach_adapter
from src.training.cache import FeatureStore
from src.training.loss import Loss
from src.training.memory import set_checkpointing

LORA = TrainingConfig(readout="head", rank=8, alpha=16, dropout=0.0, lr=0.001)
HEAD = replace(LORA, rank=0)
ON_TEXT = replace(LORA, adapter_positions="text")
POSTS = {"train": 1555, "val": 518, "test": 519}


@cache
def at_full_size(name: str) -> Footprint:
    settings = replace(LORA, readout="verbalizer") if name == "llava" else LORA
    return measure_footprint(model_class(name), replace(settings, rank=16, dropout=0.1), POSTS)


# Parameters


@pytest.mark.parametrize(
    ("name", "rank", "adapter"),
    [
        ("clip", 1, {"adapter on vision": 36_864, "adapter on text": 24_576}),  # 61,440 together
        ("llava", 16, {"adapter on language": 16_777_216}),
        ("llava", 8, {"adapter on language": 8_388_608}),
        ("tinyllava", 2, {"adapter on language": 281_600}),
        ("blip2", 8, {"adapter on language": 2_621_440}),
    ],
)
def test_adapters_have_the_papers_sizes(name: str, rank: int, adapter: dict[str, int]) -> None:
    trained = count_trained_parameters(model_class(name), replace(LORA, rank=rank))
    del trained["head"]
    assert trained == adapter


@pytest.mark.parametrize(
    ("name", "width"), [("clip", 1024), ("blip2", 2560), ("llava", 4096), ("tinyllava", 2048), ("smol", 576)]
)
def test_verbalizer_has_no_head_parameters(name: str, width: int) -> None:
    head = count_trained_parameters(model_class(name), replace(HEAD, head_layers=1, head_width=512))
    assert head == {"head": 2 * width + (width + 1) * 512 + (512 + 1) * 3}
    assert count_trained_parameters(model_class(name), replace(LORA, readout="verbalizer"))["head"] == 0


@pytest.mark.parametrize(
    ("name", "modules"), [("clip", 48), ("blip2", 64), ("llava", 128), ("tinyllava", 44), ("smol", 120)]
)
def test_footprint_counts_base_and_adapter(name: str, modules: int) -> None:
    footprint = at_full_size(name)
    assert len(footprint.adapted_modules) == modules
    assert footprint.trained_parameters == count_trained_parameters(model_class(name), footprint.settings)
    # Adapter and head are in float32 on a base in bfloat16, whose few buffers weigh next to nothing.
    assert footprint.trained_bytes == footprint.gradient_bytes == 4 * sum(footprint.trained_parameters.values())
    assert footprint.optimizer_bytes == 8 * sum(footprint.trained_parameters.values())
    assert 0 <= footprint.base_bytes - 2 * footprint.base_parameters < 1e5


# The cache


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, settings) for name in MODELS for settings in (HEAD, LORA)),
        *((name, ON_TEXT) for name in MODELS if model_class(name).reads_image_first),
    ],
)
def test_cache_has_the_counted_size(
    name: str, settings: TrainingConfig, tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    model = tiny_model(name)
    attach_adapter(model, settings, seed=1)
    store = FeatureStore.of(tmp_path, model)
    store.ensure(model, posts[:3], 3, lambda _: None)
    expected = 0
    for row in range(3):
        length = len(model.token_ids([posts[row].caption])[0])
        features, _ = profile_encode(copy.deepcopy(model).to(META), inputs_of_length(1, length))
        expected += sum(value.nbytes for value in features.values())
    arrays = [path for path in store.folder.glob("*/*.npy") if ".offsets." not in path.name]
    header = 128  # numpy's, of each file
    assert sum(path.stat().st_size - header for path in arrays) == expected


def test_text_positions_save_the_prefix() -> None:
    footprint = measure_footprint(model_class("tinyllava"), ON_TEXT, POSTS)
    num_prefix, num_text = 5 + 576, footprint.num_tokens
    assert footprint.trained_parameters == count_trained_parameters(model_class("tinyllava"), LORA)
    # Keys and values of 22 layers with 4 heads of 64 numbers, in bfloat16.
    assert footprint.cached_bytes["prefix.0"] == 22 * 2 * 4 * 64 * num_prefix * 2
    share = footprint.step.flops / at_full_size("tinyllava").step.flops
    assert share == pytest.approx(num_text / (num_text + num_prefix), rel=0.05)
    assert footprint.recomputed_step is not None
    shown = {row[0] for _, _, rows in footprint_tables(footprint) for row in rows}
    assert "the same without room for the cached prefix" in shown
    assert footprint.step.flops < footprint.recomputed_step.flops < at_full_size("tinyllava").step.flops


def test_rounded_prefix_takes_half_the_cache() -> None:
    footprint = measure_footprint(model_class("tinyllava"), replace(ON_TEXT, prefix_dtype="int8"), POSTS)
    # A byte for each number, and four for the scale of each head and channel.
    assert footprint.cached_bytes["prefix.0.int8"] == 22 * 2 * 4 * 64 * (5 + 576 + 4)
    assert footprint.recomputed_step is not None


def inputs_of_length(num_posts: int, num_tokens: int, device: torch.device = META) -> Features:
    """Return a batch for a tiny model, in which every caption is one token shorter than the one before."""
    length_B = num_tokens - torch.arange(num_posts)
    return {
        "pixels": torch.zeros(num_posts, 3, 64, 64, dtype=torch.uint8, device=device),
        "tokens": torch.full((num_posts, num_tokens), 5, device=device),
        "length": length_B.to(device),
        "has_caption": torch.ones(num_posts, dtype=torch.bool, device=device),
    }


# Memory


def peak_of_a_step(model: ToneModel, features: Features, settings: TrainingConfig) -> int:
    """Return the peak of torch's CPU allocator during a step, without weights and their gradients."""
    set_checkpointing(model.backbone, settings.gradient_checkpointing)
    model.train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    labels_B = torch.zeros(len(features["length"]), dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        Loss.of(settings, labels_B, 3)(model(features), labels_B).backward()  # type: ignore[no-untyped-call]
    bytes_now = peak = sum(value.nbytes for value in features.values())
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            bytes_now += event.nbytes()
            peak = max(peak, bytes_now)
    return peak


@pytest.mark.parametrize("gradient_checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", MODELS)
def test_counted_memory_matches_real_step(
    name: str, gradient_checkpointing: bool, tiny_model: Callable[[str], ToneModel]
) -> None:
    """Dropout is off, because the CPU keeps more of it than a GPU does."""
    model, settings = tiny_model(name), replace(LORA, gradient_checkpointing=gradient_checkpointing)
    attach_adapter(model, settings, seed=1)
    features = model.encode(inputs_of_length(8, 40, torch.device("cpu")))
    blank = {key: value.to(META) for key, value in features.items()}
    predicted = profile_step(copy.deepcopy(model).to(META), blank, settings, gradient_checkpointing)
    assert predicted.peak_bytes == pytest.approx(peak_of_a_step(model, features, settings), rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_costs_grow_with_the_batch(name: str, tiny_model: Callable[[str], ToneModel]) -> None:
    """The footprint therefore runs one post only."""
    model = tiny_model(name)
    attach_adapter(model, LORA, seed=1)
    model.to(META)
    for gradient_checkpointing in (False, True):
        costs = []
        for num_posts in (1, 6):
            features, _ = profile_encode(model, inputs_of_length(num_posts, 40))
            costs.append(profile_step(model, features, LORA, gradient_checkpointing))
        one, six = costs
        assert six.flops == 6 * one.flops
        # Tables of positions are the same for all posts; they weigh something in a model as small as these.
        assert 0.97 * 6 * one.peak_bytes < six.peak_bytes <= 6 * one.peak_bytes


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["clip", "llava"])
def test_gpu_memory_matches_the_count(name: str) -> None:
    """One optimizer step at the published size, in bfloat16, with gradient checkpointing."""
    settings = replace(LORA, rank=16, dropout=0.1, gradient_checkpointing=True)
    predicted = measure_footprint(model_class(name), settings, POSTS).step_bytes(4, gradient_checkpointing=True)
    assert predicted == pytest.approx(peak_at_full_size(name, settings, torch.device("cuda")), rel=0.15)


def peak_at_full_size(name: str, settings: TrainingConfig, device: torch.device) -> int:
    """Return the peak of a GPU's memory in the second step of a training, with zero weights and four posts a batch."""
    model = build_on_meta(model_class(name), torch.bfloat16)
    with META:
        attach_adapter(model, settings, seed=1)
    features, _ = profile_encode(model, blank_inputs(model))
    model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    batch = {key: torch.zeros(4, *value.shape[1:], dtype=value.dtype, device=device) for key, value in features.items()}
    batch["length"] += torch.arange(len(batch["tokens"][0]) - 4, len(batch["tokens"][0]), device=device)
    set_checkpointing(model.backbone, settings.gradient_checkpointing)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    loss = Loss.of(settings, torch.zeros(4, dtype=torch.long), 3)
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        loss(model.train()(batch), torch.zeros(4, dtype=torch.long, device=device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


# Computation


@pytest.mark.parametrize(
    ("name", "weights", "num_image"),
    [
        # The weights of the layers that run in a step: projections and feed-forward network.
        ("llava", 32 * (4 * 4096**2 + 3 * 4096 * 11008), 576),
        ("tinyllava", 22 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632), 576),
        ("blip2", 32 * (4 * 2560**2 + 2 * 2560 * 10240), 32),
    ],
)
def test_frozen_base_costs_four_operations(name: str, weights: int, num_image: int) -> None:
    """Two operations forward and two for the gradient of activations.

    Most of the last layer is skipped; attention and adapters come on top.
    """
    footprint = at_full_size(name)
    forward = 2 * weights * (footprint.num_tokens + num_image)
    assert 1.9 < footprint.step.flops / forward < 2.25
    # Checkpointing runs forward again, except the last product of a layer, because no gradient needs its result.
    assert 0.7 < (footprint.checkpointed_step.flops - footprint.step.flops) / forward < 1.1


def test_cached_segments_cost_nothing() -> None:
    footprint = measure_footprint(model_class("clip"), HEAD, POSTS)
    assert tuple(footprint.cached_bytes) == ("length", "has_caption", "pooled")
    # The head alone: 1024 by 3, forward, for its weights, and for the norm before them.
    assert footprint.step.flops == footprint.checkpointed_step.flops == 3 * 2 * 1024 * 3
    assert footprint.encoding.flops > 100_000 * footprint.step.flops
    # With LoRA in both towers, no segment is frozen.
    assert at_full_size("clip").encoding.flops == 0
    assert set(at_full_size("clip").cached_bytes) == {"pixels", "tokens", "length", "has_caption"}


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_trades_memory_for_operations(name: str) -> None:
    footprint = at_full_size(name)
    assert footprint.checkpointed_step.peak_bytes < footprint.step.peak_bytes / 5
    assert 1.3 < footprint.checkpointed_step.flops / footprint.step.flops < 1.55


# The measurement itself


def test_measure_counts_only_live_storages() -> None:
    held, given = torch.empty(1000, device=META), torch.empty(10, device=META)

    def run() -> Tensor:
        first = held + 1
        second = held[:500] * 2  # a view of `held` costs nothing, its product does
        del first
        return second.view(5, 100) @ torch.empty(100, 7, device=META)

    result, cost = measure(run, [held], [given])
    assert result.shape == (5, 7)
    assert cost == Cost(peak_bytes=4 * (10 + 1000 + 500), flops=2 * 5 * 100 * 7)


def test_meta_device_is_restored() -> None:
    query = torch.empty(1, 2, 64, 8, device=META, requires_grad=True)

    def largest_kept() -> int:
        sizes = []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            scaled_dot_product_attention(query, query, query)
        return max(sizes)

    unfused = largest_kept()
    with gpu_semantics_on_meta():
        assert largest_kept() < unfused
    assert largest_kept() == unfused


# The plan


def example(**changes: object) -> Footprint:
    """Return a footprint of 10 GiB for the base, 2 GiB for what is trained, and 4 GiB (1 checkpointed) for a post."""
    parts = {
        "settings": replace(LORA, batch_size=8, gradient_accumulation_steps=2),
        "num_posts": POSTS,
        "num_tokens": 60,
        "base_parameters": 5_000_000_000,
        "base_bytes": 10 * GIB,
        "trained_parameters": {"adapter on language": 1_000_000, "head": 3},
        "trained_bytes": GIB // 2,
        "adapted_modules": ("model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.1.v_proj"),
        "cached_bytes": {"image": 1024},
        "encoding": Cost(0, 5_000_000_000),
        "step": Cost(4 * GIB, 3_000_000_000),
        "checkpointed_step": Cost(GIB, 4_000_000_000),
    }
    return Footprint(**(parts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (76.0, BatchPlan(16, 1, gradient_checkpointing=False, bytes=76 * GIB)),
        (75.9, BatchPlan(8, 2, gradient_checkpointing=False, bytes=44 * GIB)),
        (16.0, BatchPlan(1, 16, gradient_checkpointing=False, bytes=16 * GIB)),
        (15.9, BatchPlan(2, 8, gradient_checkpointing=True, bytes=14 * GIB)),
        (13.0, BatchPlan(1, 16, gradient_checkpointing=True, bytes=13 * GIB)),
        (12.9, None),
    ],
)
def test_plan_is_largest_fitting_batch(room: float, expected: BatchPlan | None) -> None:
    memory_gib = (room + 0.001) / (1 - FREE_SHARE)
    assert example().plan(memory_gib * GIB) == expected


def test_plans_keep_the_effective_batch() -> None:
    plans = example(settings=replace(LORA, batch_size=12, gradient_accumulation_steps=1)).plans()
    ways = [(12, 1), (6, 2), (4, 3), (3, 4), (2, 6), (1, 12)]
    assert [(plan.micro_batch, plan.gradient_accumulation_steps) for plan in plans] == [*ways, *ways]


def test_llava_fits_the_papers_gpu() -> None:
    """The paper trained on a V100 of 32 GiB, with gradient accumulation and checkpointing; this step has 16 posts."""
    footprint = at_full_size("llava")
    plan = footprint.plan(32 * GIB)
    assert plan == BatchPlan(
        2, 8, gradient_checkpointing=False, bytes=footprint.step_bytes(2, gradient_checkpointing=False)
    )
    assert footprint.plan(16 * GIB) == BatchPlan(
        2, 8, gradient_checkpointing=True, bytes=footprint.step_bytes(2, gradient_checkpointing=True)
    )
    assert footprint.plan(14 * GIB) is None


# What is shown


def test_tables_show_every_figure() -> None:
    footprint = example()
    shown = {
        title: {row[0]: [str(cell).strip() for cell in row[1:]] for row in rows}
        for title, _, rows in footprint_tables(footprint)
    }
    assert shown["Parameters"]["base"] == ["5,000,000,000"]
    assert shown["Parameters"]["trained in all"] == ["1,000,003"]
    assert shown["Adapted modules: 3"] == {"model.layers.*.q_proj": ["2"], "model.layers.*.v_proj": ["1"]}
    assert shown["Memory of a step"]["AdamW's moments"] == ["1.00 GiB"]
    assert shown["Ways to take a step of 16 posts"][8] == ["2", "44.00 GiB", "20.00 GiB"]
    assert shown["Cache"]["in all"] == ["1.00 KiB", "2.53 MiB"]
    assert shown["Computation"]["training"] == ["3.00 GFLOP", "48.00 GFLOP", "4.67 TFLOP"]
    assert shown["Computation"]["encoding, once, 2,592 posts"] == ["5.00 GFLOP", "", "12.96 TFLOP"]


def test_augmented_views_are_counted() -> None:
    footprint = example(settings=replace(LORA, augment="image", num_augmented_views=2))
    assert footprint.num_encoded == sum(POSTS.values()) + 2 * POSTS["train"] == 5702
    rows = {title: {row[0]: row for row in rows} for title, _, rows in footprint_tables(footprint)}
    assert str(rows["Cache"]["in all"][2]).strip() == "5.57 MiB"
    assert rows["Computation"].keys() >= {"training", "encoding, once, 5,702 posts"}


def test_verdict_names_the_plan() -> None:
    fits = verdict(example(), 32)
    assert "fits 32 GiB" in fits
    assert "batch_size: 4, gradient_accumulation_steps: 4, gradient_checkpointing: false" in fits
    assert "28.00 GiB" in fits
    too_large = verdict(example(), 8)
    assert "does not fit 8 GiB" in too_large
    assert "13.00 GiB" in too_large


def test_initial_trials_table_counts_parameters() -> None:
    half: dict[str, Setting] = {"rank": 1, "adapter_layers": "last-half"}
    head: dict[str, Setting] = {"rank": 0, "lr": 0.01}
    trials = [(half, replace(LORA, rank=1, adapter_layers="last-half")), (head, replace(HEAD, lr=0.01))]
    _, columns, rows = initial_trials_table(model_class("clip"), trials)
    assert columns == ("rank", "adapter_layers", "lr", "adapter", "head")
    assert [tuple(row) for row in rows] == [
        ("1", "last-half", "0.001", "30,720", "5,123"),
        ("0", "all", "0.01", "0", "5,123"),
    ]
