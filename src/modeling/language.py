"""The common part of models that end in a causal language model: the prompt, the language segments, the verbalizer.

Letters of tensor shapes: see `base` and `prefix`.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import permutations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from src.core.errors import UserError
from src.data.images import PLACEHOLDER, PLACEHOLDER_SIZE
from src.modeling.answers import Answers, SequenceReadout, WordReadout
from src.modeling.base import Features, ToneModel
from src.modeling.last_layer import LayerParts
from src.modeling.prefix import ATTENTION, SCALE_ROWS, PrefixKeys, as_feature, run_and_record
from src.modeling.segments import LENGTH, POOLED, POOLED_IMAGE, Segment, split_stack, stack

# Tweets have at most about 100 tokens. The cut protects memory from captions that are no tweets.
MAX_CAPTION_TOKENS = 256
# Parts of `TransformersUsage` that all language models share: the text argument, and the remark about long captions.
PROMPTED = 'text=contract["prompt"].format(caption=caption)'
CUT = f"A caption was cut to {MAX_CAPTION_TOKENS} tokens."


class LanguageToneModel(ToneModel):
    """A model whose language model reads a prompt that contains the image's embeddings."""

    reads_image_first: ClassVar[bool] = True
    pools_image: ClassVar[bool] = True
    # The split layers (`adapt_text`) without adapters. They share the base's weights and are no modules of the model.
    _bare_layers: Sequence[nn.Module] = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Transformers' own `sdpa`, unless a layer is given a prefix.
        self.decoder.config._attn_implementation = ATTENTION  # noqa: SLF001

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

    def opening_ids(self) -> list[int]:
        """Return the prompt's tokens before the image. They are the same for every post."""
        return []

    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """Return the prompt's tokens after the image, for each caption, and those of words that are read behind it.

        Long captions are cut, the prompt never is.
        """
        prompts = [self.prompt.format(caption=self.strip_special_tokens(caption)) for caption in captions]
        read_ids = self.answers.read_ids()
        return [self.tokens_after_image(ids) + read_ids for ids in self.tokenizer(prompts)["input_ids"]]

    def tokens_after_image(self, ids: list[int]) -> list[int]:
        """Return the part of a tokenised prompt that follows the image."""
        return ids

    @property
    @abstractmethod
    def num_image_positions(self) -> int:
        """Return the number of positions that an image takes in the prompt."""

    @property
    def num_prefix_positions(self) -> int:
        """Return the number of positions up to the end of the image. It is the same for every post."""
        return len(self.opening_ids()) + self.num_image_positions

    def adapt_text(self, bare_copy: Callable[[nn.Module], nn.Module], *, rounded: bool = False) -> None:
        """Let the adapter that is attached act on the text alone, from the lowest layer that carries it."""
        self.text_weights = frozenset(self.trainable_names())
        layers = [segment for segment in self.segments if segment.layers]
        adapted = [layer for layer in layers if any(name.startswith(layer.modules) for name in self.text_weights)]
        first = layers.index(adapted[0])
        self.segments = split_stack(self.segments, first, rounded=rounded)
        self._bare_layers = [bare_copy(layer) for layer in self.decoder.layers[first:]]

    def adapt_all(self) -> None:
        """Let adapters act on all positions."""
        super().adapt_all()
        self._bare_layers = ()

    def prefix_bytes(self) -> int:
        """Return the bytes of one post's keys and values of the prefix, if these are frozen features, else 0."""
        prefix = next((segment for segment in self.frozen_segments() if segment.positions == "prefix"), None)
        if prefix is None:
            return 0
        parts = self.layer_parts(self._bare_layers[-1])
        assert isinstance(parts.k, nn.Linear)
        num_rows = self.num_prefix_positions
        bytes_a_row = 2 * len(self._bare_layers) * parts.k.out_features
        if prefix.rounded:
            return (num_rows + SCALE_ROWS) * bytes_a_row
        return num_rows * bytes_a_row * self.base_dtype.itemsize

    def run_language(self, segment: Segment, features: Features, image: str) -> Tensor:
        """Run layers of the language model, and return the states after them, or pooled_BD after the very last layer.

        pooled_BD is the state at the prompt's last position, where the answer would begin. The states are those of all
        positions or of the text. A segment of the prefix returns its keys and values, [B, L, 2, G, P, W] with L layers,
        or what `quantize` makes of them.

        Args:
            segment: the layers, as one segment or joined.
            features: the features that the segment reads.
            image: the name of the feature with the image's embeddings.
        """
        if segment.layers is None:
            return features[segment.reads[0]][:, self.num_prefix_positions :]
        first, last = segment.layers
        states_BTD = features[segment.reads[0]] if first else self._embed_prompt(segment, features, image)
        if segment.positions == "prefix":
            prefix_BPD = states_BTD[:, : self.num_prefix_positions]
            return self._run_prefix(prefix_BPD, embedded=first == 0, rounded=segment.rounded)
        prefix = None
        if segment.positions == "text":
            prefix = PrefixKeys(features[segment.reads[1]], len(self.decoder.layers), self.base_dtype)
        # The longest caption of a batch has no padding. `length` counts no positions of the prefix.
        length_B = features[LENGTH]
        end_B = states_BTD.shape[1] - length_B.max() + length_B - 1
        positions_BT, mask_B1TT = self._places(states_BTD, end_B, prefix)
        if first == 0:
            states_BTD = self.add_positions(states_BTD, positions_BT)
        arguments = self.layer_arguments(states_BTD, positions_BT)
        pools = segment.writes == POOLED
        for layer in self.decoder.layers[first : last - pools]:
            states_BTD = layer(states_BTD, attention_mask=mask_B1TT, prefix=prefix, **arguments)
        return self._pool(states_BTD, end_B, mask_B1TT, prefix, arguments) if pools else states_BTD

    def pooled_image(self, vision_BPD: Tensor, pixels_B3SS: Tensor, num_class_tokens: int) -> Tensor:
        """Return the states of an image's class tokens, which stand first, and the mean of those of its patches.

        They are one row an image; transformers' `Dinov2ForImageClassification` reads the same two, behind a last norm.
        The placeholder that stands for a missing image has no features of its own: they are zeros.
        """
        classes_BD = vision_BPD[:, :num_class_tokens].flatten(1)
        pooled_BI = torch.cat([classes_BD, vision_BPD[:, num_class_tokens:].mean(dim=1)], dim=-1)
        is_missing_B = (pixels_B3SS == self.placeholder_pixels.to(pixels_B3SS.device)).flatten(1).all(dim=1)
        return pooled_BI.masked_fill(is_missing_B[:, None], 0)

    def image_usage(self, states: str, num_class_tokens: int) -> list[str]:
        """Return the lines of Python that compute pooled_image and has_image, for a card; none without an image head.

        Args:
            states: the expression of the vision tower's states.
            num_class_tokens: the number of class tokens, which stand first.
        """
        if self.image_head is None:
            return []
        classes, mean = f"vision[:, :{num_class_tokens}].flatten(1)", f"vision[:, {num_class_tokens}:].mean(dim=1)"
        colours = f'Image.frombytes("RGB", (3, 3), bytes.fromhex("{PLACEHOLDER}"))'
        return [
            f"vision = {states}",
            f"pooled_image = torch.cat([{classes}, {mean}], dim=-1)",
            f"placeholder = {colours}.resize({PLACEHOLDER_SIZE})  # stands for a missing image",
            'missing = processor.image_processor(placeholder, return_tensors="pt")["pixel_values"]',
            'has_image = (inputs["pixel_values"] != missing).flatten(1).any(dim=1, keepdim=True)',
        ]

    def rounding_usage(self) -> list[str]:
        """Return the lines of Python that round the keys and values in `past`, for a model card; none if none are."""
        prefix = next((segment for segment in self.segments if segment.rounded), None)
        if prefix is None or prefix.layers is None:
            return []
        return [
            f"for layer in past.layers[{prefix.layers[0]}:]:  # in training they were cached in 8 bits",
            '    for name in ("keys", "values"):',
            "        exact = getattr(layer, name)",
            "        numbers = exact.float()",
            "        scales = (numbers.abs().amax(-2, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)",
            "        setattr(layer, name, ((numbers / scales).round() * scales).to(exact.dtype))",
        ]

    def _places(self, states_BTD: Tensor, end_B: Tensor, prefix: PrefixKeys | None) -> tuple[Tensor, Tensor | None]:
        """Return the position of each state in the prompt, and the mask of attention; None for torch's causal mask.

        Padding stands behind the last position, and a causal model does not look ahead. So a mask is needed only for
        the text behind a prefix, and for tokens of words. Without one, attention takes its fastest kernel.
        """
        length = states_BTD.shape[1]
        start = 0 if prefix is None else prefix.length
        if self.answers.read_ids():
            positions_BT, mask_BTT = self.answers.places(length, end_B)
            return start + positions_BT, pad(mask_BTT, (start, 0), value=True)[:, None]
        positions_1T = torch.arange(start, start + length, device=states_BTD.device)[None]
        return positions_1T, None if prefix is None else prefix.mask(states_BTD)

    def _pool(
        self,
        states_BTD: Tensor,
        end_B: Tensor,
        mask_B1TT: Tensor | None,
        prefix: PrefixKeys | None,
        arguments: dict[str, Any],
    ) -> Tensor:
        """Run the very last layer, and return the state of the prompt's last position.

        Behind it stand, in the same row, the states of words' tokens if any are read.
        """
        last = self.decoder.layers[-1]
        num_read = len(self.answers.read_ids())
        if num_read:
            states_BTD = last(states_BTD, attention_mask=mask_B1TT, prefix=prefix, **arguments)
            back_E = torch.arange(num_read, -1, -1, device=end_B.device)
            rows_B1 = torch.arange(len(end_B), device=end_B.device)[:, None]
            pooled_BED: Tensor = self.final_norm(states_BTD[rows_B1, end_B[:, None] - back_E])
            return pooled_BED.flatten(1)
        rotary = arguments.get("position_embeddings")
        keys_values = None if prefix is None else prefix.of_layer(len(self.decoder.layers) - 1)
        state_BD = self.layer_parts(last).forward_at(states_BTD, end_B, causal=True, rotary=rotary, prefix=keys_values)
        pooled_BD: Tensor = self.final_norm(state_BD)
        return pooled_BD

    def _run_prefix(self, states_BPD: Tensor, *, embedded: bool, rounded: bool) -> Tensor:
        """Return the keys and values of the prefix in each split layer, from its states before the first of them.

        Args:
            states_BPD: the states.
            embedded: whether these are embeddings without positions.
            rounded: whether the keys and values of each layer are rounded by `quantize`.
        """
        positions_1P = torch.arange(states_BPD.shape[1], device=states_BPD.device)[None]
        if embedded:
            states_BPD = self.add_positions(states_BPD, positions_1P)
        arguments = self.layer_arguments(states_BPD, positions_1P)
        # Checkpointing matters only if the prefix has gradients, that is, if something below it trains.
        checkpoints = self.decoder.layers[0].gradient_checkpointing and states_BPD.requires_grad
        rows = []
        for layer in self._bare_layers[:-1]:
            run = partial(run_and_record, layer, arguments)
            states_BPD, *keys_values = (
                checkpoint(run, states_BPD, use_reentrant=False) if checkpoints else run(states_BPD)
            )
            rows.append(as_feature(keys_values, rounded=rounded))
        parts = self.layer_parts(self._bare_layers[-1])
        keys_values = parts.keys_values(states_BPD, arguments.get("position_embeddings"))
        rows.append(as_feature(keys_values, rounded=rounded))
        return torch.stack(rows, dim=1)

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """Return the norm behind the last layer."""

    @abstractmethod
    def layer_parts(self, layer: Any) -> LayerParts:
        """Return the parts of a layer."""

    def add_positions(self, embeddings_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """Return the embeddings plus position embeddings, for language models that add them before the first layer.

        `positions_BT` may have one row for all posts.
        """
        return embeddings_BTD

    def layer_arguments(self, states_BTD: Tensor, positions_BT: Tensor) -> dict[str, Any]:
        """Return the arguments that a layer takes besides states_BTD. `positions_BT` may have one row for all posts."""
        return {}

    def _embed_prompt(self, segment: Segment, features: Features, image: str) -> Tensor:
        """Return the embeddings of the prompt's opening, the image, and the rest of the prompt, in this order.

        Those of positions that the segment does not run on are left out.
        """
        embed = self.decoder.embed_tokens
        parts = []
        if segment.positions != "text":
            image_BPD = features[image]
            opening_1T = torch.tensor([self.opening_ids()], dtype=torch.long, device=self.device)
            opening_BTD = embed(opening_1T).expand(len(image_BPD), -1, -1)
            parts += [opening_BTD, image_BPD.to(opening_BTD.dtype)]
        if segment.positions != "prefix":
            parts.append(embed(features["tokens"]))
        return torch.cat(parts, dim=1)

    @cached_property
    def answers(self) -> Answers:
        """The labels' words in tokens. It is empty for words that cannot be scored: only a head can then be trained."""
        try:
            return Answers(self._answer_ids())
        except UserError:
            return Answers()

    def verbalizer_readout(self) -> nn.Module:
        """Return the verbalizer: by the logits of words of one token, else by whole log-likelihoods.

        Raises:
            UserError: a label's word cannot be told from the prompt's end, or from another label's word.
        """
        answers = Answers(self._answer_ids())
        rows_VD = self.vocabulary_head.weight
        return SequenceReadout(rows_VD, answers) if answers.read_ids() else WordReadout(rows_VD[self.word_ids()])

    def word_ids(self) -> list[int]:
        """Return the token of each label's word as the answer, in the order of the labels.

        Raises:
            UserError: a label's word is not one token of its own.
        """
        for label, ids in zip(self.labels, self._answer_ids(), strict=True):
            if len(ids) > 1:
                raise self._unusable_word(f"{label.word!r} is not one token but {list(ids)}")
        return [token for (token,) in self._answer_ids()]

    def _answer_ids(self) -> tuple[tuple[int, ...], ...]:
        """Return the tokens of each label's word as the answer.

        Raises:
            UserError: the tokenizer joins a word to the prompt's end, which would change the prompt's own tokens; or
                one word begins with another, which would then always be the likelier one.
        """
        prompt = self.prompt.format(caption="")
        # A prompt that ends with a line's end leaves no space before the answer.
        space = "" if prompt[-1].isspace() else " "
        words = [label.word for label in self.labels]
        stem, *rows = self.tokenizer([prompt, *(f"{prompt}{space}{word}" for word in words)])["input_ids"]
        answers = {word: tuple(ids[len(stem) :]) for word, ids in zip(words, rows, strict=True)}
        for word, ids in zip(words, rows, strict=True):
            if ids[: len(stem)] != stem or not answers[word]:
                raise self._unusable_word(f"{word!r} changes the tokens of the prompt before it")
        for (one, first), (other, second) in permutations(answers.items(), 2):
            if second[: len(first)] == first:
                raise self._unusable_word(f"the tokens of {other!r} begin with those of {one!r}")
        return tuple(answers.values())

    def _unusable_word(self, reason: str) -> UserError:
        return UserError(
            f"{self.spec.name} cannot answer with the labels' words: {reason} for the tokenizer of "
            f"{self.checkpoint.source}; give the label another word in params.yaml"
        )

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


def pool_image(name: str) -> Segment:
    """Return the segment that computes pooled_image_BI, from the feature with the states of the vision tower."""
    return Segment(POOLED_IMAGE, (name, "pixels"), POOLED_IMAGE, ())
