"""A forward pass as a chain of segments, and the one rule that decides which segments are frozen.

A segment is frozen if no trainable weight acts on it and its inputs come from frozen segments. Its result is then the
same in every epoch and every trial, so it is cached. The other segments run in every step. The rule reads the names of
the trainable weights and the positions on which they act, and nothing else, so it holds for any adapter on any model.

Every layer of a stack is one segment, so the boundary may lie between any two layers. Consecutive layers are joined
before they run. If adapters act on the text alone, the layers that carry them are split: one segment runs them on the
prefix, and the others on the text (`split_stack`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

LENGTH = "length"
# Whether a post has a caption with more than spaces.
HAS_CAPTION = "has_caption"
INPUTS = ("pixels", "tokens", LENGTH, HAS_CAPTION)
POOLED = "pooled"
# The image's own features, which an image head reads. A model whose readout reads them anyway has none.
POOLED_IMAGE = "pooled_image"

# The positions of a prompt: all, those up to the end of the image, or those behind it.
Positions = Literal["all", "prefix", "text"]


@dataclass(frozen=True)
class Segment:
    """One step of the forward pass: the features it reads and writes, and the modules whose weights it uses."""

    # The name by which a training config refers to it. The layers of a stack share one name.
    name: str
    # The features that it needs, and the feature that it computes.
    reads: tuple[str, ...]
    writes: str
    # Prefixes of the full names of its weights.
    modules: tuple[str, ...]
    # The first layer of a stack, and one past the last; None for other segments.
    layers: tuple[int, int] | None = None
    # Whether the feature that it writes has a row for each token, padded at its end as captions are.
    per_token: bool = False
    # The positions that it runs on.
    positions: Positions = "all"
    # Whether the feature that it writes is rounded to 8 bits (`quantize` in prefix.py).
    rounded: bool = False

    @property
    def label(self) -> str:
        """Return the name, followed by the number of its last layer (counted from 1) if it belongs to a stack."""
        return self.name if self.layers is None else f"{self.name}.{self.layers[1]}"


def stack(
    name: str,
    layers: str,
    num_layers: int,
    reads: tuple[str, ...],
    writes: str,
    *,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    per_token: bool = False,
) -> tuple[Segment, ...]:
    """Return one segment for each layer of a stack.

    Args:
        name: the name of all segments.
        layers: the full name of the list of layers, such as `text_model.encoder.layers`.
        num_layers: the number of layers.
        reads: the features that the first layer reads. They are inputs and not embeddings: the first segment computes
            the embeddings, so a boundary before it caches the smaller inputs.
        writes: the feature that the last layer writes, normalised and pooled.
        before: modules that compute the first layer's input; they belong to the first segment.
        after: modules behind the last layer; they belong to the last segment.
        per_token: whether the states between layers have a row for each token of the caption.
    """
    segments = []
    for layer in range(num_layers):
        first = layer == 0
        last = layer == num_layers - 1
        state = (f"{name}.{layer}", LENGTH) if per_token else (f"{name}.{layer}",)
        segments.append(
            Segment(
                name,
                reads if first else state,
                writes if last else f"{name}.{layer + 1}",
                (before if first else ()) + (f"{layers}.{layer}.",) + (after if last else ()),
                (layer, layer + 1),
                per_token and not last,
            )
        )
    return tuple(segments)


def split_stack(segments: Sequence[Segment], first: int, *, rounded: bool = False) -> tuple[Segment, ...]:
    """Return the same steps, but the last layers of a causal stack run on the prefix and on the text in turn.

    The prefix's states never depend on the text behind it. The text's states depend on the prefix's keys and values
    alone, which one segment computes for all of these layers.

    Args:
        segments: all segments. The stack comes last, and its first layer reads the image's features and the tokens.
        first: the first layer to split, from 0. The layers below run on all positions at once.
        rounded: whether the prefix's keys and values are rounded to 8 bits.
    """
    start = next(place for place, segment in enumerate(segments) if segment.layers == (first, first + 1))
    layers = segments[start:]
    source = layers[0].reads[:1]
    keys = f"prefix.{first}.int8" if rounded else f"prefix.{first}"
    modules = tuple(name for segment in layers for name in segment.modules)
    # The name tells boundaries apart whose features differ: by the first layer, and by rounding.
    prefix = Segment(keys, source, keys, modules, (first, first + len(layers)), positions="prefix", rounded=rounded)
    # Below the split, the stack's states have a row for each position: those of the text are cut out.
    cut = [Segment("cut", source, f"text.{first}", (), per_token=True, positions="text")] if first else []
    states = cut[0].writes if cut else "tokens"
    texts = []
    for number, segment in enumerate(layers, start=first + 1):
        writes = segment.writes if segment is layers[-1] else f"text.{number}"
        texts.append(replace(segment, reads=(states, keys, LENGTH), writes=writes, positions="text"))
        states = writes
    return (*segments[:start], *cut, prefix, *texts)


def join_layers(segments: Iterable[Segment]) -> list[Segment]:
    """Return the same steps, with consecutive layers of one stack joined to one segment.

    A model then computes positions and masks once for all joined layers.
    """
    runs: list[Segment] = []
    for segment in segments:
        last = runs[-1] if runs else None
        if last and last.layers and segment.layers and (last.name, last.layers[1]) == (segment.name, segment.layers[0]):
            runs[-1] = replace(
                segment,
                reads=last.reads,
                modules=last.modules + segment.modules,
                layers=(last.layers[0], segment.layers[1]),
            )
        else:
            runs.append(segment)
    return runs


def frozen_segments(segments: Sequence[Segment], trainable: Mapping[str, Positions]) -> tuple[Segment, ...]:
    """Return the segments on which no trainable weight acts and that depend on no segment that trains.

    Args:
        segments: all segments, in order.
        trainable: the positions on which each trainable weight acts, by the weight's full name.
    """
    known = set(INPUTS)
    frozen = []
    for segment in segments:
        trains = any(
            name.startswith(segment.modules) and (positions == "all" or segment.positions in ("all", positions))
            for name, positions in trainable.items()
        )
        if not trains and known.issuperset(segment.reads):
            known.add(segment.writes)
            frozen.append(segment)
    return tuple(frozen)


def cached_names(segments: Sequence[Segment], frozen: Sequence[Segment]) -> tuple[str, ...]:
    """Return the names of the features to cache: those that the trained segments, the readout or an image head read.

    `length` is always among them. Batches are made by length, and must not depend on the boundary. `has_caption` and
    `pooled_image` are too, with or without an image head: they are small, and later boundaries are computed from these
    features.
    """
    rest = [segment for segment in segments if segment not in frozen]
    wanted = {POOLED, POOLED_IMAGE, LENGTH, HAS_CAPTION, *(name for segment in rest for name in segment.reads)}
    return tuple(name for name in (*INPUTS, *(segment.writes for segment in frozen)) if name in wanted)


def pending_segments(
    segments: Sequence[Segment], known: Collection[str], wanted: Iterable[str] = (POOLED,)
) -> list[Segment]:
    """Return the segments, in order, that must run to compute the wanted features from the known ones."""
    missing = set(wanted) - set(known)
    pending = []
    for segment in reversed(segments):
        if segment.writes in missing:
            pending.append(segment)
            missing |= set(segment.reads) - set(known)
    return pending[::-1]


def image_segments(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return the segments that depend on the image alone, whatever text it is read with."""
    known = {"pixels"}
    chosen = []
    for segment in segments:
        if known.issuperset(segment.reads):
            known.add(segment.writes)
            chosen.append(segment)
    return tuple(chosen)


def per_token_features(segments: Iterable[Segment]) -> set[str]:
    """Return the names of the features that have a row for each token."""
    return {"tokens", *(segment.writes for segment in segments if segment.per_token)}
