"""The features of a frozen model that a classifier of another library reads."""

import numpy as np
import torch
from numpy.typing import NDArray

from src.learning.scoring import Labelled
from src.models.segments import POOLED


def pooled(data: Labelled) -> NDArray[np.float64]:
    """features_ND of posts that were encoded by a model with nothing trainable on it, whatever precision it has."""
    rows = [data.features[index][POOLED] for index in range(len(data.posts))]
    return torch.stack(rows).double().numpy()
