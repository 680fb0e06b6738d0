"""A version as files in the Hub's layout, which plain transformers and peft load without this repository."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.files import read_json, write_json
from src.data.images import open_image
from src.modeling.transformers_usage import TransformersUsage
from src.registry.contract import write_contract
from src.registry.loading import LoadedVersion
from src.training.adapter import ADAPTER_FILE, HEAD_FILE, ClassifierHead


@dataclass(frozen=True)
class LoadingSnippet:
    """All of what a model card says of loading and asking.

    Attributes:
        loader: the class of transformers whose `from_pretrained` loads the model, or its base.
        source: the arguments of that.
        is_adapter: whether peft then puts an adapter on.
        usage: how the model is asked.
        layers: those of the classifier, as calls of `torch.nn`; none where the readout is the model's own.
        has_head: whether there are weights of the readout to load.
    """

    loader: str
    source: str
    is_adapter: bool
    usage: TransformersUsage
    layers: tuple[str, ...]
    has_head: bool


BASE_FOLDER = "base"


CONFIG_FILE = "adapter_config.json"


# What peft's file of weights calls the base.
_WRAPPER = "base_model.model"


def write_files(loaded: LoadedVersion, artifacts: Mapping[str, str], folder: Path, merge: bool) -> LoadingSnippet:
    """Write all but the model card; returns what that must say of loading and asking.

    Args:
        loaded: the version; if it is to be merged, in float32, and it is of no further use then.
        artifacts: its files, by name.
        folder: is made.
        merge: whether the adapter is worked into the base's weights, or stays apart.

    Raises:
        UserError: the model's file does not say how plain transformers computes it, or the adapter cannot be merged, or
            there is no adapter and yet something of the base was trained, which only merged weights can hold.
    """
    usage, readout = loaded.model.transformers_usage(), loaded.adapter.readout
    layers = tuple(f"nn.{layer!r}" for layer in readout) if isinstance(readout, ClassifierHead) else ()
    has_head = bool(layers) or any("head[" in line for line in usage.lines)
    usage.processor.save_pretrained(folder)
    _write_golden(loaded, Path(artifacts["contract"]), folder)
    if has_head:
        _write_head(readout, folder)
    source = _write_merged(loaded, folder) if merge else _write_adapter(loaded, artifacts, folder)
    is_adapter = loaded.adapter.peft is not None and not merge
    return LoadingSnippet(type(loaded.model.backbone).__name__, source, is_adapter, usage, layers, has_head)


def _write_golden(loaded: LoadedVersion, contract: Path, folder: Path) -> None:
    """The contract, with the golden posts as the model reads them: pictures decoded once for all, captions cut."""
    at_least, posts, pictures = loaded.model.image_resizer().min_decoded_side, [], {}
    for place, post in enumerate(loaded.contract.golden):
        name, content = f"golden-{place}.png", BytesIO()
        open_image(contract / post.image, at_least=at_least).save(content, "PNG")
        pictures[name] = content.getvalue()
        posts.append(replace(post, image=name, caption=loaded.model.strip_special_tokens(post.caption)))
    write_contract(folder, replace(loaded.contract, golden=tuple(posts)), pictures)


def _write_head(readout: nn.Module, folder: Path) -> None:
    weights = readout.state_dict() or dict(readout.named_buffers())
    save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, folder / HEAD_FILE)


def _write_merged(loaded: LoadedVersion, folder: Path) -> str:
    backbone: Any = loaded.adapter.merge()
    backbone.save_pretrained(folder)
    return '".", dtype="float32"'


def _write_adapter(loaded: LoadedVersion, artifacts: Mapping[str, str], folder: Path) -> str:
    weights, parts = loaded.contract.checkpoint, loaded.adapter.parts()
    if parts and loaded.adapter.peft is None:
        raise UserError("parts of the base were trained as a whole, and no adapter: export it with --merge")
    base, revision = weights.source, weights.revision or None
    if "base" in artifacts:
        base, revision = BASE_FOLDER, None
        shutil.copytree(artifacts["base"], folder / BASE_FOLDER)
    if loaded.adapter.peft is not None:
        _write_peft(Path(artifacts["adapter"]), folder, {"base_model_name_or_path": base, "revision": revision}, parts)
    pinned = f'revision="{revision}", ' if revision else ""
    return f'"{base}", {pinned}dtype="{loaded.contract.dtype}"'


def _write_peft(adapter: Path, folder: Path, base: Mapping[str, str | None], parts: Mapping[str, Tensor]) -> None:
    write_json(folder / CONFIG_FILE, {**read_json(adapter / CONFIG_FILE), **base})
    # As peft itself keeps weights of the base that were trained: beside the adapter's, by their full names.
    state = load_file(adapter / ADAPTER_FILE) | {f"{_WRAPPER}.{name}": weight for name, weight in parts.items()}
    save_file(state, folder / ADAPTER_FILE, metadata={"format": "pt"})
