"""Which code trains: trials of different code may not compare."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from src.core.records import digest_of
from src.core.settings import FitParams

_FOLDERS = ("data", "learning", "models")


@cache
def code_digest() -> str:
    """A short digest (8 hexadecimal digits) of all code that a trial's scores depend on."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for folder in _FOLDERS for path in (root / folder).rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:8]


def training_key(settings: FitParams, facts: Mapping[str, str], seed: int) -> str:
    """A short digest of all that a training's scores depend on: another one was another training."""
    depends_on = {**asdict(settings), **facts, "seed": seed, "code": code_digest()}
    return digest_of((name, str(value)) for name, value in depends_on.items())
