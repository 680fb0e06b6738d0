"""The study's experiments by name, each beside the figure that the study reports.

python -m src.reproduce --all

Needs what `dvc repro encode` leaves: the posts, their division and the checkpoints of params.yaml's scale.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from src.core.config import Params, load_params
from src.core.errors import Refusal, UsageRefusal, unknown
from src.core.paths import OUTPUTS
from src.core.protocols import Silent
from src.core.recipes import RECIPES, Recipe
from src.core.records import PARTS, write_json, write_table
from src.services.terminal import command, progress, say, table, warn

if TYPE_CHECKING:
    from src.core.records import Post, Prediction, Scores
    from src.learning.workspace import Workspace

FOLDER = OUTPUTS / "reproduce"
FIGURES = ("accuracy", "macro_f1", "weighted_f1")


@dataclass(frozen=True)
class Result:
    """What came of a recipe: our scores, or why it failed."""

    recipe: Recipe
    ours: Mapping[str, float]
    failure: str = ""


@command(example="python -m src.reproduce --recipe clip-lora")
@click.option("--list", "listing", is_flag=True, help="Say what recipes there are, and what each assumes.")
@click.option("--recipe", "name", help="Run this one.")
@click.option("--all", "everything", is_flag=True, help="Run them all.")
def main(listing: bool, name: str | None, everything: bool) -> None:
    """Run experiments of the study, at the scale of params.yaml; each is a run in the MLflow experiment mvsa-study."""
    if sum([listing, bool(name), everything]) != 1:
        raise UsageRefusal("give one of --list, --recipe NAME and --all")
    if listing:
        _list()
        return
    params = load_params()
    chosen = RECIPES if everything else (_named(str(name)),)
    results = _run_all(params, chosen)
    _show(params, results, _baselines())
    failed = [result.recipe.name for result in results if result.failure]
    if failed:
        raise Refusal(f"{len(failed)} of {len(results)} recipes failed: {', '.join(failed)}")


def _named(name: str) -> Recipe:
    by_name = {recipe.name: recipe for recipe in RECIPES}
    if name not in by_name:
        raise unknown("recipe", name, by_name)
    return by_name[name]


def _list() -> None:
    rows = [[recipe.name, recipe.what, _figures(recipe.published)] for recipe in RECIPES]
    table("Recipes", ["recipe", "what it is", "published (test)"], rows)
    for recipe in RECIPES:
        say(f"{recipe.name} assumes: {'; '.join(recipe.assumed)}")


def _figures(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())


def _run_all(params: Params, recipes: Sequence[Recipe]) -> list[Result]:
    """One base in memory at a time: the recipes of a model stand together."""
    from src.learning.workspace import open_workspace

    results: list[Result] = []
    with progress(len(recipes), "recipes", "recipes") as bar:
        for model, group in groupby(recipes, key=lambda recipe: recipe.model):
            workspace = open_workspace(model)
            for recipe in group:
                bar.note(recipe.name)
                results.append(_run(params, workspace, recipe))
                bar.advance()
    return results


def _run(params: Params, workspace: "Workspace", recipe: Recipe) -> Result:
    from src.learning.metrics import report, scores
    from src.services.logbook import log_scores, run_tags
    from src.services.tracking import Tracker

    tracker = Tracker("mvsa-study", "The study's own experiments, each with the published figures as `published_*`.")
    tags = {**run_tags("recipe", workspace.facts(), params.notice), "recipe": recipe.name, "kind": recipe.kind}
    try:
        with tracker.run(recipe.name, tags=tags, params=dict(recipe.settings)) as run:
            run.json("recipe.json", asdict(recipe))
            run.metrics({f"published_{name}": value for name, value in recipe.published.items()})
            found = _predict(params, workspace, recipe)
            result = scores(found)
            log_scores(run, result, report(found), f"{recipe.name}, test", "test")
    except (Refusal, RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warn(f"{recipe.name} failed: {reason}")
        return Result(recipe, {}, reason)
    _write(recipe, result, workspace, len(found))
    say(f"{recipe.name}: {_figures(result.headline())}; published: {_figures(recipe.published)}")
    return Result(recipe, result.flat())


def _predict(params: Params, workspace: "Workspace", recipe: Recipe) -> "list[Prediction]":
    from src.learning.fitting import fit
    from src.learning.lora import adapted
    from src.learning.scoring import logits, predictions

    model = workspace.model
    if recipe.kind == "words":
        model.readout = model.word_readout()
        data = _drawn(workspace, recipe.posts, params.seed).data("test")
        return predictions(data, logits(model, data, params.evaluate.batch_size))
    settings = params.fit_of(recipe.model, **recipe.settings)
    with adapted(model, settings, params.seed):
        if recipe.kind == "fit":
            fit(model, workspace.data("train"), workspace.data("val"), settings, params.seed, Silent())
        data = workspace.data("test")
        return predictions(data, logits(model, data, params.evaluate.batch_size))


def _drawn(workspace: "Workspace", count: int | None, seed: int) -> "Workspace":
    """A workspace whose test part is `count` posts of all parts: nothing is trained, so none has been seen."""
    if count is None:
        return workspace
    posts: list[Post] = [post for part in workspace.parts.values() for post in part]
    drawn = random.Random(seed).sample(posts, min(count, len(posts)))
    return replace(workspace, parts={**workspace.parts, "test": drawn})


def _write(recipe: Recipe, result: "Scores", workspace: "Workspace", num_posts: int) -> None:
    content = {**asdict(recipe), "ours": result.flat(), "num_posts": num_posts, "facts": workspace.facts()}
    write_json(FOLDER / f"{recipe.name}.json", content)


def _baselines() -> dict[str, dict[str, float]]:
    """Scores on the test part of what needs no model, by name."""
    from src.analysis.baselines import majority, tfidf
    from src.learning.metrics import scores
    from src.learning.workspace import posts_by_part

    parts = posts_by_part()
    posts = [parts[part] for part in PARTS]
    return {fitter.__name__: scores(fitter(*posts).test).headline() for fitter in (majority, tfidf)}


def _show(params: Params, results: Sequence[Result], baselines: Mapping[str, Mapping[str, float]]) -> None:
    columns = ["recipe", *(f"{kind} {name}" for name in FIGURES for kind in ("ours", "published"))]
    rows: list[list[Any]] = [
        [result.recipe.name, *(side.get(name) for name in FIGURES for side in (result.ours, result.recipe.published))]
        for result in results
    ]
    rows += [[name, *(side.get(each) for each in FIGURES for side in (ours, {}))] for name, ours in baselines.items()]
    table("The study's experiments, test part", columns, rows)
    write_table(FOLDER / "recipes.csv", [dict(zip(columns, row, strict=True)) for row in rows])
    least = baselines["tfidf"]["macro_f1"]
    weak = [result.recipe.name for result in results if result.ours and result.ours["macro_f1"] <= least]
    if weak:
        say(f"Not above TF-IDF of the captions (macro-F1 {least:.4f}): {', '.join(weak)}")
    say(f"{params.notice}\nLook: make ui, experiment mvsa-study. Table: {FOLDER / 'recipes.csv'}")


if __name__ == "__main__":
    main()
