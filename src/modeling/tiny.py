"""Small checkpoints of the real architectures: random weights and a tokenizer trained on the posts' captions.

The pipeline runs on them without a network: `from_pretrained` loads them as it loads the Hub's checkpoints.
Their scores show that the pipeline works and nothing else.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils.logging import disable_progress_bar

from src.core.files import atomic_folder
from src.core.labels import Labels

SEED = 1
VOCABULARY = 1500
IMAGE_SIDE = 64
PATCH_SIDE = 16
WIDTH = 96
LAYERS = 3
HEADS = 4

# With the usual 0.02, a random network this narrow hardly mixes positions, so the last token's state would hardly
# depend on the caption. 1/sqrt(width) keeps the variance of activations.
INIT_STD = WIDTH**-0.5


def answers(labels: Labels, space: str = " ") -> list[str]:
    """Return the labels' words as they follow a prompt, which ends without a space."""
    return [f"{space}{label.word}" for label in labels]


def train_tokenizer(
    corpus: Sequence[str], begin: str, end: str, pad: str, words: Sequence[str], extra: Sequence[str] = ()
) -> Any:
    """Train a byte-level BPE tokenizer in which every word of a label is one token.

    Args:
        corpus: the texts to train on.
        begin: the token before every text; empty for none.
        end: the token that ends a text.
        pad: the token for padding.
        words: the words of the labels, as `answers` returns them.
        extra: other special tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = list(dict.fromkeys(token for token in (pad, begin, *extra, end) if token))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus, *[*words] * len(corpus)], trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return TokenizersBackend(tokenizer_object=tokenizer, bos_token=begin or None, eos_token=end, pad_token=pad)


def save(folder: Path, make_backbone: Callable[[], Any], tokenizer: Any, image_processor: Any) -> None:
    """Write a checkpoint whole or not at all. The weights are drawn with a fixed seed, so they are always the same."""
    disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        backbone = make_backbone()
    with atomic_folder(folder) as temporary:
        for part in (backbone, tokenizer, image_processor):
            part.save_pretrained(temporary)
