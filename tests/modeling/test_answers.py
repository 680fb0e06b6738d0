"""Covers: words of several tokens as answers, scored by their whole log-likelihood."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.labels import Label, Labels
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling.answers import Answers, SequenceReadout
from src.modeling.base import Features, ToneModel
from src.modeling.language import LanguageToneModel
from src.models.catalog import MODELS
from src.training.adapter import fresh_adapter
from src.training.batching import collate

NAMES = [name for name in MODELS if name != "clip"]
# Of one token, of several, and two words with one first token.
LABELS = tuple(map(Label, ("sad", "so very happy", "quite fine", "quite a day")))
CAPTIONS = ["so happy today", "", "x " * 2_000, "a sad day"]
TEXT = TrainingConfig(
    readout="verbalizer", rank=4, alpha=8, dropout=0.0, lr=0.003, batch_size=8, adapter_positions="text"
)


def with_labels(model: ToneModel, labels: Labels) -> LanguageToneModel:
    labelled = type(model)(model.backbone, model.tokenizer, model.image_processor, model.checkpoint, labels)
    assert isinstance(labelled, LanguageToneModel)
    return labelled


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], ToneModel]) -> LanguageToneModel:
    return with_labels(tiny_model(request.param), LABELS)


def inputs_of(model: ToneModel, posts: Sequence[Post], captions: Sequence[str] = CAPTIONS) -> Features:
    images = [open_image(post.image) for post in posts[: len(captions)]]
    return collate(model.preprocess(images, captions))


def answer_of(model: LanguageToneModel, label: Label) -> list[int]:
    space = "" if model.prompt.endswith("\n") else " "
    ids: list[int] = model.tokenizer.encode(f"{space}{label.word}", add_special_tokens=False)
    return ids


def log_likelihood(model: LanguageToneModel, post: Post, caption: str, label: Label) -> float:
    """Return what transformers computes for the prompt followed by one label's word, without padding."""
    answer = answer_of(model, label)
    prompt = model.prompt.format(caption=model.strip_special_tokens(caption))
    ids = model.tokenizer(prompt.replace("<image>", "<image>" * 16))["input_ids"] + answer
    pixels = model.image_processor([open_image(post.image)], return_tensors="pt")["pixel_values"]
    ids_1T, backbone = torch.tensor([ids]), model.backbone
    if model.spec.name == "blip2":
        image_1PD = backbone.get_image_features(pixel_values=pixels).pooler_output
        embeds = torch.cat([image_1PD, backbone.get_input_embeddings()(ids_1T)], dim=1)
        logits_1TV = backbone.language_model(inputs_embeds=embeds).logits
    else:
        logits_1TV = backbone(input_ids=ids_1T, pixel_values=pixels).logits
    logs_EV = logits_1TV[0, -len(answer) - 1 : -1].log_softmax(dim=-1)
    return float(logs_EV.gather(1, torch.tensor(answer)[:, None]).sum())


def by_transformers(model: LanguageToneModel, posts: Sequence[Post]) -> Tensor:
    rows = [
        [log_likelihood(model, post, caption, label) for label in LABELS]
        for post, caption in zip(posts, CAPTIONS, strict=False)
    ]
    return torch.tensor(rows).log_softmax(dim=-1)


def disturb(model: nn.Module) -> None:
    """Draw weights of adapters that change logits; fresh ones do not."""
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)


def test_words_have_several_tokens(model: LanguageToneModel) -> None:
    assert [len(answer_of(model, label)) > 1 for label in LABELS].count(True) >= 3
    assert model.answers.ids == tuple(tuple(answer_of(model, label)) for label in LABELS)
    (ids,) = model.token_ids(["a day"])
    num_read = len(model.answers.read_ids())
    assert ids[-num_read:] == [token for label in LABELS for token in answer_of(model, label)[:-1]]


def test_scores_are_whole_log_likelihoods(model: LanguageToneModel, posts: list[Post]) -> None:
    model.readout = model.verbalizer_readout()
    assert isinstance(model.readout, SequenceReadout)
    model.eval()
    with torch.no_grad():
        found_BK = model(inputs_of(model, posts)).log_softmax(dim=-1)
        expected_BK = by_transformers(model, posts)
    torch.testing.assert_close(found_BK, expected_BK, rtol=0, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"adapter_layers": "last-1"}])
@pytest.mark.parametrize("positions", ["all", "text"])
def test_adapted_scores_do_not_depend_on_the_boundary(
    model: LanguageToneModel, positions: Literal["all", "text"], changes: dict[str, Any], posts: list[Post]
) -> None:
    inputs = inputs_of(model, posts)
    model.readout = model.verbalizer_readout()
    with torch.no_grad():
        bare_BK = model.eval()(inputs).log_softmax(dim=-1)
    with fresh_adapter(model, replace(TEXT, adapter_positions=positions, **changes), seed=3), torch.no_grad():
        disturb(model)
        model.eval()
        encoded = model.encode(inputs)
        results = [model(features).log_softmax(dim=-1) for features in (inputs, encoded)]
        if positions == "text":
            model.recomputes_prefix = True
            results.append(model(model.encode(inputs)).log_softmax(dim=-1))
        else:
            results.append(by_transformers(model, posts))
    first_BK, *others = results
    assert (first_BK - bare_BK).abs().max() > 1e-3
    for other_BK in others:
        torch.testing.assert_close(other_BK, first_BK, rtol=0, atol=1e-4)


def test_head_ignores_words(model: LanguageToneModel, posts: list[Post]) -> None:
    """A head reads the prompt's last state, which no word changes."""
    plain = with_labels(model, LABELS)
    plain.__dict__["answers"] = Answers()
    head = replace(TEXT, readout="head", adapter_positions="all")
    with torch.no_grad():
        with fresh_adapter(model, head, seed=3):
            found_BK = model.eval()(inputs_of(model, posts))
        with fresh_adapter(plain, head, seed=3):
            torch.testing.assert_close(plain.eval()(inputs_of(plain, posts)), found_BK, rtol=0, atol=1e-4)


@pytest.mark.parametrize("words", [("sad", "sad today"), ("quite a day", "quite a")])
def test_word_that_begins_another_is_refused(words: tuple[str, str], model: LanguageToneModel) -> None:
    labelled = with_labels(model, (Label("one", words[0]), Label("two", words[1])))
    with pytest.raises(UserError, match="begin with those of"):
        labelled.verbalizer_readout()
    assert labelled.answers == Answers()
    assert len(labelled.token_ids(["a day"])[0]) > 0


def test_places_of_two_words_behind_prompts() -> None:
    """Rows of 3 and 2 tokens of the prompt, behind which stand two tokens of one word and one of another."""
    answers = Answers(((7, 8, 9), (4,), (5, 6)))
    assert answers.read_ids() == [7, 8, 5]
    assert answers.scored_ids() == [8, 9, 6]
    positions_BT, mask_BTT = answers.places(6, torch.tensor([5, 4]))
    assert positions_BT.tolist()[0] == [0, 1, 2, 3, 4, 3]
    assert positions_BT.tolist()[1][:5] == [0, 1, 2, 3, 2]
    assert mask_BTT[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]
    assert mask_BTT[1, 4].int().tolist() == [1, 1, 0, 0, 1, 0]
