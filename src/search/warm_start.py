"""Warm start of a study: the settings of another study's best trials, queued as initial trials."""

from dataclasses import dataclass

from src.core.config import Space
from src.core.errors import UsageError, unknown
from src.core.training_config import Setting
from src.search.space import allowed
from src.search.steering import stamped
from src.search.storage import RetryPolicy, open_storage
from src.search.study import QueuedTrial, Study, study_names
from src.search.trial import REQUEST

# User attribute of a study: the initial trials that another study gave, by the name of that study.
_WARM_START = "warm_start:"


@dataclass(frozen=True)
class WarmStart:
    """A request to begin a study with the best settings of another one."""

    # The other study's name, in the same storage.
    study: str
    # How many of its complete trials are taken.
    best: int


def record_warm_start(study: Study, url: str, request: WarmStart) -> list[int]:
    """Record the best settings of another study as initial trials of this one.

    Settings that the space lacks or does not allow are left out, and the sampler draws what is missing. The choice is
    made once: the other study may have better trials when this search goes on.

    Args:
        study: the study to begin.
        url: the storage of both studies.
        request: the other study.

    Returns:
        The numbers of the other study's trials, the best first; empty if they are recorded already.

    Raises:
        UsageError: there is no such study, none of its trials is complete, or no setting is common and allowed.
    """
    key = f"{_WARM_START}{request.study}"
    if key in study.attrs():
        return []
    names = [name for name in study_names(url) if name != study.name]
    if request.study not in names:
        raise unknown("study", request.study, names)
    chosen = _best_settings(url, request, study.plan.space)
    rows = [
        {"settings": settings, REQUEST: stamped(f"--like {request.study}, its trial {number},")}
        for number, settings in chosen.items()
    ]
    study.set_attr(key, rows)
    return list(chosen)


def warm_start_of(study: Study) -> list[QueuedTrial]:
    """Return the initial trials that other studies gave."""
    attrs = study.attrs()
    rows = [row for key in sorted(attrs) if key.startswith(_WARM_START) for row in attrs[key]]
    return [(row["settings"], {REQUEST: row[REQUEST]}) for row in rows]


def _best_settings(url: str, request: WarmStart, space: Space) -> dict[int, dict[str, Setting]]:
    """Return the settings of the best trials that the space allows, each once, by the trial's number."""
    import optuna

    def read_trials() -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name=request.study, storage=open_storage(url)).get_trials(deepcopy=False)

    trials = RetryPolicy.of(url).once()(read_trials)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        raise UsageError(f"--like {request.study}: none of its trials is complete")
    chosen: dict[int, dict[str, Setting]] = {}
    for trial in sorted(complete, key=lambda trial: (-trial.values[0], trial.number)):
        settings = allowed(space, trial.params)
        if settings and settings not in chosen.values() and len(chosen) < request.best:
            chosen[trial.number] = settings
    if not chosen:
        raise UsageError(f"--like {request.study}: it shares no setting with a value that this search space allows")
    return chosen
