"""Adapters on a frozen base: put on for one training, saved, loaded, and taken off without a trace.

LoRA: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022; here by way of peft.
"""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.core.config import FitParams
from src.core.errors import Refusal
from src.core.parsing import build
from src.core.records import read_json, write_json
from src.learning.heads import ClassifierHead
from src.models.base import ToneModel

ADAPTER_FILE = "adapter_model.safetensors"  # peft's own name, so that PeftModel.from_pretrained finds it
HEAD_FILE = "head.safetensors"
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Adapter:
    """What is on a model now: LoRA by peft (None where the head alone is trained), and the model's readout."""

    model: ToneModel
    settings: FitParams
    lora: PeftModel | None

    @property
    def readout(self) -> nn.Module:
        """The model's readout."""
        assert self.model.readout is not None
        return self.model.readout

    def modules(self) -> list[str]:
        """Full names of the backbone's modules that carry LoRA."""
        ending = ".lora_A.default.weight"
        return [name.removesuffix(ending) for name in self.model.trainable_names() if name.endswith(ending)]

    def save(self, folder: Path) -> None:
        """Write LoRA in peft's layout, the head as safetensors, and the settings; all of it or nothing."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if self.lora is not None:
            self.lora.save_pretrained(str(temporary))
        save_file(self.readout.state_dict(), temporary / HEAD_FILE)
        write_json(temporary / SETTINGS_FILE, asdict(self.settings))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)

    def take_off(self) -> None:
        """Leave the base bit for bit what it was."""
        self.model.readout = None
        if self.lora is not None:
            self.lora.unload()
        self.model.backbone.activation_checkpointing_disable()
        self.model.requires_grad_(False).zero_grad(set_to_none=True)
        self.model.eval()


def put_on(model: ToneModel, settings: FitParams, seed: int) -> Adapter:
    """A fresh adapter and readout; the same seed and settings make the same weights, whatever was on before."""
    torch.manual_seed(seed)
    readout = model.word_readout() if settings.objective == "words" else None
    lora = None
    if settings.rank:
        with warnings.catch_warnings():
            # peft 0.21 asks for a name that transformers 5.23 has begun to rename.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            lora = get_peft_model(model.backbone, _lora_config(model, settings))
    if readout is None:
        readout = ClassifierHead(model.width, settings)
    model.readout = readout.to(model.device)
    return Adapter(model, settings, lora)


@contextmanager
def adapted(model: ToneModel, settings: FitParams, seed: int) -> Iterator[Adapter]:
    """A fresh adapter for as long as the context lasts."""
    adapter = put_on(model, settings, seed)
    try:
        yield adapter
    finally:
        adapter.take_off()


def load(model: ToneModel, folder: Path) -> Adapter:
    """Put a saved adapter and readout on.

    Raises:
        Refusal: a file is missing or damaged, or its weights are not exactly those that the settings call for;
            nothing is left on the model then.
    """
    settings = build(FitParams, read_json(folder / SETTINGS_FILE), str(folder / SETTINGS_FILE))
    adapter = put_on(model, settings, seed=0)
    try:
        if adapter.lora is not None:
            state = _read(folder / ADAPTER_FILE, get_peft_model_state_dict(adapter.lora))
            set_peft_model_state_dict(adapter.lora, state)
        adapter.readout.load_state_dict(_read(folder / HEAD_FILE, adapter.readout.state_dict()))
    except Refusal:
        adapter.take_off()
        raise
    model.eval()
    return adapter


@contextmanager
def loaded(model: ToneModel, folder: Path) -> Iterator[Adapter]:
    """A saved adapter for as long as the context lasts; raises as `load` does."""
    adapter = load(model, folder)
    try:
        yield adapter
    finally:
        adapter.take_off()


def trainable_state(model: ToneModel) -> dict[str, Tensor]:
    """A copy of all that is trained, on the CPU."""
    return {name: weight.detach().cpu().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def restore(model: ToneModel, state: Mapping[str, Tensor]) -> None:
    """Put back what `trainable_state` copied."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(state[name])


def _lora_config(model: ToneModel, settings: FitParams) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=model.spec.lora_targets,
        bias="none",
    )


def _read(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not path.is_file():
        raise Refusal(f"{path} is missing: the adapter is not whole")
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise Refusal(f"{path} cannot be read: {error}") from error
    shapes, found = ({name: weight.shape for name, weight in each.items()} for each in (wanted, state))
    stray = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if stray:
        raise Refusal(f"{path} does not fit: {len(stray)} weights missing, unexpected or misshapen, such as {stray[0]}")
    return state
