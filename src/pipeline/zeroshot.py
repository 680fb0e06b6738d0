"""Work of stage `zeroshot`: predict with the untrained model's verbalizer."""

from src.core.config import Params
from src.core.paths import stage_folder
from src.pipeline.finish_evaluation import Evaluation, finish_evaluation
from src.tracking.run_logging import open_tracker, run_tags
from src.training.inference import predict
from src.training.workspace import open_workspace


def evaluate_zeroshot(params: Params, model: str) -> Evaluation:
    """Predict the val and test parts with a model as it is, and write and log the scores on test.

    Validation chooses nothing here. Its predictions are written because `compare` may fit a temperature on them.

    Raises:
        UserError: an earlier stage has not run.
    """
    workspace = open_workspace(model)
    workspace.model.readout = workspace.model.verbalizer_readout()
    # Both parts are encoded before the model runs, so that an unreadable image fails at once.
    val = workspace.data("val", params.encode.batch_size)
    test = workspace.data("test", params.encode.batch_size)
    evaluation = Evaluation(
        title=f"{model}, zero-shot",
        folder=stage_folder("zeroshot", model),
        test=predict(workspace.model, test, params.evaluate.batch_size),
        val=predict(workspace.model, val, params.evaluate.batch_size),
    )
    tags = run_tags("zeroshot", workspace.facts(), params.notice)
    finish_evaluation(evaluation, open_tracker(model), "zeroshot", tags, ("val", "test"))
    return evaluation
