"""How settings stand in a study's storage, and which of them a search space allows."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.core.config import Range, Space
from src.core.errors import UsageRefusal, unknown
from src.core.settings import Setting


@dataclass(frozen=True)
class Encoding:
    """Settings to and from the storage, where a power of two stands as its exponent: `rank` 8 as `log2_rank` 3.

    The sampler then sees an even scale of whole numbers, whose bounds may move without breaking a study, as those
    of a list of choices may not (optuna issue 2328).
    """

    space: Space

    def stored(self) -> dict[str, Range]:
        """The space under the names of the storage."""
        return {self._stored_name(name): choice for name, choice in self.space.items()}

    def encode(self, settings: Mapping[str, Setting]) -> dict[str, Setting]:
        """Settings, or some of them, as they stand in the storage.

        Raises:
            UsageRefusal: a setting is unknown to the space or lies outside of it.
        """
        return {self._stored_name(name): self._encode_one(name, value) for name, value in settings.items()}

    def decode(self, stored: Mapping[str, Setting]) -> dict[str, Setting]:
        """Settings, in the order of the space, from how they stand in the storage."""
        return {
            name: 2 ** int(stored[key]) if choice.powers_of_two else stored[key]
            for name, choice in self.space.items()
            if (key := self._stored_name(name)) in stored
        }

    def _stored_name(self, name: str) -> str:
        if name not in self.space:
            raise unknown("search parameter", name, self.space)
        return f"log2_{name}" if self.space[name].powers_of_two else name

    def _encode_one(self, name: str, value: Setting) -> Setting:
        choice = self.space[name]
        if not allows(choice, value):
            raise UsageRefusal(f"{name}: {value} lies outside of the search space ({describe(choice)})")
        if choice.powers_of_two:
            return int(value).bit_length() - 1
        return value if choice.choices or is_whole(choice) else float(value)


def highest(space: Space) -> dict[str, int | float]:
    """The highest value that a search may choose for each setting that is a number."""
    found: dict[str, int | float] = {}
    for name, choice in space.items():
        if choice.powers_of_two is not None:
            found[name] = 2 ** choice.powers_of_two[1]
        elif choice.high is not None:
            found[name] = choice.high
        elif numbers := [value for value in choice.choices or () if not isinstance(value, str)]:
            found[name] = max(numbers)
    return found


def is_whole(choice: Range) -> bool:
    """Whether a range is one of whole numbers: both its ends are."""
    return isinstance(choice.low, int) and isinstance(choice.high, int)


def allows(choice: Range, value: Setting) -> bool:
    """Whether a search may choose this value."""
    if choice.choices is not None:
        return value in choice.choices
    if isinstance(value, str):
        return False
    if choice.powers_of_two is not None:
        low, high = choice.powers_of_two
        return value in {2**exponent for exponent in range(low, high + 1)}
    assert choice.low is not None and choice.high is not None
    return choice.low <= value <= choice.high and (isinstance(value, int) or not is_whole(choice))


def describe(choice: Range) -> str:
    """What a search may choose, in words."""
    if choice.choices is not None:
        return f"one of {', '.join(map(str, choice.choices))}"
    if choice.powers_of_two is not None:
        low, high = choice.powers_of_two
        return f"a power of two from {2**low} to {2**high}"
    return f"{'a whole number ' if is_whole(choice) else ''}from {choice.low} to {choice.high}"
