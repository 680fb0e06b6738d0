"""The common part of models that end in a causal language model: the prompt, the language segments, the verbalizer.

Letters of tensor shapes: see `base`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.labels import TONES
from src.modeling.base import Features, ToneModel
from src.modeling.last_layer import LayerParts
from src.modeling.segments import LENGTH, POOLED, Segment, stack

# Tweets have at most about 100 tokens. The cut protects memory from captions that are no tweets.
MAX_CAPTION_TOKENS = 256
# Parts of `TransformersUsage` that all language models share: the text argument, and the remark about long captions.
PROMPTED = 'text=contract["prompt"].format(caption=caption)'
CUT = f"A caption was cut to {MAX_CAPTION_TOKENS} tokens."


class VerbalizerReadout(nn.Module):
    """The verbalizer: it scores each tone by the language model's own logit of the tone's word.

    It computes three rows of the vocabulary head instead of the whole vocabulary.
    """

    rows_KD: Tensor

    def __init__(self, rows_KD: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows_KD", rows_KD.detach().float().clone(), persistent=False)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Compute logits_BK. Up to a constant for each row, they are the log-likelihoods of the tones' words."""
        return pooled_BD @ self.rows_KD.T


class LanguageToneModel(ToneModel):
    """A model whose language model reads a prompt that contains the image's embeddings."""

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """Return the language model without its vocabulary head."""

    @property
    @abstractmethod
    def vocabulary_head(self) -> nn.Linear:
        """Return the vocabulary head of the language model."""

    @property
    def width(self) -> int:
        """Return D of pooled_BD: the width of the language model."""
        return self.vocabulary_head.in_features

    def prefix_ids(self) -> list[int]:
        """Return the prompt's tokens before the image. They are the same for every post."""
        return []

    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """Return the prompt's tokens after the image, for each caption. Long captions are cut, the prompt never is."""
        prompts = [self.spec.prompt.format(caption=self.strip_special_tokens(caption)) for caption in captions]
        return [self.tokens_after_image(ids) for ids in self.tokenizer(prompts)["input_ids"]]

    def tokens_after_image(self, ids: list[int]) -> list[int]:
        """Return the part of a tokenised prompt that follows the image."""
        return ids

    def run_language(self, segment: Segment, features: Features, image: str) -> Tensor:
        """Run layers of the language model, and return the states after them, or pooled_BD after the very last layer.

        pooled_BD is the state at the prompt's last position, where the answer would begin.

        Args:
            segment: the layers, as one segment or joined.
            features: the features that the segment reads.
            image: the name of the feature with the image's embeddings.
        """
        assert segment.layers is not None
        first, last = segment.layers
        pools = segment.writes == POOLED
        states_BTD = self._embed_prompt(features, image) if first == 0 else features[segment.reads[0]]
        arguments = self.layer_arguments(states_BTD)
        # Padding stands behind the last position, and a causal model does not look ahead. So no mask is needed, and
        # attention takes its fastest kernel. The very last layer is left to `LayerParts.forward_at`.
        for layer in self.decoder.layers[first : last - pools]:
            states_BTD = layer(states_BTD, attention_mask=None, **arguments)
        if not pools:
            return states_BTD
        length_B = features[LENGTH]
        # The longest caption of a batch has no padding. `length` counts no tokens of the prefix and the image.
        end_B = states_BTD.shape[1] - length_B.max() + length_B - 1
        parts = self.layer_parts(self.decoder.layers[-1])
        rotary = arguments.get("position_embeddings")
        pooled_BD: Tensor = self.final_norm(parts.forward_at(states_BTD, end_B, causal=True, rotary=rotary))
        return pooled_BD

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """Return the norm behind the last layer."""

    @abstractmethod
    def layer_parts(self, layer: Any) -> LayerParts:
        """Return the parts of a layer."""

    def add_positions(self, embeddings_BTD: Tensor) -> Tensor:
        """Return the embeddings plus position embeddings, for language models that add them before the first layer."""
        return embeddings_BTD

    def layer_arguments(self, _: Tensor) -> dict[str, Any]:
        """Return the arguments that a layer takes besides states_BTD."""
        return {}

    def _embed_prompt(self, features: Features, image: str) -> Tensor:
        """Return the embeddings of the prefix, the image, and the rest of the prompt, in this order."""
        tokens_BT = features["tokens"]
        image_BPD = features[image]
        prefix_1T = torch.tensor([self.prefix_ids()], dtype=torch.long, device=self.device)
        prefix_BTD = self.decoder.embed_tokens(prefix_1T).expand(len(tokens_BT), -1, -1)
        text_BTD = self.decoder.embed_tokens(tokens_BT)
        return self.add_positions(torch.cat([prefix_BTD, image_BPD.to(prefix_BTD.dtype), text_BTD], dim=1))

    def verbalizer_readout(self) -> nn.Module:
        """Return the verbalizer.

        Raises:
            UserError: a tone's word is not one token of its own, so one position cannot score it.
        """
        return VerbalizerReadout(self.vocabulary_head.weight[self.word_ids()])

    def word_ids(self) -> list[int]:
        """Return the token of each tone's word as the answer, in the order of `TONES`.

        Raises:
            UserError: a tone's word is not one token of its own.
        """
        prompt = self.spec.prompt.format(caption="")
        # A prompt that ends with a line's end leaves no space before the answer.
        space = "" if prompt[-1].isspace() else " "
        stem, *answers = self.tokenizer([prompt, *(f"{prompt}{space}{tone}" for tone in TONES)])["input_ids"]
        words = [ids[len(stem) :] for ids in answers]
        # A tokenizer that joins the answer to the prompt's end would change the prompt's own tokens.
        follow = all(ids[: len(stem)] == stem and len(word) == 1 for ids, word in zip(answers, words, strict=True))
        if not follow or len({word[0] for word in words}) != len(TONES):
            raise UserError(
                f"{self.checkpoint.source}: its tokenizer does not give each tone's word one token: {words}; "
                "train with readout: head"
            )
        return [word[0] for word in words]

    def strip_special_tokens(self, caption: str) -> str:
        """Replace special tokens by spaces, and cut the caption to `MAX_CAPTION_TOKENS` tokens of its own."""
        caption = super().strip_special_tokens(caption)
        # Every token has at least one byte, except the space that Llama's tokenizer adds in front.
        if len(caption.encode()) < MAX_CAPTION_TOKENS:
            return caption
        ends = self._token_ends(caption)
        if len(ends) <= MAX_CAPTION_TOKENS:
            return caption
        # A token may be a part of a character, and the rest of a word may be tokenised into more pieces than before. So
        # the result of each cut is counted again, the longest cut first.
        cuts = (caption[:end] for end in sorted(set(ends[:MAX_CAPTION_TOKENS]), reverse=True))
        return next(cut for cut in cuts if len(self._token_ends(cut)) <= MAX_CAPTION_TOKENS)

    def _token_ends(self, text: str) -> list[int]:
        """Return the end of each token in a text, without the tokenizer's warning about texts that are too long."""
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [end for _, end in tokens["offset_mapping"]]


def language_stack(reads: str, model: str, num_layers: int, final_norm: str, *embeddings: str) -> tuple[Segment, ...]:
    """Return the segments of a language model, from the image's embeddings and the tokens to pooled_BD.

    Args:
        reads: the feature with the image's embeddings.
        model: the full name of the language model in the backbone.
        num_layers: the number of its layers.
        final_norm: the name of its last norm.
        embeddings: the names of its embeddings.
    """
    return stack(
        "language",
        f"{model}.layers",
        num_layers,
        (reads, "tokens", LENGTH),
        POOLED,
        before=tuple(f"{model}.{name}" for name in embeddings),
        after=(f"{model}.{final_norm}",),
        per_token=True,
    )
