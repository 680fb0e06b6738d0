"""What `tune` searches for a model: the study's plan, and what has changed since an earlier study."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from src.core.config import Params
from src.core.records import digest_of
from src.services.plan import StudyPlan, space_digest, study_name
from src.services.terminal import say, warn
from src.services.trials import TrialRecord

# Whatever is searched and however: trials under other values of these do not compare, or were not drawn alike.
_HOW = ("sampler", "pruner", "min_epochs", "reduction_factor", "objectives")


def plan_of(params: Params, model: str, facts: Mapping[str, str]) -> StudyPlan:
    """The plan of the study: other settings, posts, weights, seed or pruning make a study of another name."""
    tune, space = params.tune, params.space_of(model)
    rest = [*asdict(params.fit_of(model)).items(), ("seed", params.seed), ("revision", facts["checkpoint_revision"])]
    rest += [(name, getattr(tune, name)) for name in _HOW]
    digests = (space_digest(space), facts["split_digest"][:8], digest_of([[str(rest)]])[:8])
    return StudyPlan(
        name=study_name(model, params.scale, *digests),
        space=space,
        known_good=tune.known_good.get(model, ()),
        seed=params.seed,
        startup_trials=tune.startup_trials,
        sampler=tune.sampler,
        pruner=tune.pruner,
        min_epochs=tune.min_epochs,
        max_epochs=params.fit_of(model).epochs,
        reduction_factor=tune.reduction_factor,
        objectives=tune.objectives,
    )


def memory_of(params: Params, model: str, facts: Mapping[str, str]) -> dict[str, str]:
    """All that the study's name stands for, in words."""
    space = {f"space of {name}": json.dumps(asdict(choice)) for name, choice in params.space_of(model).items()}
    how = {name: str(getattr(params.tune, name)) for name in _HOW}
    fit = {name: str(value) for name, value in asdict(params.fit_of(model)).items()}
    return {**facts, "seed": str(params.seed), **space, **how, **fit}


def say_what_changed(name: str, now: Mapping[str, str], before: Mapping[str, Mapping[str, str]]) -> None:
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
