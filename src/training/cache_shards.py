"""Shards, the files of the cache. A shard holds the features of some posts, and exists whole or not at all.

A shard is a folder with an index and two arrays for a feature: the concatenated rows of all posts, and the offsets of
the posts in them. The shard's name is the digest of its index, and the index has the size and checksum of every other
file. A reader therefore detects a changed, cut or swapped file before it uses the features.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.modeling.base import Features

INDEX = "index.json"
# The folder in which a shard is written.
_UNFINISHED = ".unfinished"
_CHUNK_BYTES = 1 << 24


class Damaged(Exception):
    """An error of a shard that differs from what was written. The message says how."""


@dataclass(frozen=True)
class Array:
    """One feature of all posts of a shard."""

    # The concatenated rows of all posts, memory-mapped.
    flat: Any
    # Where the rows of a post begin, and the total. None if the feature is one number a post.
    offsets: Any
    # The type of the tensors. It differs from that of `flat` for bfloat16, which numpy lacks.
    dtype: torch.dtype

    def read(self, row: int) -> Tensor:
        """Return a copy of the feature of one post, on the CPU."""
        part = self.flat[row] if self.offsets is None else self.flat[self.offsets[row] : self.offsets[row + 1]]
        tensor = torch.from_numpy(np.array(part))
        return tensor.view(self.dtype) if self.dtype is torch.bfloat16 else tensor


@dataclass(frozen=True)
class Shard:
    """A shard that is open for reading. It is memory-mapped: processes that read it share one copy in memory."""

    folder: Path
    # Digests of the posts, in the order of the rows.
    posts: tuple[str, ...]
    # The features by name.
    arrays: Mapping[str, Array]
    # CRC-32 by the name of a file.
    checksums: Mapping[str, int]

    def verify(self) -> None:
        """Read every file, and compare its checksum with that of the index.

        Raises:
            Damaged: a file's content is not what was written.
        """
        for name, checksum in self.checksums.items():
            if _checksum(self.folder / name) != checksum:
                raise Damaged(f"{name} has other content than was written")


def write(parent: Path, digests: Sequence[str], features: Sequence[Features]) -> Path:
    """Write the features of posts to a shard, and return its folder. A killed process leaves no shard.

    One process may write to `parent` at a time.
    """
    # `atomic_folder` does not fit: the name depends on the content, and an existing shard is kept.
    temporary = parent / _UNFINISHED
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    temporary.mkdir(parents=True)
    try:
        kinds = {name: _write_feature(temporary, name, [row[name] for row in features]) for name in features[0]}
        files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(temporary.iterdir())}
        index = json.dumps({"posts": list(digests), "features": kinds, "files": files}).encode()
        (temporary / INDEX).write_bytes(index)
        shard = parent / _name(index)
        if not shard.exists():
            temporary.rename(shard)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return shard


def open_shard(folder: Path) -> Shard:
    """Open a shard, and check its index and the sizes of its files. `Shard.verify` checks their content.

    Raises:
        Damaged: the index was changed or is missing, or a file is missing or cut.
        OSError: a file cannot be read now, which says nothing about its content.
    """
    try:
        index = (folder / INDEX).read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{INDEX} is missing") from error
    if _name(index) != folder.name:
        raise Damaged(f"{INDEX} has other content than was written")
    content = json.loads(index)
    for name, (size, _) in content["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise Damaged(f"{name} is missing or cut")
    try:
        arrays = {name: _open_array(folder, name, kind) for name, kind in content["features"].items()}
    except ValueError as error:
        raise Damaged("an array's header has other content than was written") from error
    checksums = {name: checksum for name, (_, checksum) in content["files"].items()}
    return Shard(folder, tuple(content["posts"]), arrays, checksums)


def num_bytes(features: Features) -> int:
    """Return the size in bytes of the features of one post."""
    return sum(value.nbytes for value in features.values())


def _write_feature(folder: Path, name: str, values: Sequence[Tensor]) -> dict[str, Any]:
    scalar = values[0].ndim == 0
    rows = [np.atleast_1d(_as_numpy(value)) for value in values]
    _save(folder / f"{name}.npy", np.concatenate(rows))
    if not scalar:
        _save(folder / f"{name}.offsets.npy", np.cumsum([0, *(len(row) for row in rows)]))
    return {"dtype": str(values[0].dtype).removeprefix("torch."), "scalar": scalar}


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `numpy.save` does, whose error on a full disk does not say so."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).tobytes())


def _open_array(folder: Path, name: str, kind: Mapping[str, Any]) -> Array:
    flat = np.load(folder / f"{name}.npy", mmap_mode="r")
    offsets = None if kind["scalar"] else np.load(folder / f"{name}.offsets.npy")
    return Array(flat, offsets, getattr(torch, kind["dtype"]))


def _as_numpy(tensor: Tensor) -> Any:
    # numpy has no bfloat16: the array has the bits as integers.
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy()


def _name(index: bytes) -> str:
    return f"shard-{hashlib.sha256(index).hexdigest()[:12]}"


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
