"""Operations and activations of a training step at full size: a step that caches nothing, against the project's.

python -m benchmarks.operations --model tinyllava --caption-tokens 35

The other side is the same model with adapters on all positions, whose every step starts from the pixels: what a careful
training loop without a cache computes. The project's adapters act on the text alone, so a step starts from the prefix's
keys and values, or runs the prefix without gradients where the cache has no room for them, once for all trials at once.
With adapters on all positions the project caches only what lies below the first adapter, such as the vision tower.
Models are built on the meta device, which needs no weights, no posts and a minute. The last line is JSON.
"""

import json
from dataclasses import asdict, replace

import click
import torch

from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import load_params
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.models.catalog import MODELS, model_class
from src.sizing.cost_profile import Cost, profile_step
from src.sizing.footprint import attach_on_meta, measure_footprint
from src.sizing.meta_model import blank_inputs, build_on_meta

TRIALS_AT_ONCE = (2, 4, 8)


@command(example="python -m benchmarks.operations --model tinyllava --caption-tokens 35")
@model_option(MODELS)
@click.option("--caption-tokens", type=click.IntRange(min=1), help="Length of the caption.  [default: a long one]")
@click.option("--rank", type=click.IntRange(min=1), default=16, help="Rank of the adapters.")
def main(model: str, caption_tokens: int | None, rank: int) -> None:
    """Count the operations and the bytes of activations of a step on one post, with and without a cache."""
    everywhere = load_params().training_config(model, rank=rank, adapter_positions="all")
    on_text = replace(everywhere, adapter_positions="text")
    footprint = measure_footprint(model_class(model), on_text, {}, caption_tokens=caption_tokens)
    assert footprint.recomputed_step is not None, "adapters on the text have a prefix"
    uncached = uncached_step(model_class(model), everywhere, caption_tokens)
    steps = {
        "all positions, frozen part cached": cached_step(model_class(model), everywhere, caption_tokens),
        "text, prefix cached": footprint.step,
        "text, prefix in the step": footprint.recomputed_step,
    }
    for count in TRIALS_AT_ONCE:
        flops = replace(footprint, trials_at_once=count).shared_step_flops
        assert flops is not None, "a prefix in the step has its operations"
        steps[f"the same, {count} trials at once"] = replace(footprint.recomputed_step, flops=round(flops))
    rows = [["all positions, nothing cached", *_printed(uncached), "", ""]]
    ratios = {name: _ratios(uncached, cost) for name, cost in steps.items()}
    rows += [[name, *_printed(cost), *(f"{ratio:.2f}" for ratio in ratios[name])] for name, cost in steps.items()]
    title = f"{model}: a step on one post with {footprint.num_tokens} tokens of text"
    table(title, ["step", "TFLOP", "activations, GB", "times fewer", "times less"], rows)
    facts = {"model": model, "rank": rank, "text_tokens": footprint.num_tokens, **asdict(uncached)}
    say(json.dumps({"benchmark": "operations", **facts, "ratios": ratios}))


def uncached_step(model_type: type[ToneModel], settings: TrainingConfig, caption_tokens: int | None) -> Cost:
    """Return the cost of a step on one post that starts from its pixels."""
    model = build_on_meta(model_type, torch.bfloat16)
    attach_on_meta(model, settings)
    return profile_step(model, blank_inputs(model, caption_tokens), settings, gradient_checkpointing=False)


def cached_step(model_type: type[ToneModel], settings: TrainingConfig, caption_tokens: int | None) -> Cost:
    """Return the cost of a step on one post that starts from the features of frozen segments."""
    return measure_footprint(model_type, settings, {}, caption_tokens=caption_tokens).step


def _printed(cost: Cost) -> tuple[str, str]:
    return f"{cost.flops / 1e12:.3f}", f"{cost.peak_bytes / 1e9:.3f}"


def _ratios(uncached: Cost, cost: Cost) -> tuple[float, float]:
    return round(uncached.flops / cost.flops, 3), round(uncached.peak_bytes / cost.peak_bytes, 3)


if __name__ == "__main__":
    main()
