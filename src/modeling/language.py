"""What the models that end in a causal language model share: they read a prompt and are judged by its last position.

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

# A tweet has at most some 100 tokens; the cut protects memory from a caption that is no tweet.
MAX_CAPTION_TOKENS = 256
# What a processor of transformers reads, in a model card (`usage`), and what it leaves undone.
PROMPTED = 'text=contract["prompt"].format(caption=caption)'
CUT = f"A caption was cut to {MAX_CAPTION_TOKENS} tokens."


class VerbalizerReadout(nn.Module):
    """Scores each tone by the language model's own logit of its word: three rows of the head, not the vocabulary."""

    rows_KD: Tensor

    def __init__(self, rows_KD: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows_KD", rows_KD.detach().float().clone(), persistent=False)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """logits_BK at the answer's position. Up to a constant a row, these are the words' log-likelihoods."""
        return pooled_BD @ self.rows_KD.T


class LanguageToneModel(ToneModel):
    """A picture turned into embeddings, set into a prompt, read by a causal language model."""

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The language model without its head."""

    @property
    @abstractmethod
    def vocabulary_head(self) -> nn.Linear:
        """The language model's head."""

    @property
    def width(self) -> int:
        """D of pooled_BD: the width of the language model."""
        return self.vocabulary_head.in_features

    def prefix_ids(self) -> list[int]:
        """The prompt's tokens before the picture, the same for every post."""
        return []

    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The prompt's tokens after the picture; the caption is cut to `MAX_CAPTION_TOKENS`, the prompt never."""
        prompts = [self.spec.prompt.format(caption=self.strip_special_tokens(caption)) for caption in captions]
        return [self.after_image(ids) for ids in self.tokenizer(prompts)["input_ids"]]

    def after_image(self, ids: list[int]) -> list[int]:
        """The part of a tokenised prompt that follows the picture."""
        return ids

    def run_language(self, segment: Segment, features: Features, image: str) -> Tensor:
        """Layers of the language model: the states after the last of them, or pooled_BD after the last of all.

        pooled_BD is the state at the prompt's last position, where the answer would begin. Padding comes behind it, and
        a causal model does not look ahead, so no mask is needed and attention takes its fastest kernel.
        """
        assert segment.layers is not None
        (first, last), pools = segment.layers, segment.writes == POOLED
        states_BTD = self._begin(features, image) if first == 0 else features[segment.reads[0]]
        arguments = self.layer_arguments(states_BTD)
        for layer in self.decoder.layers[first : last - pools]:
            states_BTD = layer(states_BTD, attention_mask=None, **arguments)
        if not pools:
            return states_BTD
        length_B = features[LENGTH]
        end_B = states_BTD.shape[1] - length_B.max() + length_B - 1  # the longest has no padding
        layer, rotary = self.layer_parts(self.decoder.layers[-1]), arguments.get("position_embeddings")
        pooled_BD: Tensor = self.final_norm(layer.forward_at(states_BTD, end_B, causal=True, rotary=rotary))
        return pooled_BD

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """What comes behind the last layer."""

    @abstractmethod
    def layer_parts(self, layer: Any) -> LayerParts:
        """What a layer consists of."""

    def add_positions(self, embeddings_BTD: Tensor) -> Tensor:
        """The embeddings with what says their positions, where that is added before the first layer."""
        return embeddings_BTD

    def layer_arguments(self, _: Tensor) -> dict[str, Any]:
        """What a layer takes besides states_BTD."""
        return {}

    def _begin(self, features: Features, image: str) -> Tensor:
        tokens_BT, image_BPD = features["tokens"], features[image]
        prefix_1T = torch.tensor([self.prefix_ids()], dtype=torch.long, device=self.device)
        prefix_BTD = self.decoder.embed_tokens(prefix_1T).expand(len(tokens_BT), -1, -1)
        text_BTD = self.decoder.embed_tokens(tokens_BT)
        return self.add_positions(torch.cat([prefix_BTD, image_BPD.to(prefix_BTD.dtype), text_BTD], dim=1))

    def verbalizer_readout(self) -> nn.Module:
        """Scores the tones by the likelihood of their words as the answer.

        Raises:
            UserError: a tone's word is not one token of its own, so one position cannot score it.
        """
        return VerbalizerReadout(self.vocabulary_head.weight[self.word_ids()])

    def word_ids(self) -> list[int]:
        """The token of each tone's word as the answer, in the order of `TONES`; raises as `verbalizer_readout` does."""
        prompt = self.spec.prompt.format(caption="")
        stem, *answers = self.tokenizer([prompt, *(f"{prompt} {tone}" for tone in TONES)])["input_ids"]
        words = [ids[len(stem) :] for ids in answers]
        if any(len(word) != 1 for word in words) or len({word[0] for word in words}) != len(TONES):
            raise UserError(
                f"{self.checkpoint.source}: its tokenizer does not give each tone's word one token: {words}"
            )
        return [word[0] for word in words]

    def strip_special_tokens(self, caption: str) -> str:
        """Return the caption as every model's, and cut where it has `MAX_CAPTION_TOKENS` at most by itself."""
        caption = super().strip_special_tokens(caption)
        # No token is shorter than a byte, but for the space that Llama's tokenizer puts first.
        if len(caption.encode()) < MAX_CAPTION_TOKENS:
            return caption
        ends = self._token_ends(caption)
        if len(ends) <= MAX_CAPTION_TOKENS:
            return caption
        # Some tokens are only a part of a character, and a word that is cut may have more tokens than its part had.
        cuts = (caption[:end] for end in sorted(set(ends[:MAX_CAPTION_TOKENS]), reverse=True))
        return next(cut for cut in cuts if len(self._token_ends(cut)) <= MAX_CAPTION_TOKENS)

    def _token_ends(self, text: str) -> list[int]:
        """Return where each token of a text ends, without a warning that the text is too long for the model."""
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [end for _, end in tokens["offset_mapping"]]


def language_stack(reads: str, model: str, num_layers: int, final_norm: str, *embeddings: str) -> tuple[Segment, ...]:
    """The segments of a language model `model`, from the picture's embeddings `reads` and the tokens to pooled_BD."""
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
