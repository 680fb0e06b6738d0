"""The systems that are compared: all that predict the tones of the test part, baselines and models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.core.errors import UserError
from src.core.paths import BASELINE, stage_folder
from src.core.records import Prediction, read_predictions

Kind = Literal["majority", "tfidf", "zero-shot", "probe", "tuned"]
BASELINES: tuple[Kind, ...] = ("majority", "tfidf")


@dataclass(frozen=True)
class System:
    """One thing that predicts, and what it says of the test part and of validation; `model` is empty for a baseline."""

    kind: Kind
    model: str
    test: Sequence[Prediction]
    val: Sequence[Prediction]

    @property
    def name(self) -> str:
        """What it is called in tables, such as tfidf or clip tuned."""
        return f"{self.model} {self.kind}".strip()


def read_systems(models: Sequence[str], part_of: Mapping[str, str]) -> list[System]:
    """All systems, baselines first, their predictions in the order of `part_of`, which gives each post's part by id.

    Raises:
        UserError: a file is missing, or was written for another division of the posts.
    """
    places = [*((kind, "", *_files(BASELINE / kind)) for kind in BASELINES)]
    for model in models:
        evaluated = stage_folder("evaluate", model) / "predictions.csv"
        places += [
            ("zero-shot", model, *_files(stage_folder("zeroshot", model))),
            ("probe", model, *_files(stage_folder("probe", model))),
            ("tuned", model, evaluated, stage_folder("train", model) / "predictions.csv"),
        ]
    return [
        System(kind, model, _read(test, part_of, "test"), _read(val, part_of, "val"))
        for kind, model, test, val in places
    ]


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "predictions.csv", folder / "val_predictions.csv"


def _read(path: Path, part_of: Mapping[str, str], part: str) -> list[Prediction]:
    by_id = {row.id: row for row in read_predictions(path)}
    wanted = [key for key, its_part in part_of.items() if its_part == part]
    if set(wanted) != set(by_id):
        raise UserError(f"{path} judges other posts than the {part} part: run `dvc repro`, which makes it anew")
    return [by_id[key] for key in wanted]
