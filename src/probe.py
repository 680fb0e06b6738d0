"""Stage `probe`: fit a linear classifier to a model's frozen features.

python -m src.probe --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say, warn
from src.core.config import load_params
from src.models.catalog import MODELS


@command(example="python -m src.probe --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Fit logistic regression to the pooled features of the frozen model, and score the test posts."""
    params = load_params()
    from src.pipeline.probe import evaluate_probe

    result = evaluate_probe(params, model)
    for task, reason in result.omissions.reasons().items():
        warn(f"{model} probe, {task}: {reason}")
    say(f"{result.evaluation.summary()}. {params.notice}")


if __name__ == "__main__":
    main()
