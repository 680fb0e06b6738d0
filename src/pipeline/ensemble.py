"""Work of stage `ensemble`: choose members and weights among all systems on validation, and score their mean."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.core.config import Params
from src.core.data_outputs import SplitReport
from src.core.files import digest_of, file_digest
from src.core.outputs import BestTrials, EnsembleMember, EnsembleOutput
from src.core.paths import (
    ENSEMBLE,
    ENSEMBLE_JSON,
    PREDICTIONS_FILE,
    SPLIT,
    SPLIT_REPORT,
    VAL_PREDICTIONS_FILE,
)
from src.core.records import ENSEMBLE_DIGEST, Prediction, read_predictions, read_split, write_predictions
from src.evaluation.ensemble import Bagging, Selection, answers_of, best_prefix, mean_of, select
from src.evaluation.metrics import scores
from src.evaluation.systems import COMBINED, System, best_on_validation, read_further_trainings, read_systems
from src.pipeline.finish_evaluation import Evaluation, finish_evaluation
from src.tracking.client import Run
from src.tracking.run_logging import open_ensemble, run_tags


@dataclass(frozen=True)
class EnsembleResult:
    """The chosen members, and their mean's predictions."""

    output: EnsembleOutput
    evaluation: Evaluation


def run_ensemble(params: Params) -> EnsembleResult:
    """Choose members on validation, and write outputs/ensemble/ and an MLflow run.

    Raises:
        UserError: predictions are missing, or were written for another split.
    """
    part_of = read_split(SPLIT)
    singles = read_systems(params.models, part_of)
    further = read_further_trainings(params.models, part_of)
    trials = {model: _rank(model, singles, further) for model in params.models}
    best_trials = {model: _choose_trials(ranked) for model, ranked in trials.items() if len(ranked) > 1}
    left_out = {system.name for model, choice in best_trials.items() for system in trials[model][choice.k :]}
    library = {system.name: system for system in [*singles, *further] if system.name not in left_out}
    chosen_on = {name: system.val for name, system in library.items()}
    selection = select(chosen_on, Bagging(params.ensemble.bags, params.ensemble.share, params.seed))
    _output(library, selection, best_on_validation(singles), best_trials).write(ENSEMBLE / ENSEMBLE_JSON)
    # The file rounds weights. Reading them back makes this stage and a registered version compute with the same ones.
    output = EnsembleOutput.read(ENSEMBLE / ENSEMBLE_JSON)
    evaluation = _evaluate(library, output)
    write_predictions(ENSEMBLE / VAL_PREDICTIONS_FILE, evaluation.val)
    _log(params, evaluation)
    return EnsembleResult(output, evaluation)


def ensemble_digest() -> str:
    """Return the digest of the members, their weights and their validation predictions, as outputs/ensemble/ has them.

    Raises:
        UserError: the stage has not run.
    """
    names = (ENSEMBLE_JSON, VAL_PREDICTIONS_FILE)
    return digest_of((name, file_digest(ENSEMBLE / name)) for name in names)


def log_ensemble(params: Params) -> None:
    """Log the run of the stage again, from its files."""
    output = EnsembleOutput.read(ENSEMBLE / ENSEMBLE_JSON)
    test, val = (read_predictions(ENSEMBLE / name) for name in (PREDICTIONS_FILE, VAL_PREDICTIONS_FILE))
    _log(params, _evaluation(output, test, val))


def _rank(model: str, singles: Sequence[System], further: Sequence[System]) -> list[System]:
    """Return the tuned model, and the other trials of its study with the best on validation first."""
    tuned = [system for system in singles if (system.kind, system.model) == ("tuned", model)]
    trials = [system for system in further if (system.kind, system.model) == ("trial", model)]
    return [*tuned, *sorted(trials, key=lambda system: -scores(system.val).macro_f1)]


def _choose_trials(ranked: Sequence[System]) -> BestTrials:
    k, losses = best_prefix([system.val for system in ranked])
    numbers = tuple(system.number for system in ranked if system.number is not None)
    return BestTrials(numbers, tuple(losses), k)


def _output(
    library: Mapping[str, System], selection: Selection, best: System, best_trials: Mapping[str, BestTrials]
) -> EnsembleOutput:
    members = [library[name] for name in selection.weights]
    mean = mean_of({member.name: member.val for member in members}, selection.weights)
    return EnsembleOutput(
        members=tuple(
            EnsembleMember(member.name, member.kind, member.model, member.number, selection.weights[member.name])
            for member in members
        ),
        temperature=selection.temperature,
        candidates=len(library),
        best_single=best.name,
        best_single_validation=scores(best.val).headline(),
        validation=scores(mean).headline(),
        best_trials=best_trials,
        passes=dict(Counter(member.model for member in members if member.model)),
    )


def _evaluate(library: Mapping[str, System], output: EnsembleOutput) -> Evaluation:
    selection = Selection({member.system: member.weight for member in output.members}, output.temperature)
    test, val = (
        answers_of({name: getattr(library[name], part) for name in selection.weights}, selection)
        for part in ("test", "val")
    )
    return _evaluation(output, test, val)


def _evaluation(output: EnsembleOutput, test: Sequence[Prediction], val: Sequence[Prediction]) -> Evaluation:
    return Evaluation(COMBINED, ENSEMBLE, test, val, {"members": len(output.members)}, chosen_by_val=True)


def facts_of_ensemble(params: Params) -> dict[str, str]:
    """Return the posts and the split that members and weights were chosen on, by the names of MLflow's tags."""
    split = SplitReport.read(SPLIT_REPORT)
    return {
        "model": COMBINED,
        "scale": params.scale,
        "data_digest": split.data_digest,
        "split_digest": split.split_digest,
    }


def _log(params: Params, evaluation: Evaluation) -> None:
    def log_more(run: Run) -> None:
        run.text(ENSEMBLE_JSON, (ENSEMBLE / ENSEMBLE_JSON).read_text(encoding="utf-8"))

    tags = {**run_tags(COMBINED, facts_of_ensemble(params), params.notice), ENSEMBLE_DIGEST: ensemble_digest()}
    finish_evaluation(evaluation, open_ensemble(), COMBINED, tags, ("val", "test"), log_more)
