"""The cache: what the frozen part makes of a post, computed once and read by every trial and epoch.

A store holds the features of one boundary (checkpoint, preprocessing, frozen segments, precision), keyed by the
digest of each post's content, so another split or more posts encode only what is new. It is a folder of shards;
a shard appears whole, by a rename, and is memory-mapped for reading.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.records import Post
from src.data.images import open_image
from src.learning.batches import collate
from src.models.base import Features, ToneModel

INDEX = "index.json"
POSTS_A_SHARD = 512
DECODERS = 4
Arrays = Mapping[str, tuple[Any, Any, torch.dtype]]

# What JSON, numpy and we raise on files that are not what was written.
_DAMAGED = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class FeatureTable:
    """The features of a sequence of posts, read from the store when asked for."""

    rows: Sequence[tuple[Arrays, int]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Features:
        """One post's features, without a leading batch dimension, copied out of the memory map."""
        arrays, row = self.rows[index]
        return {name: _read(flat, offsets, dtype, row) for name, (flat, offsets, dtype) in arrays.items()}

    def lengths(self) -> list[int]:
        """Tokens of each post, or 1 where the features have no length any more."""
        return [int(arrays["length"][0][row]) if "length" in arrays else 1 for arrays, row in self.rows]


class FeatureStore:
    """The features of one boundary of one model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, tuple[Arrays, int]] = {}
        for shard in sorted(folder.glob("shard-*")):
            self._open(shard)

    @classmethod
    def of(cls, root: Path, model: ToneModel) -> "FeatureStore":
        """The store for what is frozen in `model` now."""
        segments = [segment.name for segment in model.frozen_segments()]
        facts = [model.checkpoint.revision, model.preprocessing_digest(), str(model.backbone.dtype), *segments]
        key = hashlib.sha256("\n".join([*facts, *model.cached_names()]).encode()).hexdigest()[:12]
        return cls(root / model.spec.name / "-".join([*(segments or ["inputs"]), key]))

    def ensure(self, model: ToneModel, posts: Sequence[Post], batch_size: int, advance: Callable[[int], None]) -> int:
        """Encode the posts that are not in the store yet; returns how many that were.

        Raises:
            Refusal: a post's picture cannot be read.
        """
        missing = list({post.digest: post for post in posts if post.digest not in self._rows}.values())
        for shard in _chunks(missing, POSTS_A_SHARD):
            features: list[Features] = []
            for batch in _chunks(shard, batch_size):
                features += _encode(model, batch)
                advance(len(batch))
            self._write([post.digest for post in shard], features)
        return len(missing)

    def table(self, posts: Iterable[Post]) -> FeatureTable:
        """The features of posts that `ensure` has seen, in their order."""
        return FeatureTable([self._rows[post.digest] for post in posts])

    def _write(self, digests: Sequence[str], features: Sequence[Features]) -> None:
        name = hashlib.sha256("".join(digests).encode()).hexdigest()[:12]
        temporary, shard = self.folder / f".{name}.{os.getpid()}", self.folder / f"shard-{name}"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process that had the same id
        temporary.mkdir(parents=True)
        kinds = {}
        for key, example in features[0].items():
            rows = [np.atleast_1d(_as_numpy(row[key])) for row in features]
            np.save(temporary / f"{key}.npy", np.concatenate(rows))
            np.save(temporary / f"{key}.offsets.npy", np.cumsum([0, *(len(row) for row in rows)]))
            kinds[key] = {"dtype": str(example.dtype).removeprefix("torch."), "scalar": example.ndim == 0}
        (temporary / INDEX).write_text(json.dumps({"posts": list(digests), "features": kinds}))
        shutil.rmtree(shard, ignore_errors=True)
        temporary.rename(shard)
        self._open(shard)

    def _open(self, shard: Path) -> None:
        try:
            self._rows |= _open_shard(shard)
        except _DAMAGED:
            # Its posts count as missing and are encoded anew.
            shutil.rmtree(shard, ignore_errors=True)


def _open_shard(shard: Path) -> dict[str, tuple[Arrays, int]]:
    index = json.loads((shard / INDEX).read_text())
    digests, kinds = index["posts"], index["features"]
    arrays = {name: _open_array(shard, name, kind, len(digests)) for name, kind in kinds.items()}
    return {digest: (arrays, row) for row, digest in enumerate(digests)}


def _open_array(shard: Path, name: str, kind: Mapping[str, Any], count: int) -> tuple[Any, Any, torch.dtype]:
    flat = np.load(shard / f"{name}.npy", mmap_mode="r")
    offsets = None if kind["scalar"] else np.load(shard / f"{name}.offsets.npy")
    if (len(flat) if offsets is None else len(offsets) - 1) != count:
        raise ValueError(f"{shard} does not hold {name} of {count} posts")
    return flat, offsets, getattr(torch, kind["dtype"])


def _read(flat: Any, offsets: Any, dtype: torch.dtype, row: int) -> Tensor:
    part = flat[row] if offsets is None else flat[offsets[row] : offsets[row + 1]]
    tensor = torch.from_numpy(np.array(part))
    return tensor.view(dtype) if dtype is torch.bfloat16 else tensor


def _as_numpy(tensor: Tensor) -> Any:
    # numpy knows no bfloat16: its bits are kept as integers.
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy()


def _encode(model: ToneModel, posts: Sequence[Post]) -> list[Features]:
    with ThreadPoolExecutor(DECODERS) as pool:
        images = list(pool.map(lambda post: open_image(Path(post.image)), posts))
    inputs = model.preprocess(images, [post.caption for post in posts])
    batch = model.encode({name: value.to(model.device) for name, value in collate(inputs).items()})
    return [_unpadded({name: value[row].cpu() for name, value in batch.items()}) for row in range(len(posts))]


def _unpadded(features: Features) -> Features:
    if "tokens" in features:
        features["tokens"] = features["tokens"][: int(features["length"])]
    return features


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
