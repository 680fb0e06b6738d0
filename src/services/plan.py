"""What a study searches, and how: all that a process must know to take part in it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from src.core.config import Objective, Pruning, Sampling, Space
from src.core.records import digest_of
from src.core.settings import Setting


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The plan of one study; it can go to another process.

    Attributes:
        name: the study's name, by `study_name`.
        space: what each setting may be.
        known_good: settings tried first, once, however often the study is opened.
        seed: with it and the trials so far, the next draw is certain.
        startup_trials: trials before the sampler and the median pruner learn.
        sampler: what draws settings.
        pruner: which trials end early.
        min_epochs: epochs of a trial before it may be pruned, at least 1.
        max_epochs: epochs of a trial that is not pruned.
        reduction_factor: of how many trials halving keeps one, at least 2; like `min_epochs` one for a whole study,
            for Optuna keeps the scores of a rung by its number and not by its epoch.
        objectives: what is searched for. With several there is no best trial but a front, and none is pruned.
    """

    name: str
    space: Space
    known_good: tuple[Mapping[str, Setting], ...] = ()
    seed: int
    startup_trials: int
    sampler: Sampling = "tpe"
    pruner: Pruning
    min_epochs: int
    max_epochs: int
    reduction_factor: int = 3
    objectives: tuple[Objective, ...] = ("macro_f1",)

    @property
    def single(self) -> bool:
        """Whether one objective is searched for."""
        return len(self.objectives) == 1


def study_name(model: str, scale: str, *digests: str) -> str:
    """The name of a study: what it searches, and the digests of all that makes its scores comparable."""
    return "-".join((model, scale, *digests))


def space_digest(space: Space) -> str:
    """A short digest of a search space: another space is another study, whose trials must not be mixed."""
    return digest_of((name, json.dumps(asdict(choice))) for name, choice in space.items())[:8]
