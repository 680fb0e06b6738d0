from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.core.config import Params, RepeatParams, load_params
from src.core.config_parser import build
from src.core.errors import UsageError
from src.core.outputs import BestTrial, RepeatOutput
from src.experiments.seeds import RunCache, SeedRun, contenders, summarise

DEFAULT = {"rank": 2, "alpha": 4, "lr": 0.003, "dropout": 0.0}
WINNER = {"rank": 1, "alpha": 2, "lr": 0.004, "dropout": 0.0}
BEST = BestTrial("a study", 3, 0, 1, 0.95, dict(WINNER))


@pytest.fixture
def params(repo_root: Path) -> Params:
    return load_params(repo_root / "params.yaml")


def with_initial_trials(params: Params, *settings: dict[str, Any]) -> Params:
    return replace(params, tune=replace(params.tune, initial_trials={"clip": settings}))


def run_of(seed: int, val: float, test: float = 0.5) -> SeedRun:
    scores = {"val_macro_f1": val, "val_accuracy": val, "test_macro_f1": test, "test_accuracy": test}
    return SeedRun(seed, 2, scores)


def test_default_has_the_winners_budget(params: Params) -> None:
    known = with_initial_trials(params, {**DEFAULT, "epochs": 50}, WINNER)
    settings = contenders(known, "clip", {**WINNER, "epochs": 3, "patience": 1})
    assert (settings["default"].rank, settings["default"].lr) == (2, 0.003)
    assert {(config.epochs, config.patience) for config in settings.values()} == {(3, 1)}


def test_no_initial_trial_gives_no_default(params: Params) -> None:
    settings = contenders(with_initial_trials(params), "clip", WINNER)
    assert list(settings) == ["winner"]
    output = summarise(settings, {"winner": [run_of(8, 0.7), run_of(9, 0.8)]}, BEST)
    assert set(output.gain.values()) == {None}
    assert not output.winner_is_default


def test_gain_and_drop_pair_seeds(params: Params) -> None:
    settings = contenders(with_initial_trials(params, DEFAULT), "clip", WINNER)
    runs = {
        "winner": [run_of(8, 0.7, 0.6), SeedRun(9, 0, {}, "failed"), run_of(10, 0.9, 0.7)],
        "default": [run_of(8, 0.5), run_of(9, 0.9), run_of(10, 0.6)],
    }
    output = summarise(settings, runs, BEST)
    gain, drop = output.gain["val_macro_f1"], output.drop
    assert gain and gain.n == 2, "seed 9 has no pair"
    assert gain.mean == pytest.approx(0.25)
    assert gain.sd == pytest.approx(0.05 * 2**0.5)
    assert drop and drop.n == 2
    assert drop.mean == pytest.approx(0.15)
    assert output.optimism == pytest.approx(0.15)
    assert output.failures == {"winner, seed 9": "failed"}


def test_output_is_read_as_written(params: Params, tmp_path: Path) -> None:
    settings = contenders(with_initial_trials(params), "clip", WINNER)
    best = replace(BEST, best_val_macro_f1=0.75)
    output = summarise(settings, {"winner": [run_of(8, 0.5, 0.25), SeedRun(9, 0, {}, "failed")]}, best)
    output.write(tmp_path / "repeat.json")
    assert RepeatOutput.read(tmp_path / "repeat.json") == output


def test_cache_keeps_runs_and_failures(tmp_path: Path) -> None:
    cache = RunCache(tmp_path / "clip.csv", tmp_path)
    cache.add("first", run_of(8, 1 / 3))
    cache.add("second", SeedRun(9, 1, {}, "failed, with a comma"))
    assert RunCache(tmp_path / "clip.csv", tmp_path).runs == cache.runs
    assert cache.runs["first"].scores["val_macro_f1"] == 0.333333
    assert cache.runs["second"] == SeedRun(9, 1, {}, "failed, with a comma")


def test_one_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seeds"):
        build(RepeatParams, {"seeds": 1}, "repeat")
