"""Work of stage `baseline`: the largest class, and logistic regression on TF-IDF of the captions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from src.core.config import Params
from src.core.data_outputs import SplitReport
from src.core.outputs import BaselineOmissions, MetricsOutput
from src.core.paths import BASELINE, GROUPS, METRICS_JSON, OMITTED_JSON, POSTS, SPLIT, SPLIT_REPORT
from src.core.records import PARTS, Scores, read_groups, read_posts, read_split
from src.evaluation.metrics import report, scores
from src.evaluation.systems import MAJORITY, TFIDF, Kind
from src.tracking.run_logging import log_baseline, run_tags
from src.training.baselines import Fitted, captions, majority, tfidf, write_out_of_fold

NOTICE = "No pretrained weights: the labels, or the captions, of the train part alone."


@dataclass(frozen=True)
class BaselineResult:
    """The fitted baselines, and what TF-IDF could not do."""

    # By name.
    fitted: Mapping[Kind, Fitted]
    # Scores on the test part, by name.
    scores: Mapping[Kind, Scores]
    omissions: BaselineOmissions


def run_baseline(params: Params) -> BaselineResult:
    """Fit both baselines on train, and write outputs/baseline/ and one MLflow run each."""
    part_of = read_split(SPLIT)
    group_of = read_groups(GROUPS)
    posts = [post for post in read_posts(POSTS) if post.id in part_of]
    parts = [[post for post in posts if part_of[post.id] == part] for part in PARTS]
    fitted = {MAJORITY: majority(*parts), TFIDF: tfidf(*parts)}
    test_scores = {name: _write(name, baseline) for name, baseline in fitted.items()}
    chosen = fitted[TFIDF].chosen
    folder = BASELINE / TFIDF
    omissions = BaselineOmissions(
        **write_out_of_fold(folder, chosen.classifier, captions(posts), group_of, params.seed)
    )
    if not chosen.settings:
        omissions = replace(omissions, words="no caption of the train part has any text, so tfidf is the largest class")
    omissions.write(folder / OMITTED_JSON)
    return BaselineResult(fitted, test_scores, omissions)


def _write(name: str, fitted: Fitted) -> Scores:
    """Write a baseline's files, log its run, and return its scores on the test part."""
    test_scores = scores(fitted.test)
    fitted.write(BASELINE / name)
    MetricsOutput(**test_scores.summary()).write(BASELINE / name / METRICS_JSON)
    split = SplitReport.read(SPLIT_REPORT)
    facts = {"model": name, "data_digest": split.data_digest, "split_digest": split.split_digest}
    tags = run_tags("baseline", facts, NOTICE)
    log_baseline(name, tags, fitted.chosen.settings, scores(fitted.val), test_scores, report(fitted.test))
    return test_scores
