"""A forward pass as a chain of segments, and the one rule that says how much of it is frozen.

A segment whose weights are all frozen, and whose inputs come from frozen segments, gives the same result in every epoch
and every trial. What the frozen ones give is cached; the rest is run in every step. The rule reads the names of the
trainable weights and nothing else, so it holds for any adapter on any model.

A stack of layers is one segment a layer, so that the boundary may lie between any two of them; layers that run one
after the other are joined before they run.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

LENGTH = "length"
INPUTS = ("pixels", "tokens", LENGTH)
POOLED = "pooled"


@dataclass(frozen=True)
class Segment:
    """One step of the forward pass: the features it reads and writes, and the modules whose weights it uses.

    Attributes:
        name: what a training calls it (`TrainingConfig.trains`); the layers of a stack share one.
        reads: the features that it needs.
        writes: the feature that it makes.
        modules: what the names of its weights begin with.
        layers: for layers of a stack, the first and one past the last.
        per_token: whether what it writes has a row for each token, padded at its end as the captions are.
    """

    name: str
    reads: tuple[str, ...]
    writes: str
    modules: tuple[str, ...]
    layers: tuple[int, int] | None = None
    per_token: bool = False

    @property
    def label(self) -> str:
        """The name, with the layers where there are some."""
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
    """The segments of a stack of layers: one a layer.

    Args:
        name: of all of them.
        layers: what the names of the weights of layer 3 begin with, up to the 3.
        num_layers: how many there are.
        reads: what the first layer reads, embeddings included: a boundary before it keeps inputs, not embeddings.
        writes: what the last layer writes, once it is normalised and pooled.
        before: modules that make the first layer's input.
        after: modules that come behind the last layer.
        per_token: whether the states between layers have a row for each token of the caption.
    """
    made = []
    for layer in range(num_layers):
        first, last = layer == 0, layer == num_layers - 1
        state = (f"{name}.{layer}", LENGTH) if per_token else (f"{name}.{layer}",)
        made.append(
            Segment(
                name,
                reads if first else state,
                writes if last else f"{name}.{layer + 1}",
                (before if first else ()) + (f"{layers}.{layer}.",) + (after if last else ()),
                (layer, layer + 1),
                per_token and not last,
            )
        )
    return tuple(made)


def join_layers(segments: Iterable[Segment]) -> list[Segment]:
    """The same steps, with layers that follow each other in one stack made one segment."""
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


def frozen_segments(segments: Sequence[Segment], trainable: Iterable[str]) -> tuple[Segment, ...]:
    """The segments with no trainable weight in them nor before them."""
    names = list(trainable)
    known, frozen = set(INPUTS), []
    for segment in segments:
        trains = any(name.startswith(segment.modules) for name in names)
        if not trains and known.issuperset(segment.reads):
            known.add(segment.writes)
            frozen.append(segment)
    return tuple(frozen)


def cached_names(segments: Sequence[Segment], frozen: Sequence[Segment]) -> tuple[str, ...]:
    """What must be kept of the frozen segments' results and of the inputs for the rest to run.

    `length` is always kept: batches are made by it, and must be the same whatever is cached.
    """
    rest = [segment for segment in segments if segment not in frozen]
    wanted = {POOLED, LENGTH, *(name for segment in rest for name in segment.reads)}
    return tuple(name for name in (*INPUTS, *(segment.writes for segment in frozen)) if name in wanted)


def pending_segments(
    segments: Sequence[Segment], known: Collection[str], wanted: Iterable[str] = (POOLED,)
) -> list[Segment]:
    """The segments still to run, in order, to get from the known features to the wanted ones."""
    missing, pending = set(wanted) - set(known), []
    for segment in reversed(segments):
        if segment.writes in missing:
            pending.append(segment)
            missing |= set(segment.reads) - set(known)
    return pending[::-1]


def per_token(segments: Iterable[Segment]) -> set[str]:
    """The names of the features that have a row for each token."""
    return {"tokens", *(segment.writes for segment in segments if segment.per_token)}
