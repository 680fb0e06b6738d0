"""Stage `reproduce`: run the paper's experiments by name, each beside the figures that the paper reports.

python -m src.reproduce          # those that params.yaml names
python -m src.reproduce --all
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import Scale, load_params
from src.core.errors import UsageError, UserError
from src.core.labels import TONES, are_tones
from src.core.paper import ALL, RECIPES, format_figures, recipes_of
from src.modeling.hub import go_offline_if_hub_unreachable
from src.models.catalog import MODELS, needs_hub
from src.reporting.paper_table import HEADLINE, TABLE, compare_with_tfidf

if TYPE_CHECKING:
    from src.reporting.paper_table import PaperTableRow


@command(example="python -m src.reproduce --recipe clip-lora")
@click.option("--list", "listing", is_flag=True, help="Print the recipes and the assumptions of each.")
@click.option("--recipe", "name", help="Run this one.")
@click.option("--all", "everything", is_flag=True, help="Run them all.")
@click.option("--scale", type=click.Choice(["tiny", "full"]), help="The weights.  [default: as in params.yaml]")
def main(listing: bool, name: str | None, everything: bool, scale: Scale | None) -> None:
    """Run experiments of the paper: one, all, or those that params.yaml names. Write outputs/reproduce/.

    Each experiment is a run in the MLflow experiment mvsa-paper. An experiment that an earlier call has finished is not
    run again. At the scale of params.yaml it uses the checkpoints of `frozen`. At the other scale it needs `prepare`
    and `split` alone.
    """
    if sum([listing, name is not None, everything]) > 1:
        raise UsageError("give one of --list, --recipe NAME and --all, or none: then params.yaml says which are run")
    if listing:
        _list()
        return
    params = load_params(scale=scale)
    if not are_tones(params.label_names) and (name or everything):
        raise UsageError(f"the paper's experiments need the labels {', '.join(TONES)}: name them in params.yaml")
    named = ALL if everything else name
    recipes = params.recipes() if named is None else recipes_of([named], MODELS)
    if any(needs_hub(params, recipe.model) for recipe in recipes):
        # The import below loads the Hub's library, which reads its environment only once.
        go_offline_if_hub_unreachable()
    from src.pipeline.reproduce import run_reproduce

    reproduction = run_reproduce(params, recipes)
    if not recipes:
        say("reproduce.recipes in params.yaml names no experiment of the models and labels there: none is run")
    if reproduction.rows:
        _print_table(reproduction.rows)
        say(f"{params.notice}\nLook: `make ui`, experiment mvsa-paper. Table: {TABLE}")
    if reproduction.failed:
        num_failed = len(reproduction.failed)
        raise UserError(f"{num_failed} of {len(recipes)} recipes failed: {', '.join(reproduction.failed)}")


def _list() -> None:
    rows = [[recipe.name, recipe.description, format_figures(recipe.published)] for recipe in RECIPES]
    table("Recipes", ["recipe", "description", "published (test)"], rows)
    for recipe in RECIPES:
        say(f"{recipe.name} assumes: {'; '.join(recipe.assumed)}")


def _print_table(rows: "Sequence[PaperTableRow]") -> None:
    columns = ["recipe", "posts", *(name for title in HEADLINE.values() for name in (title, "published"))]
    cells = [
        [row.name, row.posts, *(figures.get(name) for name in HEADLINE for figures in (row.scores, row.published))]
        for row in rows
    ]
    table("The paper's experiments", columns, cells)
    comparison = compare_with_tfidf(rows)
    if comparison and comparison.not_above:
        weak = ", ".join(comparison.not_above)
        say(f"Not above TF-IDF of the captions (macro-F1 {comparison.to_beat:.4f}): {weak}")


if __name__ == "__main__":
    main()
