"""Stage `reproduce`: the study's experiments by name, each beside the figure that the study reports.

python -m src.reproduce          # those that params.yaml names
python -m src.reproduce --all
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import Params, Scale, load_params
from src.core.errors import UsageError, UserError
from src.core.files import write_json
from src.core.paper import ALL, RECIPES, Recipe, recipes_of
from src.core.paths import GROUPS
from src.core.records import PARTS, Prediction, read_groups
from src.models.catalog import MODELS
from src.reporting.paper_table import FOLDER, HEADLINE, TABLE, TO_BEAT, PaperTableRow, not_above, write_rows

if TYPE_CHECKING:
    from src.experiments.reproduction import ExperimentResult


@command(example="python -m src.reproduce --recipe clip-lora")
@click.option("--list", "listing", is_flag=True, help="Say what recipes there are, and what each assumes.")
@click.option("--recipe", "name", help="Run this one.")
@click.option("--all", "everything", is_flag=True, help="Run them all.")
@click.option("--scale", type=click.Choice(["tiny", "full"]), help="The weights, if not those of params.yaml's scale.")
def main(listing: bool, name: str | None, everything: bool, scale: Scale | None) -> None:
    """Run experiments of the study: one, all, or else those that params.yaml names. Write outputs/reproduce/.

    Each is a run in the MLflow experiment mvsa-paper. What an earlier call has finished is not done again. At the scale
    of params.yaml it takes the checkpoints that `encode` left; at the other it needs `prepare` and `split` alone.
    """
    if sum([listing, name is not None, everything]) > 1:
        raise UsageError("give one of --list, --recipe NAME and --all, or none: then params.yaml says which are run")
    if listing:
        _list()
        return
    params = load_params()
    params = replace(params, scale=scale or params.scale)
    named = ALL if everything else name
    chosen = params.recipes() if named is None else recipes_of([named], MODELS)
    if not chosen:
        write_rows([])
        say("reproduce.recipes in params.yaml names no experiment of the models there: none is run")
        return
    outcomes = _run(params, chosen)
    _write(params, outcomes)
    failed = [outcome.recipe.name for outcome in outcomes if not outcome.final]
    if failed:
        raise UserError(f"{len(failed)} of {len(outcomes)} recipes failed: {', '.join(failed)}")


def _list() -> None:
    rows = [[recipe.name, recipe.description, _figures(recipe.published)] for recipe in RECIPES]
    table("Recipes", ["recipe", "what it is", "published (test)"], rows)
    for recipe in RECIPES:
        say(f"{recipe.name} assumes: {'; '.join(recipe.assumed)}")


def _figures(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())


def _run(params: Params, recipes: Sequence[Recipe]) -> "list[ExperimentResult]":
    from src.modeling.hub import go_offline_if_hub_unreachable

    if params.scale == "full":
        go_offline_if_hub_unreachable()  # before what follows imports the Hub's library
    from src.experiments.reproduction import run_recipes

    return run_recipes(params, recipes)


def _write(params: Params, outcomes: "Sequence[ExperimentResult]") -> None:
    """A file for each recipe, and the table of them all with the baselines below."""
    group_of = read_groups(GROUPS)
    rows = [_row(params, outcome, group_of) for outcome in outcomes]
    for outcome, row in zip(outcomes, rows, strict=True):
        content = {"ours": row.scores, "num_posts": row.posts, "facts": outcome.facts, "failure": row.failure}
        write_json(FOLDER / f"{row.name}.json", {**asdict(outcome.recipe), **content})
    if any(row.scores for row in rows):
        rows += [PaperTableRow(name=name, **_scored(params, said, group_of)) for name, said in _baselines().items()]
        write_rows(rows)
        _show(params, rows)


def _row(params: Params, outcome: "ExperimentResult", group_of: Mapping[str, str]) -> PaperTableRow:
    scored = _scored(params, outcome.predictions, group_of) if outcome.predictions else {}
    scale, weights = (outcome.facts[name] for name in ("scale", "weights"))
    return PaperTableRow(name=outcome.recipe.name, scale=scale, weights=weights, failure=outcome.failure, **scored)


def _scored(params: Params, said: Sequence[Prediction], group_of: Mapping[str, str]) -> dict[str, Any]:
    from src.evaluation.intervals import intervals
    from src.evaluation.metrics import scores

    found = intervals(said, group_of, params.seed)["accuracy"]
    ends = {"accuracy_low": found.low, "accuracy_high": found.high}
    known = {name: value for name, value in ends.items() if value is not None}
    return {"posts": len(said), "scores": {**scores(said).summary(), **known}}


def _baselines() -> dict[str, list[Prediction]]:
    """What is said of the test part by what needs no model, by name."""
    from src.training.baselines import majority, tfidf
    from src.training.workspace import posts_by_part

    parts = posts_by_part()
    posts = [parts[part] for part in PARTS]
    return {"majority": majority(*posts).test, TO_BEAT: tfidf(*posts).test}


def _show(params: Params, rows: Sequence[PaperTableRow]) -> None:
    columns = ["recipe", "posts", *(name for title in HEADLINE.values() for name in (title, "published"))]
    shown = [
        [row.name, row.posts, *(side.get(name) for name in HEADLINE for side in (row.scores, row.published))]
        for row in rows
    ]
    table("The study's experiments", columns, shown)
    found = not_above(rows)
    if found and found[1]:
        say(f"Not above TF-IDF of the captions (macro-F1 {found[0]:.4f}): {', '.join(found[1])}")
    say(f"{params.notice}\nLook: `make ui`, experiment mvsa-paper. Table: {TABLE}")


if __name__ == "__main__":
    main()
