"""Covers: `benchmarks.search`, whose two sides must do the same work with all four models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks import search
from benchmarks.lib import fixed_trials, posts, project_side, pruned_search, sizes
from benchmarks.lib.hf_trainer_baseline import TrainerBaseline
from benchmarks.lib.task import Task, Trained, best_of, fixed_settings
from src.core.config import load_params
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS


def task_of(model: str, folder: Path, num_posts: int = 32) -> tuple[Task, TrainingConfig]:
    params = load_params()
    parts = posts.read(num_posts=num_posts)
    sized = sizes.make(model, "tiny", folder, [post.caption for post in parts.train])
    settings = params.training_config(model, epochs=2, patience=2, batch_size=8, image_head="none")
    return Task(sized, parts, params.seed, torch.get_num_threads()), settings


def baseline_of(task: Task, settings: TrainingConfig, logits: str = "all") -> TrainerBaseline:
    return TrainerBaseline.of(task, project_side.plan_of(task, settings), "same", logits)


@pytest.mark.parametrize(
    ("model", "logits", "positions"),
    [
        *((model, "all", "all") for model in MODELS),
        ("llava", "last", "all"),
        ("blip2", "all", "text"),
        ("tinyllava", "all", "text"),
        ("llava", "last", "text"),
    ],
)
def test_both_sides_have_equal_losses(
    model: str, logits: str, positions: Literal["all", "text"], tmp_path: Path
) -> None:
    task, settings = task_of(model, tmp_path)
    settings = replace(settings, adapter_positions=positions)
    losses = fixed_trials.losses(task, baseline_of(task, settings, logits), fixed_settings(settings, 1)[0])
    assert [(loss.epoch, loss.part) for loss in losses] == [(1, "train"), (1, "val"), (2, "train"), (2, "val")]
    assert max(loss.difference for loss in losses) <= fixed_trials.TOLERANCE[torch.float32]


@pytest.mark.slow
def test_pruned_searches_score_on_test(tmp_path: Path) -> None:
    task, settings = task_of("clip", tmp_path, num_posts=24)
    baseline = baseline_of(task, settings)
    outcomes = pruned_search.searches(task, baseline, settings, trials=2, workers=1, seeds=1)
    assert [outcome.side for outcome in outcomes] == list(pruned_search.SIDES)
    assert outcomes[1].epochs == 2 * settings.epochs
    assert all(2 < outcome.epochs <= 4 and 0 <= outcome.test_macro_f1 <= 1 for outcome in outcomes)


def test_best_trial_is_earliest_tie() -> None:
    settings = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.1, lr=0.001)
    trials = [Trained(settings, ({"val_macro_f1": score},), {}) for score in (0.2, 0.5, 0.5)]
    assert best_of(trials) is trials[1]


def run(words: str) -> Result:
    return CliRunner().invoke(search.main, words.split())


def test_command_times_both_baselines() -> None:
    words = "--model clip --num-posts 24 --trials 1 --epochs 1 --loader-workers 0 --order same --order own"
    result = run(words)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])
    assert set(figures["baselines"]) == set(figures["ratios"]) == {"baseline, same order", "baseline, own order"}
    for side in (figures["project"], *figures["baselines"].values()):
        assert side["wall_s"][0] > 0
    for name, ratio in figures["ratios"].items():
        assert f"The {name}: {ratio['wall']:.2f} times" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ("--model llava --text-only", 2, "--text-only"),
        ("--model clip --patience 2", 2, "--patience"),
        ("--model clip --head-only --pruning", 2, "--head-only"),
        ("--model clip --pruning --order same --order own", 2, "--order"),
        ("--model clip --adapter-layers first-2 --num-posts 24", 2, "adapter_layers"),
        ("--model clap", 2, "'clip'"),
        ("--model clip --posts /nowhere", 1, "/nowhere"),
        ("--model blip2 --size medium-336 --num-posts 24", 1, "medium-336"),
        ("--model llava --adapter-positions text --pruning", 2, "--pruning"),
    ],
)
def test_misuse_is_one_line(words: str, code: int, named: str) -> None:
    result = run(words)
    assert result.exit_code == code
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_full_size_needs_gpu() -> None:
    result = run("--model clip --size full --num-posts 24")
    assert result.exit_code == 1
    assert "GPU" in result.stderr
