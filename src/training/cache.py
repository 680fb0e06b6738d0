"""The feature cache: the frozen segments' output of each post, computed once and read by every trial and epoch.

A store holds the features of one boundary (checkpoint, preprocessing, frozen segments, precision). Rows are keyed by
the digest of a post's content, so another split or more posts encode only new posts. Several processes may read one
store at a time, and fill it one after the other.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from src.core.config_parser import build
from src.core.errors import UsageError
from src.core.files import allow_open_files, require_free_space, write_json
from src.core.locks import lock
from src.data.images import EncodablePost
from src.modeling.base import Features, ToneModel
from src.modeling.segments import HAS_CAPTION, LENGTH, POOLED, POOLED_IMAGE, Segment, join_layers
from src.training.cache_encoder import encode_further, encode_posts
from src.training.cache_shards import Damaged, Shard, num_bytes, open_shard, write

FACTS = "boundary.json"
# Of the features under their names. Raise it when a segment computes another content: no digest covers the code.
# 2: `vision` has its class token. 4: `pooled_image` of the placeholder alone has zeros. 5: `has_caption` is there.
FORMAT = 5
# The posts are written in shards because a shard is written whole or not at all: an interrupted encoding loses at most
# one shard, and a damaged file costs the encoding of one shard. Few large shards would lose more. Many small ones would
# open more files. The limit in bytes bounds the memory in which a shard is collected, as features differ in size.
POSTS_A_SHARD = 512
BYTES_A_SHARD = 1 << 28

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Boundary:
    """The place where the frozen segments end, and everything else but the posts that features depend on."""

    model: str
    checkpoint: str
    revision: str
    preprocessing: str
    dtype: str
    segments: tuple[str, ...]
    features: tuple[str, ...]
    # The digest of the aligned weights, if a frozen segment has some: features below are the same without them.
    aligned: str = ""
    # The first layer of the language model that runs on the prefix and on the text in turn, if the features are those
    # of such a split (`split_stack`). None of a rounded prefix, from which no other features are computed.
    split_from: int | None = None
    # That of `FORMAT` when the features were computed.
    format: int = 1

    @classmethod
    def of(cls, model: ToneModel) -> "Boundary":
        """Return the boundary between the segments of `model` that are frozen now and the others."""
        segments = model.cached_segments()
        return cls(
            model.spec.name,
            model.checkpoint.source,
            model.checkpoint.revision,
            model.preprocessing_digest(),
            str(model.base_dtype).removeprefix("torch."),
            tuple(segment.label for segment in segments),
            model.cached_names(),
            _aligned_digest(model),
            _split_from(segments),
            FORMAT,
        )

    @property
    def key(self) -> str:
        """Return a digest of everything but the checkpoint's source: one revision has the same weights everywhere."""
        facts = [
            self.revision,
            self.aligned,
            self.preprocessing,
            self.dtype,
            *self.segments,
            *self.features,
            f"format {self.format}",
        ]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]

    def lies_before(self, other: "Boundary") -> bool:
        """Return whether the other boundary's features can be computed from these."""
        same = ("model", "revision", "preprocessing", "dtype", "format")
        alike = all(getattr(self, name) == getattr(other, name) for name in same)
        if not alike or self.key == other.key:
            return False
        if set(other.features) <= set(self.features) and other.aligned in ("", self.aligned):
            return True  # they are among these
        if self.aligned not in ("", other.aligned):
            return False
        if set(self.features) <= {LENGTH, HAS_CAPTION, POOLED, POOLED_IMAGE}:
            return False  # no segment reads these
        if self.split_from is not None and other.split_from is None:
            # The prefix's keys and values, and the text's states, are enough for the end of the stack alone.
            return POOLED in other.features
        return set(self.segments) < set(other.segments)


def _split_from(segments: Iterable[Segment]) -> int | None:
    exact = (segment for segment in segments if segment.positions == "prefix" and not segment.rounded)
    return next((segment.layers[0] for segment in exact if segment.layers), None)


def _aligned_digest(model: ToneModel) -> str:
    aligned = model.checkpoint.aligned
    if aligned is None:
        return ""
    frozen = {segment.name for segment in model.frozen_segments()}
    return "" if frozen.isdisjoint(aligned.segments) else aligned.digest


@dataclass(frozen=True)
class FeatureTable:
    """The features of a sequence of posts, read from the store on access."""

    rows: Sequence[tuple[Shard, int]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Features:
        """Return one post's features, without a batch dimension, copied out of the memory map."""
        shard, row = self.rows[index]
        return {name: array.read(row) for name, array in shard.arrays.items()}

    def lengths(self) -> list[int]:
        """Return the number of tokens of each post, which every boundary caches because batches are sorted by it."""
        return [int(shard.arrays[LENGTH].flat[row]) for shard, row in self.rows]


class FeatureStore:
    """The features of one boundary of one model."""

    def __init__(self, folder: Path, boundary: Boundary) -> None:
        self.folder = folder
        self.boundary = boundary
        self._rows: dict[str, tuple[Shard, int]] = {}
        self._shards_open: dict[str, Shard] = {}
        self._verified: set[Path] = set()
        self._discard_if_foreign()
        self._open_new()

    @classmethod
    def of(cls, root: Path, model: ToneModel) -> "FeatureStore":
        """Return the store under `root` for the segments of `model` that are frozen now."""
        boundary = Boundary.of(model)
        title = [segment.label for segment in join_layers(model.cached_segments())] or ["inputs"]
        return cls(root / model.spec.name / "-".join([*title, boundary.key]), boundary)

    def ensure(
        self, model: ToneModel, posts: Sequence[EncodablePost], batch_size: int, advance: Callable[[int], None]
    ) -> int:
        """Encode the posts that are not in the store yet, and return their number.

        Damaged shards are named in the log and encoded again.

        Raises:
            UserError: A post's image cannot be read, or the disk has no room for the missing posts.
        """
        self.verify(posts)
        if not self.missing(posts):
            return 0
        with self._lock():
            self._open_new()  # another process may have encoded posts while this one waited
            missing = self.missing(posts)
            for shard in self._shards(model, missing, batch_size, advance):
                digests = [post.digest for post, _ in shard]
                self._verified.add(write(self.folder, digests, [features for _, features in shard]))
            self._open_new()
        return len(missing)

    def verify(self, posts: Iterable[EncodablePost]) -> None:
        """Check the shards that hold these posts, once in the life of this object, and drop damaged ones."""
        # A check reads every byte of a shard. Every trial asks for the same posts, and no shard changes after it is
        # written, so that one check is enough. A shard that this object wrote needs no check.
        holding = {id(shard): shard for shard, _ in (self._rows[post.digest] for post in posts if post.digest in self)}
        for shard in holding.values():
            if shard.folder not in self._verified:
                with self._lock():
                    self._verify(shard)

    def __contains__(self, digest: str) -> bool:
        return digest in self._rows

    def table(self, posts: Iterable[EncodablePost]) -> FeatureTable:
        """Return the features of posts that `ensure` has encoded, in their order."""
        return FeatureTable([self._rows[post.digest] for post in posts])

    def missing(self, posts: Sequence[EncodablePost]) -> list[EncodablePost]:
        """Return the posts that are not in the store, one for each content."""
        return list({post.digest: post for post in posts if post.digest not in self._rows}.values())

    def num_bytes(self) -> int:
        """Return the size of the store on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _shards(
        self, model: ToneModel, posts: Sequence[EncodablePost], batch_size: int, advance: Callable[[int], None]
    ) -> Iterator[list[tuple[EncodablePost, Features]]]:
        shard: list[tuple[EncodablePost, Features]] = []
        size = 0
        for number, batch in enumerate(self._batches(model, posts, batch_size)):
            if number == 0:
                self._begin(batch, len(posts))
            shard += batch
            size += sum(num_bytes(features) for _, features in batch)
            advance(len(batch))
            if len(shard) >= POSTS_A_SHARD or size >= BYTES_A_SHARD:
                yield shard
                shard, size = [], 0
        if shard:
            yield shard

    def _batches(
        self, model: ToneModel, posts: Sequence[EncodablePost], batch_size: int
    ) -> Iterator[list[tuple[EncodablePost, Features]]]:
        # The features of an earlier boundary have already passed the first segments, so that only the segments in
        # between run. The nearest boundary comes first because it leaves the fewest segments.
        rest = posts
        for source in self._earlier():
            source.verify(rest)
            known = [post for post in rest if post.digest in source]
            rest = [post for post in rest if post.digest not in source]
            for chunk in _chunks(known, POSTS_A_SHARD):
                table = source.table(chunk)
                with model.split_at(source.boundary.split_from):
                    yield from encode_further(model, chunk, table.lengths(), table.__getitem__, batch_size)
        for chunk in _chunks(rest, POSTS_A_SHARD):
            yield from encode_posts(model, chunk, batch_size)

    def _earlier(self) -> list["FeatureStore"]:
        """Return the stores of boundaries that lie before this one, the nearest first."""
        boundaries = {path.parent: _read_boundary(path) for path in sorted(self.folder.parent.glob(f"*/{FACTS}"))}
        earlier = [(path, other) for path, other in boundaries.items() if other and other.lies_before(self.boundary)]
        earlier.sort(key=lambda item: -len(item[1].segments))
        return [FeatureStore(path, other) for path, other in earlier]

    def _begin(self, batch: Sequence[tuple[EncodablePost, Features]], num_posts: int) -> None:
        """Write the boundary of the folder, after a check that the disk has room for all posts.

        `batch` has the first encoded posts: their mean size predicts the size of all.
        """
        needed = sum(num_bytes(features) for _, features in batch) / len(batch) * num_posts
        require_free_space(self.folder, math.ceil(needed), f"the cache of {num_posts:,} posts")
        write_json(self.folder / FACTS, asdict(self.boundary))

    def _lock(self) -> AbstractContextManager[None]:
        """Return the lock under which a process writes to the store, or takes shards out of it."""
        return lock(self.folder.with_name(f".{self.folder.name}.lock"))

    def _verify(self, shard: Shard) -> None:
        try:
            # Opened again: another process may have put a new shard of the same name in the place of a damaged one.
            opened = open_shard(shard.folder)
            opened.verify()
        except Damaged as damage:
            self._drop(shard, str(damage))
        else:
            self._add(opened)
            self._verified.add(shard.folder)

    def _discard_if_foreign(self) -> None:
        recorded = _read_boundary(self.folder / FACTS)
        if any(self.folder.glob("shard-*")) and (recorded is None or recorded.key != self.boundary.key):
            _discard(self.folder, "it does not say that it is of this boundary")

    def _open_new(self) -> None:
        # Each array of an open shard is an open file.
        allow_open_files()
        for path in sorted(self.folder.glob("shard-*")):
            if path.name not in self._shards_open:
                try:
                    self._add(open_shard(path))
                except Damaged as damage:
                    _discard(path, str(damage))

    def _add(self, shard: Shard) -> None:
        self._shards_open[shard.folder.name] = shard
        self._rows |= {digest: (shard, row) for row, digest in enumerate(shard.posts)}

    def _drop(self, shard: Shard, reason: str) -> None:
        _discard(shard.folder, reason)
        del self._shards_open[shard.folder.name]
        self._rows = {digest: row for digest, row in self._rows.items() if row[0] is not shard}


def _discard(folder: Path, reason: str) -> None:
    _log.warning("%s is not used: %s; its posts are encoded again", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)


def _read_boundary(path: Path) -> Boundary | None:
    try:
        return build(Boundary, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (FileNotFoundError, ValueError, UsageError):
        return None  # another error says nothing about the content


def _chunks(items: Sequence[EncodablePost], size: int) -> Iterator[Sequence[EncodablePost]]:
    return (items[start : start + size] for start in range(0, len(items), size))
