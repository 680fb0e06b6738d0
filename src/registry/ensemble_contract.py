"""The contract of a registered ensemble: its members with their versions and weights, and its golden answers.

A contract is a folder that travels with the version: contract.json, the images of the golden posts, and the parameters
of those members that are no registered version of their own.
"""

from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UserError
from src.core.outputs import EnsembleMember
from src.registry.contract import ABSOLUTE
from src.registry.contract_file import (
    CONTRACT_FILE,
    read_record,
    require_files,
    require_folders,
    require_golden,
    require_scores,
)

# The name under which versions are registered, and that of the artifact with the contract.
ENSEMBLE = "ensemble"
# The tag of a version with the digest of the folder of its contract and its members' own files.
FILES_DIGEST = "files_digest"
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


def read_ensemble_contract(folder: Path) -> EnsembleContract:
    """Read a contract.

    Raises:
        UserError: the contract is missing, damaged or of another format, lacks a key, or a file beside it is missing.
    """
    contract = read_record(folder, EnsembleContract, FORMAT, "the ensemble")
    path = folder / CONTRACT_FILE
    require_scores(path, contract.validation, contract.test)
    require_golden(path, [(post.id, post.probabilities) for post in contract.golden], contract.labels)
    if not contract.members:
        raise UserError(f"{path} has no members: register the ensemble again")
    require_files(folder, [post.image for post in contract.golden])
    require_folders(folder, [record.folder for record in contract.members if record.folder])
    return contract
