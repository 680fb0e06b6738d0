"""Stage `frozen`: what a model gives before anything is trained: its features, zero-shot answers, and a linear probe.

python -m src.frozen --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say, warn
from src.core.config import load_params
from src.modeling.hub import go_offline_if_hub_unreachable
from src.models.catalog import MODELS, needs_hub


@command(example="python -m src.frozen --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Fetch or make a model's checkpoint, cache the features of every labelled post, and score the frozen model.

    It is scored on the test posts by its own words, and by logistic regression on its features. The cache outlives this
    stage: features of an unchanged post at an unchanged checkpoint are not computed again.
    """
    params = load_params()
    if needs_hub(params, model):
        # The imports below load the Hub's library, which reads its environment only once.
        go_offline_if_hub_unreachable()
    from src.pipeline.encode import encode_model
    from src.pipeline.frozen import evaluate_frozen

    encoded = encode_model(params, model)
    for cache in encoded.caches:
        say(
            f"{model}: {cache.num_encoded:,} {cache.unit} encoded to {cache.folder} "
            f"({cache.num_bytes / 1e6:,.1f} MB), {cache.num_cached:,} cached already"
        )
    checkpoint = encoded.workspace.model.checkpoint
    say(f"{model}: {checkpoint.source} at {checkpoint.revision}")
    result = evaluate_frozen(params, encoded.workspace)
    say(result.zeroshot.summary())
    for task, reason in result.omissions.reasons().items():
        warn(f"{model} probe, {task}: {reason}")
    say(f"{result.probe.summary()}. {params.notice}")


if __name__ == "__main__":
    main()
