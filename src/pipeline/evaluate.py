"""Work of stage `evaluate`: predict the test part with the trained adapter, whole and ablated, and explain mistakes."""

from dataclasses import dataclass

from src.core.config import Params
from src.core.outputs import EvaluateOutput, ModalityOutput, Trained, read_trained
from src.core.paths import EVALUATE_JSON, PREDICTIONS_FILE, stage_folder
from src.core.records import ADAPTER_DIGEST
from src.pipeline.best_trials import predict_best_trials
from src.pipeline.finish_evaluation import Evaluation, finish_evaluation
from src.pipeline.modality import run_modality
from src.pipeline.saliency import ExplainedMistakes, explain_mistakes
from src.reporting.mistakes import mistakes_page
from src.tracking.client import Run
from src.tracking.overview import compare_models, link_runs
from src.tracking.run_logging import open_tracker, run_tags
from src.training.adapter import saved_adapter
from src.training.inference import predict
from src.training.workspace import Workspace, open_workspace, require_base_of


@dataclass(frozen=True)
class EvaluateResult:
    """The scores of a trained adapter, and what its predictions rest on."""

    evaluation: Evaluation
    modality: ModalityOutput
    saliency: ExplainedMistakes


def evaluate_adapter(params: Params, model: str) -> EvaluateResult:
    """Score the adapter that `train` saved, score its ablations, and explain mistakes. The base is loaded once.

    Each part writes its folder of outputs/ and an MLflow run before the next begins.

    Raises:
        UserError: an earlier stage has not run, the adapter is damaged, or an image cannot be read.
    """
    trained = read_trained(model)
    workspace = open_workspace(params, model)
    require_base_of(trained, workspace.model.checkpoint, params.labels)
    evaluation = score_adapter(params, workspace, trained)
    predict_best_trials(params, workspace, trained)
    modality = run_modality(params, workspace)
    saliency = explain_mistakes(params, workspace, params.saliency.mistakes, stage_folder("saliency", model))
    return EvaluateResult(evaluation, modality, saliency)


def score_adapter(params: Params, workspace: Workspace, trained: Trained) -> Evaluation:
    """Predict the test part, and write and log the scores."""
    model = trained.model
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
