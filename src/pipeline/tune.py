"""The work of stage `tune`: one search, continued in a new process if this one can train no more."""

import json
import os
import shlex
import sys
import time
from dataclasses import replace

from src.cli.output import say
from src.core.config import Params
from src.core.errors import StopRequested
from src.search.pool import RestartRequired
from src.search.results import SearchResult
from src.search.session import SearchResources, SearchRun
from src.search.steering import Option, steer
from src.search.warm_start import WarmStart
from src.tracking.addresses import without_password

# The state that a process hands to the process in its place, as JSON: `failure_causes` and `deadline_s`.
_RESTART_STATE_ENV = "MVSA_TUNE_RESTART_STATE"


def run_search(
    params: Params,
    model: str,
    resources: SearchResources,
    total: int,
    time_budget_s: float | None = None,
    warm_start: WarmStart | None = None,
) -> SearchResult:
    """Run trials until `total` are finished, and write the stage's outputs.

    After an error of the GPU the CUDA context is lost, and every further trial in this process would fail. The function
    then replaces the process by a new one with the same command line, and does not return.

    Args:
        params: all settings, with those of the command line.
        model: the name in the catalog.
        resources: the storage, the workers and their shares.
        total: finished trials in all, earlier ones included.
        time_budget_s: no trial begins after so long.
        warm_start: another study whose best settings are tried first.

    Raises:
        StopRequested: a signal came. The message holds the command that goes on.
        UserError: trial after trial fails with one cause, a store does not answer, or no trial is complete.
    """
    state = json.loads(os.environ.pop(_RESTART_STATE_ENV, "{}"))
    deadline_s = state.get("deadline_s")
    if deadline_s is None and time_budget_s is not None:
        deadline_s = time.time() + time_budget_s
    search = SearchRun(params, model, replace(resources, deadline_s=deadline_s), state.get("failure_causes", []))
    try:
        return search.search(total, warm_start)
    except StopRequested as error:
        command = without_password(shlex.join(["python", *sys.orig_argv[1:]]), resources.storage)
        raise StopRequested(f"{error}; what is finished is kept. To go on: `{command}`", error.exit_code) from None
    except RestartRequired:
        say("CUDA context lost; restarting in a new process")
        state = {"failure_causes": search.failure_causes, "deadline_s": deadline_s}
        os.environ[_RESTART_STATE_ENV] = json.dumps(state)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 # no shell is started


def run_steering(params: Params, model: str, resources: SearchResources, option: Option, value: str | int) -> str:
    """Send a person's request to the search that these settings name. Return the line to print.

    Raises:
        UsageError: the request makes no sense.
        UserError: the storage does not answer.
    """
    return steer(resources.storage, SearchRun(params, model, resources).plan, model, option, value)


def run_sync(params: Params, model: str, resources: SearchResources, total: int) -> tuple[int, int]:
    """Bring MLflow up to date with the study's storage, and write the stage's outputs anew.

    Returns:
        The number of trials, and how many of them MLflow lacked in whole or in part.
    """
    return SearchRun(params, model, resources).sync(total)
