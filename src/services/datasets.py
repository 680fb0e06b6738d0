"""What a run in MLflow says of the posts that it reads: their name, digest and number, and nothing of their content."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.core.paths import DATA_DVC, SPLIT_REPORT
from src.core.records import read_json


@dataclass(frozen=True)
class Dataset:
    """Posts that a run reads.

    Attributes:
        name: what they are called; of two with the same name and digest MLflow keeps one.
        digest: at most 36 characters that another content changes.
        source: where they are from.
        context: what for, such as train.
        counts: how many there are of each tone.
    """

    name: str
    digest: str
    source: str
    context: str
    counts: Mapping[str, int]


def parts_read(*parts: str) -> list[Dataset]:
    """Parts of the posts as `split` has divided them.

    Raises:
        Refusal: it has not run.
    """
    report = read_json(SPLIT_REPORT)
    # What is posted and labelled, and which posts are in which part.
    digest = f"{report['data_digest']}-{report['split_digest']}"
    name = f"mvsa-{report['protocol']}"
    return [Dataset(f"{name}-{part}", digest, str(DATA_DVC), part, report["parts"][part]) for part in parts]
