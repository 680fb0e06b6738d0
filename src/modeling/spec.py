"""The facts in which models differ, as each model's file gives them.

A fact is a name, a number or a pattern. What takes code is a method of `ToneModel`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from src.core.errors import unknown


@dataclass(frozen=True)
class TokenCounts:
    """Lengths in tokens of the checkpoint's own tokenizer. A dry run counts with them, because it has no tokenizer.

    All were measured with the tokenizers of the pinned revisions. `python -m pytest tests/models -k dry_run` measures
    them again.
    """

    # The prompt before the image.
    opening: int
    # The prompt behind the image, without a caption.
    prompt: int
    # The 95th percentile of the 4,869 captions of MVSA-Single.
    caption: int


@dataclass(frozen=True)
class Spec:
    """The facts that differ between models and are not code."""

    # The model's name in the catalog.
    name: str
    # The Hub id of the checkpoint, and its pinned commit; or the name of one that the model's file builds, and its
    # pinned digest.
    checkpoint: str
    revision: str
    # A regular expression for the full names of the layers that take adapters, with the dot behind.
    layers: str
    # The projections that an adapter targets by default: some of the letters of `projections`.
    target_projections: str
    # The text around a caption. `{caption}` is its place, and `{labels}` that of the possible answers.
    prompt: str
    tokens: TokenCounts
    # Regular expressions for the linear modules of a layer: the projections of attention (q, k, v, o), and all of the
    # feed-forward network (m, as in MLP). The default is Llama's.
    projections: Mapping[str, str] = field(
        default_factory=lambda: {
            **{letter: rf"self_attn\.{letter}_proj" for letter in "qkvo"},
            "m": r"mlp\.(gate|up|down)_proj",
        }
    )
    # The segments that the checkpoint has no trained weights for. A training has to learn them.
    untrained_segments: tuple[str, ...] = ()
    # How a checkpoint that is not on the Hub is made, from what and under which licences: a clause for a model card.
    origin: str = ""

    def target_modules(self, target_projections: str = "") -> str:
        """Return a regular expression for the full names of the modules to adapt.

        Args:
            target_projections: letters of `projections`; empty for the model's default.

        Raises:
            UsageError: the model has no such projection.
        """
        letters = target_projections or self.target_projections
        for letter in letters:
            if letter not in self.projections:
                raise unknown(f"projection of {self.name}", letter, self.projections)
        names = "|".join(self.projections[letter] for letter in letters)
        return rf"{self.layers}({names})"
