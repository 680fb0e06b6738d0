"""Study plans: the space, sampler, pruner and budget of a study, and the name that depends on them."""

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
    """All that a process must know to take part in a study. A plan can be sent to another process."""

    # The study's name, from `study_name`.
    name: str
    # The range of each searched setting.
    space: Space
    # Settings that are tried first, each once, however often the study is opened.
    initial_trials: tuple[Mapping[str, Setting], ...] = ()
    # The seed and the earlier trials determine the next draw.
    seed: int
    # The sampler and the median pruner use the results of trials only after so many.
    startup_trials: int
    sampler: Sampling = "tpe"
    pruner: Pruning
    # A trial is not pruned before so many epochs, at least 1.
    min_epochs: int
    # The epochs of a trial that is not pruned.
    max_epochs: int
    # Halving keeps one trial in so many, at least 2. It is fixed for a study, like `min_epochs`: Optuna stores the
    # scores at a rung under the rung's number and not under its epoch.
    reduction_factor: int = 3
    # With several objectives a study has a Pareto front and no best trial, and prunes nothing.
    objectives: tuple[Objective, ...] = ("macro_f1",)

    @property
    def single(self) -> bool:
        """Whether the study has one objective."""
        return len(self.objectives) == 1


def study_name(model: str, scale: str, *digests: str) -> str:
    """Return the name of a study. The digests cover all that makes its scores comparable."""
    return "-".join((model, scale, *digests))


def space_digest(space: Space) -> str:
    """Return a short digest of a search space, whatever the order of its settings."""
    return digest_of((name, json.dumps(asdict(choice))) for name, choice in space.items())[:8]


# Settings of the search that a study keeps. Other values would draw other trials or score them differently.
_SEARCH_SETTINGS = ("sampler", "pruner", "min_epochs", "reduction_factor", "objectives")


def plan_of(params: Params, model: str, facts: Mapping[str, str]) -> StudyPlan:
    """Return the plan of a model's study. Other settings, posts, weights or seeds give a study of another name.

    Args:
        params: all settings of params.yaml.
        model: the name in the catalog.
        facts: the weights, the split and the labels, as `facts_of` returns them.
    """
    tune = params.tune
    space = params.space_of(model)
    training = params.training_config(model)
    rest = [
        *asdict(training).items(),
        ("seed", params.seed),
        *((name, facts[name]) for name in ("checkpoint_revision", "aligned", "labels", "data_digest") if name in facts),
        *((name, getattr(tune, name)) for name in _SEARCH_SETTINGS),
    ]
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
        max_epochs=training.epochs,
        reduction_factor=tune.reduction_factor,
        objectives=tune.objectives,
    )


def study_config(params: Params, model: str, facts: Mapping[str, str]) -> dict[str, str]:
    """Return all values that the study's name stands for, by their names."""
    space = {f"space of {name}": json.dumps(asdict(choice)) for name, choice in params.space_of(model).items()}
    search = {name: str(getattr(params.tune, name)) for name in _SEARCH_SETTINGS}
    training = {name: str(value) for name, value in asdict(params.training_config(model)).items()}
    return {**facts, "seed": str(params.seed), **space, **search, **training}


def print_study_changes(name: str, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
    """Print which values differ between a new study and the newest of the others.

    Args:
        name: the new study.
        config: its `study_config`.
        others: the same of earlier studies, the newest last; empty for a study that did not begin.
    """
    recorded = {study: earlier for study, earlier in others.items() if earlier}
    if not recorded:
        return
    last, earlier = list(recorded.items())[-1]
    changed = [key for key in {**earlier, **config} if earlier.get(key) != config.get(key)]
    say(f"New study {name}: {', '.join(changed)} changed since {last}. Trials of different studies are not mixed.")


def warn_of_other_code(trials: list[TrialRecord], code: str) -> None:
    """Warn if some finished trials were trained by other code than the current one."""
    others = [trial for trial in trials if trial.finished and trial.attrs.get("code", code) != code]
    if others:
        warn(
            f"{len(others)} finished trials of this study were trained by other code: what trains or scores in src/ "
            "has changed, so trials may not compare. To begin a new study, change the seed in params.yaml"
        )
