"""Warm starts: the best settings of another study, restricted to the space, and tried once."""

from pathlib import Path

import pytest

from src.core.config import Range, Space
from src.core.errors import UsageError
from src.core.training_config import Setting
from src.search.plan import StudyPlan
from src.search.study import Study, open_study
from src.search.warm_start import WarmStart, record_warm_start, warm_start_of

RANK = Range(low=1, high=64, scale="log2")
LR = Range(low=1e-5, high=1e-2, scale="log")
# Of the third trial neither setting is allowed below, and the fourth trial has the best score.
DONE: list[tuple[dict[str, Setting], float]] = [
    ({"rank": 16, "dropout": 0.0}, 0.5),
    ({"rank": 8, "dropout": 0.5}, 0.7),
    ({"rank": 64, "dropout": 0.5}, 0.8),
    ({"rank": 4, "dropout": 0.5}, 0.9),
    ({"rank": 4, "dropout": 0.0}, 0.6),
]


def opened(url: str, name: str, space: Space) -> Study:
    plan = StudyPlan(name=name, space=space, seed=1, startup_trials=3, pruner="none", min_epochs=1, max_epochs=3)
    return open_study(url, plan)


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/studies.db"
    other = opened(url, "other", {"rank": RANK, "dropout": Range(low=0.0, high=0.5)})
    for settings, score in DONE:
        other.enqueue(settings, "")
        other.tell(other.ask().number, score)
    other.fail(other.ask().number, "no score")
    return url


def test_best_allowed_settings_come_first(url: str) -> None:
    study = opened(url, "new", {"rank": Range(low=1, high=16, scale="log2"), "lr": LR})
    assert record_warm_start(study, url, WarmStart("other", 2)) == [3, 1]
    study.put_first(warm_start_of(study))
    for rank in (4, 8):
        study.enqueue_initial_trials(1)
        trial = study.ask()
        assert (trial.params["rank"], sorted(trial.params)) == (rank, ["lr", "rank"])
        assert study.trials()[trial.number].attrs["request"].startswith("--like other, its trial")


def test_choice_is_made_once(url: str) -> None:
    space = {"rank": RANK}
    study = opened(url, "new", space)
    assert record_warm_start(study, url, WarmStart("other", 1)) == [3]
    better = opened(url, "other", {"rank": RANK})
    better.enqueue({"rank": 2}, "")
    better.tell(better.ask().number, 1.0)
    again = opened(url, "new", space)
    assert record_warm_start(again, url, WarmStart("other", 3)) == []
    assert [settings for settings, _ in warm_start_of(again)] == [{"rank": 4}]


def test_equal_settings_are_taken_once(url: str) -> None:
    study = opened(url, "new", {"rank": RANK})
    assert record_warm_start(study, url, WarmStart("other", 9)) == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("other", "part"),
    [("othr", "did you mean 'other'"), ("new", "unknown study"), ("empty", "none"), ("far", "no setting")],
)
def test_useless_studies_are_refused(url: str, other: str, part: str) -> None:
    opened(url, "empty", {"rank": RANK})
    far = opened(url, "far", {"rank": RANK})
    far.tell(far.ask().number, 0.5)
    study = opened(url, "new", {"lr": LR})
    with pytest.raises(UsageError, match=part):
        record_warm_start(study, url, WarmStart(other, 3))
    assert warm_start_of(study) == []
