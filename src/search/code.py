"""Which code trains: trials of different code may not compare."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from src.core.records import digest_of
from src.core.settings import FitParams

_ROOT = Path(__file__).parents[2]
# What trains an adapter and what judges it, whoever calls them.
_TRAINING = ("src/learning/fitting.py", "src/learning/workspace.py")

_CATALOG = "src/models/catalog.py"  # a line for another model changes nothing


@cache
def code_digest(model: str) -> str:
    """A short digest (8 hexadecimal digits) of all code that a trial's scores depend on, and of no other."""
    found = hashlib.sha256()
    files = imported([_ROOT / name for name in (*_TRAINING, f"src/models/{model}.py")])
    for path in sorted(files - {_ROOT / _CATALOG}):
        found.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:8]


def training_key(settings: FitParams, facts: Mapping[str, str], seed: int) -> str:
    """A short digest of all that a training's scores depend on: another one was another training."""
    depends_on = {**asdict(settings), **facts, "seed": seed, "code": code_digest(facts["model"])}
    return digest_of((name, str(value)) for name, value in depends_on.items())


def imported(paths: list[Path], leave_out: frozenset[str] = frozenset()) -> set[Path]:
    """Files of src/, and what they import of it, at their top or within a function, and so on.

    What is imported by those of `leave_out` alone is not followed.
    """
    seen: set[Path] = set()
    pending = list(paths)
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            if path.relative_to(_ROOT).as_posix() not in leave_out:
                pending += _imports(path)
    return seen


def _imports(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("src"):
            base = _ROOT.joinpath(*str(node.module).split("."))
            for candidate in (base, *(base / alias.name for alias in node.names)):
                if candidate.with_suffix(".py").is_file():
                    yield candidate.with_suffix(".py")
