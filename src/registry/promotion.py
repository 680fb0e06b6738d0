"""Which version of a model is the champion, and which were before: by validation macro-F1, or by hand.

Every change is kept as a tag of the registered model, so that it can be read and taken back. Test scores are not read.
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
# Validation scores compare only between adapters judged on the same posts, over weights of the same kind.
COMPARABLE = ("split_digest", "data_digest", "scale")
_JUDGED = "judged_against"
_CHANGE = "champion_change"
How = Literal["validation", "by hand", "rollback"]


@dataclass(frozen=True)
class Change:
    """A change of champion: to which version, from which (None: there was none), why, and when (UTC)."""

    version: int
    before: int | None
    how: How
    at: str


def promote_if_better(model: str, version: Version) -> bool:
    """Make a new version the champion, unless the present one is better on the same validation posts.

    A version is judged once: to register it again undoes no promotion by hand, and no rollback.

    Returns:
        Whether it is the champion now.
    """
    present = registry.version_at_alias(model)
    if _JUDGED not in version.tags:
        if present is None or not _comparable(present, version) or score(present) <= score(version):
            _set_champion(model, present, version, "validation")
        registry.tag_version(version, _JUDGED, str(present.number) if present else "none")
    _name_challenger(model)
    present = registry.version_at_alias(model)
    return present is not None and present.number == version.number


def promote(model: str, number: int | None = None) -> Change | None:
    """Make a version the champion: the one with this number, or the best on validation.

    The best is looked for among those that compare with the newest version; of equals the newer one is better.

    Returns:
        The change; None if that version is the champion already.

    Raises:
        UserError: there is no such version.
    """
    known = registry.versions(model)
    if number is None:
        change = _set_champion(model, registry.version_at_alias(model), _best(model, known), "validation")
    else:
        change = _set_champion(model, registry.version_at_alias(model), _numbered(model, known, number), "by hand")
    _name_challenger(model)
    return change


def rollback(model: str) -> Change:
    """Make the version champion again that was it before the present one; once more goes back once more.

    Raises:
        UserError: there was none before.
    """
    present = registry.version_at_alias(model)
    if present is None:
        raise UserError(f"no champion of {model} is registered: there is nothing to go back from")
    known = {version.number: version for version in registry.versions(model)}
    before = [number for number in _champion_history(model, present.number)[:-1] if number in known]
    if not before:
        raise UserError(f"no champion of {model} was there before version {present.number}")
    change = _set_champion(model, present, known[before[-1]], "rollback")
    _name_challenger(model)
    assert change is not None
    return change


def history(model: str) -> list[Change]:
    """All changes of champion, the oldest first."""
    tags = registry.model_tags(model)
    return [Change(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(f"{_CHANGE}.")]


def score(version: Version) -> float:
    """Validation macro-F1, between 0 and 1; below all others where the version does not say."""
    return float(version.tags.get(SCORE, -1))


def _champion_history(model: str, present: int) -> list[int]:
    """The champions up to the present one, less those that a rollback has taken back."""
    reigns: list[int] = []
    for change in history(model):
        if change.how == "rollback":
            del reigns[-1:]
        else:
            reigns.append(change.version)
    # Somebody may have moved the alias in MLflow's own pages.
    return reigns if reigns[-1:] == [present] else [*reigns, present]


def _set_champion(model: str, present: Version | None, version: Version, how: How) -> Change | None:
    if present is not None and present.number == version.number:
        return None
    change = Change(
        version.number, present.number if present else None, how, datetime.now(UTC).isoformat(timespec="seconds")
    )
    registry.set_alias(version.name, CHAMPION, version.number)
    registry.tag_model(model, f"{_CHANGE}.{len(history(model)) + 1:04}", json.dumps(asdict(change)))
    return change


def _name_challenger(model: str) -> None:
    """The best of the other versions that compare with the champion, if there is one."""
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


def _best(model: str, known: Sequence[Version]) -> Version:
    if not known:
        raise UserError(f"no version of {model} is registered: run `python -m src.register --model {model}`")
    return max((version for version in known if _comparable(version, known[-1])), key=_rank)


def _numbered(model: str, known: Sequence[Version], number: int) -> Version:
    for version in known:
        if version.number == number:
            return version
    numbers = ", ".join(str(version.number) for version in known) or "none"
    raise UserError(f"{model} has no version {number}; registered: {numbers}")


def _rank(version: Version) -> tuple[float, int]:
    return score(version), version.number


def _comparable(one: Version, other: Version) -> bool:
    return all(one.tags.get(name) == other.tags.get(name) for name in COMPARABLE)
