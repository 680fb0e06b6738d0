"""Choice of a model's champion and challenger, by validation macro-F1 or by hand.

Every change of champion is a tag of the registered model, so it can be listed and undone. Test scores are not read.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from src.core.errors import UserError
from src.registry import registry
from src.registry.registry import CHALLENGER, CHAMPION, Version

SCORE = "val_macro_f1"
# Validation scores of versions compare if these tags are equal: same posts, same split, weights of the same scale.
COMPARABLE_TAGS = ("split_digest", "data_digest", "scale")
# The number of the champion that a version was compared with when it was registered, or "none".
_COMPARED_TAG = "compared_with"
_CHANGE_TAG = "champion_change"
How = Literal["validation", "by hand", "rollback"]


@dataclass(frozen=True)
class Change:
    """A change of champion."""

    version: int
    # The champion before, if there was one.
    before: int | None
    how: How
    # The time in UTC, in ISO 8601.
    at: str


def promote_if_better(model: str, version: Version) -> bool:
    """Make a new version the champion, unless the present champion is better on the same validation posts.

    A version is compared once. Registering it again therefore undoes neither a promotion by hand nor a rollback.

    Returns:
        Whether the version is the champion now.
    """
    present = registry.version_at_alias(model)
    if _COMPARED_TAG not in version.tags:
        if present is None or not _comparable(present, version) or score(present) <= score(version):
            _set_champion(model, present, version, "validation")
        registry.tag_version(version, _COMPARED_TAG, str(present.number) if present else "none")
    _set_challenger(model)
    present = registry.version_at_alias(model)
    return present is not None and present.number == version.number


def promote(model: str, number: int | None = None) -> Change | None:
    """Make a version the champion: the version with this number, or by default the best one on validation.

    The best version is chosen among those that compare with the newest version. A tie goes to the newer version.

    Returns:
        The change; None if the version is the champion already.

    Raises:
        UserError: there is no such version.
    """
    versions = registry.versions(model)
    present = registry.version_at_alias(model)
    if number is None:
        change = _set_champion(model, present, _best(model, versions), "validation")
    else:
        change = _set_champion(model, present, _numbered(model, versions, number), "by hand")
    _set_challenger(model)
    return change


def rollback(model: str) -> Change:
    """Make the previous champion the champion again. A second rollback goes back one champion further.

    Raises:
        UserError: there is no previous champion.
    """
    present = registry.version_at_alias(model)
    if present is None:
        raise UserError(f"no champion of {model} is registered: there is nothing to roll back")
    versions = {version.number: version for version in registry.versions(model)}
    # The present champion stands there twice if a version between was deleted.
    earlier = _champion_history(model, present.number)[:-1]
    before = [number for number in earlier if number in versions and number != present.number]
    if not before:
        raise UserError(f"{model} had no champion before version {present.number}")
    change = _set_champion(model, present, versions[before[-1]], "rollback")
    _set_challenger(model)
    assert change is not None
    return change


def history(model: str) -> list[Change]:
    """Return all changes of champion, the oldest first."""
    tags = registry.model_tags(model)
    return [Change(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(f"{_CHANGE_TAG}.")]


def score(version: Version) -> float:
    """Return the validation macro-F1, between 0 and 1; -1 if the version does not have the tag."""
    return float(version.tags.get(SCORE, -1))


def _champion_history(model: str, present: int) -> list[int]:
    """Return the champions up to the present one, without those that a rollback has undone."""
    champions: list[int] = []
    for change in history(model):
        if change.how == "rollback":
            del champions[-1:]
        else:
            champions.append(change.version)
    # The alias may have been moved in MLflow's pages, which writes no tag.
    return champions if champions[-1:] == [present] else [*champions, present]


def _set_champion(model: str, present: Version | None, version: Version, how: How) -> Change | None:
    if present is not None and present.number == version.number:
        return None
    change = Change(
        version=version.number,
        before=present.number if present else None,
        how=how,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    registry.set_alias(version.name, CHAMPION, version.number)
    registry.tag_model(model, f"{_CHANGE_TAG}.{len(history(model)) + 1:04}", json.dumps(asdict(change)))
    return change


def _set_challenger(model: str) -> None:
    """Make the best other version that compares with the champion the challenger; remove the alias if there is none."""
    champion = registry.version_at_alias(model)
    others = [
        version
        for version in registry.versions(model)
        if champion and version.number != champion.number and _comparable(champion, version)
    ]
    if others:
        best = max(others, key=_rank)
        registry.set_alias(best.name, CHALLENGER, best.number)
    elif registry.version_at_alias(model, CHALLENGER):
        registry.remove_alias(registry.registered_name(model), CHALLENGER)


def _best(model: str, versions: Sequence[Version]) -> Version:
    if not versions:
        raise UserError(f"no version of {model} is registered: run `{registry.register_command(model)}`")
    return max((version for version in versions if _comparable(version, versions[-1])), key=_rank)


def _numbered(model: str, versions: Sequence[Version], number: int) -> Version:
    for version in versions:
        if version.number == number:
            return version
    numbers = ", ".join(str(version.number) for version in versions) or "none"
    raise UserError(f"{model} has no version {number}; registered: {numbers}")


def _rank(version: Version) -> tuple[float, int]:
    return score(version), version.number


def _comparable(one: Version, other: Version) -> bool:
    return all(one.tags.get(name) == other.tags.get(name) for name in COMPARABLE_TAGS)
