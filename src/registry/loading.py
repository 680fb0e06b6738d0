"""A trained adapter on its base, as a registered version has it: loaded from files alone, and held to its contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from src.core.errors import UserError
from src.core.files import folder_digest
from src.core.labels import TONES
from src.core.outputs import PretrainedWeights
from src.data.images import UnreadableImage, open_image
from src.modeling.base import ToneModel
from src.registry.contract import Contract, read_contract
from src.training import adapter as adapter_module
from src.training.inference import logits_of
from src.training.workspace import load_model

# What an adapter's weights are before its first step, when it changes nothing: LoRA's second matrix, and IA3's scales.
_UNTRAINED = {".lora_B.": 0.0, ".ia3_l.": 1.0}


@dataclass(frozen=True)
class LoadedVersion:
    """A version that holds its contract.

    Attributes:
        adapter: as it is on its base.
        contract: what it was held to.
        off: by how much its logits for the golden posts differ, at most.
        allowed: by how much they may.
        remarks: what differs from where it was registered and need not matter, a line each.
    """

    adapter: adapter_module.Adapter
    contract: Contract
    off: float
    allowed: float
    remarks: list[str]

    @property
    def model(self) -> ToneModel:
        """The base with its adapter on."""
        return self.adapter.model


def load_version(artifacts: Mapping[str, str], device: str | None = None) -> LoadedVersion:
    """Load a version from its artifacts: `contract`, `adapter` and, where the base travels with it, `base`.

    It comes onto `device`, or the best there is.

    Raises:
        UserError: a file is missing or damaged, the base is another, the adapter's weights are not exactly those it has
            to have, one of its modules was never trained, or a golden post gets other logits.
    """
    folder = Path(artifacts.get("contract", ""))
    contract = read_contract(folder)
    adapter = load_adapter(contract.model, _base(contract, artifacts), Path(artifacts["adapter"]), device)
    _require_same(contract, adapter)
    rows = [((folder / post.image).read_bytes(), post.caption) for post in contract.golden]
    off = _difference(contract, answer(adapter.model, rows))
    allowed = contract.tolerance(dtype_of(adapter.model))
    remarks = _remarks(contract, adapter.model)
    if not off <= allowed:  # nor if it is no number
        because = f" ({'; '.join(remarks)})" if remarks else ""
        raise UserError(
            f"golden logits are off by {off:.2g}, and {allowed:.2g} is allowed: the version does not answer as it did "
            f"when it was registered{because}"
        )
    return LoadedVersion(adapter, contract, off, allowed, remarks)


def load_adapter(
    name: str, checkpoint: PretrainedWeights, folder: Path, device: str | None = None
) -> adapter_module.Adapter:
    """A saved adapter on a base that is loaded for it.

    Raises:
        UserError: as `load` does; or the base is of another revision, or a module of the adapter was never trained.
    """
    model = load_model(name, checkpoint, device)
    if model.checkpoint.revision != checkpoint.revision:
        raise _another_base(checkpoint, model.checkpoint.revision)
    adapter = adapter_module.load(model, folder)
    untrained = _untrained(adapter)
    if untrained:
        raise UserError(
            f"{folder} was never trained: all of {untrained[0]} is what it began with ({len(untrained)} such)"
        )
    return adapter


def answer(model: ToneModel, rows: Sequence[tuple[bytes, str]], first: int = 1) -> Tensor:
    """logits_BK, float32, of posts given as the bytes of their pictures and their captions.

    Pictures are decoded as they were for training.

    Raises:
        UnreadableImage: a picture cannot be used; the message has its post's number, counted from `first`.
    """
    at_least = model.image_resizer().min_decoded_side
    images = [_decoded(image, at_least, number) for number, (image, _) in enumerate(rows, start=first)]
    return logits_of(model, images, [text for _, text in rows])


def _decoded(image: bytes, at_least: int, number: int) -> Image:
    try:
        return open_image(image, at_least=at_least)
    except UnreadableImage as error:
        raise UnreadableImage(f"post {number}", error.reason) from error


def dtype_of(model: ToneModel) -> str:
    """The precision of the base's weights, such as float32."""
    return str(model.backbone.dtype).removeprefix("torch.")


def _base(contract: Contract, artifacts: Mapping[str, str]) -> PretrainedWeights:
    """Where the base is: in the Hub, or in the version's own folder, whose digest is its revision."""
    checkpoint = contract.checkpoint
    if "base" not in artifacts:
        return checkpoint
    found = folder_digest(Path(artifacts["base"]))
    if found != checkpoint.revision:
        raise _another_base(checkpoint, found)
    return replace(checkpoint, source=artifacts["base"])


def _another_base(checkpoint: PretrainedWeights, found: str) -> UserError:
    return UserError(
        f"the base {checkpoint.source} is at {found}, and the adapter was trained on {checkpoint.revision}"
    )


def _untrained(adapter: adapter_module.Adapter) -> list[str]:
    """Names of the adapter's weights that are what they were before any training."""
    weights = {} if adapter.peft is None else dict(adapter.peft.named_parameters())
    return [
        name
        for name, weight in weights.items()
        for part, start in _UNTRAINED.items()
        if part in name and bool((weight == start).all())
    ]


def _require_same(contract: Contract, adapter: adapter_module.Adapter) -> None:
    pairs = {
        "the order of the labels": (list(contract.labels), list(TONES)),
        "the prompt": (contract.prompt, adapter.model.spec.prompt),
        "the list of adapted modules": (sorted(contract.adapted_modules), sorted(adapter.modules())),
    }
    for what, (recorded, found) in pairs.items():
        if recorded != found:
            raise UserError(f"{what} is {str(found)[:200]}, and the contract says {str(recorded)[:200]}")


def _difference(contract: Contract, logits_BK: Tensor) -> float:
    golden_BK = torch.tensor([post.logits for post in contract.golden])
    return float((logits_BK - golden_BK).abs().max())


def _remarks(contract: Contract, model: ToneModel) -> list[str]:
    versions = {name: (recorded, _version_of(name)) for name, recorded in contract.libraries.items()}
    found = [f"{name} is {here}, was {recorded}" for name, (recorded, here) in versions.items() if here != recorded]
    if model.preprocessing_digest() != contract.preprocessing:
        found.append(
            "the preprocessing gives other inputs, or is described in other words, than when it was registered"
        )
    return found


def _version_of(library: str) -> str:
    try:
        return version(library).split("+")[0]
    except PackageNotFoundError:
        return "not installed"
