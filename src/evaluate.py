"""Stage `evaluate`: what the trained model says of the test part, which nothing before has looked at.

python -m src.evaluate --model clip
"""

from src.core.config import load_params
from src.core.paths import stage_folder
from src.core.records import read_json, write_json, write_predictions
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, say


@command(example="python -m src.evaluate --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Score the test posts with the trained adapter."""
    params = load_params()
    trained = read_json(stage_folder("train", model) / "train.json")
    from src.learning.lora import loaded
    from src.learning.metrics import report, scores
    from src.learning.scoring import logits, predictions
    from src.learning.workspace import open_workspace
    from src.services.logbook import log_scores, open_tracker, run_tags

    workspace = open_workspace(model)
    with loaded(workspace.model, stage_folder("train", model) / "adapter") as adapter:
        test = workspace.data("test")
        found = predictions(test, logits(adapter.model, test, params.evaluate.batch_size))
    result = scores(found)
    folder = stage_folder("evaluate", model)
    write_predictions(folder / "predictions.csv", found)
    write_json(folder / "metrics.json", result.summary())
    tags = {**run_tags("evaluate", workspace.facts(), params.notice), "train_run": trained["run_id"]}
    with open_tracker(model).run("evaluate", tags=tags) as run:
        log_scores(run, result, report(found), f"{model}, tuned, test", "test")
    say(f"{model}: tuned, on {len(found):,} test posts: accuracy {result.accuracy:.4f}, macro-F1 {result.macro_f1:.4f}")


if __name__ == "__main__":
    main()
