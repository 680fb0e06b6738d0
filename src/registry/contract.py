"""The contract of a registered version: its base, data and settings, its scores, and its logits for eight golden posts.

A contract is a folder that travels with the version: contract.json, and the images of the golden posts beside it.
docs/contract.md says what is compared when a version is loaded, and by how much logits may differ.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.labels import Label, Labels
from src.core.outputs import PretrainedWeights
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.registry.contract_file import CONTRACT_FILE, read_record, require_files, require_golden, require_scores

# Files beside contract.json: the report of the split, and the prediction for each test and each validation post.
SPLIT_REPORT_FILE = "split_report.json"
TEST_FILE = "test.csv"
# The columns of that file besides those of a table of predictions.
TEST_COLUMNS = ("group", "leak_free")
VALIDATION_FILE = "validation.csv"
FORMAT = 3
NUM_GOLDEN = 8
# A golden logit may differ by `ABSOLUTE` plus the share `RELATIVE` of the largest golden logit. If both sides compute
# in float32, only the order of sums differs between machines and libraries. bfloat16 keeps 8 bits.
ABSOLUTE = {"float32": 1e-3, "bfloat16": 0.05}
RELATIVE = {"float32": 1e-4, "bfloat16": 0.05}
# Names of the kinds of adapters, by the setting `adapter`.
ADAPTER_KINDS = {"lora": "LoRA", "dora": "DoRA", "rslora": "rank-stabilised LoRA", "ia3": "IA3"}


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


def trained_parts(contract: Contract) -> list[str]:
    """Return what was trained: the adapter by its kind, segments of the base, and the heads.

    Segments that stage `align` trained before the search are marked as aligned.
    """
    settings = contract.settings
    aligned = contract.checkpoint.aligned
    adapter = [f"{ADAPTER_KINDS[settings.adapter]} adapter"] if settings.rank else []
    unfrozen = settings.unfreeze.split()
    before = [f"{segment} (aligned)" for segment in aligned.segments if segment not in unfrozen] if aligned else []
    head = ["head"] if settings.readout == "head" else []
    image_head = ["image head"] if settings.image_head == "linear" else []
    return [*adapter, *before, *unfrozen, *head, *image_head]


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


def read_contract(folder: Path) -> Contract:
    """Read a contract.

    Raises:
        UserError: the contract is missing, damaged or of another format, lacks a key, or the image of a golden post is
            missing.
    """
    contract = read_record(folder, Contract, FORMAT, "the version")
    path = folder / CONTRACT_FILE
    require_scores(path, contract.validation, contract.test)
    require_golden(path, [(post.id, post.logits) for post in contract.golden], contract.labels)
    require_files(folder, [post.image for post in contract.golden])
    return contract
