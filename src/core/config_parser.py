"""Builder of frozen dataclasses from plain mappings. It checks every value against its annotation.

Written by hand: pydantic's TypeAdapter checks the same dataclasses, but its errors take several lines and propose no
name. Code that turns them into one line with "did you mean" would be as long as the conversion below.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, TypeVar

import yaml

from src.core.errors import UsageError, unknown

T = TypeVar("T")

_LISTS = (tuple, Sequence)
_MAPPINGS = (dict, Mapping)


class _Yaml(yaml.CSafeLoader):
    """YAML 1.1 with the floats of 1.2, which DVC writes: 1e-05 is a number. libyaml parses ten times as fast."""


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_Yaml.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load_yaml(text: str, where: str) -> Any:
    """Parse a text in YAML.

    Raises:
        UsageError: the text is not YAML.
    """
    try:
        return _Yaml(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def build(kind: type[T], content: Any, where: str) -> T:
    """Build a dataclass of `kind` from a mapping.

    Raises:
        UsageError: a key is unknown or missing, or a value has the wrong type or makes no sense.
    """
    if not isinstance(content, Mapping):
        raise UsageError(f"{where}: expected keys and values, found {content!r}")
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if not _is_of_class(hint)}
    for key in content:
        if key not in hints:
            error = unknown("key", str(key), hints)
            raise UsageError(f"{where}: {error}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in content.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    except TypeError as error:
        missing = [item.name for item in dataclasses.fields(kind) if _is_needed(item) and item.name not in content]  # type: ignore[arg-type]
        if not missing:
            raise
        raise UsageError(f"{where}: missing {', '.join(missing)}") from error


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless `condition` holds. `build` reports it as a usage error with its place."""
    if not condition:
        raise ValueError(message)


def _is_of_class(hint: Any) -> bool:
    return hint is ClassVar or typing.get_origin(hint) is ClassVar


def _is_needed(item: "dataclasses.Field[Any]") -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        # A class may name the field that a plain string stands for.
        shorthand = getattr(hint, "SHORTHAND", None)
        if shorthand and isinstance(value, str):
            value = {shorthand: value}
        elif shorthand and isinstance(value, bool | int | float):
            # YAML 1.1 reads yes and no as truth values.
            raise UsageError(f"{where}: {value!r} is no text: write it in quotes, such as 'yes' or '1'")
        return build(typing.cast(type[Any], hint), value, where)
    if origin is Literal:
        return _convert_literal(arguments, value, where)
    if origin is types.UnionType:
        return _convert_union(arguments, value, where)
    if origin in _LISTS and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin in _MAPPINGS and isinstance(value, Mapping):
        return {_key(key, where): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _convert_plain(hint, value, where)


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{where}: the key {key!r} is no text: write it in quotes, such as 'yes' or '1'")
    return key


def _convert_literal(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise UsageError(f"{where}: {unknown('value', str(value), map(str, choices))}")
    return value


def _convert_union(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(value) in hints:
        return value
    hints = tuple(hint for hint in hints if hint is not types.NoneType)
    if len(hints) == 1:
        return _convert(hints[0], value, where)  # its error says more
    for hint in hints:
        with suppress(UsageError):
            return _convert(hint, value, where)
    raise UsageError(f"{where}: {value!r} has the wrong type")


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float:
        # YAML and JSON write a whole number without a point.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{where}: {value!r} is not a number")
        if not math.isfinite(value):
            raise UsageError(f"{where}: {value!r} is not a finite number")
        return float(value)
    if type(value) is not hint:
        raise UsageError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}")
    return value
