"""Work of stage `baseline`: the largest class, and logistic regression on TF-IDF of the captions."""

from dataclasses import dataclass, replace

from src.core.config import Params
from src.core.data_outputs import SplitReport
from src.core.outputs import BaselineOmissions
from src.core.paths import BASELINE, CLASSIFIER_FOLDER, GROUPS, OMITTED_JSON, POSTS, SPLIT, SPLIT_REPORT
from src.core.records import PARTS, read_groups, read_posts, read_split
from src.evaluation.systems import MAJORITY, TFIDF
from src.pipeline.finish_evaluation import Evaluation, finish_evaluation
from src.tracking.run_logging import open_baselines, run_tags
from src.training.baselines import Fitted, captions, majority, tfidf, write_out_of_fold
from src.training.classifier_files import save_classifier

NOTICE = "No pretrained weights: the labels, or the captions, of the train part alone."


@dataclass(frozen=True)
class BaselineResult:
    """The evaluated baselines, and what TF-IDF could not do."""

    evaluations: tuple[Evaluation, ...]
    omissions: BaselineOmissions


def run_baseline(params: Params) -> BaselineResult:
    """Fit both baselines on train, and write outputs/baseline/ and one MLflow run each."""
    part_of = read_split(SPLIT)
    group_of = read_groups(GROUPS)
    posts = [post for post in read_posts(POSTS) if post.id in part_of]
    parts = [[post for post in posts if part_of[post.id] == part] for part in PARTS]
    names = params.label_names
    fitted = {MAJORITY: majority(*parts, label_names=names), TFIDF: tfidf(*parts, label_names=names)}
    evaluations = tuple(_finish(name, baseline) for name, baseline in fitted.items())
    chosen = fitted[TFIDF].chosen
    folder = BASELINE / TFIDF
    omissions = BaselineOmissions(
        **write_out_of_fold(folder, chosen.classifier, captions(posts), group_of, params.seed, names)
    )
    if not chosen.settings:
        omissions = replace(omissions, words="no caption of the train part has any text, so tfidf is the largest class")
    omissions.write(folder / OMITTED_JSON)
    return BaselineResult(evaluations, omissions)


def _finish(name: str, fitted: Fitted) -> Evaluation:
    """Write a baseline's files and log its run."""
    split = SplitReport.read(SPLIT_REPORT)
    facts = {"model": name, "data_digest": split.data_digest, "split_digest": split.split_digest}
    settings = fitted.chosen.settings
    evaluation = Evaluation(name, BASELINE / name, fitted.test, fitted.val, settings, chosen_by_val=True)
    fitted.write_candidates(evaluation.folder)
    save_classifier(evaluation.folder / CLASSIFIER_FOLDER, fitted.chosen.classifier)
    finish_evaluation(evaluation, open_baselines(), name, run_tags("baseline", facts, NOTICE), PARTS)
    return evaluation
