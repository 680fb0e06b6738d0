"""Stage `evaluate`: score the trained adapter on the test part, which no stage before has used to choose anything.

python -m src.evaluate --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.models.catalog import MODELS


@command(example="python -m src.evaluate --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Score the test posts with the trained adapter."""
    params = load_params()
    from src.pipeline.evaluate import evaluate_adapter

    say(evaluate_adapter(params, model).summary())


if __name__ == "__main__":
    main()
