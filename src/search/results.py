"""What a search has found, for the stages after it and for MLflow."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from src.cli.output import say, warn
from src.core.config import Range, TuneParams
from src.core.errors import UserError
from src.core.files import DECIMALS, write_bytes, write_table
from src.core.outputs import BestTrial, SearchSummary
from src.core.paths import BEST_FILE, SEARCH_FILE, TRIALS_FILE, stage_folder
from src.core.training_config import display_value
from src.search.mlflow_sync import MlflowSync
from src.search.plan import StudyPlan
from src.search.study import Study
from src.search.study_analysis import figures, importances
from src.search.trial import ENDED, TrialRecord
from src.tracking.client import Run
from src.tracking.markdown import model_link, run_link, table
from src.tracking.ui_views import view_address


def conclude(model: str, study: Study, mirror: MlflowSync, parent: Run, total: int) -> TrialRecord:
    """Write outputs/tune/MODEL and log it with the study's run, if MLflow answers; returns the best trial.

    Raises:
        UserError: no trial is complete.
    """
    best = study.best(total)
    finished = study.finished()[:total]
    ended = [trial for trial in study.trials() if trial.state in ENDED and trial.number <= finished[-1].number]
    folder = stage_folder("tune", model)
    _best(study, finished, best).write(folder / BEST_FILE)
    replace(_spent(study.plan, ended), importances=_importances(study)).write(folder / SEARCH_FILE)
    write_table(folder / TRIALS_FILE, [_row(trial) for trial in finished])
    for old in folder.glob("*.png"):  # of a study with other pictures
        old.unlink()
    for name, png in figures(study.raw, study.plan.space).items():
        write_bytes(folder / f"{name}.png", png)
    if not mirror.unreachable:
        try:
            _log(model, study, mirror, parent, finished, best)
        except UserError as refusal:
            warn(f"{refusal}; the same command with --sync logs what is missing")
    return best


def _log(
    model: str, study: Study, mirror: MlflowSync, parent: Run, finished: Sequence[TrialRecord], best: TrialRecord
) -> None:
    parent.metrics({"best_val_macro_f1": best.value or 0.0, "trials": len(finished)})
    parent.tags({"best_trial": best.number, "best_run": mirror.run_id(best.number)})
    parent.folder(stage_folder("tune", model), "search")
    note = study_note(model, study.plan, finished, mirror.run_id, parent.experiment_id())
    parent.section("The search", f"{note}\n\n{_trained(study)}.")


def tell_best(model: str, study: Study, best: TrialRecord, total: int, usual: TuneParams) -> None:
    """Say what came of a search, and what to do with it where `usual`, that of params.yaml, was overridden."""
    chosen = ", ".join(f"{name} {display_value(value)}" for name, value in best.params.items())
    count = len(study.finished()[:total])
    say(f"{model}: best of {count} trials is trial {best.number}: validation macro-F1 {best.value:.4f} with {chosen}")
    say(_trained(study))
    for trial in [] if study.plan.single else front(study.finished()[:total]):
        size = f"{trial.outcome['parameters']:,} parameters"
        say(f"On the front: trial {trial.number}, macro-F1 {trial.value:.4f}, {size}")
    say(f"Look: `make ui`, experiment mvsa-{model}. Table: {stage_folder('tune', model) / TRIALS_FILE}")
    searched = {"trials": total, "sampler": study.plan.sampler, "pruner": study.plan.pruner}
    changed = {name: value for name, value in searched.items() if value != getattr(usual, name)}
    if changed:
        overrides = " ".join(f"-S tune.{name}={value}" for name, value in changed.items())
        say(f"To train and register it: `dvc exp run {overrides}` (no trial is run again)")


def front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that no other beats in both macro-F1 and number of parameters, the smallest first."""
    found: list[TrialRecord] = []
    complete = [trial for trial in trials if trial.state == "complete"]
    for trial in sorted(complete, key=lambda each: (each.outcome["parameters"], -(each.value or 0))):
        if not found or (trial.value or 0) > (found[-1].value or 0):
            found.append(trial)
    return found


def _best(study: Study, finished: Sequence[TrialRecord], best: TrialRecord) -> BestTrial:
    assert best.value is not None
    return BestTrial(
        study=study.name,
        trials=len(finished),
        pruned=sum(trial.state == "pruned" for trial in finished),
        best_trial=best.number,
        best_val_macro_f1=best.value,
        params=best.params,
    )


def _importances(study: Study) -> dict[str, float]:
    # Rounded here: under the name of a setting, a file keeps numbers as they are.
    return {name: round(share, DECIMALS) for name, share in importances(study.raw, study.plan.space).items()}


def _spent(plan: StudyPlan, trials: Sequence[TrialRecord]) -> SearchSummary:
    """How the trials ended, and what pruning has saved: a pruned trial might have run to its last epoch."""
    states = Counter(trial.state for trial in trials)
    unpruned = sum(plan.max_epochs if trial.state == "pruned" else trial.epochs for trial in trials)
    return SearchSummary(
        finished=sum(trial.finished for trial in trials),
        pruned=states["pruned"],
        failed=states["failed"],
        reasons=dict(Counter(trial.cause or trial.reason for trial in trials if trial.state == "failed")),
        epochs=sum(trial.epochs for trial in trials),
        epochs_unpruned=unpruned,
        importances={},
    )


def _trained(study: Study) -> str:
    spent = _spent(study.plan, study.trials())
    return f"{spent.epochs} epochs trained, {spent.epochs_unpruned} had no trial been pruned; {_ends(spent)}"


def _ends(spent: SearchSummary) -> str:
    causes = ", ".join(f"{count} × {cause}" for cause, count in spent.reasons.items())
    return f"{spent.pruned} trials pruned, {spent.failed} failed{f' ({causes})' if causes else ''}"


def _row(trial: TrialRecord) -> dict[str, Any]:
    size = {"parameters": trial.outcome.get("parameters")}
    outcome = {"number": trial.number, "state": trial.state, "val_macro_f1": trial.value, "epochs": trial.epochs}
    return {**outcome, **trial.params, **size}


def study_note(
    model: str, plan: StudyPlan, finished: Sequence[TrialRecord], run_id: Callable[[int], str], experiment_id: str
) -> str:
    """The note in Markdown; `run_id` gives a trial's run, and one of the trials is complete."""
    first, *others = sorted(
        (trial for trial in finished if trial.state == "complete"),
        key=lambda trial: (-(trial.value or 0.0), trial.number),
    )

    def link(trial: TrialRecord) -> str:
        return run_link(f"trial {trial.number}", run_id(trial.number))

    lead = f"Best of {len(finished)} trials: **{link(first)}**, validation macro-F1 **{first.value:.4f}**"
    if others:
        lead += f", {(first.value or 0.0) - (others[0].value or 0.0):.4f} above the next, {link(others[0])}"
    return f"{lead}.\n\n{_settings(plan, first)}\n\n{_where_to_look(model, experiment_id)}"


def _settings(plan: StudyPlan, best: TrialRecord) -> str:
    rows = [
        {"setting": name, "searched": _words(choice), f"trial {best.number}": _chosen(best, name)}
        for name, choice in plan.space.items()
    ]
    return table(rows)


def _chosen(best: TrialRecord, name: str) -> str:
    """Empty where the trial was drawn without this setting."""
    return display_value(best.params[name]) if name in best.params else ""


def _where_to_look(model: str, experiment_id: str) -> str:
    links = [
        f"[All trials, the best first]({view_address(experiment_id)})",
        f"[as a chart]({view_address(experiment_id, charts=True)})",
        model_link("registered versions", f"mvsa-{model}"),
    ]
    return f"{' · '.join(links)}. Pictures of the search and `trials.csv` are among the artifacts, in `search`."


def _words(choice: Range) -> str:
    """What a setting may be."""
    listed = choice.listed()
    if listed is not None:
        return ", ".join(map(display_value, listed))
    return f"{choice.low} to {choice.high}{', on a log scale' if choice.scale == 'log' else ''}"
