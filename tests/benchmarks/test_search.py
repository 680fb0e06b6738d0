"""Both sides of `benchmarks.search` do the same work, with all four models."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks import equal, ours, posts, pruned, search, sizes
from benchmarks.peer import Peer
from benchmarks.task import Task, Trained, best_of, fixed_trials
from src.core.config import load_params
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS


def task_of(model: str, folder: Path, num_posts: int = 32) -> tuple[Task, TrainingConfig]:
    params = load_params()
    parts = posts.read(num_posts=num_posts)
    sized = sizes.make(model, "tiny", folder, [post.caption for post in parts.train])
    settings = params.training_config(model, epochs=2, patience=2, batch_size=8)
    return Task(sized, parts, params.seed, torch.get_num_threads()), settings


def peer_of(task: Task, settings: TrainingConfig, logits: str = "all") -> Peer:
    return Peer.of(task, ours.plan_of(task, settings), "same", logits)


@pytest.mark.parametrize(("model", "logits"), [*((model, "all") for model in MODELS), ("llava", "last")])
def test_the_losses_of_both_sides_are_equal(model: str, logits: str, tmp_path: Path) -> None:
    task, settings = task_of(model, tmp_path)
    found = equal.losses(task, peer_of(task, settings, logits), fixed_trials(settings, 1)[0])
    assert [(loss.epoch, loss.part) for loss in found] == [(1, "train"), (1, "val"), (2, "train"), (2, "val")]
    assert max(loss.difference for loss in found) <= equal.TOLERANCE[torch.float32]


def test_searches_with_pruning_draw_from_one_space_and_are_judged_on_test(tmp_path: Path) -> None:
    task, settings = task_of("clip", tmp_path, num_posts=24)
    found = pruned.searches(task, peer_of(task, settings), settings, trials=2, workers=1, seeds=1)
    assert [one.side for one in found] == list(pruned.SIDES)
    assert found[1].epochs == 2 * settings.epochs
    assert all(2 < one.epochs <= 4 and 0 <= one.test_macro_f1 <= 1 for one in found)


def test_the_best_trial_is_the_earliest_of_equals() -> None:
    settings = fixed_trials(TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.1, lr=0.001), 3)
    scores = (0.2, 0.5, 0.5)
    found = [Trained(each, ({"val_macro_f1": score},), {}) for each, score in zip(settings, scores, strict=True)]
    assert best_of(found) is found[1]


def run(words: str) -> Result:
    return CliRunner().invoke(search.main, words.split())


def test_the_command_times_both_peers_beside_us() -> None:
    words = "--model clip --num-posts 24 --trials 1 --epochs 1 --loader-workers 0 --order same --order own"
    result = run(words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found["peers"]) == set(found["ratios"]) == {"peer, same order", "peer, own order"}
    for side in (found["ours"], *found["peers"].values()):
        assert side["wall_s"][0] > 0
    for name, ratio in found["ratios"].items():
        assert f"The {name}: {ratio['wall']:.2f} times as long" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--model llava --text-only", 2, "--text-only is for CLIP's adapters"),
        ("--model clip --patience 2", 2, "--patience is for --pruning"),
        ("--model clip --head-only --pruning", 2, "the space of params.yaml"),
        ("--model clip --pruning --order same --order own", 2, "one --order"),
        ("--model clap", 2, "unknown model 'clap'; did you mean 'clip'?"),
        ("--model clip --posts /nowhere", 1, "/nowhere"),
    ],
)
def test_misuse_is_one_line(words: str, code: int, says: str) -> None:
    result = run(words)
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_published_dimensions_need_a_gpu() -> None:
    result = run("--model clip --size full --num-posts 24")
    assert result.exit_code == 1
    assert "size full needs a GPU" in result.stderr
