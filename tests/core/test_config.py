import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.config import Params, Range, load_params
from src.core.config_parser import build
from src.core.errors import UsageError, UserError


@pytest.fixture
def content(repo_root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((repo_root / "params.yaml").read_text())
    return loaded


def refused(content: object) -> str:
    with pytest.raises(UsageError) as caught:
        build(Params, content, "params.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_committed_params_are_valid(repo_root: Path) -> None:
    params = load_params(repo_root / "params.yaml")
    assert params.scale == "tiny"
    assert params.training_config("llava").readout == "verbalizer"
    assert params.training_config("clip", rank=2).rank == 2


def test_unknown_key_proposes_nearest(content: dict[str, Any]) -> None:
    content["tune"]["trails"] = 30
    assert refused(content) == "params.yaml: tune: unknown key 'trails'; did you mean 'trials'?"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("scale",), "medium", "scale: unknown value 'medium'"),
        (("seed",), "seven", "seed: expected int, found 'seven'"),
        (("seed",), True, "seed: expected int, found True"),
        (("split", "val"), 1.5, "val and test must leave a rest"),
        (("split", "val"), "much", "val: 'much' is not a number"),
        (("split", "kind"), "group", "split: kind: unknown value 'group'; did you mean 'grouped'?"),
        (("split", "predefined"), {"file": "lists"}, "split: predefined: unknown key 'file'"),
        (("split", "predefined"), {"fold": "first"}, "predefined: fold: expected int, found 'first'"),
        (("split", "predefined"), {"fold": -1}, "predefined: fold must not be negative"),
        (("split", "predefined"), {"folder": ""}, "predefined: folder must not be empty"),
        (("tune", "trials"), 0, "trials must be at least 1"),
        (("tune", "startup_trials"), -1, "startup_trials must not be negative"),
        (("tune", "pruner"), "halvin", "tune: pruner: unknown value 'halvin'; did you mean 'halving'?"),
        (("tune", "min_epochs"), 0, "min_epochs must be at least 1"),
        (("tune", "reduction_factor"), 1, "reduction_factor must be at least 2"),
        (("saliency", "mistakes"), 0, "mistakes must be at least 1"),
        (("reproduce", "recipes"), ["clip-lorra"], "reproduce: unknown recipe 'clip-lorra'; did you mean 'clip-lora'?"),
        (("reproduce", "recipes"), ["al"], "reproduce: unknown recipe 'al'; did you mean 'all'?"),
        (("reproduce", "recipes"), ["all", "clip-lora"], "reproduce: recipes: all must stand alone"),
        (("reproduce", "recipes"), ["clip-lora", "clip-lora"], "reproduce: recipes must not be named twice"),
        (("reproduce",), {"recipe": ["clip-lora"]}, "reproduce: unknown key 'recipe'; did you mean 'recipes'?"),
        (("checkpoints", "clip"), {"hub": "a/b"}, "checkpoints.clip: hub needs a revision"),
        (("checkpoints", "clip"), {"revision": "main"}, "checkpoints.clip: revision belongs to hub"),
        (("checkpoints", "clip"), {"folder": ""}, "checkpoints.clip: hub, revision and folder must not be empty"),
        (("checkpoints", "clip"), {"folder": "a", "hub": "a/b", "revision": "1"}, "give either hub or folder"),
        (("checkpoints", "clip"), {"path": "a"}, "checkpoints.clip: unknown key 'path'"),
        (("checkpoints",), {"clp": {}}, "checkpoints: unknown model 'clp'; did you mean 'clip'?"),
        (("checkpoints",), {"clip": {}, 2: {}}, "checkpoints: the key 2 is no text"),
        (("training", "clpi"), {}, "training: unknown model 'clpi'; did you mean 'clip'?"),
        (("align", "clpi"), {}, "align: unknown model 'clpi'; did you mean 'clip'?"),
        (("tune", "initial_trials", "clpi"), [], "tune.initial_trials: unknown model 'clpi'; did you mean 'clip'?"),
        (("tune", "spaces", "clpi"), {}, "tune.spaces: unknown model 'clpi'; did you mean 'clip'?"),
        (("models",), ["clpi"], "models: unknown model 'clpi'; did you mean 'clip'?"),
        (("models",), ["clip", "clip"], "models must not name one twice"),
        (("models",), [], "models must not be empty"),
        (("prepare", "max_pixels"), 50_000_001, "max_pixels must be between 1 and 50,000,000"),
        (("split", "val"), math.inf, "val: inf is not a finite number"),
        (("encode",), 3, "encode: expected keys and values, found 3"),
        (("training", "clip"), {"rank": -1}, "training of clip: rank must be 0 (head alone) or more"),
        (("training", "clip"), {"optimizer": "sgd"}, "training of clip: unknown key 'optimizer'"),
        (("tune", "spaces", "clip", "rank"), {"low": 4, "high": 1}, "low must not be above high"),
        (("tune", "spaces", "clip", "lr"), {"low": 0, "high": 1, "scale": "log"}, "a log scale needs low above 0"),
        (("tune", "spaces", "clip", "rang"), {"low": 1, "high": 4}, "spaces.clip.rang is no setting of a training"),
        (
            ("tune", "spaces", "clip", "dropout"),
            {"low": 0.1, "high": 1},
            "training of clip: dropout must lie in [0, 1)",
        ),
        (("tune", "spaces", "clip", "loss"), {"choices": ["focal", "focul"]}, "did you mean 'focal'?"),
        (("tune", "initial_trials", "clip"), [{"rank": 2, "alfa": 4}], "training of clip: unknown key 'alfa'"),
        (("training", "clip"), {"augment": "image words"}, "training of clip: augment must name image or caption"),
        (("training", "clip"), {"num_augmented_views": 0}, "training of clip: num_augmented_views must be positive"),
        (("training", "clip"), {"adam_eps": 0}, "training of clip: adam_eps must be positive"),
        (("training", "clip"), {"curriculum_start": 0}, "training of clip: curriculum_start must lie in (0, 1]"),
        (("training", "clip"), {"curriculum_until": 1.5}, "training of clip: curriculum_until must lie in [0, 1]"),
        (("training", "llava"), {"unimodal_labels": True}, "unimodal_labels needs image_head linear"),
        (
            ("training", "llava"),
            {"image_head": "linear", "unfreeze": "vision"},
            "image_head linear needs a vision tower that is frozen",
        ),
        (("training", "clip"), {"curriculum": "agreement"}, "curriculum agreement tells no posts apart under protocol"),
    ],
)
def test_senseless_value_is_refused(content: dict[str, Any], path: tuple[str, ...], value: object, words: str) -> None:
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert words in refused(content)


def test_dependent_settings_are_searched_together(content: dict[str, Any]) -> None:
    """One choice of a space is looked at beside the first of the others, not beside what the search replaces."""
    content["training"]["clip"] = {"readout": "verbalizer", "rank": 8}
    content["tune"]["spaces"]["clip"] = {"rank": {"choices": [0, 1]}, "readout": {"choices": ["head"]}}
    content["tune"]["initial_trials"]["clip"] = []
    assert build(Params, content, "params.yaml").training_config("clip").rank == 8


def test_agreement_curriculum_needs_disagreement(content: dict[str, Any]) -> None:
    content["training"]["clip"] = {"curriculum": "agreement"}
    content["prepare"]["protocol"] = "standard"
    assert build(Params, content, "params.yaml").training_config("clip").curriculum == "agreement"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["all"], ["clip-zeroshot", "clip-head", "clip-lora"]),
        (["llava-r8", "clip-lora"], ["clip-lora", "llava-r8"]),
        ([], []),
    ],
)
def test_recipes_follow_names_or_models(content: dict[str, Any], names: list[str], expected: list[str]) -> None:
    content |= {"models": ["clip"], "reproduce": {"recipes": names}}
    assert [recipe.name for recipe in build(Params, content, "params.yaml").recipes()] == expected


def test_missing_key_is_named(content: dict[str, Any]) -> None:
    del content["prepare"]["protocol"]
    assert refused(content) == "params.yaml: prepare: missing protocol"


@pytest.mark.parametrize(
    "forms",
    [
        {},
        {"low": 1},
        {"low": 1, "high": 2, "choices": [1]},
        {"choices": []},
        {"low": 2, "high": 1},
        {"low": 1, "high": 12, "scale": "log2"},
        {"low": 0, "high": 8, "scale": "log2"},
        {"low": 0.5, "high": 8, "scale": "log2"},
        {"choices": [1], "scale": "log"},
        {"low": 1e-5, "high": math.inf, "scale": "log"},
        {"choices": [0.1, math.nan]},
    ],
)
def test_range_has_bounds_or_choices(forms: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        build(Range, forms, "range")


def test_search_needs_a_space(repo_root: Path) -> None:
    with pytest.raises(UsageError, match=r"tune\.spaces\.fifth is missing"):
        load_params(repo_root / "params.yaml").space_of("fifth")


def test_broken_params_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run commands from the repository's root"):
        load_params(tmp_path / "params.yaml")
    for text, reason in (("seed: [", "is not YAML"), ("seed: 2024-13-45", "is not YAML"), ("labels: [trüb]", "UTF-8")):
        (tmp_path / "params.yaml").write_text(text, encoding="cp1252")
        with pytest.raises(UserError, match=reason) as caught:
            load_params(tmp_path / "params.yaml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("scale", "threads"), [("tiny", "1"), ("full", "4")])
def test_tiny_scale_uses_one_thread(
    scale: str, threads: str, repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    text = (repo_root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("scale: tiny", f"scale: {scale}"))
    load_params(tmp_path / "params.yaml")
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_given_scale_decides_on_threads(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert load_params(repo_root / "params.yaml", scale="full").scale == "full"
    assert os.environ["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_impossible_seed_is_named(content: dict[str, Any], seed: int) -> None:
    assert "seed must lie from 0 to 2147483647" in refused(content | {"seed": seed})


@pytest.mark.parametrize(
    ("choice", "highest"),
    [
        (Range(low=1, high=16, scale="log2"), 16),
        (Range(low=0.001, high=0.1, scale="log"), 0.1),
        (Range(choices=(512, 128)), 512),
        (Range(choices=("head", "verbalizer")), None),
    ],
)
def test_highest_number_of_a_range(choice: Range, highest: float | None) -> None:
    assert choice.highest() == highest
