"""Stage `baseline`: what no model is needed for, and any model has to beat.

python -m src.baseline
"""

from typing import TYPE_CHECKING

from src.cli.options import command
from src.cli.output import say, warn
from src.core.config import load_params
from src.core.files import write_json
from src.core.outputs import SplitReport
from src.core.paths import BASELINE, GROUPS, POSTS, SPLIT, SPLIT_REPORT
from src.core.records import PARTS, read_groups, read_posts, read_split

if TYPE_CHECKING:
    from src.training.baselines import Fitted

NOTICE = "No pretrained weights: what the labels, or the captions, of the train part can do alone."


@command(example="python -m src.baseline")
def main() -> None:
    """Score the largest class, and logistic regression on TF-IDF of the captions; write outputs/baseline/."""
    params = load_params()
    from src.training.baselines import captions, majority, tfidf, write_out_of_fold

    part_of, group_of = read_split(SPLIT), read_groups(GROUPS)
    posts = [post for post in read_posts(POSTS) if post.id in part_of]
    parts = [[post for post in posts if part_of[post.id] == part] for part in PARTS]
    _keep("majority", majority(*parts))
    words = tfidf(*parts)
    _keep("tfidf", words)
    folder = BASELINE / "tfidf"
    omitted = write_out_of_fold(folder, words.chosen.classifier, captions(posts), group_of, params.seed)
    if not words.chosen.settings:
        omitted["words"] = "no caption of the train part has anything in it, so that tfidf is the largest class"
    write_json(folder / "omitted.json", omitted)
    for name, reason in omitted.items():
        warn(f"tfidf, {name}: {reason}")


def _keep(name: str, fitted: "Fitted") -> None:
    """Write what a baseline says, log it as a run, and print its scores."""
    from src.evaluation.metrics import report, scores
    from src.tracking.run_logging import log_baseline, run_tags

    result, settings = scores(fitted.test), fitted.chosen.settings
    fitted.write(BASELINE / name)
    write_json(BASELINE / name / "metrics.json", result.summary())
    split = SplitReport.read(SPLIT_REPORT)
    digests = {"data_digest": split.data_digest, "split_digest": split.split_digest}
    tags = run_tags("baseline", {"model": name, **digests}, NOTICE)
    log_baseline(name, tags, settings, scores(fitted.val), result, report(fitted.test))
    chosen = "".join(f", {each} {value}" for each, value in settings.items())
    say(
        f"{name}{chosen}: {len(fitted.test):,} test posts: "
        f"accuracy {result.accuracy:.4f}, macro-F1 {result.macro_f1:.4f}"
    )


if __name__ == "__main__":
    main()
