"""Stage `evaluate`: what the trained model says of the test part, which nothing before has looked at.

python -m src.evaluate --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.core.files import write_json
from src.core.paths import stage_folder
from src.core.records import ADAPTER_DIGEST, write_predictions
from src.models.catalog import MODELS


@command(example="python -m src.evaluate --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Score the test posts with the trained adapter."""
    params = load_params()
    from src.core.outputs import read_trained

    trained = read_trained(model)
    from src.evaluation.metrics import report, scores
    from src.reporting.mistakes import mistakes_page
    from src.tracking.client import parts_read
    from src.tracking.overview import compare_models, link_runs
    from src.tracking.run_logging import log_scores, open_tracker, run_tags
    from src.training.adapter import saved_adapter
    from src.training.inference import logits, predictions
    from src.training.workspace import open_workspace

    workspace = open_workspace(model)
    with saved_adapter(workspace.model, trained.adapter) as adapter:
        test = workspace.data("test")
        found = predictions(test, logits(adapter.model, test, params.evaluate.batch_size))
    result = scores(found)
    folder = stage_folder("evaluate", model)
    write_predictions(folder / "predictions.csv", found)
    write_json(folder / "metrics.json", result.summary())
    write_json(folder / "evaluate.json", {ADAPTER_DIGEST: trained.digest})
    tags = {**run_tags("evaluate", workspace.facts(), params.notice), ADAPTER_DIGEST: trained.digest}
    title, tracker = f"{model}, tuned, test", open_tracker(model)
    with tracker.run("evaluate", tags=tags) as run:
        run.inputs(parts_read("test"))
        log_scores(run, result, report(found), title, "test")
        run.text("misclassified.html", mistakes_page(f"{title}: what it gets wrong", params.notice, test.posts, found))
        run.text("predictions.csv", (folder / "predictions.csv").read_text(encoding="utf-8"))
        link_runs(tracker, model, run)
        compare_models(tracker, workspace.facts())
    say(f"{model}: tuned, on {len(found):,} test posts: accuracy {result.accuracy:.4f}, macro-F1 {result.macro_f1:.4f}")


if __name__ == "__main__":
    main()
