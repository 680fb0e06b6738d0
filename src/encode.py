"""Stage `encode`: resolve a model's checkpoint, and cache the features of its frozen segments.

python -m src.encode --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.modeling.hub import go_offline_if_hub_unreachable
from src.models.catalog import MODELS, needs_hub


@command(example="python -m src.encode --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Fetch or make a model's checkpoint, and cache the features of every labelled post.

    The cache outlives this stage: features of an unchanged post at an unchanged checkpoint are not computed again.
    """
    params = load_params()
    if needs_hub(params, model):
        # The import below loads the Hub's library, which reads its environment only once.
        go_offline_if_hub_unreachable()
    from src.pipeline.encode import encode_model

    result = encode_model(params, model)
    for cache in result.caches:
        say(
            f"{model}: {cache.num_encoded:,} {cache.unit} encoded to {cache.folder} "
            f"({cache.num_bytes / 1e6:,.1f} MB), {cache.num_cached:,} cached already"
        )
    say(f"{model}: {result.checkpoint.source} at {result.checkpoint.revision}. {params.notice}")


if __name__ == "__main__":
    main()
