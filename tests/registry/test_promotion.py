"""Champion and challenger after registrations, promotions and rollbacks."""

import json
from itertools import count
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.registry import registry
from src.registry.promotion import Change, history, promote, promote_if_better, rollback
from src.registry.registry import CHALLENGER, CHAMPION, Version
from src.tracking.store import open_store

_NAMES = count()


@pytest.fixture
def model(store: Path) -> str:
    """Return the name of a model without versions."""
    name = f"promoted{next(_NAMES)}"
    open_store().create_registered_model(registry.registered_name(name))
    return name


def add(model: str, val: float, split: str = "a", test: float = 0.0) -> Version:
    """Register a version with these scores and without files."""
    tags = {"val_macro_f1": str(val), "test_macro_f1": str(test), "split_digest": split}
    tags |= {"data_digest": "d", "scale": "tiny"}
    made = open_store().create_model_version(registry.registered_name(model), "file:///nowhere", tags=tags)
    return Version(made.name, int(made.version), True, tags)


def stands(model: str) -> tuple[int | None, int | None]:
    """Return the numbers of champion and challenger."""
    champion, challenger = (registry.version_at_alias(model, label) for label in (CHAMPION, CHALLENGER))
    return champion.number if champion else None, challenger.number if challenger else None


def changes(model: str) -> list[tuple[int, int | None, str]]:
    return [(change.version, change.before, change.how) for change in history(model)]


def test_best_on_validation_is_champion(model: str) -> None:
    assert promote_if_better(model, add(model, 0.5))
    assert stands(model) == (1, None)
    assert promote_if_better(model, add(model, 0.7))
    assert stands(model) == (2, 1)
    assert not promote_if_better(model, add(model, 0.6))
    assert stands(model) == (2, 3)
    assert changes(model) == [(1, None, "validation"), (2, 1, "validation")]


def test_test_scores_promote_nothing(model: str) -> None:
    promote_if_better(model, add(model, 0.7, test=0.1))
    assert not promote_if_better(model, add(model, 0.6, test=0.9))
    assert promote(model) is None
    assert stands(model) == (1, 2)


def test_newer_version_wins_tie(model: str) -> None:
    promote_if_better(model, add(model, 0.7))
    assert promote_if_better(model, add(model, 0.7))
    assert stands(model) == (2, 1)


def test_other_split_is_not_compared(model: str) -> None:
    promote_if_better(model, add(model, 0.9, split="a"))
    assert promote_if_better(model, add(model, 0.3, split="b"))
    assert stands(model) == (2, None)
    promote_if_better(model, add(model, 0.2, split="b"))
    assert stands(model) == (2, 3)
    assert promote(model) is None


def test_promotion_by_hand_outlasts_registration(model: str) -> None:
    promote_if_better(model, add(model, 0.5))
    promote_if_better(model, add(model, 0.7))
    change = promote(model, 1)
    assert change == Change(1, 2, "by hand", history(model)[-1].at)
    assert promote(model, 1) is None
    assert stands(model) == (1, 2)
    assert not promote_if_better(model, registry.versions(model)[1])
    assert stands(model) == (1, 2)
    assert promote(model) is not None
    assert stands(model) == (2, 1)
    assert [how for *_, how in changes(model)] == ["validation", "validation", "by hand", "validation"]


def test_rollbacks_go_back_step_by_step(model: str) -> None:
    for val in (0.5, 0.6, 0.7):
        promote_if_better(model, add(model, val))
    assert (rollback(model).version, stands(model)) == (2, (2, 3))
    assert (rollback(model).version, stands(model)) == (1, (1, 3))
    with pytest.raises(UserError, match="before version 1"):
        rollback(model)
    assert [version.number for version in registry.versions(model)] == [1, 2, 3]
    assert changes(model)[3:] == [(2, 3, "rollback"), (1, 2, "rollback")]
    promote(model, 3)
    assert rollback(model).version == 1


def test_rollback_starts_at_moved_alias(model: str) -> None:
    for val in (0.5, 0.6):
        promote_if_better(model, add(model, val))
    add(model, 0.1)
    registry.set_alias(registry.registered_name(model), CHAMPION, 3)
    assert (rollback(model).version, stands(model)) == (2, (2, 1))


def test_rollback_skips_removed_version(model: str) -> None:
    for val in (0.5, 0.6, 0.7):
        promote_if_better(model, add(model, val))
    open_store().delete_model_version(registry.registered_name(model), "2")
    assert rollback(model).version == 1
    with pytest.raises(UserError, match="before version 1"):
        rollback(model)


def test_interrupted_registration_is_completed(model: str) -> None:
    """The version was there, and the process died before it was compared."""
    promote_if_better(model, add(model, 0.5))
    add(model, 0.7)
    assert promote_if_better(model, registry.versions(model)[1])
    assert stands(model) == (2, 1)


def test_many_changes_stay_ordered(model: str) -> None:
    promote_if_better(model, add(model, 0.5))
    promote_if_better(model, add(model, 0.6))
    for number in [1, 2] * 6:
        promote(model, number)
    assert [change.version for change in history(model)] == [1, 2] + [1, 2] * 6
    assert all(json.loads(value) for value in registry.model_tags(model).values())


def test_missing_version_raises(model: str) -> None:
    promote_if_better(model, add(model, 0.5))
    with pytest.raises(UserError, match=f"{model} has no version 7; registered: 1"):
        promote(model, 7)
    with pytest.raises(UserError, match=r"no version of stranger is registered: run `python -m src.register"):
        promote("stranger")
    with pytest.raises(UserError, match="no champion of stranger"):
        rollback("stranger")
