"""Parts of loading a checkpoint: aligned weights, and the checks of its files, weights and tokenizer."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn
from transformers.utils.logging import disable_progress_bar

from src.core.errors import UserError
from src.core.files import file_digest, folder_digest
from src.core.outputs import AlignedWeights, PretrainedWeights


def hide_progress_bars_in_logs() -> None:
    """Turn off transformers' progress bars unless stderr is a terminal: in a log each bar takes hundreds of lines."""
    if not sys.stderr.isatty():
        disable_progress_bar()


def require_unchanged(checkpoint: PretrainedWeights) -> None:
    """Raise UserError unless a local checkpoint's files are those that were resolved.

    All bytes are read, because sizes and times do not identify a file. Loading reads the same bytes, so this about
    doubles its time, and nothing later could tell which weights a score belongs to.
    """
    folder = Path(checkpoint.source)
    if not folder.is_dir():
        # transformers would take the folder's name for a Hub id and request it from the Hub.
        raise UserError(f"{folder} cannot be loaded: there is no such folder")
    digest = folder_digest(folder)
    if digest != checkpoint.revision:
        raise UserError(
            f"{folder} has changed: its files have the digest {digest}, and {checkpoint.revision} is recorded. Restore "
            "them, or run stage `frozen` again"
        )


def load_aligned(backbone: nn.Module, aligned: AlignedWeights) -> None:
    """Put the weights that `align` has trained in the place of the checkpoint's."""
    file = Path(aligned.file)
    if not file.is_file() or file_digest(file) != aligned.digest:
        raise UserError(f"{file} does not hold the aligned weights {aligned.digest}: run stages `align` and `frozen`")
    unexpected = backbone.load_state_dict(load_file(file), strict=False).unexpected_keys
    if unexpected:
        raise UserError(f"{file} does not fit: {len(unexpected)} unexpected keys, such as {unexpected[0]}")


def require_vocabulary(checkpoint: PretrainedWeights, tokenizer: Any, config: Any) -> None:
    """Raise UserError if a tokenizer is far smaller than the vocabulary of the weights.

    Without a tokenizer's files transformers makes one that knows no word. Vocabularies of weights are padded a little.
    """
    size = getattr(config.get_text_config(), "vocab_size", 0)
    if 2 * len(tokenizer) < size:
        raise UserError(
            f"{checkpoint.source} has a tokenizer of {len(tokenizer):,} entries for a vocabulary of {size:,}: "
            "save the tokenizer beside the weights"
        )


def require_complete(checkpoint: PretrainedWeights, loading_info: Mapping[str, Any]) -> None:
    """Raise UserError unless every weight of the architecture was loaded, and every weight of the file was used."""
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading_info.get(fault):
            names = sorted(str(name) for name in loading_info[fault])
            raise UserError(f"{checkpoint.source}: {len(names)} {fault.replace('_', ' ')}, such as {names[0]}")
