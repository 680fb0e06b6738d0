"""The end of every evaluation of a system: score its predictions, write them, and log them as a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.core.files import write_json
from src.core.paths import METRICS_JSON, PREDICTIONS_FILE, VAL_PREDICTIONS_FILE
from src.core.records import Prediction, Scores, write_predictions
from src.core.training_config import Setting
from src.evaluation.metrics import report, scores
from src.tracking.client import Run, Tracker, parts_read
from src.tracking.run_logging import log_scores


@dataclass(frozen=True)
class Evaluation:
    """The predictions of one system, and the folder that its stage writes."""

    # Names the system in plots and messages, such as "clip, zero-shot".
    title: str
    folder: Path
    test: Sequence[Prediction]
    # Empty if the stage does not predict the validation part.
    val: Sequence[Prediction] = ()
    # The settings that validation chose, if there was a choice.
    settings: Mapping[str, Setting] = field(default_factory=dict)
    # Whether the run shows the scores on val too: for systems of which validation chose something.
    chosen_by_val: bool = False

    def scores(self) -> Scores:
        """Return the scores on the test part."""
        return scores(self.test)

    def summary(self) -> str:
        """Return the line that the command prints: title, settings, number of test posts, accuracy and macro-F1."""
        settings = "".join(f", {name} {value}" for name, value in self.settings.items())
        test = self.scores()
        return (
            f"{self.title}{settings}, {len(self.test):,} test posts: "
            f"accuracy {test.accuracy:.4f}, macro-F1 {test.macro_f1:.4f}"
        )


def _nothing_more(_: Run) -> None:
    pass


def finish_evaluation(
    evaluation: Evaluation,
    tracker: Tracker,
    run_name: str,
    tags: Mapping[str, str],
    parts: Sequence[str] = ("test",),
    log_more: Callable[[Run], None] = _nothing_more,
) -> None:
    """Write predictions and metrics.json into the evaluation's folder, and log one MLflow run.

    Args:
        evaluation: the predictions of a system.
        tracker: the experiment in which the run is listed.
        run_name: the name of the run.
        tags: of the run, as `run_tags` gives them.
        parts: of the split that the system read.
        log_more: logs what this stage alone has, while the run is open.
    """
    write_predictions(evaluation.folder / PREDICTIONS_FILE, evaluation.test)
    if evaluation.val:
        write_predictions(evaluation.folder / VAL_PREDICTIONS_FILE, evaluation.val)
    test = evaluation.scores()
    write_json(evaluation.folder / METRICS_JSON, test.summary())
    with tracker.run(run_name, tags=tags, params=evaluation.settings) as run:
        run.inputs(parts_read(*parts))
        if evaluation.chosen_by_val:
            val = scores(evaluation.val).summary()
            run.metrics({f"val_{name}": value for name, value in val.items()})
        log_scores(run, test, report(evaluation.test), f"{evaluation.title}, test", "test")
        log_more(run)
