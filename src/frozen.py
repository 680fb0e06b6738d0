"""Stage `frozen`: score a model before anything is trained, by its own words and by a linear probe of its features.

python -m src.frozen --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say, warn
from src.core.config import load_params
from src.models.catalog import MODELS


@command(example="python -m src.frozen --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Score the test posts by the frozen model: by its own words, and by logistic regression on its features."""
    params = load_params()
    from src.pipeline.frozen import evaluate_frozen

    result = evaluate_frozen(params, model)
    say(result.zeroshot.summary())
    for task, reason in result.omissions.reasons().items():
        warn(f"{model} probe, {task}: {reason}")
    say(f"{result.probe.summary()}. {params.notice}")


if __name__ == "__main__":
    main()
