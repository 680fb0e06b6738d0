"""What a training would take: counted exactly where that can be, held against real memory and real files elsewhere."""

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
from src.core.training_config import TrainingConfig
from src.modeling.base import Features, ToneModel
from src.models.catalog import MODELS, model_class
from src.sizing.cost_profile import Cost, gpu_semantics_on_meta, measure, profile_encode, profile_step
from src.sizing.footprint import FREE_SHARE, BatchPlan, Footprint, footprint, trained_parameters
from src.sizing.meta_model import META, blank_inputs, build_on_meta
from src.sizing.tables import GIB, sizes, tables, verdict
from src.training.adapter import attach_adapter
from src.training.cache import FeatureStore
from src.training.loss import Loss
from src.training.memory import set_checkpointing

LORA = TrainingConfig(readout="head", rank=8, alpha=16, dropout=0.0, lr=0.001)
HEAD = replace(LORA, rank=0)
POSTS = {"train": 1555, "val": 518, "test": 519}


@cache
def at_full_size(name: str) -> Footprint:
    settings = replace(LORA, readout="verbalizer") if name == "llava" else LORA
    return footprint(model_class(name), replace(settings, rank=16, dropout=0.1), POSTS)


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
def test_adapters_have_the_studys_number_of_parameters(name: str, rank: int, adapter: dict[str, int]) -> None:
    trained = trained_parameters(model_class(name), replace(LORA, rank=rank))
    del trained["head"]
    assert trained == adapter


@pytest.mark.parametrize(("name", "width"), [("clip", 1024), ("blip2", 2560), ("llava", 4096), ("tinyllava", 2048)])
def test_a_head_is_counted_and_words_have_none(name: str, width: int) -> None:
    head = trained_parameters(model_class(name), replace(HEAD, head_layers=1, head_width=512))
    assert head == {"head": 2 * width + (width + 1) * 512 + (512 + 1) * 3}
    assert trained_parameters(model_class(name), replace(LORA, readout="verbalizer"))["head"] == 0


@pytest.mark.parametrize(("name", "modules"), [("clip", 48), ("blip2", 64), ("llava", 128), ("tinyllava", 44)])
def test_a_footprint_counts_base_adapter_and_modules(name: str, modules: int) -> None:
    found = at_full_size(name)
    assert len(found.adapted) == modules
    assert found.trained == trained_parameters(model_class(name), found.settings)
    # Adapter and head are in float32 on a base in bfloat16, whose few buffers weigh next to nothing.
    assert found.trained_bytes == found.gradient_bytes == 4 * sum(found.trained.values())
    assert found.optimizer_bytes == 8 * sum(found.trained.values())
    assert 0 <= found.base_bytes - 2 * found.base < 1e5


# The cache


@pytest.mark.parametrize("settings", [HEAD, LORA], ids=["head", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_the_cache_is_as_large_as_said(
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


def inputs_of_length(num_posts: int, num_tokens: int, device: torch.device = META) -> Features:
    """A batch for a tiny model; the captions differ in length where there is more than one."""
    length_B = num_tokens - torch.arange(num_posts)
    return {
        "pixels": torch.zeros(num_posts, 3, 64, 64, dtype=torch.uint8, device=device),
        "tokens": torch.full((num_posts, num_tokens), 5, device=device),
        "length": length_B.to(device),
    }


# Memory


def peak_of_a_step(model: ToneModel, features: Features, settings: TrainingConfig) -> int:
    """The peak of what torch's allocator on the CPU gave out during a step, besides weights and their gradients."""
    set_checkpointing(model.backbone, settings.gradient_checkpointing)
    model.train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    labels_B = torch.zeros(len(features["length"]), dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        Loss.of(settings, labels_B)(model(features), labels_B).backward()  # type: ignore[no-untyped-call]
    bytes_now = peak = sum(value.nbytes for value in features.values())
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            bytes_now += event.nbytes()
            peak = max(peak, bytes_now)
    return peak


@pytest.mark.parametrize("gradient_checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", MODELS)
def test_a_rehearsal_foretells_the_memory_of_a_real_step(
    name: str, gradient_checkpointing: bool, tiny_model: Callable[[str], ToneModel]
) -> None:
    """Without dropout, of which the CPU keeps more than a GPU does."""
    model, settings = tiny_model(name), replace(LORA, gradient_checkpointing=gradient_checkpointing)
    attach_adapter(model, settings, seed=1)
    features = model.encode(inputs_of_length(8, 40, torch.device("cpu")))
    blank = {key: value.to(META) for key, value in features.items()}
    foretold = profile_step(copy.deepcopy(model).to(META), blank, settings, gradient_checkpointing)
    assert foretold.peak_bytes == pytest.approx(peak_of_a_step(model, features, settings), rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_memory_and_computation_grow_with_the_batch(name: str, tiny_model: Callable[[str], ToneModel]) -> None:
    """So that one post, rehearsed, speaks for any batch."""
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
def test_a_gpu_takes_the_memory_foretold(name: str) -> None:
    """At full size, with random weights: one optimiser step in bfloat16 with checkpointing."""
    settings = replace(LORA, rank=16, dropout=0.1, gradient_checkpointing=True)
    foretold = footprint(model_class(name), settings, POSTS).step_bytes(4, gradient_checkpointing=True)
    assert foretold == pytest.approx(peak_at_full_size(name, settings, torch.device("cuda")), rel=0.15)


def peak_at_full_size(name: str, settings: TrainingConfig, device: torch.device) -> int:
    """The peak of a GPU's memory in the second step of a training with four posts a batch; weights are all zero."""
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
    loss = Loss.of(settings, torch.zeros(4, dtype=torch.long))
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
        # Of the layers that run in a step: width^2 times what the projections and the MLP are of it.
        ("llava", 32 * (4 * 4096**2 + 3 * 4096 * 11008), 576),
        ("tinyllava", 22 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632), 576),
        ("blip2", 32 * (4 * 2560**2 + 2 * 2560 * 10240), 32),
    ],
)
def test_a_frozen_base_costs_four_operations_a_weight_and_token(name: str, weights: int, num_image: int) -> None:
    """Two forward and two for the gradient of what flows, less most of the last layer; attention, adapters on top."""
    found = at_full_size(name)
    forward = 2 * weights * (found.num_tokens + num_image)
    assert 1.9 < found.plain.flops / forward < 2.25
    # Checkpointing goes forward again, but not through a layer's last product, which nothing is kept of.
    assert 0.7 < (found.checkpointed.flops - found.plain.flops) / forward < 1.1


def test_what_is_cached_costs_a_step_nothing() -> None:
    found = footprint(model_class("clip"), HEAD, POSTS)
    assert tuple(found.cached) == ("length", "pooled")
    # The head alone: 1024 by 3, forward, for its weights, and for the norm before them.
    assert found.plain.flops == found.checkpointed.flops == 3 * 2 * 1024 * 3
    assert found.encoding.flops > 100_000 * found.plain.flops
    # Whereas nothing is frozen before LoRA in both towers.
    assert at_full_size("clip").encoding.flops == 0
    assert set(at_full_size("clip").cached) == {"pixels", "tokens", "length"}


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_saves_memory_and_costs_a_third_to_a_half(name: str) -> None:
    found = at_full_size(name)
    assert found.checkpointed.peak_bytes < found.plain.peak_bytes / 5
    assert 1.3 < found.checkpointed.flops / found.plain.flops < 1.55


# The rehearsal itself


def test_a_measurement_counts_what_is_alive_at_once_and_not_what_was_there() -> None:
    held, given = torch.empty(1000, device=META), torch.empty(10, device=META)

    def run() -> Tensor:
        first = held + 1
        second = held[:500] * 2  # a view of `held` costs nothing, its product does
        del first
        return second.view(5, 100) @ torch.empty(100, 7, device=META)

    result, cost = measure(run, [held], [given])
    assert result.shape == (5, 7)
    assert cost == Cost(peak_bytes=4 * (10 + 1000 + 500), flops=2 * 5 * 100 * 7)


def test_the_meta_device_is_left_as_it_was() -> None:
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
        assert not torch.empty((), device=META)
    assert largest_kept() == unfused
    with pytest.raises(RuntimeError, match="meta"):
        bool(torch.empty((), device=META))


# The plan


def made_up(**changes: object) -> Footprint:
    """Its base takes 10 GiB, what is trained 2, and a post 4, or 1 with checkpointing."""
    parts = {
        "settings": replace(LORA, batch_size=8, gradient_accumulation_steps=2),
        "num_posts": POSTS,
        "num_tokens": 60,
        "base": 5_000_000_000,
        "base_bytes": 10 * GIB,
        "trained": {"adapter on language": 1_000_000, "head": 3},
        "trained_bytes": GIB // 2,
        "adapted": ("model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.1.v_proj"),
        "cached": {"image": 1024},
        "encoding": Cost(0, 5_000_000_000),
        "plain": Cost(4 * GIB, 3_000_000_000),
        "checkpointed": Cost(GIB, 4_000_000_000),
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
def test_the_plan_is_the_largest_batch_that_fits_and_checkpoints_only_if_it_must(
    room: float, expected: BatchPlan | None
) -> None:
    memory_gib = (room + 0.001) / (1 - FREE_SHARE)
    assert made_up().plan(memory_gib * GIB) == expected


def test_a_plan_keeps_the_posts_of_a_step() -> None:
    plans = made_up(settings=replace(LORA, batch_size=12, gradient_accumulation_steps=3)).plans()
    assert [(plan.micro_batch, plan.gradient_accumulation_steps) for plan in plans[:3]] == [(4, 9), (2, 18), (1, 36)]
    assert len(plans) == 6


def test_llava_trains_on_the_studys_gpu() -> None:
    """A V100 of 32 GiB, with accumulation and checkpointing as the study says; here the step has 16 posts."""
    found = at_full_size("llava")
    plan = found.plan(32 * GIB)
    assert plan == BatchPlan(
        2, 8, gradient_checkpointing=False, bytes=found.step_bytes(2, gradient_checkpointing=False)
    )
    assert found.plan(16 * GIB) == BatchPlan(
        2, 8, gradient_checkpointing=True, bytes=found.step_bytes(2, gradient_checkpointing=True)
    )
    assert found.plan(14 * GIB) is None


# What is shown


def test_the_tables_say_it_all() -> None:
    found = made_up()
    shown = {
        title: {row[0]: [str(cell).strip() for cell in row[1:]] for row in rows} for title, _, rows in tables(found)
    }
    assert shown["Parameters"]["base"] == ["5,000,000,000"]
    assert shown["Parameters"]["trained in all"] == ["1,000,003"]
    assert shown["Adapted modules: 3"] == {"model.layers.*.q_proj": ["2"], "model.layers.*.v_proj": ["1"]}
    assert shown["Memory of a step"]["AdamW's moments"] == ["1.00 GiB"]
    assert shown["Ways to take a step of 16 posts"][8] == ["2", "44.00 GiB", "20.00 GiB"]
    assert shown["Cache"]["in all"] == ["1.00 KiB", "2.53 MiB"]
    assert shown["Computation"]["training"] == ["3.00 GFLOP", "48.00 GFLOP", "4.67 TFLOP"]
    assert shown["Computation"]["encoding, once, 2,592 posts"] == ["5.00 GFLOP", "", "12.96 TFLOP"]


def test_altered_views_of_the_train_part_are_encoded_and_cached_too() -> None:
    found = made_up(settings=replace(LORA, augment="image", num_augmented_views=2))
    assert found.encoded == sum(POSTS.values()) + 2 * POSTS["train"] == 5702
    rows = {title: {row[0]: row for row in rows} for title, _, rows in tables(found)}
    assert str(rows["Cache"]["in all"][2]).strip() == "5.57 MiB"
    assert rows["Computation"].keys() >= {"training", "encoding, once, 5,702 posts"}


def test_the_verdict_is_a_line() -> None:
    assert verdict(made_up(), 32) == (
        "It fits 32 GiB, 10% left free, with batch_size: 4, accumulation: 4, checkpointing: false, and takes 28.00 GiB"
    )
    assert verdict(made_up(), 8) == "It does not fit 8 GiB, 10% left free: the least it takes is 13.00 GiB"


def test_known_good_settings_stand_beside_each_other() -> None:
    _, columns, rows = sizes(model_class("clip"), [replace(LORA, rank=1, alpha=1), HEAD])
    assert columns == ("rank", "alpha", "dropout", "adapter", "head")
    assert [tuple(row) for row in rows] == [(1, 1, 0.0, "61,440", "5,123"), (0, 16, 0.0, "0", "5,123")]
