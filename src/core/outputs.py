"""Outputs of stages as typed records."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from src.core.config_parser import build
from src.core.files import folder_digest, read_json, write_json
from src.core.paths import stage_folder
from src.core.training_config import Setting


@dataclass(frozen=True)
class StageOutput:
    """The content of one JSON file that a stage writes; each subclass is a frozen dataclass with the file's keys."""

    def write(self, path: Path) -> None:
        """Write the file, measured numbers rounded."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            UserError: the file is missing.
            UsageError: a key is unknown or missing, or a value has another type.
        """
        return build(cls, read_json(path), str(path))


@dataclass(frozen=True)
class BestTrial(StageOutput):
    """The best trial of a search (`BEST_FILE` of stage `tune`)."""

    # The study's name in Optuna's storage.
    study: str
    # The finished trials of the search, and how many of them were pruned.
    trials: int
    pruned: int
    # The number of the best trial in the study, counted from 0.
    best_trial: int
    best_val_macro_f1: float
    # The settings that the trial drew, by the names of TrainingConfig.
    params: dict[str, Setting]


@dataclass(frozen=True)
class SearchSummary(StageOutput):
    """What a search cost and which settings mattered (`SEARCH_FILE` of stage `tune`)."""

    # Complete and pruned trials, then how many of them were pruned, then failed trials beside them.
    finished: int
    pruned: int
    failed: int
    # The number of failed trials by their cause.
    reasons: dict[str, int]
    # The epochs that all trials trained, and what they would have trained at most without pruning.
    epochs: int
    epochs_unpruned: int
    # The share of each setting in the differences of scores, the highest first; empty where too few trials tell.
    importances: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """A training as train.json describes it.

    Attributes:
        model: the name in the catalog.
        facts: the weights and posts that it was trained on.
        code: the digest of the code that trained it.
        study, trial: the trial that tried the settings.
        params: what that trial drew.
        best_epoch: whose weights the adapter has, counted from 1.
        adapted_modules: full names of the modules that carry the adapter.
        validation: accuracy, macro_f1 and weighted_f1 of the best epoch.
    """

    model: str
    facts: Mapping[str, str]
    code: str
    study: str
    trial: int
    params: Mapping[str, Any]
    best_epoch: int
    adapted_modules: tuple[str, ...]
    validation: Mapping[str, float]

    @property
    def adapter(self) -> Path:
        """The folder of the adapter's files."""
        return stage_folder("train", self.model) / "adapter"

    @property
    def digest(self) -> str:
        """Return the `adapter_digest`: equal trainings have the same."""
        return adapter_digest(self.adapter, self.facts["checkpoint_revision"])


def adapter_digest(adapter: Path, revision: str) -> str:
    """Return the digest of an adapter's files, followed by the beginning of its base's revision."""
    return f"{folder_digest(adapter)}-{revision[:12]}"


def read_trained(model: str) -> Trained:
    """Read what `train` wrote of a model.

    Raises:
        UserError: it has not run.
    """
    content = read_json(stage_folder("train", model) / "train.json")
    return Trained(
        model=content["name"],
        facts=content["facts"],
        code=content["code"],
        study=content["study"],
        trial=content["trial"],
        params=content["params"],
        best_epoch=content["best_epoch"],
        adapted_modules=tuple(content["adapted_modules"]),
        validation={name: content[name] for name in ("accuracy", "macro_f1", "weighted_f1")},
    )
