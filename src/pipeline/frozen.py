"""Last work of stage `frozen`: predict with the untrained model's verbalizer, and fit a probe to its features."""

from dataclasses import dataclass

from src.core.config import Params
from src.core.outputs import BaselineOmissions
from src.core.paths import CLASSIFIER_FOLDER, GROUPS, OMITTED_JSON, stage_folder
from src.core.records import PARTS, read_groups
from src.pipeline.finish_evaluation import Evaluation, finish_evaluation
from src.tracking.run_logging import open_baselines, open_tracker, run_tags
from src.training.baselines import Examples, probe, together, write_out_of_fold
from src.training.classifier_files import save_classifier
from src.training.dataset import pooled
from src.training.inference import predict
from src.training.workspace import Workspace


@dataclass(frozen=True)
class FrozenResult:
    """The evaluations of a frozen model, and what its probe could not do on these posts."""

    zeroshot: Evaluation
    probe: Evaluation
    omissions: BaselineOmissions


def evaluate_frozen(params: Params, workspace: Workspace) -> FrozenResult:
    """Score a model without training it, and write and log the scores on test.

    Raises:
        UserError: an earlier stage has not run.
    """
    group_of = read_groups(GROUPS)
    probed, omissions = _probe(params, workspace, group_of)
    return FrozenResult(_zeroshot(params, workspace), probed, omissions)


def _zeroshot(params: Params, workspace: Workspace) -> Evaluation:
    """Predict the val and test parts by the model's own words.

    Validation chooses nothing here. Its predictions are written because `compare` may fit a temperature on them.
    """
    model = workspace.model.spec.name
    workspace.model.readout = workspace.model.verbalizer_readout()
    # Both parts are encoded before the model runs, so that an unreadable image fails at once.
    val = workspace.data("val")
    test = workspace.data("test")
    evaluation = Evaluation(
        title=f"{model}, zero-shot",
        folder=stage_folder("zeroshot", model),
        test=predict(workspace.model, test, params.evaluate.batch_size),
        val=predict(workspace.model, val, params.evaluate.batch_size),
    )
    tags = run_tags("zeroshot", workspace.facts(), params.notice)
    finish_evaluation(evaluation, open_tracker(model), "zeroshot", tags, ("val", "test"))
    return evaluation


def _probe(params: Params, workspace: Workspace, group_of: dict[str, str]) -> tuple[Evaluation, BaselineOmissions]:
    """Fit the probe, and predict val, test and every post out of fold."""
    model = workspace.model.spec.name
    train, val, test = (_examples(workspace, part) for part in PARTS)
    names = params.label_names
    fitted = probe(train, val, test, label_names=names)
    folder = stage_folder("probe", model)
    fitted.write_candidates(folder)
    save_classifier(folder / CLASSIFIER_FOLDER, fitted.chosen.classifier)
    posts = together([train, val, test])
    classifier = fitted.chosen.classifier
    omissions = BaselineOmissions(**write_out_of_fold(folder, classifier, posts, group_of, params.seed, names))
    omissions.write(folder / OMITTED_JSON)
    evaluation = Evaluation(
        f"{model}, linear probe", folder, fitted.test, fitted.val, fitted.chosen.settings, chosen_by_val=True
    )
    tags = run_tags("probe", workspace.facts(), params.notice)
    finish_evaluation(evaluation, open_baselines(), f"{model} probe", tags, PARTS)
    return evaluation, omissions


def _examples(workspace: Workspace, part: str) -> Examples:
    """Return a part with its pooled features: nothing is trainable, so the whole forward pass is cached."""
    data = workspace.data(part)
    return Examples(data.posts, pooled(data, workspace.model.width))
