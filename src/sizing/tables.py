"""A footprint as tables to be printed: of each its title, the names of its columns, and its rows."""

import re
from collections import Counter
from collections.abc import Sequence

from src.cli.output import say, table
from src.core.config import Params
from src.core.paths import SPLIT
from src.core.records import read_split
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.models.catalog import model_class
from src.sizing.footprint import FREE_SHARE, Footprint, footprint, trained_parameters

GIB = 2**30


BYTE_UNITS = ("B  ", "KiB", "MiB", "GiB", "TiB")


FLOP_UNITS = ("FLOP ", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")


Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]


def tables(found: Footprint) -> list[Table]:
    """All that a footprint says."""
    return [make(found) for make in (_parameters, _modules, _memory, _steps, _cache, _computation)]


def sizes(kind: type[ToneModel], candidates: Sequence[TrainingConfig]) -> Table:
    """How many parameters other settings would train."""
    rows = []
    for settings in candidates:
        trained = trained_parameters(kind, settings)
        head = trained.pop("head")
        rows.append((settings.rank, settings.alpha, settings.dropout, f"{sum(trained.values()):,}", f"{head:,}"))
    return "Known-good settings", ("rank", "alpha", "dropout", "adapter", "head"), rows


def verdict(found: Footprint, memory_gib: float) -> str:
    """Whether a training fits a device with so much memory, and how."""
    plan = found.plan(memory_gib * GIB)
    if plan is None:
        least = min(plan.bytes for plan in found.plans()) / GIB
        return f"It does not fit {memory_gib:g} GiB, {FREE_SHARE:.0%} left free: the least it takes is {least:.2f} GiB"
    return (
        f"It fits {memory_gib:g} GiB, {FREE_SHARE:.0%} left free, with batch_size: {plan.micro_batch}, "
        f"accumulation: {plan.gradient_accumulation_steps}, checkpointing: {str(plan.gradient_checkpointing).lower()}, "
        f"and takes {plan.bytes / GIB:.2f} GiB"
    )


def _parameters(found: Footprint) -> Table:
    trained = sum(found.trained.values())
    counts = {"base": found.base, **found.trained, "trained in all": trained, "in all": found.base + trained}
    return "Parameters", ("part", "parameters"), [(part, f"{count:>14,}") for part, count in counts.items()]


def _modules(found: Footprint) -> Table:
    layers = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in found.adapted)
    return f"Adapted modules: {len(found.adapted)}", ("modules", "layers"), list(layers.items())


def _memory(found: Footprint) -> Table:
    sizes = {
        "base weights": found.base_bytes,
        "trained weights": found.trained_bytes,
        "gradients": found.gradient_bytes,
        "AdamW's moments": found.optimizer_bytes,
        "activations, each post of a batch": found.plain.peak_bytes,
        "the same with checkpointing": found.checkpointed.peak_bytes,
    }
    return "Memory of a step", ("what", "bytes"), [(what, _bytes(size)) for what, size in sizes.items()]


def _cache(found: Footprint) -> Table:
    posts = found.encoded
    sizes = {**found.cached, "in all": sum(found.cached.values())}
    rows = [(name, _bytes(size), _bytes(size * posts)) for name, size in sizes.items()]
    return "Cache", ("feature", "a post", f"{posts:,} posts"), rows


def _computation(found: Footprint) -> Table:
    batch, train, posts = found.effective_batch, found.num_posts["train"], found.encoded
    costs = {"training": found.plain.flops, "the same with checkpointing": found.checkpointed.flops}
    rows = [(what, *(_flops(flops * times) for times in (1, batch, train))) for what, flops in costs.items()]
    once = (f"encoding, once, {posts:,} posts", _flops(found.encoding.flops), "", _flops(found.encoding.flops * posts))
    return "Computation", ("what", "a post", f"a step of {batch} posts", f"an epoch of {train:,} posts"), [*rows, once]


def _steps(found: Footprint) -> Table:
    peaks: dict[tuple[int, int], list[str]] = {}
    for plan in found.plans():
        peaks.setdefault((plan.micro_batch, plan.gradient_accumulation_steps), []).append(_bytes(plan.bytes))
    columns = ("batch_size", "gradient_accumulation_steps", "peak", "with checkpointing")
    return f"Ways to take a step of {found.effective_batch} posts", columns, [(*way, *peaks[way]) for way in peaks]


def _bytes(size: float) -> str:
    return _scaled(size, 1024, BYTE_UNITS)


def _flops(count: float) -> str:
    return _scaled(count, 1000, FLOP_UNITS)


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    """`value` in the largest unit that leaves a whole digit, wide enough to stand in a column."""
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:>7.2f} {units[power]}"


# Where nothing says otherwise, a dry run is of the study: its GPU, a V100, and its posts, the agreement of MVSA-Single.
STUDY_MEMORY_GIB = 32.0


STUDY_POSTS = {"train": 1555, "val": 518, "test": 519}


def print_dry_run(params: Params, model: str, memory_gib: float | None) -> None:
    """Print what the search's largest trial takes, and whether a GPU of `memory_gib` holds it."""
    kind = model_class(model)
    highest = {name: choice.highest() for name, choice in params.space_of(model).items()}
    numbers = {name: value for name, value in highest.items() if value is not None}
    largest = params.training_config(model, **numbers)
    known = [params.training_config(model, **settings) for settings in params.tune.initial_trials.get(model, ())]
    num_posts = Counter(read_split(SPLIT).values()) if SPLIT.is_file() else STUDY_POSTS
    found = footprint(kind, largest, num_posts)
    say(f"{model} as {kind.spec.checkpoint}, base in bfloat16, {found.num_tokens} tokens of text a post")
    say(f"The search's largest trial: rank {largest.rank}, dropout {largest.dropout:g}, readout {largest.readout}")
    for each in [*tables(found), sizes(kind, known)]:
        table(*each)
    say(verdict(found, memory_gib or STUDY_MEMORY_GIB))
