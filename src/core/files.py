"""Files: atomic writes, JSON, CSV, digests, free space."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from src.core.errors import OutOfSpace, UsageError, UserError
from src.core.training_config import TrainingConfig

# Bytes of a file that are read at a time.
_BLOCK = 1 << 20
# What `csv` accepts as a limit on every machine: a C long may have 32 bits.
_LONGEST_CELL = 2**31 - 1
# Decimals of a measured number in a file. Later ones depend on the order in which a machine adds.
DECIMALS = 6


# Keys of numbers that are written in full: p-values, which may be tiny, and settings, which are not measured.
# Names decide, because settings also stand in tables and in mappings, where no type marks them.
_P_VALUES = {"p", "p_holm", "mcnemar_p", "bootstrap_p", "posts_p", "seeds_p"}
_EXACT = {field.name for field in fields(TrainingConfig) if field.type is float} | _P_VALUES


def digest_of(rows: Iterable[Sequence[str]]) -> str:
    """Return a digest (16 hexadecimal digits) of rows of strings that does not depend on their order."""
    lines = sorted(json.dumps(list(row)) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename that file to `path` at the end.

    A killed process leaves the old file in place. An error in the block leaves it too, and removes the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary(path))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` to fill, and put it in the place of `folder` at the end.

    An error in the block leaves the old folder in place, and removes the new one. A kill leaves the old folder, the new
    one or none, and never a part of one.
    """
    temporary, old = (folder.with_name(f"{_temporary(folder)}{suffix}") for suffix in ("", ".old"))
    for leftover in (temporary, old):  # of a killed process that had the same id
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, as `atomic_file` does."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def require_writable(path: Path) -> None:
    """Check that `write_bytes` can write a file, and leave nothing behind. Use it before long work.

    Raises:
        UsageError: the path is a folder or a device.
        UserError: its folder, or the nearest existing one above, is not writable.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is {'a folder' if path.is_dir() else 'no file'}: name a file to be written")
        probe = next(folder for folder in path.parents if folder.exists()) / _temporary(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _temporary(path: Path) -> str:
    return f".{path.name}.{os.getpid()}"


def rounded(value: Any) -> Any:
    """Return a value with its numbers rounded to `DECIMALS`, except under keys of `_EXACT`. No zero is negative."""
    if isinstance(value, float):
        return round(float(value), DECIMALS) + 0.0
    if isinstance(value, Mapping):
        return {key: item if key in _EXACT else rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write indented JSON with keys in the given order and numbers `rounded`."""
    write_text(path, json.dumps(rounded(content), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that an earlier stage wrote.

    Raises:
        UserError: the file is missing.
    """
    return json.loads(_read(path))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV with a header and numbers `rounded`. `columns` defaults to the keys of the first row."""
    names = list(columns if columns is not None else rows[0])
    lines = _Lines()
    writer = csv.DictWriter(lines, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rounded(rows))
    write_text(path, "".join(lines))


def read_table(path: Path) -> list[dict[str, str]]:
    """Read CSV that an earlier stage wrote.

    Raises:
        UserError: the file is missing.
    """
    _check(path)
    with path.open(encoding="utf-8", newline="") as file, cells_of_any_length():
        return list(csv.DictReader(file))


@contextmanager
def cells_of_any_length() -> Iterator[None]:
    """Let `csv` read long cells in the block. Its own limit of 131,072 characters is there for broken quotes."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


class _Lines(list[str]):
    def write(self, line: str) -> None:
        self.append(line)


def _check(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro` first, which makes it")


def _read(path: Path) -> str:
    _check(path)
    return path.read_text(encoding="utf-8")


def file_digest(path: Path) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def folder_digest(folder: Path) -> str:
    """Return 12 hexadecimal digits of the SHA-256 over the names and contents of a folder's files.

    Hidden files and folders are left out: tools keep times and locks there, such as the Hub's in `.cache`.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        digest.update(name.as_posix().encode() + b"\0")
        with path.open("rb") as file:
            # Weights may be larger than the memory.
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()[:12]


def require_free_space(folder: Path, num_bytes: int, purpose: str) -> None:
    """Write a file into a folder, and compare the free space of its disk with `num_bytes`.

    Args:
        folder: is made if it is missing.
        num_bytes: the space that is needed.
        purpose: what needs it, for the message, such as "the search".

    Raises:
        OutOfSpace: the folder's disk has less than `num_bytes` left.
        UserError: nothing can be written in the folder.
    """
    free = free_bytes(folder)
    if free < num_bytes:
        raise OutOfSpace(
            f"{folder} has {free / 2**20:,.1f} MiB left, and {purpose} needs {num_bytes / 2**20:,.1f}: "
            "make room there, or make the folder a link to a larger disk"
        )


def free_bytes(folder: Path) -> int:
    """Write a file into a folder, which is made if it is missing, and return the free space of its disk.

    Raises:
        UserError: nothing can be written in the folder.
    """
    probe = folder / _temporary(folder / "space")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"space")
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"nothing can be written in {folder}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            probe.unlink()


def allow_open_files() -> None:
    """Raise this process's limit of open files to the highest that the system allows; nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS calls the hard limit infinite, and accepts less.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
