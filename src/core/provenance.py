"""Provenance of a training: git commit, data revision, and the digest of the code that trains."""

import ast
import hashlib
import logging
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import yaml

from src.core.errors import UserError
from src.core.files import digest_of
from src.core.paths import DATA_DVC
from src.core.training_config import TrainingConfig

_log = logging.getLogger(__name__)


def git_tags() -> dict[str, str]:
    """Tags that tell which code ran: the commit, and whether src/ differs from it. Empty outside of a repository."""
    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "src")
    if head.returncode or changes.returncode:
        if Path(".git").exists():
            said = (head.stderr or changes.stderr).strip().partition("\n")[0]
            _log.warning("runs will not say which commit they are of: %s", said)
        return {}
    return {"git_commit": head.stdout.strip(), "git_dirty": str(bool(changes.stdout.strip())).lower()}


def data_revision() -> str:
    """The MD5 by which data.dvc knows the posts in data/; empty if there is no data.dvc, or it was never reproduced.

    Raises:
        UserError: the file is damaged.
    """
    if not DATA_DVC.is_file():
        return ""
    try:
        (out,) = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))["outs"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{DATA_DVC} is damaged: take it from git again") from error
    return str(out.get("md5", ""))


def has_commit(commit: str) -> bool:
    """Whether the repository here knows a commit."""
    return git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def changed_since(commit: str, paths: Sequence[str]) -> list[str]:
    """The files below `paths` that differ now from what they were at a commit of this repository."""
    changed = git("diff", "--name-only", "--no-renames", commit, "--", *paths).stdout.splitlines()
    return changed + git("ls-files", "--others", "--exclude-standard", "--", *paths).stdout.splitlines()


def git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """What git says here, whoever owns the files: in a container that is often another user.

    Git warns of such a repository, for its settings may start programs. Whoever runs its code trusts it already.
    """
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "git is not installed")


_ROOT = Path(__file__).parents[2]


# What trains an adapter and what judges it, whoever calls them.
_TRAINING = ("src/training/trainer.py", "src/training/workspace.py")


_CATALOG = "src/models/catalog.py"  # a line for another model changes nothing


@cache
def code_digest(model: str) -> str:
    """A short digest (8 hexadecimal digits) of all code that a trial's scores depend on, and of no other."""
    found = hashlib.sha256()
    files = imported([_ROOT / name for name in (*_TRAINING, f"src/models/{model}.py")])
    for path in sorted(files - {_ROOT / _CATALOG}):
        found.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:8]


def training_key(settings: TrainingConfig, facts: Mapping[str, str], seed: int) -> str:
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
