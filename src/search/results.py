"""Results of a search: the stage's files, the summary on the study's MLflow run, and the lines that `tune` prints."""

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.cli.output import warn
from src.core.config import Params, Range
from src.core.errors import UserError
from src.core.files import DECIMALS, write_bytes, write_table
from src.core.outputs import BestTrial, SearchSummary
from src.core.paths import BEST_FILE, SEARCH_FILE, TRIALS_FILE, stage_folder
from src.core.training_config import display_value
from src.search.mlflow_sync import MlflowSync
from src.search.plan import StudyPlan
from src.search.study import Study
from src.search.study_analysis import importances, plots
from src.search.trial import ENDED, TrialRecord
from src.tracking.addresses import without_password
from src.tracking.client import Run
from src.tracking.markdown import lead_of, model_link, run_link, table
from src.tracking.ui_views import view_address


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    model: str
    plan: StudyPlan
    # As many finished trials as were asked for, or fewer after the time budget was over.
    finished: Sequence[TrialRecord]
    best: TrialRecord
    # What all trials of the study cost, later ones included.
    cost: SearchSummary

    def lines(self, usual: Params, storage: str | None = None) -> list[str]:
        """Return the lines to print: the best trial, the cost, the Pareto front, and the commands that go on.

        Args:
            usual: params.yaml. What differs from it must stand in the command for `dvc`.
            storage: the storage if `--storage` named it. `dvc` passes it on in the environment only.
        """
        folder = stage_folder("tune", self.model)
        settings = ", ".join(f"{name} {display_value(value)}" for name, value in self.best.params.items())
        lines = [
            f"{self.model}: best of {len(self.finished)} trials is trial {self.best.number}: "
            f"validation macro-F1 {self.best.value:.4f} with {settings}",
            _describe_cost(self.cost),
        ]
        if not self.plan.single:
            for trial in front(self.finished):
                size = f"{trial.outcome['parameters']:,} parameters"
                lines.append(f"On the front: trial {trial.number}, macro-F1 {trial.value:.4f}, {size}")
        lines.append(f"Look: `make ui`, experiment mvsa-{self.model}. Table: {folder / TRIALS_FILE}")
        command = self._dvc_command(usual, storage)
        if command:
            lines.append(f"To train and register it: `{command}` (no trial is run again)")
        return lines

    def _dvc_command(self, usual: Params, storage: str | None) -> str:
        """Return the command that trains the best trial, or nothing if `dvc repro` would."""
        searched = {"trials": len(self.finished), "sampler": self.plan.sampler, "pruner": self.plan.pruner}
        settings = [f"-S tune.{name}={value}" for name, value in searched.items() if value != getattr(usual.tune, name)]
        if self.model not in usual.models:
            settings.append(f"-S 'models=[{','.join([*usual.models, self.model])}]'")
        variable = [f"MVSA_STORAGE={shlex.quote(without_password(storage, storage))}"] if storage else []
        if not variable and not settings:
            return ""
        # Without the target, the budget of this model would be spent on every other model too.
        return " ".join([*variable, "dvc", "exp", "run", *settings, f"register@{self.model}"])


def conclude(model: str, study: Study, sync: MlflowSync, parent: Run, total: int) -> SearchResult:
    """Write the stage's files, and log them to the study's run if MLflow answers.

    Raises:
        UserError: no trial is complete.
    """
    best = study.best(total)
    finished = study.finished()[:total]
    result = SearchResult(model, study.plan, finished, best, _summary(study.plan, study.trials()))
    # Later trials are left out of the files, so that these depend on the budget and not on what ran later.
    last = finished[-1].number
    ended = [trial for trial in study.trials() if trial.state in ENDED and trial.number <= last]
    folder = stage_folder("tune", model)
    _best_trial(study, finished, best).write(folder / BEST_FILE)
    shares = importances(study.raw, study.plan.space, last)
    # `write_json` does not round numbers under the names of settings, because there they are usually settings.
    rounded = {name: round(share, DECIMALS) for name, share in shares.items()}
    replace(_summary(study.plan, ended), importances=rounded).write(folder / SEARCH_FILE)
    write_table(folder / TRIALS_FILE, [_row(trial) for trial in finished])
    for path in folder.glob("*.png"):  # an earlier study may have had other plots
        path.unlink()
    for name, png in plots(study.raw, study.plan.space, last, shares).items():
        write_bytes(folder / f"{name}.png", png)
    if not sync.unreachable:
        try:
            _log(result, sync, parent)
        except UserError as error:
            warn(f"{error}; run the same command with --sync to log what is missing")
    return result


def front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the Pareto front of macro-F1 and number of parameters among complete trials, the smallest first."""
    by_size = sorted(
        (trial for trial in trials if trial.state == "complete"),
        key=lambda trial: (trial.outcome["parameters"], -(trial.value or 0)),
    )
    best: list[TrialRecord] = []
    for trial in by_size:
        if not best or (trial.value or 0) > (best[-1].value or 0):
            best.append(trial)
    return best


def study_summary(
    model: str, plan: StudyPlan, finished: Sequence[TrialRecord], run_id: Callable[[int], str], experiment_id: str
) -> str:
    """Return the summary of a search in Markdown. At least one trial must be complete.

    Args:
        model: the name in the catalog.
        plan: the study's plan.
        finished: the trials that count.
        run_id: returns the id of a trial's run; empty if MLflow has none.
        experiment_id: the model's experiment.
    """
    first, *others = sorted(
        (trial for trial in finished if trial.state == "complete"),
        key=lambda trial: (-(trial.value or 0.0), trial.number),
    )

    def link(trial: TrialRecord) -> str:
        return run_link(f"trial {trial.number}", experiment_id, run_id(trial.number))

    lead = f"Best of {len(finished)} trials: **{link(first)}**, validation macro-F1 **{first.value:.4f}**"
    if others:
        lead += f", {lead_of(first.value or 0.0, others[0].value or 0.0)} the next, {link(others[0])}"
    links = [
        f"[All trials, the best first]({view_address(experiment_id)})",
        f"[as a chart]({view_address(experiment_id, charts=True)})",
        model_link("registered versions", f"mvsa-{model}"),
    ]
    where = f"{' · '.join(links)}. The artifacts in `search` hold plots of the search and `{TRIALS_FILE}`."
    return f"{lead}.\n\n{_settings_table(plan, first)}\n\n{where}"


def _log(result: SearchResult, sync: MlflowSync, parent: Run) -> None:
    best = result.best
    parent.metrics({"best_val_macro_f1": best.value or 0.0, "trials": len(result.finished)})
    parent.tags({"best_trial": best.number, "best_run": sync.run_id(best.number)})
    parent.folder(stage_folder("tune", result.model), "search")
    summary = study_summary(result.model, result.plan, result.finished, sync.run_id, parent.experiment_id())
    parent.section("The search", f"{summary}\n\n{_describe_cost(result.cost)}.")


def _best_trial(study: Study, finished: Sequence[TrialRecord], best: TrialRecord) -> BestTrial:
    assert best.value is not None
    return BestTrial(
        study=study.name,
        trials=len(finished),
        pruned=sum(trial.state == "pruned" for trial in finished),
        best_trial=best.number,
        best_val_macro_f1=best.value,
        params=best.params,
    )


def _summary(plan: StudyPlan, trials: Sequence[TrialRecord]) -> SearchSummary:
    """Return how trials ended and how many epochs they took, without importances."""
    states = Counter(trial.state for trial in trials)
    return SearchSummary(
        finished=sum(trial.finished for trial in trials),
        pruned=states["pruned"],
        failed=states["failed"],
        reasons=dict(Counter(trial.cause or trial.reason for trial in trials if trial.state == "failed")),
        epochs=sum(trial.epochs for trial in trials),
        # Without pruning, a pruned trial might have run to its last epoch.
        epochs_unpruned=sum(plan.max_epochs if trial.state == "pruned" else trial.epochs for trial in trials),
        importances={},
    )


def _describe_cost(cost: SearchSummary) -> str:
    causes = ", ".join(f"{count} × {cause}" for cause, count in cost.reasons.items())
    ends = f"{cost.pruned} trials pruned, {cost.failed} failed{f' ({causes})' if causes else ''}"
    return f"{cost.epochs} epochs trained, {cost.epochs_unpruned} had no trial been pruned; {ends}"


def _row(trial: TrialRecord) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "val_macro_f1": trial.value,
        "epochs": trial.epochs,
        **trial.params,
        "parameters": trial.outcome.get("parameters"),
    }


def _settings_table(plan: StudyPlan, best: TrialRecord) -> str:
    rows = [
        {
            "setting": name,
            "searched": _describe_range(choice),
            # A trial may lack a setting that was added to the space by hand.
            f"trial {best.number}": display_value(best.params[name]) if name in best.params else "",
        }
        for name, choice in plan.space.items()
    ]
    return table(rows)


def _describe_range(choice: Range) -> str:
    listed = choice.listed()
    if listed is not None:
        return ", ".join(map(display_value, listed))
    return f"{choice.low} to {choice.high}{', on a log scale' if choice.scale == 'log' else ''}"
