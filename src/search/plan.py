"""What a study searches, and how: all that a process must know to take part in it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from src.cli.output import say, warn
from src.core.config import Objective, Params, Pruning, Sampling, Space
from src.core.files import digest_of
from src.core.training_config import Setting
from src.search.trial import TrialRecord


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
    initial_trials: tuple[Mapping[str, Setting], ...] = ()
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


# Whatever is searched and however: trials under other values of these do not compare, or were not drawn alike.
_HOW = ("sampler", "pruner", "min_epochs", "reduction_factor", "objectives")


def plan_of(params: Params, model: str, facts: Mapping[str, str]) -> StudyPlan:
    """The plan of the study: other settings, posts, weights, seed or pruning make a study of another name."""
    tune, space = params.tune, params.space_of(model)
    rest = [
        *asdict(params.training_config(model)).items(),
        ("seed", params.seed),
        ("revision", facts["checkpoint_revision"]),
    ]
    rest += [(name, getattr(tune, name)) for name in _HOW]
    digests = (space_digest(space), facts["split_digest"][:8], digest_of([[str(rest)]])[:8])
    return StudyPlan(
        name=study_name(model, params.scale, *digests),
        space=space,
        initial_trials=tune.initial_trials.get(model, ()),
        seed=params.seed,
        startup_trials=tune.startup_trials,
        sampler=tune.sampler,
        pruner=tune.pruner,
        min_epochs=tune.min_epochs,
        max_epochs=params.training_config(model).epochs,
        reduction_factor=tune.reduction_factor,
        objectives=tune.objectives,
    )


def study_config(params: Params, model: str, facts: Mapping[str, str]) -> dict[str, str]:
    """All that the study's name stands for, in words."""
    space = {f"space of {name}": json.dumps(asdict(choice)) for name, choice in params.space_of(model).items()}
    how = {name: str(getattr(params.tune, name)) for name in _HOW}
    fit = {name: str(value) for name, value in asdict(params.training_config(model)).items()}
    return {**facts, "seed": str(params.seed), **space, **how, **fit}


def print_study_changes(name: str, now: Mapping[str, str], before: Mapping[str, Mapping[str, str]]) -> None:
    """Say, of a study that begins, why none of the earlier ones goes on."""
    remembered = {study: facts for study, facts in before.items() if facts}
    if not remembered:
        return
    last, facts = list(remembered.items())[-1]
    changed = [each for each in {**facts, **now} if facts.get(each) != now.get(each)]
    say(f"A new study, {name}: since {last} these have changed: {', '.join(changed)}. Their trials are not mixed.")


def warn_of_other_code(trials: list[TrialRecord], code: str) -> None:
    """Warn if some trials were trained by other code than there is now."""
    others = [trial for trial in trials if trial.finished and trial.attrs.get("code", code) != code]
    if others:
        warn(
            f"{len(others)} finished trials of this study were trained by other code (src/data, learning or models has "
            "changed): they may not compare. Another seed in params.yaml begins a new study"
        )
