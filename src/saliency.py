"""Explain predictions of a tuned model or of the ensemble by the words and image regions that support them.

python -m src.saliency --model clip         # the most confident mistakes on the test part
python -m src.saliency --model clip 2499    # one post
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import Params, load_params
from src.core.errors import UsageError
from src.core.paths import stage_folder
from src.core.saliency import SANITY, signed
from src.models.catalog import MODELS
from src.registry.ensemble_contract import ENSEMBLE

if TYPE_CHECKING:
    from src.reporting.saliency_page import ExplainedPost

WORDS_PRINTED = 10


@command(example="python -m src.saliency --model clip 2499")
@model_option((*MODELS, ENSEMBLE))
@click.option("--label", help="Explain this label of ID instead of the predicted one.")
@click.option("--sanity", is_flag=True, help="Compare the map of ID with maps of shuffled readouts.")
@click.option("--mistakes", type=click.IntRange(min=1), help="Number of mistakes.  [default: as in params.yaml]")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder.  [default: outputs/saliency/<model>/]")
@click.argument("post_id", metavar="[ID]", required=False)
def main(
    model: str, label: str | None, sanity: bool, mistakes: int | None, out: Path | None, post_id: str | None
) -> None:
    """Explain the prediction for the post ID: show the parts that support the label and those that oppose it.

    Write ID.png and ID.html with a heat map over the image and the caption in colour, and print the parts with the
    largest contributions. Without ID, explain the most confident mistakes on the test part, with a sanity check.

    The method is occlusion, for all models. Parts are removed one after the other: a word of the caption, or a window
    of the image, which is filled with the image's mean colour. The contribution of a part is the decrease of the
    label's log-odds without it. The image as a whole is replaced by the placeholder of a missing image.

    --model ensemble with an ID explains the champion. Without ID it explains the version that
    `python -m src.register_ensemble` made of outputs/ensemble/.
    """
    if sanity and model == ENSEMBLE:
        raise UsageError("--sanity shuffles the readout of one model, and an ensemble has none: leave it out")
    params = load_params()
    folder = out or stage_folder("saliency", model)
    if post_id is None:
        if label or sanity:
            raise UsageError("--label and --sanity are for one post: give its ID")
        _mistakes(params, model, mistakes or params.saliency.mistakes, folder)
    else:
        if mistakes:
            raise UsageError("give the ID of one post or --mistakes, not both")
        _post(params, model, post_id, label or "", sanity, folder)


def _mistakes(params: Params, model: str, num_mistakes: int, folder: Path) -> None:
    if model == ENSEMBLE:
        from src.pipeline.ensemble_saliency import explain_ensemble_mistakes

        explained = explain_ensemble_mistakes(params, num_mistakes, folder)
    else:
        from src.pipeline.saliency import explain_mistakes
        from src.training.workspace import open_workspace

        explained = explain_mistakes(params, open_workspace(params, model), num_mistakes, folder)
    say(explained.summary())


def _post(params: Params, model: str, post_id: str, label: str, sanity: bool, folder: Path) -> None:
    if model == ENSEMBLE:
        from src.pipeline.ensemble_saliency import explain_ensemble_post

        explanation = explain_ensemble_post(params, post_id, label, folder)
    else:
        from src.pipeline.saliency import explain_post

        explanation = explain_post(params, model, post_id, label, sanity, folder)
    _print_map(model, explanation.post)
    if explanation.sanity:
        say(f"{SANITY} Here: {explanation.sanity}.")
    say(f"{explanation.png}, {explanation.html}. {params.notice}")


def _print_map(model: str, explained: "ExplainedPost") -> None:
    saliency = explained.saliency_map
    probabilities = ", ".join(f"{label} {probability:.3f}" for label, probability in saliency.probabilities.items())
    say(f"{model}: {explained.heading} ({probabilities})")
    halves = [(name, signed(contribution)) for name, contribution in saliency.halves()]
    words = [(word.text, signed(word.contribution)) for word in saliency.by_weight()[:WORDS_PRINTED]]
    table(f"Contributions to {saliency.label}", ["part", "log-odds"], [*halves, *words])


if __name__ == "__main__":
    main()
