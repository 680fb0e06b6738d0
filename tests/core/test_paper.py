from itertools import groupby
from pathlib import Path

import pytest

from src.core.config import load_params
from src.core.errors import UsageError
from src.core.paper import RECIPES, recipes_of
from src.models.catalog import MODELS


def test_every_row_of_the_study_is_a_recipe_of_its_own_name() -> None:
    names = [recipe.name for recipe in RECIPES]
    assert len(names) == len(set(names)) == 17
    assert {recipe.model for recipe in RECIPES} == set(MODELS)
    assert all(recipe.name.startswith(recipe.model) for recipe in RECIPES)


def test_the_recipes_of_a_model_stand_together_so_that_its_base_is_loaded_once() -> None:
    assert len([model for model, _ in groupby(recipe.model for recipe in RECIPES)]) == len(MODELS)


def test_every_recipe_is_a_valid_fit(repo_root: Path) -> None:
    params = load_params(repo_root / "params.yaml")
    for recipe in RECIPES:
        fitted = params.training_config(recipe.model, **recipe.settings)
        for name, value in recipe.settings.items():
            assert getattr(fitted, name) == value


def test_published_figures_are_shares_and_what_was_assumed_is_said() -> None:
    for recipe in RECIPES:
        assert recipe.published and all(0 < value < 1 for value in recipe.published.values())
        assert recipe.assumed


def test_recipes_are_found_by_name_or_by_model() -> None:
    assert recipes_of(["all"], MODELS) == RECIPES
    assert {recipe.model for recipe in recipes_of(["all"], ["llava"])} == {"llava"}
    assert [recipe.name for recipe in recipes_of(["blip2-deep", "clip-head"], [])] == ["clip-head", "blip2-deep"]
    with pytest.raises(UsageError, match="did you mean 'blip2-deep'"):
        recipes_of(["blip-deep"], MODELS)
