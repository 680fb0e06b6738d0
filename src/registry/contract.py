"""The contract of a registered version: what it is, what it was made from, and what it answers to eight posts.

It is a folder that travels with the version: contract.json, and the pictures of the golden posts beside it.
docs/contract.md says what is compared when the version is loaded, and how much may differ.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from src.core.config_parser import build
from src.core.errors import UserError
from src.core.files import write_bytes, write_json
from src.core.labels import TONES
from src.core.outputs import PretrainedWeights
from src.core.records import Post

CONTRACT_FILE = "contract.json"
# What lies beside it for a model card: how the posts were divided, and what the version says of each test post.
DIVISION_FILE = "division.json"
TEST_FILE = "test.csv"
FORMAT = 2
NUM_GOLDEN = 8
# How far a golden logit may be off: by `ABSOLUTE` and, on top of it, by a share of the largest golden logit. Where both
# sides computed in float32, only the order of sums differs between machines and libraries; bfloat16 keeps 8 bits.
ABSOLUTE = {"float32": 1e-3, "bfloat16": 0.05}
RELATIVE = {"float32": 1e-4, "bfloat16": 0.05}


@dataclass(frozen=True)
class GoldenPost:
    """A validation post with the logits, in the order of the labels, that the version gave when it was registered.

    `id` and `digest` are those of the table of posts, `image` is the name of a file beside the contract.
    """

    id: str
    digest: str
    image: str
    caption: str
    logits: tuple[float, ...]


@dataclass(frozen=True)
class Search:
    """The trial whose settings the adapter was trained with."""

    study: str
    trial: int


@dataclass(frozen=True)
class Contract:
    """All that a registered version says of itself; the same training gives the same contract, wherever it runs.

    What is of one place and time is a tag of the version: its run, and the git commit.

    Attributes:
        format: of this record, `FORMAT`.
        model: the name in the catalog.
        labels: the tones in the order of the logits.
        prompt: the model's template for captions.
        preprocessing: a digest that changes when the same post would become other inputs.
        dtype: the precision in which the golden logits were computed, float32 or bfloat16.
        checkpoint: the base.
        libraries: versions by name.
        adapted_modules: full names of the modules that carry an adapter.
        settings: how the adapter was trained.
        data_digest, split_digest: of the posts and of their division, as the split stage reported them.
        data_revision: the MD5 by which data.dvc knew the posts; empty if there was no data.dvc.
        code: the digest of the code that trained it.
        search: with which trial's settings.
        validation, test: scores on these parts, shares between 0 and 1.
        golden: a few posts with the logits they must be given.
    """

    format: int
    model: str
    labels: tuple[str, ...]
    prompt: str
    preprocessing: str
    dtype: str
    checkpoint: PretrainedWeights
    libraries: dict[str, str]
    adapted_modules: tuple[str, ...]
    settings: dict[str, int | float | str | bool]
    data_digest: str
    split_digest: str
    data_revision: str
    code: str
    search: Search
    validation: dict[str, float]
    test: dict[str, float]
    golden: tuple[GoldenPost, ...]

    def tolerance(self, dtype: str) -> float:
        """How far a golden logit may be off where it is computed in `dtype`: the coarser precision decides."""
        coarser = "bfloat16" if "bfloat16" in (self.dtype, dtype) else "float32"
        largest = max(abs(logit) for post in self.golden for logit in post.logits)
        return ABSOLUTE[coarser] + RELATIVE[coarser] * largest


def choose_golden(posts: Sequence[Post]) -> list[Post]:
    """Eight posts, the tones in turn; always the same ones of the same posts, whatever their order.

    They are those of the least digests, hence as good as drawn by lot. Fewer posts are all taken.
    """
    by_tone: dict[str, list[Post]] = defaultdict(list)
    for post in sorted(posts, key=lambda each: each.digest):
        by_tone[post.label].append(post)
    ranked = [(rank, TONES.index(tone), post) for tone, found in by_tone.items() for rank, post in enumerate(found)]
    return [post for _, _, post in sorted(ranked, key=lambda each: each[:2])[:NUM_GOLDEN]]


def write_contract(folder: Path, contract: Contract, pictures: Mapping[str, bytes]) -> None:
    """Write a contract, and the pictures of its golden posts by the names that it gives them."""
    for name, content in pictures.items():
        write_bytes(folder / name, content)
    write_json(folder / CONTRACT_FILE, asdict(contract))


def read_contract(folder: Path) -> Contract:
    """Read a contract.

    Raises:
        UserError: it is missing, damaged, of another format, or a golden post's picture is missing.
    """
    path = folder / CONTRACT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the version has no contract, register it anew") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is of another format than {FORMAT}: load it with the code that it came with")
    contract = build(Contract, content, str(path))
    if not contract.golden:
        raise UserError(f"{path} has no golden posts: nothing would tell whether the version answers as it did")
    for post in contract.golden:
        if Path(post.image).name != post.image or not (folder / post.image).is_file():
            raise UserError(f"{folder / post.image} is missing: the picture of golden post {post.id}")
        if len(post.logits) != len(contract.labels):
            raise UserError(
                f"{path}: golden post {post.id} has {len(post.logits)} logits for {len(contract.labels)} labels"
            )
    return contract
