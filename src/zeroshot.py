"""Stage `zeroshot`: score the test part by a model's own words, before anything is trained.

python -m src.zeroshot --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.models.catalog import MODELS


@command(example="python -m src.zeroshot --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Score the test posts by a model's own words, without training."""
    params = load_params()
    from src.pipeline.zeroshot import evaluate_zeroshot

    say(evaluate_zeroshot(params, model).summary())


if __name__ == "__main__":
    main()
