"""Labelled posts with their cached features: the training dataset."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.core.labels import TONES
from src.core.records import Post
from src.modeling.segments import POOLED
from src.training.batching import collate
from src.training.cache import FeatureTable


@dataclass(frozen=True)
class LabelledFeatures:
    """Posts that carry a label, and their features; and those of altered views of them, a table for each number."""

    posts: Sequence[Post]
    features: FeatureTable
    views: tuple[FeatureTable, ...] = ()

    def drawn(self, seed: int) -> "LabelledFeatures":
        """The same posts, each as it is or as one of its views; all are equally likely."""
        if not self.views:
            return self
        chance, tables = random.Random(seed), (self.features, *self.views)
        return LabelledFeatures(
            self.posts, FeatureTable([chance.choice(tables).rows[row] for row in range(len(self.posts))])
        )

    def labels(self, indices: Sequence[int]) -> Tensor:
        """labels_B, as numbers into `TONES`."""
        return torch.tensor([TONES.index(self.posts[index].label) for index in indices])

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The features of these posts as one batch on `device`."""
        return {name: value.to(device) for name, value in collate([self.features[index] for index in indices]).items()}


def pooled(data: LabelledFeatures) -> NDArray[np.float64]:
    """features_ND of posts that were encoded by a model with nothing trainable on it, whatever precision it has."""
    rows = [data.features[index][POOLED] for index in range(len(data.posts))]
    return torch.stack(rows).double().numpy()
