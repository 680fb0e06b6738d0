"""The runs of what a tuned model has to beat: one experiment for those of all models and of none, to be compared."""

from collections.abc import Mapping

from src.core.records import PARTS, Scores
from src.services.datasets import parts_read
from src.services.logbook import log_scores
from src.services.tracking import Tracker

_ABOUT = """\
What a tuned model has to beat, on the same posts: always the largest class (`majority`), TF-IDF of the captions
(`tfidf`), and a linear probe of each model's frozen features. `val_*` chose the settings; `test_*` choose nothing."""


def log_baseline(
    name: str, tags: Mapping[str, str], settings: Mapping[str, object], val: Scores, test: Scores, report: str
) -> None:
    """Log one, with its scores on validation and test; `report` is the classification report of test."""
    with Tracker("mvsa-baselines", _ABOUT).run(name, tags=tags, params=settings) as run:
        run.inputs(parts_read(*PARTS))
        run.metrics({f"val_{each}": value for each, value in val.summary().items()})
        log_scores(run, test, report, f"{name}, test", "test")
