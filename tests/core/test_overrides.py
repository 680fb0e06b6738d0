"""Covers: `dvc exp run -S KEY=VALUE` on params.yaml, by the function of DVC that rewrites the file."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides  # type: ignore[import-untyped]

from src.core.config import load_params
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS

ROOT = Path(__file__).parents[2]
SETTINGS = [field.name for field in dataclasses.fields(TrainingConfig)]


def leaves(content: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values of a YAML file with the keys that lead to them, those within lists included."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, *path, str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from leaves(value, *path, str(index))
    else:
        yield path, content


def read(file: Path) -> dict[tuple[str, ...], Any]:
    return dict(leaves(yaml.safe_load(file.read_text())))


@pytest.fixture
def params(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_bytes((ROOT / "params.yaml").read_bytes())
    return file


def override(params: Path, values: Mapping[tuple[str, ...], int], sign: str = "") -> None:
    apply_overrides(params, [f"{sign}{'.'.join(path)}={value}" for path, value in values.items()])


@pytest.mark.parametrize("first", [0, 1])
def test_override_changes_one_key(params: Path, first: int) -> None:
    """Every other key is given a number of its own, so that two keys of one value would show."""
    before = {path: value for path, value in read(params).items() if value != {}}
    values = {path: 1000 + number for number, path in enumerate(list(before)[first::2])}
    override(params, values)
    assert {path: value for path, value in read(params).items() if value != {}} == before | values


def test_unlisted_setting_is_added(params: Path) -> None:
    before = {path: value for path, value in read(params).items() if value != {}}
    paths: list[tuple[str, ...]] = [("training", model, name) for model in ("common", *MODELS) for name in SETTINGS]
    values = {path: 1000 + number for number, path in enumerate(paths)}
    override(params, values, sign="++")
    assert {path: value for path, value in read(params).items() if value != {}} == before | values


def test_small_numbers_stay_numbers(params: Path) -> None:
    given = [
        "++training.clip.lr=0.000001",
        "tune.initial_trials.clip.1.lr=0.000002",
        "tune.spaces.clip.lr.low=0.000001",
    ]
    apply_overrides(params, given)
    assert "1e-06" in params.read_text()
    loaded = load_params(params)
    assert loaded.training_config("clip").lr == 1e-6
    assert loaded.tune.initial_trials["clip"][1]["lr"] == 2e-6
    assert loaded.space_of("clip")["lr"].low == 1e-6
