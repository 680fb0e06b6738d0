from itertools import groupby
from pathlib import Path

import pytest

from src.core.config import load_params
from src.core.errors import UsageError
from src.core.paper import PUBLISHED, RECIPES, Figures, Published, format_figures, recipes_of
from src.models.catalog import MODELS

# The paper fine-tuned these four; the catalog has more.
PAPER_MODELS = {"clip", "blip2", "llava", "tinyllava"}


def test_recipe_names_are_unique() -> None:
    names = [recipe.name for recipe in RECIPES]
    assert len(names) == len(set(names)) == 17
    assert {recipe.model for recipe in RECIPES} == PAPER_MODELS
    assert all(recipe.name.startswith(recipe.model) for recipe in RECIPES)


def test_recipes_of_a_model_are_adjacent() -> None:
    assert len([model for model, _ in groupby(recipe.model for recipe in RECIPES)]) == len(PAPER_MODELS)


def test_every_recipe_is_a_training_config(repo_root: Path) -> None:
    params = load_params(repo_root / "params.yaml")
    for recipe in RECIPES:
        fitted = params.training_config(recipe.model, **recipe.settings)
        for name, value in recipe.settings.items():
            assert getattr(fitted, name) == value


def test_published_figures_are_shares() -> None:
    for recipe in RECIPES:
        assert recipe.published and all(0 < value < 1 for value in recipe.published.values())
        assert recipe.assumed


def test_recipes_by_name_or_model() -> None:
    assert recipes_of(["all"], MODELS) == RECIPES
    assert {recipe.model for recipe in recipes_of(["all"], ["llava"])} == {"llava"}
    assert [recipe.name for recipe in recipes_of(["blip2-deep", "clip-head"], [])] == ["clip-head", "blip2-deep"]
    with pytest.raises(UsageError, match="did you mean 'blip2-deep'"):
        recipes_of(["blip-deep"], MODELS)


def test_published_figures_follow_from_recipes() -> None:
    assert {
        "clip": Published(Figures(accuracy=0.4166), Figures(accuracy=0.812)),
        "llava": Published(Figures(accuracy=0.6628, macro_f1=0.50), Figures(accuracy=0.8227, macro_f1=0.80)),
        "tinyllava": Published(Figures(weighted_f1=0.2922), Figures(accuracy=0.79, macro_f1=0.74, weighted_f1=0.7857)),
        "blip2": Published(Figures(accuracy=0.19), Figures(accuracy=0.86)),
    } == PUBLISHED


def test_docs_list_every_recipe(repo_root: Path) -> None:
    page = (repo_root / "docs" / "paper.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if any(line.startswith(f"| `{recipe.name}` |") for recipe in RECIPES)]
    assert rows == [
        f"| `{recipe.name}` | {recipe.description} | {format_figures(recipe.published)} |" for recipe in RECIPES
    ]
