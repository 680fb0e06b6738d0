"""Stage `baseline`: score two baselines that need no model: the largest class, and TF-IDF of the captions.

python -m src.baseline
"""

from src.cli.options import command
from src.cli.output import say, warn
from src.core.config import load_params


@command(example="python -m src.baseline")
def main() -> None:
    """Score the largest class, and logistic regression on TF-IDF of the captions; write outputs/baseline/."""
    params = load_params()
    from src.pipeline.baseline import run_baseline

    result = run_baseline(params)
    for evaluation in result.evaluations:
        say(evaluation.summary())
    for task, reason in result.omissions.reasons().items():
        warn(f"tfidf, {task}: {reason}")


if __name__ == "__main__":
    main()
