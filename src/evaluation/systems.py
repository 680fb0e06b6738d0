"""The systems that are compared: baselines and models, with their predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.core.errors import UserError
from src.core.paths import BASELINE, PREDICTIONS_TABLE, VAL_PREDICTIONS_TABLE, stage_folder
from src.core.records import Prediction, read_predictions

Kind = Literal["majority", "tfidf", "zero-shot", "probe", "tuned"]
# Largest class, and logistic regression on TF-IDF of the captions: the baseline that a tuned model has to beat.
MAJORITY: Kind = "majority"
TFIDF: Kind = "tfidf"
BASELINES = (MAJORITY, TFIDF)


@dataclass(frozen=True)
class System:
    """A baseline or a model, with its predictions of the test part and of validation."""

    kind: Kind
    # Empty for a baseline.
    model: str
    test: Sequence[Prediction]
    val: Sequence[Prediction]

    @property
    def name(self) -> str:
        """Return the name in tables, such as "tfidf" or "clip tuned"."""
        return f"{self.model} {self.kind}".strip()


def read_systems(models: Sequence[str], part_of: Mapping[str, str]) -> list[System]:
    """Read all systems, baselines first, with predictions in the order of `part_of`.

    Args:
        models: the names of the models.
        part_of: the part of each post, by id.

    Raises:
        UserError: a file is missing, or was written for another split.
    """
    files = [*((kind, "", *_files(BASELINE / kind)) for kind in BASELINES)]
    for model in models:
        evaluated = stage_folder("evaluate", model) / PREDICTIONS_TABLE
        files += [
            ("zero-shot", model, *_files(stage_folder("zeroshot", model))),
            ("probe", model, *_files(stage_folder("probe", model))),
            ("tuned", model, evaluated, stage_folder("train", model) / PREDICTIONS_TABLE),
        ]
    return [
        System(kind, model, _read(test, part_of, "test"), _read(val, part_of, "val"))
        for kind, model, test, val in files
    ]


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / PREDICTIONS_TABLE, folder / VAL_PREDICTIONS_TABLE


def _read(path: Path, part_of: Mapping[str, str], part: str) -> list[Prediction]:
    by_id = {row.id: row for row in read_predictions(path)}
    ids = [key for key, part_of_post in part_of.items() if part_of_post == part]
    if set(ids) != set(by_id):
        raise UserError(
            f"{path} has predictions of other posts than the {part} part: run `dvc repro`, which writes it again"
        )
    return [by_id[key] for key in ids]
