"""The contract of a registered version: its base, data and settings, its scores, and its logits for eight golden posts.

A contract is a folder that travels with the version: contract.json, and the images of the golden posts beside it.
docs/contract.md says what is compared when a version is loaded, and by how much logits may differ.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from src.core.config_parser import build
from src.core.errors import UsageError, UserError
from src.core.files import write_bytes, write_json
from src.core.labels import Label, Labels
from src.core.outputs import PretrainedWeights
from src.core.records import Post
from src.core.training_config import TrainingConfig

CONTRACT_FILE = "contract.json"
# Files beside it: the report of the split, and the version's prediction for each test and each validation post.
SPLIT_REPORT_FILE = "split_report.json"
TEST_FILE = "test.csv"
# The columns of that file besides those of a table of predictions.
TEST_COLUMNS = ("group", "leak_free")
VALIDATION_FILE = "validation.csv"
FORMAT = 3
NUM_GOLDEN = 8
HEADLINE_SCORES = ("accuracy", "macro_f1", "weighted_f1")
# A golden logit may differ by `ABSOLUTE` plus the share `RELATIVE` of the largest golden logit. If both sides compute
# in float32, only the order of sums differs between machines and libraries. bfloat16 keeps 8 bits.
ABSOLUTE = {"float32": 1e-3, "bfloat16": 0.05}
RELATIVE = {"float32": 1e-4, "bfloat16": 0.05}


@dataclass(frozen=True)
class GoldenPost:
    """A validation post with the logits that the version gave when it was registered."""

    # Id and digest as in the table of posts.
    id: str
    digest: str
    # The name of a file beside the contract.
    image: str
    caption: str
    # In the order of the contract's labels.
    logits: tuple[float, ...]


@dataclass(frozen=True)
class Search:
    """The trial whose settings the adapter was trained with."""

    study: str
    trial: int


@dataclass(frozen=True)
class Contract:
    """The record of a registered version.

    Equal trainings give equal contracts on every machine. Facts of one place and time, such as the run and the git
    commit, are tags of the version.
    """

    # The format of this record, `FORMAT`.
    format: int
    # The name in the catalog.
    model: str
    # The names of the labels, in the order of the logits.
    labels: tuple[str, ...]
    # The model's template for captions.
    prompt: str
    # A digest that changes if the same post would become other inputs.
    preprocessing: str
    # The precision in which the golden logits were computed: float32 or bfloat16.
    dtype: str
    checkpoint: PretrainedWeights
    # Versions of libraries by name.
    libraries: dict[str, str]
    # Full names of the modules with an adapter.
    adapted_modules: tuple[str, ...]
    settings: TrainingConfig
    # Digests of the posts and of the split, from the report of stage `split`.
    data_digest: str
    split_digest: str
    # The MD5 of data/ in data.dvc; empty without data.dvc.
    data_revision: str
    # The digest of the code that trained the adapter.
    code: str
    search: Search
    # Scores on the parts, between 0 and 1, by the names of `Scores.summary`.
    validation: dict[str, float]
    test: dict[str, float]
    golden: tuple[GoldenPost, ...]
    # The word that asks for each label, and its description in prompts, in the order of the labels. A contract without
    # words is of the names themselves.
    words: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()

    def label_set(self) -> Labels:
        """Return the labels, with words and descriptions."""
        words = self.words or self.labels
        descriptions = self.descriptions or ("",) * len(self.labels)
        return tuple(Label(*given) for given in zip(self.labels, words, descriptions, strict=True))

    def tolerance(self, dtype: str) -> float:
        """Return how much a golden logit may differ if it is computed in `dtype`; the coarser precision decides."""
        coarser = "bfloat16" if "bfloat16" in (self.dtype, dtype) else "float32"
        largest = max(abs(logit) for post in self.golden for logit in post.logits)
        return ABSOLUTE[coarser] + RELATIVE[coarser] * largest


def choose_golden(posts: Sequence[Post], label_names: Sequence[str]) -> list[Post]:
    """Choose up to eight posts, the labels in turn. The choice does not depend on the order of `posts`.

    The posts with the smallest digests are taken, which amounts to a random choice.
    """
    by_label: dict[str, list[Post]] = defaultdict(list)
    for post in sorted(posts, key=lambda post: post.digest):
        by_label[post.label].append(post)
    ranked = [
        (rank, label_names.index(label), post) for label, group in by_label.items() for rank, post in enumerate(group)
    ]
    return [post for _, _, post in sorted(ranked, key=lambda entry: entry[:2])[:NUM_GOLDEN]]


def write_contract(folder: Path, contract: Contract, images: Mapping[str, bytes]) -> None:
    """Write a contract and the images of its golden posts, by their file names."""
    for name, content in images.items():
        write_bytes(folder / name, content)
    write_json(folder / CONTRACT_FILE, asdict(contract))


def read_contract(folder: Path) -> Contract:
    """Read a contract.

    Raises:
        UserError: the contract is missing, damaged or of another format, lacks a key, or the image of a golden post is
            missing.
    """
    path = folder / CONTRACT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the version has no contract, register it again") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} has another format than {FORMAT}: load the version with its own code")
    try:
        contract = build(Contract, content, str(path))
    except UsageError as error:
        raise UserError(f"{error}; register the version again") from error
    _require_complete(contract, folder)
    return contract


def _require_complete(contract: Contract, folder: Path) -> None:
    missing = sorted(set(HEADLINE_SCORES) - (contract.validation.keys() & contract.test.keys()))
    path = folder / CONTRACT_FILE
    if missing:
        raise UserError(f"{path} lacks the scores {', '.join(missing)}: register the version again")
    if not contract.golden:
        raise UserError(f"{path} has no golden posts, so the version's answers cannot be checked")
    for post in contract.golden:
        if Path(post.image).name != post.image or not (folder / post.image).is_file():
            raise UserError(f"{folder / post.image} is missing: the image of golden post {post.id}")
        if len(post.logits) != len(contract.labels):
            raise UserError(
                f"{path}: golden post {post.id} has {len(post.logits)} logits for {len(contract.labels)} labels"
            )
