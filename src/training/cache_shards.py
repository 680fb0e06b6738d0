"""The files of the cache: a shard holds the features of some posts, is there whole or not at all, and is checked.

A shard is a folder with an index and, for each feature, one array of all posts' rows behind each other and the offsets
of each post in it. It is named by the digest of its index, which has the size and checksum of every other file: what
has been changed, cut or mixed up is found out before it is used.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.modeling.base import Features

INDEX = "index.json"
_CHUNK_BYTES = 1 << 24


class Damaged(Exception):
    """A shard is not what was written; the message says in which respect."""


@dataclass(frozen=True)
class Array:
    """One feature of all posts of a shard; without `offsets`, each post has one number."""

    flat: Any
    offsets: Any
    dtype: torch.dtype

    def read(self, row: int) -> Tensor:
        """A copy of what one post has."""
        part = self.flat[row] if self.offsets is None else self.flat[self.offsets[row] : self.offsets[row + 1]]
        tensor = torch.from_numpy(np.array(part))
        return tensor.view(self.dtype) if self.dtype is torch.bfloat16 else tensor


@dataclass(frozen=True)
class Shard:
    """A shard that is open for reading, memory-mapped: processes that read it share one copy in memory."""

    folder: Path
    posts: tuple[str, ...]
    arrays: Mapping[str, Array]
    checksums: Mapping[str, int]

    def verify(self) -> None:
        """Read every file and compare.

        Raises:
            Damaged: a file's content is not what was written.
        """
        for name, checksum in self.checksums.items():
            if _checksum(self.folder / name) != checksum:
                raise Damaged(f"{name} has other content than was written")


def write(parent: Path, digests: Sequence[str], features: Sequence[Features]) -> Path:
    """Write the features of posts; returns the new shard. A killed process leaves nothing that counts."""
    temporary = parent / f".{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process that had the same id
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
    """Open a shard; its index and the sizes of its files are checked, their content by `Shard.verify`.

    Raises:
        Damaged: it is not whole.
    """
    try:
        index = (folder / INDEX).read_bytes()
    except OSError as error:
        raise Damaged(f"{INDEX} cannot be read ({error.strerror})") from error
    if _name(index) != folder.name:
        raise Damaged(f"{INDEX} has other content than was written")
    content = json.loads(index)
    for name, (size, _) in content["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise Damaged(f"{name} is missing or cut")
    try:
        arrays = {name: _open_array(folder, name, kind) for name, kind in content["features"].items()}
    except (OSError, ValueError) as error:
        raise Damaged("an array's head has other content than was written") from error
    checksums = {name: checksum for name, (_, checksum) in content["files"].items()}
    return Shard(folder, tuple(content["posts"]), arrays, checksums)


def num_bytes(features: Features) -> int:
    """What the features of one post take on disk."""
    return sum(value.nbytes for value in features.values())


def _write_feature(folder: Path, name: str, values: Sequence[Tensor]) -> dict[str, Any]:
    scalar = values[0].ndim == 0
    rows = [np.atleast_1d(_as_numpy(value)) for value in values]
    np.save(folder / f"{name}.npy", np.concatenate(rows))
    if not scalar:
        np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *(len(row) for row in rows)]))
    return {"dtype": str(values[0].dtype).removeprefix("torch."), "scalar": scalar}


def _open_array(folder: Path, name: str, kind: Mapping[str, Any]) -> Array:
    flat = np.load(folder / f"{name}.npy", mmap_mode="r")
    offsets = None if kind["scalar"] else np.load(folder / f"{name}.offsets.npy")
    return Array(flat, offsets, getattr(torch, kind["dtype"]))


def _as_numpy(tensor: Tensor) -> Any:
    # numpy knows no bfloat16: its bits are kept as integers.
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy()


def _name(index: bytes) -> str:
    return f"shard-{hashlib.sha256(index).hexdigest()[:12]}"


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
