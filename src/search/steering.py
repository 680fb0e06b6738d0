"""Steering of a search: requests that a person sends from another terminal through the study's storage.

A request is an attribute of its own, of the study or of a trial. Two requests at once are therefore both kept. A
request waits while no search runs, and a killed search finds all of them again. The runner obeys requests about the
search (`obey`), and workers those about their trials (`RunningTrial`).
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, assert_never

from src.cli.options import assignments, typed
from src.core.config import Range, Space
from src.core.errors import UsageError
from src.core.training_config import Setting, display_value
from src.search.plan import StudyPlan
from src.search.space import checked
from src.search.storage import RetryPolicy
from src.search.study import Study, join_study, study_names
from src.search.trial import ENDED, STOP_REQUEST, TrialRecord

# The options of `tune` that steer a search.
Option = Literal["--try", "--clone", "--stop-trial", "--more", "--pause", "--resume"]
# User attributes of a study. A request has a number, so that they keep their order whatever the clocks say.
_REQUEST = "request:"
_BUDGET = "budget"
_AFTER = {"--pause": "no new trial begins until --resume, and running trials go on", "--resume": "new trials may begin"}


@dataclass(frozen=True)
class StudyRequest:
    """A request about the whole search."""

    # The name of the study's attribute that holds the request. No two requests share one.
    key: str
    option: Literal["--more", "--pause", "--resume"]
    # When it was sent, in UTC.
    at: str
    # The number of trials that --more adds.
    trials: int = 0

    def __str__(self) -> str:
        return f"{self.option}{f' {self.trials}' if self.trials else ''} at {self.at}"


@dataclass(frozen=True)
class SearchOrders:
    """What the requests so far mean for a search."""

    # Finished trials in all.
    total: int
    requests: tuple[StudyRequest, ...]

    @property
    def pause(self) -> StudyRequest | None:
        """The request that keeps new trials from beginning, if there is one."""
        return pause_among(self.requests)


@dataclass(frozen=True)
class _Budget:
    """How many trials the latest search runs. The runner alone writes it, so it changes in one step."""

    # The total that the search was begun with.
    given: int = 0
    # The trials that --more added, by the total that the search was begun with.
    more: Mapping[str, int] = field(default_factory=dict)

    def total(self, given: int) -> int:
        return given + self.more.get(str(given), 0)

    def raised(self, given: int, requests: Sequence[StudyRequest]) -> "_Budget":
        """Return the budget of a search that obeys all requests. Those that no search has obeyed raise its total."""
        waiting = sum(request.trials for request in requests) - sum(self.more.values())
        added = {str(given): self.more.get(str(given), 0) + waiting} if waiting else {}
        return _Budget(given, {**self.more, **added})


def steer(url: str, plan: StudyPlan, model: str, option: Option, value: str | int) -> str:
    """Send a request to a search, whether or not it runs now. Return the line to print.

    Args:
        url: an SQLAlchemy URL or grpc://HOST:PORT.
        plan: the plan of the study.
        model: the name in the catalog.
        option: the option of `tune`.
        value: the option's value; ignored for --pause and --resume.

    Raises:
        UsageError: the request makes no sense, such as a setting outside of the space or a trial that has ended.
        UserError: the storage does not answer.
    """
    number, settings = _parsed(option, str(value), plan.space)
    has_begun = plan.name in study_names(url)
    if number is not None and not has_begun:
        raise UsageError(f"{option} {value}: no search has begun under these settings, so there is no trial {number}")
    study = join_study(url, plan, RetryPolicy.of(url).once()).impatient()
    answer = _send(study, option, value, number, settings)
    waits = "" if has_begun else f". No search has begun under these settings: `python -m src.tune --model {model}`"
    return f"{model}: {answer}{waits}"


def requests_of(study: Study) -> tuple[StudyRequest, ...]:
    """Return all requests about the search, in their order."""
    return _requests_in(study.attrs())


def pause_among(requests: Sequence[StudyRequest]) -> StudyRequest | None:
    """Return the request that keeps new trials from beginning, if there is one."""
    last = next((request for request in reversed(requests) if request.option != "--more"), None)
    return last if last and last.option == "--pause" else None


def obey(study: Study, given: int) -> SearchOrders:
    """Return the orders for a search, and record that it obeys all requests so far. Only its runner may call it.

    Trials that --more adds belong to the search that obeyed it: the same command continues to the raised total, and a
    search with another total is not changed.

    Args:
        study: the study of the search.
        given: the total that the search was begun with.
    """
    attrs = study.attrs()
    requests = _requests_in(attrs)
    before = _budget_in(attrs)
    budget = before.raised(given, requests)
    if budget != before:
        study.set_attr(_BUDGET, asdict(budget))
    return SearchOrders(budget.total(given), requests)


def total_of(study: Study, given: int) -> int:
    """Return the total of the search that was begun with the total `given`, as far as it has obeyed requests."""
    return _budget_in(study.attrs()).total(given)


def _parsed(option: Option, value: str, space: Space) -> tuple[int | None, dict[str, Setting]]:
    """Return the trial's number and the settings that a value names."""
    if option == "--try":
        return None, _settings(option, value, space)
    if option not in ("--clone", "--stop-trial"):
        return None, {}
    number, comma, changes = value.partition(",")
    if not number.isdecimal():
        raise UsageError(f"{option} {value}: {number!r} is no number of a trial")
    return int(number), _settings(option, changes, space) if comma else {}


def _settings(option: Option, text: str, space: Space) -> dict[str, Setting]:
    values = assignments(text, option)
    return checked(space, {name: _value(value, space.get(name)) for name, value in values.items()})


def _value(text: str, choice: Range | None) -> Setting:
    """Return the value of a range that a text names, or what it names without one."""
    listed = (choice.listed() if choice else None) or ()
    return next((value for value in listed if str(value) == text), typed(text))


def _send(study: Study, option: Option, value: str | int, number: int | None, settings: dict[str, Setting]) -> str:
    match option:
        case "--try":
            return _queue(study, settings, stamped(option))
        case "--clone":
            source = _trial(study, number)
            # The source may have been queued by hand, with settings that the space does not allow.
            cloned = checked(study.plan.space, {**study.settings_of(source.number), **settings})
            return _queue(study, cloned, stamped(f"{option} {source.number}"))
        case "--stop-trial":
            return _stop(study, _trial(study, number))
        case "--more":
            _add_request(study, option=option, at=_now(), trials=int(value))
            return f"{value} more trials are to be run"
        case "--pause" | "--resume":
            if (pause_among(requests_of(study)) is None) == (option == "--pause"):
                _add_request(study, option=option, at=_now())
            return _AFTER[option]
    assert_never(option)


def _queue(study: Study, settings: Mapping[str, Setting], request: str) -> str:
    number = study.enqueue(settings, request)
    shown = ", ".join(f"{name} {display_value(setting)}" for name, setting in settings.items())
    drawn = [name for name in study.plan.space if name not in settings]
    rest = f"; the sampler draws {', '.join(drawn)}" if drawn else ""
    return f"trial {number} waits with {shown}{rest}{_hint(study)}"


def _hint(study: Study) -> str:
    """Return how to run a queued trial if the search has as many other trials as it should."""
    attrs = study.attrs()
    given = _budget_in(attrs).given
    total = _budget_in(attrs).raised(given, _requests_in(attrs)).total(given)
    others = sum(trial.finished or trial.state not in ENDED for trial in study.trials()) - 1
    # Before the first search nobody knows its total.
    if not given or others < total:
        return ""
    return f". The search has its {total} trials without it: --more 1 makes room"


def _stop(study: Study, trial: TrialRecord) -> str:
    if trial.state in ENDED:
        raise UsageError(f"trial {trial.number} has ended: it is {trial.state}")
    if STOP_REQUEST not in trial.attrs:
        study.request_stop(trial.number, stamped("--stop-trial"))
    return f"trial {trial.number} ends at its next step, and counts like a pruned trial"


def _trial(study: Study, number: int | None) -> TrialRecord:
    trials = study.trials()
    if number is None or number >= len(trials):
        known = f"its trials are 0 to {len(trials) - 1}" if trials else "it has none yet"
        raise UsageError(f"study {study.name} has no trial {number}; {known}")
    return trials[number]


def _add_request(study: Study, **request: str | int) -> None:
    number = len(requests_of(study)) + 1
    # Two requests at once may get the same number. The id keeps them apart.
    study.set_attr(f"{_REQUEST}{number:06}:{uuid.uuid4().hex[:8]}", request)


def _requests_in(attrs: Mapping[str, Any]) -> tuple[StudyRequest, ...]:
    return tuple(StudyRequest(key=key, **attrs[key]) for key in sorted(attrs) if key.startswith(_REQUEST))


def _budget_in(attrs: Mapping[str, Any]) -> _Budget:
    return _Budget(**attrs.get(_BUDGET, {}))


def stamped(command: str) -> str:
    """Return a command with the time at which a person sent it."""
    return f"{command} at {_now()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
