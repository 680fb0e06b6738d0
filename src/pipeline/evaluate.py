"""Work of stage `evaluate`: predict the test part with the trained adapter."""

from src.core.config import Params
from src.core.outputs import EvaluateOutput, read_trained
from src.core.paths import EVALUATE_JSON, PREDICTIONS_FILE, stage_folder
from src.core.records import ADAPTER_DIGEST
from src.pipeline.finish_evaluation import Evaluation, finish_evaluation
from src.reporting.mistakes import mistakes_page
from src.tracking.client import Run
from src.tracking.overview import compare_models, link_runs
from src.tracking.run_logging import open_tracker, run_tags
from src.training.adapter import saved_adapter
from src.training.inference import predict
from src.training.workspace import open_workspace


def evaluate_adapter(params: Params, model: str) -> Evaluation:
    """Predict the test part with the adapter that `train` saved, and write and log the scores.

    Raises:
        UserError: an earlier stage has not run, or the adapter is damaged.
    """
    trained = read_trained(model)
    workspace = open_workspace(model)
    with saved_adapter(workspace.model, trained.adapter) as adapter:
        test = workspace.data("test")
        predictions = predict(adapter.model, test, params.evaluate.batch_size)
    evaluation = Evaluation(f"{model}, tuned", stage_folder("evaluate", model), predictions)
    # Digesting the adapter reads all its files, so it is done once.
    digest = trained.digest
    EvaluateOutput(digest).write(evaluation.folder / EVALUATE_JSON)
    tracker = open_tracker(model)

    def log_more(run: Run) -> None:
        page = mistakes_page(f"{evaluation.title}, test: what it gets wrong", params.notice, test.posts, predictions)
        run.text("misclassified.html", page)
        run.text(PREDICTIONS_FILE, (evaluation.folder / PREDICTIONS_FILE).read_text(encoding="utf-8"))
        link_runs(tracker, model, run)
        compare_models(tracker, workspace.facts())

    tags = {**run_tags("evaluate", workspace.facts(), params.notice), ADAPTER_DIGEST: digest}
    finish_evaluation(evaluation, tracker, "evaluate", tags, log_more=log_more)
    return evaluation
