"""The workspace of a stage that runs a model: its base in memory, the posts by part, and their cached features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from src.core.data_outputs import SplitReport
from src.core.outputs import PretrainedWeights
from src.core.paths import CACHE, POSTS, SPLIT, SPLIT_REPORT, checkpoint_file
from src.core.records import Post, read_posts, read_split
from src.core.training_config import TrainingConfig
from src.data.augmentation import AugmentedPost, augmented
from src.modeling.base import ToneModel
from src.models.catalog import model_class
from src.training.cache import Boundary, FeatureStore
from src.training.callbacks import noop
from src.training.dataset import LabelledFeatures
from src.training.distributed import loading_device, own_device


@dataclass(frozen=True)
class Workspace:
    """One base in memory, and the labelled posts of each part."""

    model: ToneModel
    parts: dict[str, list[Post]]
    cache: Path = CACHE
    _stores: dict[Boundary, FeatureStore] = field(default_factory=dict, repr=False)

    def facts(self) -> dict[str, str]:
        """Return the weights and posts that scores depend on besides the settings, for tags and keys."""
        return facts_of(self.model.spec.name, self.model.checkpoint)

    def data(self, part: str, batch_size: int = 32, advance: Callable[[int], None] = noop) -> LabelledFeatures:
        """Return a part with the features that the model reads as it is adapted now.

        Posts that the cache lacks are encoded first.
        """
        posts = self.parts[part]
        store = self.store()
        store.ensure(self.model, posts, batch_size, advance)
        return LabelledFeatures(posts, store.table(posts))

    def training(
        self, settings: TrainingConfig, batch_size: int = 32, advance: Callable[[int], None] = noop
    ) -> LabelledFeatures:
        """Return the train part as `data` does, with the augmented views that the settings ask for."""
        data = self.data("train", batch_size, advance)
        views = views_of(self.parts["train"], settings)
        store = self.store()
        store.ensure(self.model, [post for view in views for post in view], batch_size, advance)
        return replace(data, views=tuple(store.table(view) for view in views))

    def store(self) -> FeatureStore:
        """Return the store of the segments that are frozen now.

        Each store is opened once, so that its shards are verified once even if trials alternate between boundaries.
        """
        boundary = Boundary.of(self.model)
        if boundary not in self._stores:
            self._stores[boundary] = FeatureStore.of(self.cache, self.model)
        return self._stores[boundary]


def views_of(posts: Sequence[Post], settings: TrainingConfig) -> list[list[AugmentedPost]]:
    """Return the augmented views that the settings ask for: for each view, a list with all posts."""
    numbers = range(1, settings.num_augmented_views + 1) if settings.augment else ()
    return [[augmented(post, settings.augment, number) for post in posts] for number in numbers]


def open_workspace(name: str) -> Workspace:
    """Return the workspace of one model, from the outputs of `prepare`, `split` and `encode`.

    Raises:
        UserError: One of these stages has not run.
    """
    return Workspace(load_model(name, checkpoint_of(name)), posts_by_part())


def checkpoint_of(name: str) -> PretrainedWeights:
    """Return the pretrained weights that `encode` recorded for a model.

    Raises:
        UserError: `encode` has not run.
    """
    return PretrainedWeights.read(checkpoint_file(name))


def facts_of(name: str, checkpoint: PretrainedWeights) -> dict[str, str]:
    """Return the weights and posts that scores depend on besides the settings, for tags and keys."""
    split = SplitReport.read(SPLIT_REPORT)
    return {
        "model": name,
        "scale": checkpoint.scale,
        "weights": "random" if checkpoint.is_random else "pretrained",
        "checkpoint": checkpoint.source,
        "checkpoint_revision": checkpoint.revision,
        **({"aligned": checkpoint.aligned.digest} if checkpoint.aligned else {}),
        "data_digest": split.data_digest,
        "split_digest": split.split_digest,
    }


def load_model(name: str, checkpoint: PretrainedWeights, device: str | None = None) -> ToneModel:
    """Return a model with its weights on `device`, or on the best device if there is no `device`.

    The precision is bfloat16 on a GPU, and float32 on a CPU, where bfloat16 is slow.
    """
    target = torch.device(device) if device else loading_device()
    # The loading device may differ from the one that computes, which decides the precision.
    dtype = torch.bfloat16 if (target if device else own_device()).type == "cuda" else torch.float32
    return model_class(name).load(checkpoint, target, dtype)


def posts_by_part() -> dict[str, list[Post]]:
    """Return the labelled posts of each part, in the order of the table of posts."""
    part_of = read_split(SPLIT)
    parts: dict[str, list[Post]] = {part: [] for part in dict.fromkeys(part_of.values())}
    for post in read_posts(POSTS):
        if post.id in part_of:
            parts[part_of[post.id]].append(post)
    return parts
