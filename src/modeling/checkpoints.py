"""Checkpoints in place of the published ones: a local folder, or an id of the Hub. No weights are read here."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from src.core.config import CheckpointParams
from src.core.errors import UserError, first_line
from src.core.outputs import PretrainedWeights
from src.modeling.base import ToneModel

# The files of which transformers loads one.
_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def resolve_given(model_type: type[ToneModel], given: CheckpointParams) -> PretrainedWeights:
    """Return the checkpoint that params.yaml gives, at the folder's digest or the Hub's commit.

    Raises:
        UserError: the checkpoint is missing, or is not of the model's architecture.
    """
    file = _config_file(given)
    _read_config(model_type, given, file)
    if given.folder:
        return PretrainedWeights.of_folder(Path(given.folder), "full", str(given))
    # The Hub's cache keeps the files of a commit in a folder of its name.
    return PretrainedWeights(str(given.hub), file.parent.name, "full", given=str(given))


def config_of(model_type: type[ToneModel], given: CheckpointParams) -> Any:
    """Return the configuration of the checkpoint that params.yaml gives: from the folder, the Hub's cache or the Hub.

    Raises:
        UserError: as `resolve_given`.
    """
    return _read_config(model_type, given, _config_file(given))


def _config_file(given: CheckpointParams) -> Path:
    return _in_folder(Path(given.folder)) if given.folder else _on_hub(given)


def _in_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder} cannot be loaded: there is no such folder")
    file: Path = folder / CONFIG_NAME
    if not file.is_file():
        raise UserError(f"{folder} cannot be loaded: it has no {CONFIG_NAME}")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise UserError(f"{folder} cannot be loaded: it has no weights, which are {' or '.join(_WEIGHTS)}")
    return file


def _on_hub(given: CheckpointParams) -> Path:
    hub_id = str(given.hub)
    if Path(hub_id).is_dir():
        # transformers would load the folder.
        raise UserError(f"{hub_id} is a folder here: give it as `folder`, or rename the folder")
    try:
        file: str = cached_file(hub_id, CONFIG_NAME, revision=given.revision)
    except OSError as error:
        raise UserError(f"{given} cannot be loaded: {first_line(error)}") from error
    return Path(file)


def _read_config(model_type: type[ToneModel], given: CheckpointParams, file: Path) -> Any:
    """Read a configuration, and check that all its parts are of the model's architecture."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{given.source}: {CONFIG_NAME} is not JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{given.source}: {CONFIG_NAME} holds no keys and values")
    config_class = model_type.architecture().config_class
    _require_type(model_type, given, "architecture", content.get("model_type"), (config_class.model_type,))
    for part, types in model_type.part_types.items():
        section = content.get(part)
        if isinstance(section, dict) and "model_type" in section:
            _require_type(model_type, given, part, section["model_type"], types)
    try:
        return config_class.from_dict(content)
    except Exception as error:  # its checks raise errors of many classes
        raise UserError(f"{given.source}: {CONFIG_NAME} cannot be read: {' '.join(str(error).split())}") from error


def _require_type(
    model_type: type[ToneModel], given: CheckpointParams, part: str, kind: object, types: Sequence[str]
) -> None:
    if kind not in types:
        raise UserError(
            f"{given.source} does not fit {model_type.spec.name}: its {part} is {kind}, and must be "
            f"{' or '.join(types)}"
        )
