"""The workspace of a stage that runs a model: its base in memory, the posts by part, and their cached features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch

from src.cli.output import say
from src.core.config import Params
from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import free_bytes
from src.core.labels import TONE_LABELS, Label, Labels, names_of
from src.core.outputs import PretrainedWeights, Trained
from src.core.paths import CACHE, PARAMS, POSTS, SPLIT, SPLIT_REPORT, UNIMODAL, checkpoint_file
from src.core.records import Post, read_posts, read_split, read_unimodal
from src.core.training_config import TrainingConfig
from src.data.augmentation import AugmentedPost, augmented
from src.data.images import EncodablePost
from src.modeling.base import ToneModel
from src.modeling.latest_run import LatestRun
from src.modeling.segments import POOLED_IMAGE
from src.models.catalog import model_class
from src.training.cache import Boundary, FeatureStore
from src.training.callbacks import noop
from src.training.dataset import LabelledFeatures
from src.training.distributed import SINGLE_PROCESS, DistributedContext, loading_device, own_device
from src.training.image_head import ImageExamples, LinearLogits, fit_logits
from src.training.launch import is_main

# Ids of posts, each with the label that a head learns.
LabelledIds = tuple[tuple[str, str], ...]

# This share of a disk's free space is left to everything else.
FREE_SHARE = 0.1


@dataclass(frozen=True)
class Workspace:
    """One base in memory, and the labelled posts of each part."""

    model: ToneModel
    parts: dict[str, list[Post]]
    # How many posts the frozen segments run at once.
    encode_batch_size: int = 32
    cache: Path = CACHE
    # The processes of a training, each with an equal workspace.
    distributed: DistributedContext = SINGLE_PROCESS
    # By the posts and labels that they were fitted on and chosen by: copies with other parts share this.
    _image_logits: dict[tuple[LabelledIds, LabelledIds], LinearLogits] = field(default_factory=dict, repr=False)
    _stores: dict[Boundary, FeatureStore] = field(default_factory=dict, repr=False)
    # The stores about whose prefix a line was printed.
    _said: set[Path] = field(default_factory=set, repr=False)

    def facts(self) -> dict[str, str]:
        """Return the weights and posts that scores depend on besides the settings, for tags and keys."""
        return facts_of(self.model.spec.name, self.model.checkpoint, self.model.labels)

    def sharing_weights(self, count: int) -> list["Workspace"]:
        """Return workspaces of trainings side by side: each has a model of its own, and the weights are shared.

        In a step, they share what frozen segments compute from the same batch.
        """
        latest_run = LatestRun()
        models = [self.model.sharing_weights() for _ in range(count)]
        for model in models:
            model.latest_run = latest_run
        return [replace(self, model=model) for model in models]

    def data(self, part: str, advance: Callable[[int], None] = noop) -> LabelledFeatures:
        """Return a part with the features that the model reads as it is adapted now.

        Posts that the cache lacks are encoded first.
        """
        posts = self.parts[part]
        store = self.store()
        store.ensure(self.model, posts, self.encode_batch_size, advance)
        return LabelledFeatures(posts, store.table(posts), names_of(self.model.labels))

    def training(self, settings: TrainingConfig, advance: Callable[[int], None] = noop) -> LabelledFeatures:
        """Return the train part as `data` does, with the augmented views that the settings ask for."""
        posts = self.parts["train"]
        views = views_of(posts, settings)
        altered = [post for view in views for post in view]
        store = self.store(altered)
        store.ensure(self.model, posts, self.encode_batch_size, advance)
        store.ensure(self.model, altered, self.encode_batch_size, advance)
        tables = tuple(store.table(view) for view in views)
        return LabelledFeatures(posts, store.table(posts), names_of(self.model.labels), tables)

    def image_logits(self, settings: TrainingConfig, advance: Callable[[int], None] = noop) -> LinearLogits:
        """Return the logits of an image head, fitted on the train part, and with the C that suits the val part.

        With `unimodal_labels` it learns the labels of images, also those of posts whose two labels differ. The result
        depends on the posts and labels alone, so it is fitted once for them.
        """
        train, val = self.parts["train"], self.parts["val"]
        labels = [post.label for post in train]
        if settings.unimodal_labels:
            known = names_of(self.model.labels)
            train = [post for post in [*train, *load_unimodal_posts()] if post.image_label in known]
            labels = [post.image_label for post in train]
        val_labels = [post.label for post in val]
        key = (_labelled_ids(train, labels), _labelled_ids(val, val_labels))
        if key not in self._image_logits:
            self._image_logits[key] = fit_logits(
                self._image_examples(train, labels, advance),
                self._image_examples(val, val_labels, advance),
                len(self.model.labels),
            )
        return self._image_logits[key]

    def _image_examples(
        self, posts: Sequence[Post], labels: Sequence[str], advance: Callable[[int], None]
    ) -> ImageExamples:
        # A store of their own: others have more of a post, which is costly to compute for posts that no readout reads.
        with self.model.image_alone():
            store = self._open()
            store.ensure(self.model, posts, self.encode_batch_size, advance)
        table = store.table(posts)
        names = names_of(self.model.labels)
        features_NI = torch.stack([table[row][POOLED_IMAGE].float() for row in range(len(posts))])
        return ImageExamples(features_NI, torch.tensor([names.index(label) for label in labels]))

    def store(self, views: Sequence[AugmentedPost] = ()) -> FeatureStore:
        """Return the store of the segments that are frozen now.

        If adapters act on the text alone, it holds the prefix's keys and values. If the disk has no room for those of
        all posts and `views`, the store ends before them, and every step computes them. All processes of a training
        call this function together, and one that has no room decides for all: with sharded weights, processes that run
        different segments wait for each other.
        """
        self.model.recomputes_prefix = False
        store = self._open()
        bytes_a_post = self.model.prefix_bytes()
        posts: list[EncodablePost] = [*chain(*self.parts.values()), *views]
        needed = bytes_a_post * len(store.missing(posts))
        free = free_bytes(self.cache) if needed else 0
        lacks_room = needed > free * (1 - FREE_SHARE)
        if self.distributed.any(lacks_room):
            self.model.recomputes_prefix = True
            store = self._open()
        if store.folder not in self._said and is_main():
            if self.model.text_weights:
                lacking = free if lacks_room else None
                say(_about_prefix(self.model, store.folder, bytes_a_post, len(posts), lacking))
            if self.model.latest_run is not None:
                say(_about_sharing(self.model))
            self._said.add(store.folder)
        return store

    def _open(self) -> FeatureStore:
        """Return the store of the model's present boundary.

        Each store is opened once, so that its shards are verified once even if trials alternate between boundaries.
        """
        boundary = Boundary.of(self.model)
        if boundary not in self._stores:
            self._stores[boundary] = FeatureStore.of(self.cache, self.model)
        return self._stores[boundary]


def _about_prefix(model: ToneModel, folder: Path, bytes_a_post: int, num_posts: int, free: int | None) -> str:
    """Return the line that says where a step gets the prefix's keys and values from, and what that costs.

    Args:
        model: with an adapter on the text alone.
        folder: of the cache.
        bytes_a_post: what the prefix of a post takes there; 0 if none is cached.
        num_posts: of all parts, and their augmented views.
        free: the bytes that are left on a disk without room; None if it is the disk of another process.
    """
    name = f"{model.spec.name}, adapters on the text alone"
    if not bytes_a_post:
        return f"{name}: a part of the base below them trains, so each step runs the prefix too, with gradients"
    size = f"{bytes_a_post / 2**20:,.1f} MiB a post, {bytes_a_post * num_posts / 2**30:,.2f} GiB in all"
    if not model.recomputes_prefix:
        return f"{name}: the prefix's keys and values are cached in {folder} ({size})"
    disk = "the disk of another process" if free is None else f"{folder.parent}, where {free / 2**30:,.2f} GiB are left"
    return (
        f"{name}: the prefix's keys and values ({size}) do not fit {disk}, so each step runs the prefix too, "
        "without gradients"
    )


def _about_sharing(model: ToneModel) -> str:
    """Return the line that says what trainings side by side share."""
    if model.cached_segments() == model.frozen_segments():
        return f"{model.spec.name}, trials at once: everything frozen is cached, so they share nothing but the base"
    return f"{model.spec.name}, trials at once: the prefix runs once a batch for all that read the same batch"


def views_of(posts: Sequence[Post], settings: TrainingConfig) -> list[list[AugmentedPost]]:
    """Return the augmented views that the settings ask for: for each view, a list with all posts."""
    numbers = range(1, settings.num_augmented_views + 1) if settings.augment else ()
    return [[augmented(post, settings.augment, number) for post in posts] for number in numbers]


def open_workspace(params: Params, name: str, distributed: DistributedContext = SINGLE_PROCESS) -> Workspace:
    """Return the workspace of one model, from the outputs of `prepare`, `split` and `frozen`.

    Raises:
        UserError: One of these stages has not run, or params.yaml has asked for another checkpoint since.
    """
    model = load_model(name, checkpoint_of(params, name), params.labels)
    return Workspace(model, posts_by_part(), params.encode.batch_size, distributed=distributed)


def checkpoint_of(params: Params, name: str) -> PretrainedWeights:
    """Return the pretrained weights that `frozen` recorded for a model.

    Raises:
        UserError: `frozen` has not run, or params.yaml has asked for another checkpoint since.
    """
    checkpoint = PretrainedWeights.read(checkpoint_file(name))
    wanted = (params.scale, str(params.checkpoint(name) or ""), params.align_config(name) is not None)
    if wanted != (checkpoint.scale, checkpoint.given, checkpoint.aligned is not None):
        raise UserError(
            f"{PARAMS} asks for other weights of {name} than {checkpoint.source} at scale {checkpoint.scale}, which "
            f"`frozen` prepared: run `dvc repro frozen@{name}`"
        )
    return checkpoint


def require_base_of(trained: Trained, checkpoint: PretrainedWeights, labels: Labels) -> None:
    """Raise UserError unless an adapter was trained on a checkpoint, its aligned weights, and these labels."""
    if trained.facts["checkpoint_revision"] != checkpoint.revision:
        raise UserError(
            f"the adapter of {trained.model} was trained on {trained.facts['checkpoint']} at "
            f"{trained.facts['checkpoint_revision']}, and `frozen` has prepared {checkpoint.source} at "
            f"{checkpoint.revision} since: run `dvc repro`"
        )
    if trained.facts.get("aligned") != _aligned_facts(checkpoint).get("aligned"):
        raise UserError(f"the adapter of {trained.model} was trained before the last `align`: run `dvc repro`")
    if trained.facts.get("labels") != _label_facts(labels).get("labels"):
        raise UserError(
            f"the adapter of {trained.model} was trained on other labels, words or descriptions than {PARAMS} names: "
            "run `dvc repro`"
        )


def facts_of(name: str, checkpoint: PretrainedWeights, labels: Labels) -> dict[str, str]:
    """Return the weights, posts and labels that scores depend on besides the settings, for tags and keys.

    Raises:
        UserError: `split` has not run, or params.yaml has named other labels since.
    """
    split = SplitReport.read(SPLIT_REPORT)
    if split.labels != names_of(labels):
        raise UserError(
            f"{PARAMS} names other labels than {', '.join(split.labels)}, which `split` found: run `dvc repro`"
        )
    return {
        "model": name,
        "scale": checkpoint.scale,
        "weights": _kind_of(checkpoint),
        "checkpoint": checkpoint.source,
        "checkpoint_revision": checkpoint.revision,
        **_aligned_facts(checkpoint),
        "data_digest": split.data_digest,
        "split_digest": split.split_digest,
        **_label_facts(labels),
    }


def _aligned_facts(checkpoint: PretrainedWeights) -> dict[str, str]:
    """Return the digest of the aligned weights; nothing if the checkpoint needs none."""
    return {"aligned": checkpoint.aligned.digest} if checkpoint.aligned else {}


def _label_facts(labels: Labels) -> dict[str, str]:
    """Return the labels in a line, each with its word and description if it has them; nothing of the three tones."""
    if labels == TONE_LABELS:
        return {}
    given = [
        label.name if label == Label(label.name) else f"{label.name} asked for as {label.option}" for label in labels
    ]
    return {"labels": ", ".join(given)}


def _kind_of(checkpoint: PretrainedWeights) -> str:
    if checkpoint.is_random:
        return "random"
    return "given" if checkpoint.given else "pretrained"


def load_model(name: str, checkpoint: PretrainedWeights, labels: Labels, device: str | None = None) -> ToneModel:
    """Return a model of `labels` with its weights on `device`, or on the best device if there is no `device`.

    The precision is bfloat16 on a GPU, and float32 on a CPU, where bfloat16 is slow.
    """
    target = torch.device(device) if device else loading_device()
    # The loading device may differ from the one that computes, which decides the precision.
    dtype = torch.bfloat16 if (target if device else own_device()).type == "cuda" else torch.float32
    return model_class(name).load(checkpoint, target, dtype, labels)


def posts_by_part() -> dict[str, list[Post]]:
    """Return the labelled posts of each part, in the order of the table of posts."""
    part_of = read_split(SPLIT)
    parts: dict[str, list[Post]] = {part: [] for part in dict.fromkeys(part_of.values())}
    for post in read_posts(POSTS):
        if post.id in part_of:
            parts[part_of[post.id]].append(post)
    return parts


def _labelled_ids(posts: Sequence[Post], labels: Sequence[str]) -> LabelledIds:
    return tuple(zip((post.id for post in posts), labels, strict=True))


def load_unimodal_posts() -> list[Post]:
    """Return the posts of no part whose two labels differ, which `unimodal_labels` trains on, in the table's order."""
    ids = read_unimodal(UNIMODAL)
    return [post for post in read_posts(POSTS) if post.id in ids]
