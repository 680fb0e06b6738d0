"""Search spaces: validation of settings, and conversion to the scales that samplers see."""

from collections.abc import Mapping
from dataclasses import replace

from src.core.config import Range, Space, exponent_of
from src.core.errors import UsageError, unknown
from src.core.training_config import Setting


def checked(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return settings with the types of the space: 4 for a rank of 4.0. Some settings may be missing.

    Raises:
        UsageError: a setting is not in the space, or its value lies outside of it.
    """
    for name, value in settings.items():
        if name not in space:
            raise unknown("search parameter", name, space)
        if not allows(space[name], value):
            raise UsageError(f"{name}: {value} lies outside of the search space ({describe(space[name])})")
    return {name: _typed(space[name], value) for name, value in settings.items()}


def allowed(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings that the space allows, in its order, without the others."""
    known = {name: settings[name] for name in space if name in settings}
    return checked(space, {name: value for name, value in known.items() if allows(space[name], value)})


def even(space: Space) -> dict[str, Range]:
    """Return the space on even scales: an exponent stands for a power of two."""
    return {name: _even(choice) for name, choice in space.items()}


def to_even(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Convert settings to the scales of `even`: a rank of 8 to 3."""
    return {
        name: exponent_of(value) if space[name].scale == "log2" else value
        for name, value in checked(space, settings).items()
    }


def from_even(space: Space, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Convert settings from the scales of `even`: 3 to a rank of 8."""
    return {name: 2 ** int(value) if space[name].scale == "log2" else value for name, value in settings.items()}


def is_whole(choice: Range) -> bool:
    """Return whether a range holds whole numbers only: both of its ends are whole."""
    return isinstance(choice.low, int) and isinstance(choice.high, int)


def allows(choice: Range, value: object) -> bool:
    """Return whether a range holds a value."""
    if isinstance(value, bool):  # Python takes it for 0 or 1
        return False
    listed = choice.listed()
    if listed is not None:
        return value in listed
    if not isinstance(value, int | float):
        return False
    low, high = choice.bounds()
    return low <= value <= high and (float(value).is_integer() or not is_whole(choice))


def describe(choice: Range) -> str:
    """Return the values of a range in words, for error messages."""
    if choice.choices is not None:
        return f"one of {', '.join(map(str, choice.choices))}"
    kind = ""
    if choice.scale == "log2":
        kind = "a power of two "
    elif is_whole(choice):
        kind = "a whole number "
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
