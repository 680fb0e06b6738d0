"""The contract of a registered ensemble: its members with their versions and weights, and its golden answers.

A contract is a folder that travels with the version: contract.json, the images of the golden posts, and the parameters
of those members that are no registered version of their own.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from src.core.config_parser import build
from src.core.errors import UsageError, UserError
from src.core.files import write_bytes, write_json
from src.core.outputs import EnsembleMember
from src.registry.contract import ABSOLUTE, CONTRACT_FILE, HEADLINE_SCORES

# The name under which versions are registered, and that of the artifact with the contract.
ENSEMBLE = "ensemble"
FORMAT = 1
# A golden probability may differ by so much: logits of members may differ by `ABSOLUTE`, and a probability by less.
TOLERANCE = ABSOLUTE


@dataclass(frozen=True)
class MemberRecord:
    """A member, and where its parameters are."""

    member: EnsembleMember
    # The registered version that the member is, or whose base it runs on, such as models:/mvsa-clip/3, and the digest
    # of that version's adapter. Empty for a baseline.
    version: str
    version_digest: str
    # A folder beside the contract with the member's own adapter or classifier. Empty if it has none.
    folder: str


@dataclass(frozen=True)
class GoldenAnswer:
    """A validation post with the probabilities that the ensemble gave when it was registered."""

    # Id and digest as in the table of posts.
    id: str
    digest: str
    # The name of a file beside the contract.
    image: str
    caption: str
    # In the order of the contract's labels; they sum to 1.
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class EnsembleContract:
    """The record of a registered ensemble."""

    # The format of this record, `FORMAT`.
    format: int
    # The labels in the order of the probabilities.
    labels: tuple[str, ...]
    # The largest weight first.
    members: tuple[MemberRecord, ...]
    temperature: float
    # The precision in which the golden answers were computed: float32 or bfloat16.
    dtype: str
    # Versions of libraries by name.
    libraries: dict[str, str]
    # Digests of the posts and of the split, from the report of stage `split`.
    data_digest: str
    split_digest: str
    # The MD5 of data/ in data.dvc; empty without data.dvc.
    data_revision: str
    # Scores on the parts, between 0 and 1, by the names of `Scores.summary`.
    validation: dict[str, float]
    test: dict[str, float]
    golden: tuple[GoldenAnswer, ...]

    def versions(self) -> dict[str, str]:
        """Return the digests of the registered versions that the members need, by address."""
        return {record.version: record.version_digest for record in self.members if record.version}

    def tolerance(self, dtype: str) -> float:
        """Return how much a golden probability may differ if it is computed in `dtype`; the coarser one decides."""
        return TOLERANCE["bfloat16" if "bfloat16" in (self.dtype, dtype) else "float32"]


def write_ensemble_contract(folder: Path, contract: EnsembleContract, images: Mapping[str, bytes]) -> None:
    """Write a contract and the images of its golden posts, by their file names."""
    for name, content in images.items():
        write_bytes(folder / name, content)
    write_json(folder / CONTRACT_FILE, asdict(contract))


def read_ensemble_contract(folder: Path) -> EnsembleContract:
    """Read a contract.

    Raises:
        UserError: the contract is missing, damaged or of another format, lacks a key, or a file beside it is missing.
    """
    path = folder / CONTRACT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: register the ensemble again") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} has another format than {FORMAT}: load the version with its own code")
    try:
        contract = build(EnsembleContract, content, str(path))
    except UsageError as error:
        raise UserError(f"{error}; register the ensemble again") from error
    _require_complete(contract, folder)
    return contract


def _require_complete(contract: EnsembleContract, folder: Path) -> None:
    path = folder / CONTRACT_FILE
    missing = sorted(set(HEADLINE_SCORES) - (contract.validation.keys() & contract.test.keys()))
    if missing or not contract.golden or not contract.members:
        lacking = f"the scores {', '.join(missing)}" if missing else "golden posts or members"
        raise UserError(f"{path} lacks {lacking}: register the ensemble again")
    for name in [post.image for post in contract.golden] + [each.folder for each in contract.members if each.folder]:
        if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).exists():
            raise UserError(f"{folder / name} is missing: register the ensemble again")
    for post in contract.golden:
        if len(post.probabilities) != len(contract.labels):
            raise UserError(f"{path}: golden post {post.id} has another number of probabilities than there are labels")
