"""The dry run of a search: a footprint as tables, and whether a GPU holds it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from src.cli.output import say, table
from src.core.config import Params
from src.core.labels import TONE_LABELS, Labels
from src.core.paths import SPLIT
from src.core.records import read_split
from src.core.training_config import Setting, TrainingConfig, display_value
from src.modeling.base import ToneModel
from src.modeling.checkpoints import config_of
from src.models.catalog import model_class
from src.sizing.footprint import FREE_SHARE, Footprint, count_trained_parameters, measure_footprint

GIB = 2**30
BYTE_UNITS = ("B  ", "KiB", "MiB", "GiB", "TiB")
FLOP_UNITS = ("FLOP ", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")

# The defaults of a dry run are those of the paper: its GPU, a V100, and its posts, the agreement part of MVSA-Single.
PAPER_MEMORY_GIB = 32.0
PAPER_POSTS = {"train": 1555, "val": 518, "test": 519}

# A title, the names of the columns, and the rows.
Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]


def print_dry_run(params: Params, model: str, memory_gib: float | None) -> None:
    """Print the footprint of the search's largest trial, and whether a GPU holds it.

    Args:
        params: params.yaml.
        model: the model's name in the catalog.
        memory_gib: the GPU's memory; None for the paper's GPU.
    """
    model_type = model_class(model)
    highest = {name: choice.highest() for name, choice in params.space_of(model).items()}
    numbers = {name: value for name, value in highest.items() if value is not None}
    largest = params.training_config(model, **numbers)
    initial = [(drawn, params.training_config(model, **drawn)) for drawn in params.tune.initial_trials.get(model, ())]
    num_posts = Counter(read_split(SPLIT).values()) if SPLIT.is_file() else PAPER_POSTS
    given = params.checkpoint(model)
    config = config_of(model_type, given) if given else None
    footprint = measure_footprint(model_type, largest, num_posts, config=config, labels=params.labels)
    footprint = replace(footprint, trials_at_once=params.tune.trials_at_once)
    source = given or model_type.spec.checkpoint
    say(f"{model} as {source}, base in bfloat16, {footprint.num_tokens} tokens of text a post")
    if given:
        say(f"The tokens are counted as the tokenizer of {model_type.spec.checkpoint} does")
    on = f"adapters on {largest.adapter_positions} positions"
    say(
        f"The search's largest trial: rank {largest.rank}, dropout {largest.dropout:g}, readout {largest.readout}, {on}"
    )
    unsized = [f"{name} {display_value(getattr(largest, name))}" for name, value in highest.items() if value is None]
    if unsized:
        say(f"Sized with {', '.join(unsized)}: the search has other choices, which training.{model} may name instead")
    for title, columns, rows in [
        *footprint_tables(footprint),
        initial_trials_table(model_type, initial, config, params.labels),
    ]:
        table(title, columns, rows)
    say(verdict(footprint, memory_gib or PAPER_MEMORY_GIB))


def footprint_tables(footprint: Footprint) -> list[Table]:
    """Return all tables of a footprint."""
    return [
        _parameters_table(footprint),
        _modules_table(footprint),
        _memory_table(footprint),
        _plans_table(footprint),
        _cache_table(footprint),
        _operations_table(footprint),
    ]


def initial_trials_table(
    model_type: type[ToneModel],
    initial_trials: Sequence[tuple[Mapping[str, Setting], TrainingConfig]],
    config: Any = None,
    labels: Labels = TONE_LABELS,
) -> Table:
    """Return the settings of a search's initial trials and the parameters that each of them trains.

    Each trial is what it draws, and all its settings. The last arguments are those of `measure_footprint`.
    """
    columns = list(dict.fromkeys(name for drawn, _ in initial_trials for name in drawn))
    rows = []
    for _, settings in initial_trials:
        trained = count_trained_parameters(model_type, settings, config, labels)
        head = trained.pop("head")
        cells = [display_value(getattr(settings, name)) for name in columns]
        rows.append((*cells, f"{sum(trained.values()):,}", f"{head:,}"))
    return "Initial trials", (*columns, "adapter", "head"), rows


def verdict(footprint: Footprint, memory_gib: float) -> str:
    """Return the sentence that says whether a training fits a device with this much memory, and by which plan."""
    plan = footprint.plan(memory_gib * GIB)
    if plan is None:
        least = min(plan.bytes for plan in footprint.plans()) / GIB
        return f"It does not fit {memory_gib:g} GiB, {FREE_SHARE:.0%} left free: the least it takes is {least:.2f} GiB"
    return (
        f"It fits {memory_gib:g} GiB, {FREE_SHARE:.0%} left free, with batch_size: {plan.micro_batch}, "
        f"gradient_accumulation_steps: {plan.gradient_accumulation_steps}, "
        f"gradient_checkpointing: {str(plan.gradient_checkpointing).lower()}, "
        f"and takes {plan.bytes / GIB:.2f} GiB"
    )


def _parameters_table(footprint: Footprint) -> Table:
    base = footprint.base_parameters
    trained = sum(footprint.trained_parameters.values())
    counts = {"base": base, **footprint.trained_parameters, "trained in all": trained, "in all": base + trained}
    return "Parameters", ("part", "parameters"), [(part, f"{count:>14,}") for part, count in counts.items()]


def _modules_table(footprint: Footprint) -> Table:
    num_layers = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in footprint.adapted_modules)
    return f"Adapted modules: {len(footprint.adapted_modules)}", ("modules", "layers"), list(num_layers.items())


def _memory_table(footprint: Footprint) -> Table:
    sizes = {
        "base weights": footprint.base_bytes,
        "trained weights": footprint.trained_bytes,
        "gradients": footprint.gradient_bytes,
        "AdamW's moments": footprint.optimizer_bytes,
        "weights and moments of the other trials at once": footprint.other_trials_bytes,
        "activations, each post of a batch": footprint.step.peak_bytes,
        "the same with checkpointing": footprint.checkpointed_step.peak_bytes,
    }
    return "Memory of a step", ("tensors", "bytes"), [(name, _bytes(size)) for name, size in sizes.items()]


def _plans_table(footprint: Footprint) -> Table:
    # Each way appears twice among the plans: without gradient checkpointing, then with it.
    peaks: dict[tuple[int, int], list[str]] = {}
    for plan in footprint.plans():
        peaks.setdefault((plan.micro_batch, plan.gradient_accumulation_steps), []).append(_bytes(plan.bytes))
    columns = ("batch_size", "gradient_accumulation_steps", "peak", "with checkpointing")
    rows = [(*way, *peaks[way]) for way in peaks]
    return f"Ways to take a step of {footprint.effective_batch} posts", columns, rows


def _cache_table(footprint: Footprint) -> Table:
    num_posts = footprint.num_encoded
    sizes = {**footprint.cached_bytes, "in all": sum(footprint.cached_bytes.values())}
    rows = [(name, _bytes(size), _bytes(size * num_posts)) for name, size in sizes.items()]
    return "Cache", ("feature", "a post", f"{num_posts:,} posts"), rows


def _operations_table(footprint: Footprint) -> Table:
    batch = footprint.effective_batch
    train = footprint.num_posts["train"]
    encoded = footprint.num_encoded
    flops: dict[str, float] = {
        "training": footprint.step.flops,
        "the same with checkpointing": footprint.checkpointed_step.flops,
    }
    if footprint.recomputed_step is not None and footprint.shared_step_flops is not None:
        flops["the same without room for the cached prefix"] = footprint.recomputed_step.flops
        flops[f"each of {footprint.trials_at_once} trials at once, without that room"] = footprint.shared_step_flops
    rows = [(work, *(_flops(count * posts) for posts in (1, batch, train))) for work, count in flops.items()]
    encoding = footprint.encoding.flops
    once = (f"encoding, once, {encoded:,} posts", _flops(encoding), "", _flops(encoding * encoded))
    columns = ("work", "a post", f"a step of {batch} posts", f"an epoch of {train:,} posts")
    return "Computation", columns, [*rows, once]


def _bytes(size: float) -> str:
    return _in_largest_unit(size, 1024, BYTE_UNITS)


def _flops(count: float) -> str:
    return _in_largest_unit(count, 1000, FLOP_UNITS)


def _in_largest_unit(value: float, base: int, units: Sequence[str]) -> str:
    """Return `value` in the largest unit that leaves a whole digit, padded to stand in a column."""
    power = 0
    while value >= base and power < len(units) - 1:
        value /= base
        power += 1
    return f"{value:>7.2f} {units[power]}"
