"""Occlusion finds what an answer rests on: shown on fakes whose answer is known, and on all models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, cast

import pytest
import torch
from PIL import Image
from torch import Tensor

from src.core.labels import TONE_LABELS, TONES
from src.core.records import Post
from src.core.saliency import GRID, SaliencyMap
from src.core.training_config import TrainingConfig
from src.data.images import open_image, placeholder
from src.modeling.base import ToneModel
from src.models.catalog import MODELS
from src.training.adapter import attach_adapter
from src.training.cache import FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.inference import logits_of
from src.training.occlusion import (
    MOST_WORDS,
    SHUFFLES,
    ClassifiedImage,
    num_passes,
    saliency_map,
    sanity_check,
    shuffled,
    split_words,
)
from src.training.trainer import TrainingContext, fit

NEGATIVE = 0
SIDE = 2 * GRID


@dataclass
class Additive:
    """Negative for what it sees in some cells and for some words, each on its own; no other tone ever changes.

    A cell counts by its mean brightness between 0 and 1, a word by how often it comes.
    """

    cells_GG: Tensor
    words: dict[str, float] = field(default_factory=dict)
    # The image that stands for a missing one.
    placeholder_pixels: Tensor = field(default_factory=lambda: torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
    device = torch.device("cpu")
    labels = TONE_LABELS

    def eval(self) -> Self:
        return self

    def image_resizer(self) -> Callable[[Sequence[Image.Image]], list[Tensor]]:
        return lambda images: [
            torch.tensor(list(image.get_flattened_data()), dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1)
            for image in images
        ]

    def read_captions(self, captions: Sequence[str]) -> list[dict[str, Tensor]]:
        known = list(self.words)
        rows = [[1 + known.index(word) if word in known else 0 for word in caption.split()] for caption in captions]
        return [{"tokens": torch.tensor(row)} for row in rows]

    def forward_images(self, _: Tensor) -> dict[str, Tensor]:
        return {}

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        values_V = torch.tensor([0.0, *self.words.values()])
        seen_BGG = torch.nn.functional.avg_pool2d(features["pixels"].float().mean(1) / 255, SIDE // GRID)
        score_B = (seen_BGG * self.cells_GG).sum((1, 2)) + values_V[features["tokens"].long()].sum(1)
        return torch.stack([score_B, torch.zeros_like(score_B), torch.zeros_like(score_B)], dim=1)


def of(fake: Additive, image: Image.Image) -> ClassifiedImage:
    return ClassifiedImage.of(cast(ToneModel, fake), image)


def asked(fake: Additive, image: Image.Image, caption: str, batch_size: int = 7, window: int = 1) -> SaliencyMap:
    return saliency_map(of(fake, image), caption, batch_size, "negative", window=window)


def only_cell(row: int, column: int, value: float) -> Tensor:
    cells_GG = torch.zeros(GRID, GRID)
    cells_GG[row, column] = value
    return cells_GG


@pytest.fixture
def spotted() -> Image.Image:
    """Black, but for a white square that fills the cell in row 2, column 5."""
    image = Image.new("RGB", (SIDE, SIDE), "black")
    image.paste((255, 255, 255), (10, 4, 12, 6))
    return image


@pytest.fixture
def noisy() -> Image.Image:
    pixels = torch.randint(256, (SIDE * SIDE * 3,), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Image.frombytes("RGB", (SIDE, SIDE), bytes(pixels.tolist()))


# Answers that are known


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_one_cell_and_word_contribute(spotted: Image.Image, batch_size: int) -> None:
    fake = Additive(only_cell(2, 5, 3.0), {"love": 2.0})
    explanation = asked(fake, spotted, "we love it", batch_size)
    assert explanation.image == pytest.approx(3, abs=1e-5)
    # What fills the cell is not black: it is the picture's mean, a 64th of white.
    alone = 3.0 * (1 - 4 / 255)
    assert torch.allclose(torch.tensor(explanation.cells_GG), only_cell(2, 5, alone), atol=1e-5)
    assert [word.text for word in explanation.words] == ["we", "love", "it"]
    assert [word.contribution for word in explanation.words] == pytest.approx([0, 2, 0], abs=1e-5)
    assert explanation.caption == pytest.approx(2, abs=1e-5)


def test_opposing_parts_are_negative(spotted: Image.Image) -> None:
    fake = Additive(only_cell(2, 5, -3.0), {"love": -2.0})
    explanation = asked(fake, spotted, "we love it")
    assert explanation.cells_GG[2][5] < -2.9
    assert explanation.words[1].contribution == pytest.approx(-2, abs=1e-5)
    assert explanation.places()[-1] == ("top right", explanation.cells_GG[2][5])


def test_additive_contributions_sum_up(noisy: Image.Image) -> None:
    weights_GG = torch.randn(GRID, GRID, generator=torch.Generator().manual_seed(2))
    mean_311 = of(Additive(weights_GG), noisy).pixels_3RC.float().mean(dim=(1, 2), keepdim=True).round()
    plain_3SS = mean_311.to(torch.uint8).expand(3, SIDE, SIDE)
    fake = Additive(weights_GG, {"a": 0.5, "b": -1.5, "c": 0.25}, plain_3SS)
    explanation = asked(fake, noisy, "a b c a other")
    cells_GG = torch.tensor(explanation.cells_GG)
    assert float(cells_GG.sum()) == pytest.approx(explanation.image, abs=1e-4)
    assert sum(word.contribution for word in explanation.words) == pytest.approx(explanation.caption, abs=1e-4)
    assert cells_GG.std() > 0.01


def test_windows_blur_within_their_reach(spotted: Image.Image) -> None:
    explanation = asked(Additive(only_cell(2, 5, 3.0)), spotted, "", window=2)
    cells_GG = torch.tensor(explanation.cells_GG)
    assert float(cells_GG[2, 5]) == pytest.approx(3.0 * (1 - 4 / 255), abs=1e-5)
    assert float(cells_GG.max()) == float(cells_GG[2, 5])
    far = [(row, column) for row in range(GRID) for column in range(GRID) if max(abs(row - 2), abs(column - 5)) > 1]
    assert all(abs(float(cells_GG[place])) < 1e-5 for place in far)


def test_cells_of_uniform_image_contribute_nothing() -> None:
    fake = Additive(torch.ones(GRID, GRID))
    plain = Image.new("RGB", (SIDE, SIDE), (200, 30, 90))
    explanation = asked(fake, plain, "", window=2)
    assert explanation.image == pytest.approx(GRID * GRID * 320 / 3 / 255, abs=1e-4), "against black"
    assert torch.tensor(explanation.cells_GG).abs().max() < 1e-6
    own = Additive(torch.ones(GRID, GRID), placeholder_pixels=of(fake, plain).pixels_3RC)
    assert asked(own, plain, "", window=2).image == 0


def test_repeated_words_are_separate(spotted: Image.Image) -> None:
    explanation = asked(Additive(torch.zeros(GRID, GRID), {"love": 2.0}), spotted, "love love")
    assert [(word.text, round(word.contribution, 5)) for word in explanation.words] == [("love", 2), ("love", 2)]
    assert explanation.caption == pytest.approx(4, abs=1e-5)


def test_likeliest_label_is_the_default(spotted: Image.Image) -> None:
    classified = of(Additive(only_cell(2, 5, 3.0)), spotted)
    assert saliency_map(classified, "", 9).label == "negative"
    other = saliency_map(classified, "", 9, "positive")
    assert (other.label, other.predicted) == ("positive", "negative")
    assert other.cells_GG[2][5] < -1


# Captions


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", []),
        (" \n\t ", []),
        ("  what a\nday ", ["what ", "a\n", "day "]),
        ("so \N{SMILING FACE WITH HEART-SHAPED EYES}\N{VARIATION SELECTOR-16} !!", None),
        ("good good good", ["good ", "good ", "good"]),
        ("<image> </s> $5 & {caption}", ["<image> ", "</s> ", "$5 ", "& ", "{caption}"]),
    ],
)
def test_captions_split_at_spaces(caption: str, words: list[str] | None) -> None:
    parts = split_words(caption)
    assert words is None or parts == words
    assert "".join(parts) == caption.lstrip()


@pytest.mark.parametrize("count", [MOST_WORDS, MOST_WORDS + 1, 10 * MOST_WORDS + 7, 5000])
def test_long_captions_split_in_runs(count: int) -> None:
    caption = " ".join(str(number) for number in range(count))
    parts = split_words(caption)
    assert "".join(parts) == caption
    assert MOST_WORDS / 2 < len(parts) <= MOST_WORDS
    assert num_passes(caption) <= num_passes("") + MOST_WORDS + 1


@pytest.mark.real_data
def test_mvsa_captions_equal_their_words(real_mvsa: Path) -> None:
    from src.data.encodings import decode_caption

    captions = [decode_caption(path.read_bytes())[0] for path in (real_mvsa / "data").glob("*.txt")]
    assert len(captions) == 4869
    assert all("".join(split_words(caption)) == caption.lstrip() for caption in captions)
    assert all(len(split_words(caption)) == len(caption.split()) for caption in captions)


# All models


@dataclass(frozen=True)
class Trained:
    """A tiny model with an adapter that was trained for a moment, and a post."""

    model: ToneModel
    image: Image.Image
    caption: str

    def explain(self, caption: str | None = None, batch_size: int = 32) -> SaliencyMap:
        return saliency_map(self.classified(), self.caption if caption is None else caption, batch_size)

    def classified(self) -> ClassifiedImage:
        return ClassifiedImage.of(self.model, self.image)


@pytest.fixture(scope="module", params=MODELS)
def trained(
    request: pytest.FixtureRequest,
    tiny_model: Callable[[str], ToneModel],
    posts: list[Post],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    model = tiny_model(request.param)
    settings = TrainingConfig(
        readout="verbalizer" if request.param == "llava" else "head",
        rank=4,
        alpha=8,
        dropout=0.0,
        lr=0.003,
        batch_size=16,
        epochs=2,
    )
    attach_adapter(model, settings, seed=1)
    store = FeatureStore.of(tmp_path_factory.mktemp("cache"), model)
    store.ensure(model, posts[:64], 16, lambda _: None)
    train, val = (LabelledFeatures(some, store.table(some), TONES) for some in (posts[:48], posts[48:64]))
    fit(model, train, val, settings, TrainingContext(1))
    post = max(posts[:48], key=lambda post: len(post.caption))
    return Trained(model, open_image(post.image), post.caption)


def test_map_holds_the_models_probabilities(trained: Trained) -> None:
    explanation = trained.explain()
    (chances,) = logits_of(trained.model, [trained.image], [trained.caption]).softmax(-1).tolist()
    assert list(explanation.probabilities.values()) == pytest.approx(chances, abs=1e-5)
    assert explanation.probabilities[explanation.label] == max(explanation.probabilities.values())
    assert (len(explanation.cells_GG), len(explanation.cells_GG[0])) == (GRID, GRID)
    assert "".join(word.text for word in explanation.words) == "".join(trained.caption.split())
    assert min(len(set(explanation.contributions())), explanation.num_passes) > 20


def test_word_contribution_is_lost_odds(trained: Trained) -> None:
    explanation = trained.explain()
    words = trained.caption.split(" ")
    assert len(words) == len(explanation.words)
    for place in (0, len(words) // 2, len(words) - 1):
        rest = " ".join(words[:place] + words[place + 1 :])
        chance = logits_of(trained.model, [trained.image] * 2, [trained.caption, rest]).double().softmax(-1)
        with_it, without = chance[:, list(explanation.probabilities).index(explanation.label)].logit().tolist()
        assert explanation.words[place].contribution == pytest.approx(with_it - without, abs=1e-3)


def test_image_contribution_is_lost_odds(trained: Trained) -> None:
    explanation = trained.explain()
    images = [trained.image, open_image(placeholder())]
    chance = logits_of(trained.model, images, [trained.caption] * 2).double().softmax(-1)
    with_it, without = chance[:, list(explanation.probabilities).index(explanation.label)].logit().tolist()
    assert explanation.image == pytest.approx(with_it - without, abs=1e-3)


def test_maps_ignore_the_batch_size(trained: Trained) -> None:
    explanation = trained.explain()
    assert trained.explain() == explanation
    assert trained.explain(batch_size=5).contributions() == pytest.approx(explanation.contributions(), abs=1e-3)


def test_shuffled_readout_changes_the_map(trained: Trained) -> None:
    explanation, readout = trained.explain(), trained.model.readout
    assert readout is not None

    def explain() -> SaliencyMap:
        return saliency_map(trained.classified(), trained.caption, 32, explanation.label)

    before = {name: weight.clone() for name, weight in readout.state_dict().items()}
    check = sanity_check(explanation, explain, [readout])
    assert len(check.correlations) == SHUFFLES
    assert check.mean is not None
    assert check.mean < 0.5
    assert all(torch.equal(weight, before[name]) for name, weight in readout.state_dict().items())
    assert explain() == explanation


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "   ",
        "\N{PILE OF POO}",
        "word " * 300,  # more than the 256 tokens that a model reads
        "<image> </s> <|endoftext|>",
        "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d",
    ],
)
def test_any_caption_is_explained(trained: Trained, caption: str) -> None:
    explanation = trained.explain(caption)
    assert all(
        value == value and abs(value) < 1e6
        for value in [*explanation.contributions(), explanation.image, explanation.caption]
    )
    assert len(explanation.words) == len(split_words(caption))
    if not explanation.words:
        assert explanation.caption == pytest.approx(0, abs=1e-4)


def test_number_of_passes_is_announced(trained: Trained) -> None:
    for caption in (trained.caption, ""):
        seen: list[int] = []
        explanation = saliency_map(trained.classified(), caption, 16, advance=seen.append)
        assert sum(seen) == explanation.num_passes == num_passes(caption)
        assert max(seen) <= 16


# The sanity check itself


def test_sanity_check_detects_constant_maps(spotted: Image.Image) -> None:
    explanation = asked(Additive(only_cell(2, 5, 3.0), {"a": 1.0}), spotted, "a b")
    assert sanity_check(explanation, lambda: explanation, [torch.nn.Linear(2, 3)]).mean == pytest.approx(1)


def test_sanity_check_of_flat_maps(spotted: Image.Image) -> None:
    explanation = asked(Additive(torch.zeros(GRID, GRID)), spotted, "")
    flat = replace(explanation, cells_GG=[[0.0] * GRID] * GRID)
    check = sanity_check(flat, lambda: flat, [torch.nn.Linear(2, 3)])
    assert check.mean is None


def test_shuffling_restores_weights_after_errors() -> None:
    layer = torch.nn.Linear(4, 3)
    before = layer.weight.detach().clone()

    def fail() -> None:
        with shuffled(layer, seed=1):
            assert not torch.equal(layer.weight, before)
            assert torch.equal(layer.weight.flatten().sort().values, before.flatten().sort().values)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(layer.weight, before)
