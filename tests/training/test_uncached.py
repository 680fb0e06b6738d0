"""Models asked without the cache, as `modality` asks them: an ablation hides or changes what it says and no more."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPModel

from src.core.errors import UserError
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.ablations import BOTH, IMAGE, NO_HASHTAGS, SHUFFLED, TEXT, AblatedPost, ablated_posts, halves
from src.data.images import open_image
from src.modeling.base import ToneModel
from src.models.catalog import MODELS
from src.training.adapter import fresh_adapter
from src.training.cache import FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.inference import logits, logits_uncached, predictions_of, similarities

LORA = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.5, lr=0.003)


@pytest.fixture(params=MODELS)
def tuned(request: pytest.FixtureRequest, tiny_model: Callable[[str], ToneModel]) -> Iterator[ToneModel]:
    """A model with an adapter on that changes what it says, as a fresh one does not."""
    with fresh_adapter(tiny_model(request.param), LORA, seed=3) as adapter:
        spoil(adapter.model)
        yield adapter.model


def spoil(model: ToneModel) -> None:
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)


def say(model: ToneModel, shown: Sequence[AblatedPost], batch_size: int = 4) -> Tensor:
    return logits_uncached(model, [each.image for each in shown], [each.caption for each in shown], batch_size)


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def differ(actual: Tensor, expected: Tensor) -> Tensor:
    """Which posts are judged differently."""
    return (actual - expected).abs().amax(dim=1) > 1e-3


def test_uncached_posts_score_the_same(tuned: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    some, counted = posts[:7], list[int]()
    store = FeatureStore.of(tmp_path, tuned)
    store.ensure(tuned, some, 3, lambda _: None)
    cached_NK = logits(tuned, LabelledFeatures(some, store.table(some), TONES), 2)
    images, captions = [post.image for post in some], [post.caption for post in some]
    same(logits_uncached(tuned.train(), images, captions, 3, counted.append), cached_NK)
    assert counted == [3, 3, 1]


def test_text_alone_ignores_the_image(tuned: ToneModel, posts: list[Post]) -> None:
    some = posts[:6]
    others = [replace(post, image=other.image) for post, other in zip(some, posts[6:], strict=False)]
    one, other = halves(some), halves(others)
    assert differ(say(tuned, one[BOTH]), say(tuned, other[BOTH])).all()
    text_NK = say(tuned, one[TEXT])
    same(text_NK, say(tuned, other[TEXT]))
    assert differ(text_NK, say(tuned, one[BOTH])).all()
    # Not even the file is read.
    same(text_NK, say(tuned, halves([replace(post, image="nowhere.jpg") for post in some])[TEXT]))


def test_image_alone_ignores_the_text(tuned: ToneModel, posts: list[Post]) -> None:
    some = posts[:6]
    one, other = halves(some), halves([replace(post, caption=f"never {post.caption}") for post in some])
    assert differ(say(tuned, one[BOTH]), say(tuned, other[BOTH])).all()
    image_NK = say(tuned, one[IMAGE])
    same(image_NK, say(tuned, other[IMAGE]))
    assert differ(image_NK, say(tuned, one[BOTH])).all()


def test_shuffled_images_and_removed_hashtags(tuned: ToneModel, posts: list[Post]) -> None:
    bare = [replace(post, caption=post.caption.replace("#", "")) for post in posts[:6]]
    tagged = [replace(post, caption=f"{post.caption} #never") for post in bare]
    givers = [*tagged[1:], tagged[0]]
    inputs = ablated_posts(tagged, givers)
    both_NK = say(tuned, inputs[BOTH])
    swapped = [replace(post, image=giver.image) for post, giver in zip(tagged, givers, strict=True)]
    same(say(tuned, inputs[SHUFFLED]), say(tuned, halves(swapped)[BOTH]))
    assert differ(say(tuned, inputs[SHUFFLED]), both_NK).all()
    same(say(tuned, inputs[NO_HASHTAGS]), say(tuned, halves(bare)[BOTH]))
    assert differ(say(tuned, inputs[NO_HASHTAGS]), both_NK).all()


def test_unreadable_image_is_refused(tuned: ToneModel, posts: list[Post]) -> None:
    with pytest.raises(UserError, match=r"nowhere.jpg cannot be used"):
        say(tuned, halves([replace(posts[0], image="nowhere.jpg")])[BOTH])
    assert say(tuned, []).shape == (0, 3)


def test_unlabelled_post_has_a_prediction(posts: list[Post]) -> None:
    (row,) = predictions_of([replace(posts[0], label="")], torch.tensor([[0.0, 2.0, 1.0]]), TONES)
    assert (row.id, row.actual, row.predicted) == (posts[0].id, "", "neutral")


# Similarity


def aligned(model: ToneModel, posts: Sequence[Post], folder: Path) -> list[float] | None:
    store = FeatureStore.of(folder, model)
    store.ensure(model, posts, 4, lambda _: None)
    return similarities(model, LabelledFeatures(posts, store.table(posts), TONES), 3)


def test_clip_similarity_equals_transformers(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    model, some = tiny_model("clip"), posts[:7]
    clip = CLIPModel.from_pretrained(model.checkpoint.source)
    captions = [post.caption for post in some]
    words = model.tokenizer(captions, padding=True, return_tensors="pt")
    pictures = model.image_processor([open_image(post.image) for post in some], return_tensors="pt")
    with torch.no_grad():
        output = clip(**words, pixel_values=pictures["pixel_values"])
    # It scales the cosines by its temperature.
    expected_N = output.logits_per_image.diagonal() / clip.logit_scale.exp()
    assert aligned(model, some, tmp_path) == pytest.approx(expected_N.tolist(), abs=1e-5)


def test_similarity_is_the_bases_alone(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    model, some = tiny_model("clip"), posts[:5]
    before = aligned(model, some, tmp_path)
    with fresh_adapter(model, LORA, seed=3):
        spoil(model)
        with pytest.raises(AssertionError, match="take the adapter off first"):
            aligned(model, some, tmp_path)
    assert aligned(model, some, tmp_path) == before


@pytest.mark.parametrize("name", [name for name in MODELS if name != "clip"])
def test_other_models_have_no_similarity(
    name: str, tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    assert aligned(tiny_model(name), posts[:2], tmp_path) is None
