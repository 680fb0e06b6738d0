"""The file of a contract, contract.json: how it is written, read and checked, for adapters and for ensembles."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from src.core.config_parser import build
from src.core.errors import UsageError, UserError
from src.core.files import write_bytes, write_json

CONTRACT_FILE = "contract.json"
# The scores that every contract holds of both parts.
HEADLINE_SCORES = ("accuracy", "macro_f1", "weighted_f1")


class Record(Protocol):
    """A dataclass that is written as a contract."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Record)


def write_contract(folder: Path, contract: Record, images: Mapping[str, bytes]) -> None:
    """Write a contract and the images of its golden posts, by their file names."""
    for name, content in images.items():
        write_bytes(folder / name, content)
    write_json(folder / CONTRACT_FILE, asdict(contract))


def read_record(folder: Path, kind: type[R], number: int, registered: str) -> R:
    """Read the contract in a folder as a dataclass.

    Args:
        folder: the folder that travels with the version.
        kind: the dataclass.
        number: the format that this code reads.
        registered: what the contract is of, such as "the version".

    Raises:
        UserError: the contract is missing, damaged or of another format, or lacks a key.
    """
    path = folder / CONTRACT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {registered} has no contract, register it again") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != number:
        raise UserError(f"{path} has another format than {number}: load the version with its own code")
    try:
        return build(kind, content, str(path))
    except UsageError as error:
        raise UserError(f"{error}; register {registered} again") from error


def require_scores(path: Path, *parts: Mapping[str, float]) -> None:
    """Raise UserError unless a contract holds the headline scores of each part."""
    missing = sorted({score for score in HEADLINE_SCORES for part in parts if score not in part})
    if missing:
        raise UserError(f"{path} lacks the scores {', '.join(missing)}: register the version again")


def require_golden(path: Path, answers: Iterable[tuple[str, Sequence[float]]], labels: Sequence[str]) -> None:
    """Raise UserError unless a contract has golden posts, each with one number a label.

    Args:
        path: the contract, for the message.
        answers: the id of each golden post, with its logits or probabilities.
        labels: the contract's labels.
    """
    lengths = {post: len(numbers) for post, numbers in answers}
    if not lengths:
        raise UserError(f"{path} has no golden posts, so the version's answers cannot be checked")
    for post, length in lengths.items():
        if length != len(labels):
            raise UserError(f"{path}: golden post {post} has {length} numbers for {len(labels)} labels")


def require_files(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError unless all files that a contract names are beside it."""
    for name in names:
        _require_beside(folder, name, Path.is_file)


def require_folders(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError unless all folders that a contract names are beside it."""
    for name in names:
        _require_beside(folder, name, Path.is_dir)


def _require_beside(folder: Path, name: str, exists: Callable[[Path], bool]) -> None:
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts or not exists(folder / relative):
        raise UserError(f"{folder / relative} is missing, which the contract names: register the version again")
