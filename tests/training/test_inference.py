from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.core.labels import TONE_LABELS, TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling.base import Features, ToneModel
from src.modeling.segments import Segment
from src.training.adapter import fresh_adapter
from src.training.cache import FeatureStore, FeatureTable
from src.training.cache_shards import Array, Shard
from src.training.dataset import LabelledFeatures
from src.training.inference import logits, logits_of, mean_loss, predictions


class Parrot(nn.Module):
    """Says of every post its own first token, once as it is and twice negated, and remembers how it was asked."""

    device = torch.device("cpu")
    labels = TONE_LABELS

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []

    def forward(self, features: dict[str, Tensor], *, with_image: bool) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.asked.append(features["length"].tolist())
        first_B = features["tokens"][:, 0].double()
        return torch.stack([first_B, -first_B, -first_B], dim=1)


def labelled(lengths: list[int], labels: list[str] | None = None) -> LabelledFeatures:
    """A post of each length; all of its tokens are its place in the list."""
    tones = labels or ["positive"] * len(lengths)
    posts = [Post(str(n), "", "", tone, tone, tone, str(n)) for n, tone in enumerate(tones)]
    flat = np.concatenate([np.full(length, place) for place, length in enumerate(lengths)])
    arrays = {
        "tokens": Array(flat, np.cumsum([0, *lengths]), torch.int64),
        "length": Array(np.array(lengths), None, torch.int64),
    }
    shard = Shard(Path(), (), arrays, {})
    return LabelledFeatures(posts, FeatureTable([(shard, row) for row in range(len(lengths))]), TONES)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_logits_keep_the_posts_order(batch_size: int) -> None:
    lengths = [5, 1, 9, 3, 3, 8, 2]
    parrot = Parrot()
    logits_NK = logits(cast(ToneModel, parrot), labelled(lengths), batch_size)
    assert logits_NK.dtype == torch.float32
    assert logits_NK.tolist() == [[n, -n, -n] for n in range(7)]
    asked = [length for batch in parrot.asked for length in batch]
    assert asked == sorted(lengths)
    assert max(map(len, parrot.asked)) == min(batch_size, 7)


def test_predictions_hold_probabilities() -> None:
    data = labelled([1, 1, 1, 1], ["negative", "neutral", "positive", "neutral"])
    logits_NK = torch.tensor([[9.0, 1.0, 0.0], [0.0, 200.0, -200.0], [-1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    rows = predictions(data, logits_NK)
    assert [row.id for row in rows] == ["0", "1", "2", "3"]
    assert [row.actual for row in rows] == ["negative", "neutral", "positive", "neutral"]
    assert [row.predicted for row in rows[:3]] == ["negative", "neutral", "positive"]
    assert rows[3].predicted in TONES
    for row in rows:
        shares = row.probabilities.values()
        assert sum(shares) == pytest.approx(1, abs=1e-6)
        assert row.confidence == max(shares)
    assert rows[3].probabilities["neutral"] == pytest.approx(1 / 3)


def test_mean_loss_of_labels() -> None:
    data = labelled([1, 1], ["negative", "positive"])
    logits_NK = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).log()
    assert mean_loss(data, logits_NK) == pytest.approx((0.693147 + 1.386294) / 2, abs=1e-5)


def test_labels_are_numbers_into_the_tones() -> None:
    data = labelled([1, 1, 1], ["positive", "negative", "neutral"])
    assert data.labels([0, 1, 2]).tolist() == [2, 0, 1]
    assert data.labels([2, 0]).tolist() == [1, 2]


def test_uncached_logits_equal_cached_logits(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    model = tiny_model("tinyllava")
    settings = TrainingConfig(readout="verbalizer", rank=2, alpha=2, dropout=0.5, lr=0.1)
    with fresh_adapter(model, settings, seed=1):
        store = FeatureStore.of(tmp_path, model)
        store.ensure(model, posts[:5], 2, lambda _: None)
        cached_NK = logits(model.train(), LabelledFeatures(posts[:5], store.table(posts[:5]), TONES), 3)
        images, captions = [open_image(post.image) for post in posts[:5]], [post.caption for post in posts[:5]]
        direct_NK = logits_of(model.train(), images, captions)
    torch.testing.assert_close(direct_NK, cached_NK, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "positions"), [("clip", "all"), *product(("blip2", "tinyllava"), ("all", "text"))])
def test_captions_of_one_image_share_its_run(
    name: str, positions: Literal["all", "text"], tiny_model: Callable[[str], ToneModel], posts: list[Post]
) -> None:
    """The tower, and the prefix behind it if no text precedes it, run once an image."""
    model = tiny_model(name)
    settings = TrainingConfig(readout="head", rank=2, alpha=2, dropout=0.0, lr=0.1, adapter_positions=positions)
    first, second = (open_image(post.image) for post in posts[:2])
    images, captions = [first, second, first, first], ["a day", "so sad", "", "happy " * 9]
    ran: dict[str, list[int]] = {}
    run = type(model).run_segment

    def counted(self: ToneModel, segment: Segment, features: Features) -> Tensor:
        result = run(self, segment, features)
        ran.setdefault(segment.name, []).append(len(result))
        return result

    with fresh_adapter(model, settings, seed=1), pytest.MonkeyPatch.context() as patch:
        alone_BK = torch.cat([logits_of(model, [image], [text]) for image, text in zip(images, captions, strict=True)])
        patch.setattr(type(model), "run_segment", counted)
        together_BK = logits_of(model, images, captions)
    torch.testing.assert_close(together_BK, alone_BK, rtol=0, atol=1e-4)
    assert ran.pop("vision") == [2]
    assert ran.pop("prefix.0", []) == ([2] if positions == "text" else [])
    assert [4] in ran.values()
