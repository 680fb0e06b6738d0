"""What a search space allows, and how samplers see it."""

from collections.abc import Mapping
from dataclasses import replace

from src.core.config import Range, Space, exponent_of
from src.core.errors import UsageError, unknown
from src.core.training_config import Setting


def checked(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return settings, or some of them, as a search would draw them: 4 for a rank of 4.0.

    Raises:
        UsageError: a setting is unknown to the space or lies outside of it.
    """
    for name, value in settings.items():
        if name not in space:
            raise unknown("search parameter", name, space)
        if not allows(space[name], value):
            raise UsageError(f"{name}: {value} lies outside of the search space ({describe(space[name])})")
    return {name: _typed(space[name], value) for name, value in settings.items()}


def allowed(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings that the space allows, in its order, without the others."""
    known = {name: settings[name] for name, choice in space.items() if name in settings}
    return checked(space, {name: value for name, value in known.items() if allows(space[name], value)})


def even(space: Space) -> dict[str, Range]:
    """Return the space on even scales, where an exponent stands for a power of two."""
    return {name: _even(choice) for name, choice in space.items()}


def to_even(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return settings on the scales of `even`: 3 for a rank of 8."""
    return {
        name: exponent_of(value) if space[name].scale == "log2" else value
        for name, value in checked(space, settings).items()
    }


def from_even(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return settings from the scales of `even`: a rank of 8 for 3."""
    return {name: 2 ** int(value) if space[name].scale == "log2" else value for name, value in settings.items()}


def is_whole(choice: Range) -> bool:
    """Whether a range is one of whole numbers: both its ends are."""
    return isinstance(choice.low, int) and isinstance(choice.high, int)


def allows(choice: Range, value: object) -> bool:
    """Whether a search may choose this value."""
    if isinstance(value, bool):  # which Python takes for 0 or 1
        return False
    listed = choice.listed()
    if listed is not None:
        return value in listed
    if not isinstance(value, int | float):
        return False
    low, high = choice.bounds()
    return low <= value <= high and (float(value).is_integer() or not is_whole(choice))


def describe(choice: Range) -> str:
    """What a search may choose, in words."""
    if choice.choices is not None:
        return f"one of {', '.join(map(str, choice.choices))}"
    kind = "a power of two " if choice.scale == "log2" else "a whole number " if is_whole(choice) else ""
    return f"{kind}from {choice.low} to {choice.high}"


def _even(choice: Range) -> Range:
    if choice.scale != "log2":
        return choice
    low, high = map(exponent_of, choice.bounds())
    return replace(choice, low=low, high=high, scale="linear")


def _typed(choice: Range, value: Setting) -> Setting:
    listed = choice.listed()
    if listed is not None:
        return listed[listed.index(value)]
    return int(value) if is_whole(choice) else float(value)
