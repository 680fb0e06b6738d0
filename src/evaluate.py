"""Stage `evaluate`: score and explain the trained adapter on the test part, which has chosen nothing before.

python -m src.evaluate --model clip
"""

from typing import TYPE_CHECKING

from src.cli.options import command, model_option
from src.cli.output import say, table, warn
from src.core.config import load_params
from src.core.format import percent, percent_interval, points_interval
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from src.core.outputs import ModalityOutput


@command(example="python -m src.evaluate --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Score the test posts with the trained adapter, and show what its predictions rest on.

    The posts are scored whole, with the text alone, the image alone, another post's image, and without hashtags. Posts
    whose text and image have different labels show which of the two labels the predictions follow. The most confident
    mistakes are explained by saliency maps.
    """
    params = load_params()
    from src.pipeline.evaluate import evaluate_adapter

    result = evaluate_adapter(params, model)
    say(result.evaluation.summary())
    _print_ablations(model, result.modality)
    _print_adherence(result.modality)
    say(result.saliency.summary())
    say(params.notice)


def _print_ablations(model: str, output: "ModalityOutput") -> None:
    rows = []
    for name, result in output.ablations.items():
        change = points_interval(result.change.accuracy) if result.change else None
        verdict = result.verdict.answer if result.verdict else None
        figures = result.figures
        rows.append([name, percent_interval(figures["accuracy"]), percent(figures["macro_f1"].value), change, verdict])
    columns = ["shown", "accuracy", "macro-F1", "change of accuracy in points", "better than both"]
    table(f"{model}, tuned, on {output.posts:,} test posts", columns, rows)
    for name, reason in output.omitted.items():
        warn(f"{model}: {name} is left out: {reason}")


def _print_adherence(output: "ModalityOutput") -> None:
    for name, adherence in output.disagreement.follows.items():
        shares = {"text": adherence.text, "image": adherence.image, "neither": adherence.neither}
        printed = ", ".join(f"{label} {percent_interval(share)}" for label, share in shares.items())
        say(f"{output.disagreement.posts:,} posts with two labels, shown {name}: the prediction follows {printed}")


if __name__ == "__main__":
    main()
