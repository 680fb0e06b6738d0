"""Labelled posts with their cached features: the training dataset."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.core.records import Post
from src.modeling.segments import POOLED, POOLED_IMAGE
from src.training.batching import collate
from src.training.cache import FeatureTable


@dataclass(frozen=True)
class LabelledFeatures:
    """Labelled posts with their features, and with the features of their augmented views."""

    posts: Sequence[Post]
    features: FeatureTable
    # The labels that a post can have, in the order of the logits.
    label_names: tuple[str, ...]
    # One table for each augmented view, in the order of the posts.
    views: tuple[FeatureTable, ...] = ()

    def drawn(self, seed: int) -> "LabelledFeatures":
        """Return the posts, each drawn from the original and its views with equal probability."""
        if not self.views:
            return self
        rng = random.Random(seed)
        tables = (self.features, *self.views)
        rows = [rng.choice(tables).rows[row] for row in range(len(self.posts))]
        return LabelledFeatures(self.posts, FeatureTable(rows), self.label_names)

    def labels(self, indices: Sequence[int]) -> Tensor:
        """Return labels_B, as indices into `label_names`."""
        return torch.tensor([self.label_names.index(self.posts[index].label) for index in indices])

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Return the features of these posts as one batch on `device`."""
        return {name: value.to(device) for name, value in collate([self.features[index] for index in indices]).items()}


def pooled(data: LabelledFeatures, width: int) -> NDArray[np.float64]:
    """Return pooled features_ND of posts that a model of this width, without trainable weights, has encoded."""
    rows = [join_pooled(data.features[index], width) for index in range(len(data.posts))]
    return torch.stack(rows).double().numpy()


def join_pooled(features: Mapping[str, Tensor], width: int) -> Tensor:
    """Return the pooled features of a post or of a batch in one row each: the answer's state, and the image's own.

    `width` is that of the state (`ToneModel.width`). A model without an image's own features has the state alone.
    """
    state = features[POOLED][..., :width]
    return torch.cat([state, features[POOLED_IMAGE]], dim=-1) if POOLED_IMAGE in features else state
