"""Stage `reproduce`: the paper's experiments, each beside the figures that the paper reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.core.config import Params
from src.core.outputs import RecipeOutput
from src.core.paper import Recipe
from src.core.paths import GROUPS, REPRODUCE
from src.core.records import PARTS, Prediction, read_groups
from src.evaluation.intervals import intervals
from src.evaluation.metrics import scores
from src.experiments.reproduction import ExperimentResult, run_recipes
from src.reporting.paper_table import TO_BEAT, PaperTableRow, write_rows
from src.training.baselines import majority, tfidf
from src.training.workspace import posts_by_part


@dataclass(frozen=True)
class Reproduction:
    """The recipes that were run."""

    # One row for each recipe, then the baselines. Empty if no recipe was run, or none has scores and some may succeed.
    rows: Sequence[PaperTableRow]
    # The names of recipes that failed and may succeed in another attempt.
    failed: Sequence[str]


def run_reproduce(params: Params, recipes: Sequence[Recipe]) -> Reproduction:
    """Run the recipes, and write outputs/reproduce/. A recipe that failed for good has a row without scores.

    The table stays as it was if no recipe has scores and another attempt may succeed.

    Raises:
        UserError: `prepare` or `split` has not run.
    """
    if not recipes:
        write_rows([])
        return Reproduction((), ())
    results = run_recipes(params, recipes)
    group_of = read_groups(GROUPS)
    rows = [_row(params, result, group_of) for result in results]
    for result, row in zip(results, rows, strict=True):
        output = RecipeOutput(result.recipe, row.scores, row.posts, result.facts, row.failure)
        output.write(REPRODUCE / f"{row.name}.json")
    failed = [result.recipe.name for result in results if not result.final]
    if failed and not any(row.scores for row in rows):
        return Reproduction((), failed)
    rows += [
        PaperTableRow(name=name, **_scored(params, predictions, group_of))
        for name, predictions in _baselines(params).items()
    ]
    write_rows(rows)
    return Reproduction(rows, failed)


def _row(params: Params, result: ExperimentResult, group_of: Mapping[str, str]) -> PaperTableRow:
    scored = _scored(params, result.predictions, group_of) if result.predictions else {}
    return PaperTableRow(
        name=result.recipe.name,
        scale=result.facts["scale"],
        weights=result.facts["weights"],
        failure=result.failure,
        **scored,
    )


def _scored(params: Params, predictions: Sequence[Prediction], group_of: Mapping[str, str]) -> dict[str, Any]:
    """Return the number of posts and the scores of a row, with the ends of the accuracy's interval if it has one."""
    figures = scores(predictions).summary()
    accuracy = intervals(predictions, group_of, params.seed)["accuracy"]
    if accuracy.low is not None and accuracy.high is not None:
        figures |= {"accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
    return {"posts": len(predictions), "scores": figures}


def _baselines(params: Params) -> dict[str, list[Prediction]]:
    """Return the test predictions of the baselines that need no model, by name."""
    parts = posts_by_part()
    posts = [parts[part] for part in PARTS]
    names = params.label_names
    return {
        "majority": majority(*posts, label_names=names).test,
        TO_BEAT: tfidf(*posts, label_names=names).test,
    }
