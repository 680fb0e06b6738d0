"""Stage `zeroshot`: what a model says of the test part before anything is trained.

python -m src.zeroshot --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.core.files import write_json
from src.core.paths import stage_folder
from src.core.records import write_predictions
from src.models.catalog import MODELS


@command(example="python -m src.zeroshot --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Score the test posts by a model's own words, without training."""
    params = load_params()
    from src.evaluation.metrics import report, scores
    from src.tracking.client import parts_read
    from src.tracking.run_logging import log_scores, open_tracker, run_tags
    from src.training.inference import logits, predictions
    from src.training.workspace import open_workspace

    workspace = open_workspace(model)
    workspace.model.readout = workspace.model.verbalizer_readout()
    parts = [workspace.data(part, params.encode.batch_size) for part in ("val", "test")]
    # What it says of validation chooses nothing here; a temperature may be fitted on it.
    val, found = (predictions(part, logits(workspace.model, part, params.evaluate.batch_size)) for part in parts)
    result = scores(found)
    folder = stage_folder("zeroshot", model)
    write_predictions(folder / "val_predictions.csv", val)
    write_predictions(folder / "predictions.csv", found)
    write_json(folder / "metrics.json", result.summary())
    tags = run_tags("zeroshot", workspace.facts(), params.notice)
    with open_tracker(model).run("zeroshot", tags=tags) as run:
        run.inputs(parts_read("val", "test"))
        log_scores(run, result, report(found), f"{model}, zero-shot, test", "test")
    say(
        f"{model}: zero-shot, {len(found):,} test posts: accuracy {result.accuracy:.4f}, macro-F1 {result.macro_f1:.4f}"
    )


if __name__ == "__main__":
    main()
