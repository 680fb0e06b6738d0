"""What the run of a study says of itself in MLflow: which trial is best, by how much, and where to look on."""

from collections.abc import Callable, Sequence

from src.core.config import Range
from src.core.settings import shown
from src.services.notes import model_link, run_link, table
from src.services.plan import StudyPlan
from src.services.trials import TrialRecord
from src.services.views import view_address


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
    return shown(best.params[name]) if name in best.params else ""


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
        return ", ".join(map(shown, listed))
    return f"{choice.low} to {choice.high}{', on a log scale' if choice.scale == 'log' else ''}"
