"""The systems that are compared, or are members of the ensemble: baselines and models, with their predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.core.errors import UserError
from src.core.paths import BASELINE, ENSEMBLE, PREDICTIONS_FILE, VAL_PREDICTIONS_FILE, stage_folder
from src.core.records import Prediction, read_predictions
from src.evaluation.metrics import scores

Kind = Literal["majority", "tfidf", "zero-shot", "probe", "tuned", "seed", "seeds", "trial", "ensemble"]
# Largest class, and logistic regression on TF-IDF of the captions: the baseline that a tuned model has to beat.
MAJORITY: Kind = "majority"
TFIDF: Kind = "tfidf"
BASELINES = (MAJORITY, TFIDF)
TUNED: Kind = "tuned"
COMBINED: Kind = "ensemble"
# The mean over the trainings of a model's winner on other seeds.
SEEDS: Kind = "seeds"
SEED: Kind = "seed"
# Kinds of further trainings of a model, and the stage's folder that has one folder for each training.
FURTHER: Mapping[Kind, str] = {SEED: "seeds", "trial": "best_trials"}


@dataclass(frozen=True)
class System:
    """A baseline or a model, with its predictions of the test part and of validation."""

    kind: Kind
    # Empty for a baseline and for the ensemble.
    model: str
    test: Sequence[Prediction]
    val: Sequence[Prediction]
    # The seed or the trial of a further training of the model; None for all other kinds.
    number: int | None = None

    @property
    def name(self) -> str:
        """Return the name in tables, such as tfidf, clip tuned or clip seed 8."""
        return " ".join(str(part) for part in (self.model, self.kind, self.number) if part not in ("", None))

    @property
    def short_name(self) -> str:
        """Return the model, or the name of a system without a model."""
        return self.model or self.kind


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
        evaluated = stage_folder("evaluate", model) / PREDICTIONS_FILE
        files += [
            ("zero-shot", model, *_files(stage_folder("zeroshot", model))),
            ("probe", model, *_files(stage_folder("probe", model))),
            (TUNED, model, evaluated, stage_folder("train", model) / PREDICTIONS_FILE),
        ]
    return [
        System(kind, model, _read(test, part_of, "test"), _read(val, part_of, "val"))
        for kind, model, test, val in files
    ]


def read_ensemble(part_of: Mapping[str, str]) -> System:
    """Read the ensemble. Errors are those of `read_systems`."""
    test, val = _files(ENSEMBLE)
    return System(COMBINED, "", _read(test, part_of, "test"), _read(val, part_of, "val"))


def read_further_trainings(models: Sequence[str], part_of: Mapping[str, str]) -> list[System]:
    """Read the trainings of the winner on other seeds, and the search's next best trials, by their numbers.

    A model without such trainings has none.

    Errors are those of `read_systems`.
    """
    folders = [
        (kind, model, folder)
        for model in models
        for kind, stage in FURTHER.items()
        for folder in sorted(stage_folder(stage, model).glob("[0-9]*"), key=lambda path: int(path.name))
    ]
    systems = []
    for kind, model, folder in folders:
        test, val = _files(folder)
        systems.append(System(kind, model, _read(test, part_of, "test"), _read(val, part_of, "val"), int(folder.name)))
    return systems


def best_on_validation(systems: Sequence[System]) -> System:
    """Return the system of the highest validation macro-F1, the first of equal ones."""
    return max(systems, key=lambda system: scores(system.val).macro_f1)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / PREDICTIONS_FILE, folder / VAL_PREDICTIONS_FILE


def _read(path: Path, part_of: Mapping[str, str], part: str) -> list[Prediction]:
    by_id = {row.id: row for row in read_predictions(path)}
    ids = [key for key, part_of_post in part_of.items() if part_of_post == part]
    if set(ids) != set(by_id):
        raise UserError(
            f"{path} has predictions of other posts than the {part} part: run `dvc repro`, which writes it again"
        )
    return [by_id[key] for key in ids]
