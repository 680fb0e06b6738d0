"""Provenance of a training: git commit, data revision, and the digest of the code that trains."""

import ast
import hashlib
import logging
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import yaml

from src.core.errors import UserError
from src.core.files import digest_of
from src.core.paths import DATA_DVC
from src.core.training_config import TrainingConfig

_log = logging.getLogger(__name__)

# Tags of runs and versions (see `git_tags`).
COMMIT_TAG = "git_commit"
DIRTY_TAG = "git_dirty"


def git_tags() -> dict[str, str]:
    """Return tags of the running code: its commit, and whether src/ differs from it. Empty without a repository."""
    head = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--", "src")
    if head.returncode or changes.returncode:
        if Path(".git").exists():
            reason = (head.stderr or changes.stderr).strip().partition("\n")[0]
            _log.warning("runs will not name their commit: %s", reason)
        return {}
    return {COMMIT_TAG: head.stdout.strip(), DIRTY_TAG: str(bool(changes.stdout.strip())).lower()}


def data_revision() -> str:
    """Return the MD5 of data/ in data.dvc. It is empty without data.dvc and before the first `dvc repro`.

    Raises:
        UserError: data.dvc is damaged.
    """
    if not DATA_DVC.is_file():
        return ""
    try:
        (out,) = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))["outs"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{DATA_DVC} is damaged: take it from git again") from error
    return str(out.get("md5", ""))


def has_commit(commit: str) -> bool:
    """Return whether the repository knows a commit."""
    return git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def changed_since(commit: str, paths: Sequence[str]) -> list[str]:
    """Return the files below `paths` that differ from those of a commit."""
    changed = git("diff", "--name-only", "--no-renames", commit, "--", *paths).stdout.splitlines()
    return changed + git("ls-files", "--others", "--exclude-standard", "--", *paths).stdout.splitlines()


def git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run git in the current folder, even if another user owns the repository, as is usual in containers.

    Git refuses such a repository by default, because its settings may start programs. Running its code needs the same
    trust, so the refusal is turned off.
    """
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "git is not installed")


_ROOT = Path(__file__).parents[2]


# Modules that train an adapter and score it.
_TRAINING = ("src/training/train_and_test.py", "src/training/trainer.py", "src/training/workspace.py")
# Modules that no score depends on: a line for another model, records of what other stages write, and what is printed.
_IRRELEVANT = frozenset(
    {
        "src/models/catalog.py",
        # A training's key has the settings and the weights that its sections stand for.
        "src/core/config.py",
        "src/core/outputs.py",
        "src/core/data_outputs.py",
        "src/cli/output.py",
    }
)
# What may begin with a docstring.
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def code_digest(model: str) -> str:
    """Return a digest (8 hexadecimal digits) of the code that a trial's scores depend on.

    Comments, docstrings and layout are left out, so that a better explanation makes no finished training stale.
    """
    digest = hashlib.sha256()
    files = imported([_ROOT / name for name in (*_TRAINING, f"src/models/{model}.py")], leave_out=_IRRELEVANT)
    for path in sorted(files - {_ROOT / name for name in _IRRELEVANT}):
        digest.update(f"{path.relative_to(_ROOT).as_posix()}\0{_statements(path)}\0".encode())
    return digest.hexdigest()[:8]


def training_key(settings: TrainingConfig, facts: Mapping[str, str], seed: int) -> str:
    """Return a digest of everything that a training's scores depend on. Equal keys mean equal trainings."""
    depends_on = {**asdict(settings), **facts, "seed": seed, "code": code_digest(facts["model"])}
    return digest_of((name, str(value)) for name, value in depends_on.items())


def imported(paths: list[Path], leave_out: frozenset[str] = frozenset()) -> set[Path]:
    """Return files of src/ and all modules of src/ that they import, directly or not, at the top or in functions.

    The imports of the files in `leave_out` are not followed.
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


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Return the files of src/ that a file imports itself."""
    return tuple(
        candidate.with_suffix(".py")
        for node in ast.walk(_parse(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("src")
        for base in [_ROOT.joinpath(*str(node.module).split("."))]
        for candidate in (base, *(base / alias.name for alias in node.names))
        if candidate.with_suffix(".py").is_file()
    )


@cache
def _statements(path: Path) -> str:
    """Return a file's statements in one layout, without comments and docstrings."""
    return ast.unparse(_parse(path))


@cache
def _parse(path: Path) -> ast.Module:
    """Parse a file, and remove its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    return tree
