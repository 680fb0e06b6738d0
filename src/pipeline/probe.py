"""Work of stage `probe`: fit a linear classifier to a model's frozen features."""

from dataclasses import dataclass

from src.core.config import Params
from src.core.outputs import BaselineOmissions
from src.core.paths import GROUPS, OMITTED_JSON, stage_folder
from src.core.records import PARTS, read_groups
from src.pipeline.finish_evaluation import Evaluation, finish_evaluation
from src.tracking.run_logging import open_baselines, run_tags
from src.training.baselines import Examples, probe, together, write_out_of_fold
from src.training.dataset import pooled
from src.training.workspace import Workspace, open_workspace


@dataclass(frozen=True)
class ProbeResult:
    """The evaluation of a probe, and what could not be done on these posts."""

    evaluation: Evaluation
    omissions: BaselineOmissions


def evaluate_probe(params: Params, model: str) -> ProbeResult:
    """Fit the probe, predict val, test and every post out of fold, and write and log the scores on test.

    Raises:
        UserError: an earlier stage has not run.
    """
    group_of = read_groups(GROUPS)
    workspace = open_workspace(model)
    train, val, test = (_examples(workspace, part, params.encode.batch_size) for part in PARTS)
    fitted = probe(train, val, test)
    folder = stage_folder("probe", model)
    fitted.write_candidates(folder)
    posts = together([train, val, test])
    omissions = BaselineOmissions(**write_out_of_fold(folder, fitted.chosen.classifier, posts, group_of, params.seed))
    omissions.write(folder / OMITTED_JSON)
    evaluation = Evaluation(
        f"{model}, linear probe", folder, fitted.test, fitted.val, fitted.chosen.settings, chosen_by_val=True
    )
    tags = run_tags("probe", workspace.facts(), params.notice)
    finish_evaluation(evaluation, open_baselines(), f"{model} probe", tags, PARTS)
    return ProbeResult(evaluation, omissions)


def _examples(workspace: Workspace, part: str, batch_size: int) -> Examples:
    """Return a part with its pooled features: nothing is trainable, so the whole forward pass is cached."""
    data = workspace.data(part, batch_size)
    return Examples(data.posts, pooled(data))
