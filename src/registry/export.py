"""Export of a version as a folder in the Hub's layout, which transformers and peft load without this repository."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.files import atomic_folder, read_json, write_json, write_text
from src.core.provenance import COMMIT_TAG
from src.data.images import open_image
from src.registry import registry
from src.registry.contract import Contract
from src.registry.contract_file import write_contract
from src.registry.ensemble_contract import ENSEMBLE
from src.registry.loading import LoadedVersion, largest_difference, load_version
from src.registry.model_card import LoadingSnippet, code_of, dtype_of, model_card, read_card_inputs
from src.registry.pyfunc import artifacts_in
from src.registry.registry import Version
from src.training.adapter import ADAPTER_FILE, HEAD_FILE, IMAGE_HEAD_FILE, ClassifierHead

CARD_FILE = "README.md"
BASE_FOLDER = "base"
CONFIG_FILE = "adapter_config.json"
# The prefix of the base's weights in peft's file.
_PEFT_PREFIX = "base_model.model"


@dataclass(frozen=True)
class ExportedVersion:
    """A finished export."""

    version: Version
    # The largest difference of golden logits that the card's code gave, and the largest that the contract allows.
    difference: float
    allowed: float
    # The number of golden posts in the folder.
    num_golden: int


def export_version(address: str, folder: Path, *, merge: bool) -> ExportedVersion:
    """Write a registered version as a folder, and check the code of its model card.

    The code runs in a process of its own. The folder gets its name only if the golden posts get their logits.

    Args:
        address: the version's address in the registry.
        folder: the folder to write; it must be new or empty.
        merge: whether the adapter is merged into the base's weights, in float32.

    Raises:
        UserError: the folder is not empty, the version cannot be loaded or exported, or the exported files give other
            logits.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: give another folder, or remove it")
    _, version = registry.version_at(address)
    with TemporaryDirectory() as download_folder, atomic_folder(folder) as temporary:
        artifacts = artifacts_in(registry.download(version, Path(download_folder)))
        if ENSEMBLE in artifacts:
            raise UserError(f"{address} is an ensemble, which the Hub's layout cannot hold: export its members")
        inputs = read_card_inputs(Path(artifacts.get("contract", "")), version.tags.get(COMMIT_TAG, ""))
        loaded = load_version(artifacts, "cpu")
        snippet = write_files(loaded, artifacts, temporary, merge)
        card = model_card(version.name, version.number, loaded.contract, snippet, inputs, merged=merge)
        write_text(temporary / CARD_FILE, card)
        difference, allowed = _check_card_code(loaded.contract, temporary, merge)
    return ExportedVersion(version, difference, allowed, len(loaded.contract.golden))


def write_files(loaded: LoadedVersion, artifacts: Mapping[str, str], folder: Path, merge: bool) -> LoadingSnippet:
    """Write all files but the model card, and return the parts of the card's code that load them.

    Args:
        loaded: the version. With `merge` it must be in float32, and it cannot be used afterwards.
        artifacts: the paths of the version's files by name.
        folder: the folder to write to.
        merge: whether the adapter is merged into the base's weights.

    Raises:
        UserError: the model does not implement `transformers_usage`; the adapter cannot be merged; or parts of the base
            were trained without an adapter, which only merged weights can hold.
    """
    usage = loaded.model.transformers_usage()
    heads = loaded.adapter.heads()
    layers = {file: _layers(head) for file, head in heads.items() if isinstance(head, ClassifierHead)}
    has_head = HEAD_FILE in layers or any("head[" in line for line in usage.lines)
    usage.processor.save_pretrained(folder)
    _write_golden_posts(loaded, Path(artifacts["contract"]), folder)
    for file, head in heads.items():
        if file != HEAD_FILE or has_head:
            _write_head(head, folder / file)
    source = _write_merged(loaded, folder) if merge else _write_adapter(loaded, artifacts, folder)
    is_adapter = loaded.adapter.peft is not None and not merge
    return LoadingSnippet(
        type(loaded.model.backbone).__name__,
        source,
        is_adapter,
        usage,
        layers.get(HEAD_FILE, ()),
        layers.get(IMAGE_HEAD_FILE, ()),
        has_head,
    )


def _layers(head: ClassifierHead) -> tuple[str, ...]:
    """Return the layers of a head as calls of `torch.nn`."""
    return tuple(f"nn.{layer!r}" for layer in head)


def _write_golden_posts(loaded: LoadedVersion, contract_folder: Path, folder: Path) -> None:
    """Write the contract with the golden posts as the model reads them: images decoded and resized, captions cut."""
    at_least = loaded.model.image_resizer().min_decoded_side
    posts = []
    images = {}
    for index, post in enumerate(loaded.contract.golden):
        name = f"golden-{index}.png"
        content = BytesIO()
        open_image(contract_folder / post.image, at_least=at_least).save(content, "PNG")
        images[name] = content.getvalue()
        posts.append(replace(post, image=name, caption=loaded.model.strip_special_tokens(post.caption)))
    write_contract(folder, replace(loaded.contract, golden=tuple(posts)), images)


def _write_head(head: nn.Module, file: Path) -> None:
    weights = head.state_dict() or dict(head.named_buffers())
    save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, file)


def _write_merged(loaded: LoadedVersion, folder: Path) -> str:
    """Write the merged weights, and return the arguments of `from_pretrained`."""
    backbone: Any = loaded.adapter.merge()
    backbone.save_pretrained(folder)
    return '".", dtype="float32"'


def _write_adapter(loaded: LoadedVersion, artifacts: Mapping[str, str], folder: Path) -> str:
    """Write the adapter and a local base, and return the arguments of `from_pretrained` for the base."""
    weights = loaded.model.checkpoint
    aligned = load_file(weights.aligned.file) if weights.aligned else {}
    parts = {**aligned, **loaded.adapter.parts()}
    if parts and loaded.adapter.peft is None:
        raise UserError(
            "parts of the base were trained as a whole, without an adapter: export the version with --merge"
        )
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
    # peft keeps trained weights of the base in the adapter's file, by their full names.
    state = load_file(adapter / ADAPTER_FILE) | {f"{_PEFT_PREFIX}.{name}": weight for name, weight in parts.items()}
    save_file(state, folder / ADAPTER_FILE, metadata={"format": "pt"})


def _check_card_code(contract: Contract, folder: Path, merge: bool) -> tuple[float, float]:
    """Run the card's code; return the largest difference of golden logits, and the largest allowed one."""
    logits = _run_card_code(folder, code_of((folder / CARD_FILE).read_text(encoding="utf-8")), len(contract.labels))
    allowed = contract.tolerance(dtype_of(contract, merged=merge))
    difference = largest_difference(logits, [post.logits for post in contract.golden])
    # The negation also catches NaN.
    if not difference <= allowed:
        raise UserError(
            f"golden logits of the {'merged' if merge else 'exported'} weights are off by {difference:.2g}, and "
            f"{allowed:.2g} is allowed: the export was removed"
        )
    return difference, allowed


def _run_card_code(folder: Path, code: str, num_labels: int) -> list[list[float]]:
    """Run a card's code in its folder, isolated from this repository, and return the logits that it prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"the model card's code does not run, and the export was removed: {reason}")
    # A line is a label, which may have spaces, and the logits of all.
    return [[float(logit) for logit in line.split()[-num_labels:]] for line in done.stdout.splitlines()]
