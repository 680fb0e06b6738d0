"""What test_distributed.py launches: trainings by all processes, data-parallel and sharded, and what came of each.

accelerate launch --config_file configs/fsdp.yaml tests/training/trained_in_parallel.py FOLDER
"""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.core.files import write_json
from src.core.labels import TONES
from src.core.outputs import PretrainedWeights
from src.core.records import MAX_PIXELS, Post
from src.core.training_config import TrainingConfig
from src.data.mvsa import survey
from src.data.reading import read_folder
from src.modeling.base import ToneModel
from src.models.catalog import model_class
from src.training.adapter import fresh_adapter
from src.training.cache import FeatureStore
from src.training.checkpoint import TrainingCheckpoint
from src.training.dataset import LabelledFeatures
from src.training.distributed import DistributedContext, open_distributed
from src.training.trainer import TrainingContext, fit

ROOT = Path(__file__).parents[2]
SETTINGS = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.0, lr=0.003, batch_size=8, epochs=3)
NUM_VAL = 13


@dataclass(frozen=True)
class Case:
    """A training on the first `count` posts of the sample, judged by the next `NUM_VAL`, up to an epoch `last`.

    Several processes may be `interrupted` after their first epoch, and go on.
    """

    model: str
    settings: TrainingConfig
    count: int = 24
    last: int = 2
    interrupted: bool = False
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-5


@dataclass(frozen=True)
class Judge:
    """A reporter that lets a training go on up to an epoch, and remembers the epochs."""

    last: int
    heard: list[int] = field(default_factory=list)

    def on_batch(self) -> None:
        pass

    def on_epoch(self, epoch: int, _: Mapping[str, float]) -> bool:
        self.heard.append(epoch)
        return epoch < self.last


CASES = {
    "interrupted": Case("clip", replace(SETTINGS, batch_size=12), last=3, interrupted=True),
    "even shares": Case("clip", SETTINGS),
    # The last step is of 13 posts, in pieces of four.
    "uneven shares": Case("tinyllava", replace(SETTINGS, batch_size=4, gradient_accumulation_steps=4), count=29),
    # The last step is of one post, so that one process has none.
    "one post": Case("clip", replace(SETTINGS, adapter="dora", class_weights="balanced", max_grad_norm=0.01), count=25),
    "words, image head": Case(
        "llava", replace(SETTINGS, readout="verbalizer", image_head="linear", gradient_checkpointing=True)
    ),
    # Some of these weights have no gradient but what is rounded, and AdamW goes where that points.
    "parts": Case("blip2", replace(SETTINGS, unfreeze="connector qformer", rank=1, lr=0.0003), tolerance=1e-4),
    # The prefix runs in every step, because the connector trains.
    "text": Case(
        "llava",
        replace(SETTINGS, adapter_positions="text", unfreeze="connector", gradient_checkpointing=True, lr=0.0003),
    ),
    # As on a GPU: what is trained is in another precision than the base.
    "bfloat16": Case("tinyllava", SETTINGS, dtype=torch.bfloat16, tolerance=1e-2),
}


def sample() -> list[Post]:
    """The posts that the `posts` fixture gives."""
    folder_content = read_folder(survey(ROOT / "sample"), "agreement", MAX_PIXELS, lambda: None, hashes=False)
    return [post for post in folder_content.posts if post.label]


def labelled(model: ToneModel, posts: Sequence[Post], folder: Path) -> LabelledFeatures:
    """Posts with the features that the model reads, from the cache in `folder`."""
    store = FeatureStore.of(folder / "cache", model)
    store.ensure(model, posts, 16, lambda _: None)
    return LabelledFeatures(posts, store.table(posts), TONES)


def train(
    model: ToneModel,
    case: Case,
    posts: Sequence[Post],
    folder: Path,
    name: str,
    distributed: DistributedContext,
) -> Mapping[str, Any]:
    """Train and save an adapter as `name` in `folder`; returns what came of it."""
    checkpoint = TrainingCheckpoint(folder / f"{name}.safetensors", "a key")
    if case.interrupted and distributed.num_processes > 1:
        # The one that goes on is sharded anew, so it has to be another one.
        once = replace(case, interrupted=False, last=1)
        train(copy.deepcopy(model), once, posts, folder, name, distributed)
    with fresh_adapter(model, case.settings, seed=1) as adapter:
        first = labelled(model, posts[: case.count], folder)
        val = labelled(model, posts[case.count : case.count + NUM_VAL], folder)
        # Only the main process's word counts: every other one would end it at once.
        judge = Judge(case.last if distributed.is_main else 0)
        fitted = fit(model, first, val, case.settings, TrainingContext(1, judge, distributed, checkpoint))
        adapter.save(folder / name, write=distributed.is_main)
        return {
            "history": fitted.history,
            "epochs": judge.heard,
            "best_epoch": fitted.best_epoch,
            "predictions": [asdict(row) for row in fitted.predictions],
            "held": held(model.backbone),
            "draws": torch.rand(4).tolist(),
        }


def held(module: nn.Module) -> int:
    """The bytes that this process holds of a module's weights."""
    local = (getattr(weight, "to_local", lambda weight=weight: weight)() for weight in module.parameters())
    return sum(weight.nbytes for weight in local)


def main(folder: Path) -> None:
    """Run all cases, in checkpoints that stand in `folder`."""
    posts = sample()
    with open_distributed() as distributed:
        for name, case in CASES.items():
            for sharded in (False, True):
                checkpoint = PretrainedWeights.of_folder(folder / "checkpoints" / case.model, "tiny")
                model = model_class(case.model).load(checkpoint, torch.device("cpu"), case.dtype)
                way = f"{name}, {'sharded' if sharded else 'data-parallel'}"
                result = train(model, case, posts, folder, way, replace(distributed, sharded=sharded))
                write_json(folder / f"{way}.{distributed.rank}.json", result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
