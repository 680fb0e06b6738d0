"""Adapters and classifier heads on a frozen base: attach, save, load, merge, detach."""

import copy
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.core.config_parser import build
from src.core.errors import UsageError, UserError, unknown
from src.core.files import atomic_file, atomic_folder, read_json, write_json
from src.core.training_config import Setting, TrainingConfig
from src.modeling.base import ToneModel
from src.modeling.segments import Segment
from src.training.dropout import Dropout
from src.training.failures import writing
from src.training.memory import set_checkpointing
from src.training.sharding import fill, full_tensor, put_back


class ClassifierHead(nn.Sequential):
    """A head: layer norm, 0 to 2 hidden layers (GELU), and one logit a label. Dropout precedes every linear layer.

    The norm makes one learning rate fit the pooled states of all models, whose scales differ by orders of magnitude.
    """

    def __init__(self, width: int, settings: TrainingConfig, num_labels: int) -> None:
        features = width
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        for depth in range(settings.head_layers):
            hidden = settings.head_width // 2**depth
            layers += [nn.Dropout(settings.dropout), nn.Linear(width, hidden), nn.GELU()]
            width = hidden
        super().__init__(*layers, nn.Dropout(settings.dropout), nn.Linear(width, num_labels))
        self.features = features

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Return logits_BK, in the order of the model's labels."""
        # Behind the prompt's last state may stand those of words of several tokens (`Answers`).
        logits_BK: Tensor = super().forward(pooled_BD[:, : self.features])  # type: ignore[no-untyped-call]
        return logits_BK


class ImageHead(ClassifierHead):
    """A linear head on the image's own features. The placeholder, which has no features of its own, adds nothing.

    Its logits begin with 0. It is fitted before the training, and stays as it is (`fit_logits`).
    """

    def __init__(self, width: int, settings: TrainingConfig, num_labels: int) -> None:
        super().__init__(width, replace(settings, head_layers=0), num_labels)
        for weight in self[-1].parameters():
            nn.init.zeros_(weight)
        self.requires_grad_(False)

    def forward(self, pooled_image_BI: Tensor) -> Tensor:
        """Return logits_BK, in the order of the model's labels. They are 0 for features that are all 0."""
        return super().forward(pooled_image_BI) * pooled_image_BI.any(dim=-1, keepdim=True)


# The name is peft's own: `PeftModel.from_pretrained` looks for it.
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
IMAGE_HEAD_FILE = "image_head.safetensors"
PARTS_FILE = "parts.safetensors"
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Adapter:
    """All that is attached to a model: the adapter, the heads, and the segments of the base that train as a whole."""

    model: ToneModel
    settings: TrainingConfig
    # None if the rank is 0: the base has no adapter then.
    peft: PeftModel | None
    # The base's own weights of the segments that train as a whole, by name. `detach` puts them back.
    originals: Mapping[str, Tensor]

    @property
    def readout(self) -> nn.Module:
        """Return the model's readout."""
        assert self.model.readout is not None
        return self.model.readout

    def heads(self) -> dict[str, nn.Module]:
        """Return the modules whose logits are added, by the file that holds their weights: the readout comes first."""
        heads = {HEAD_FILE: self.readout}
        return heads if self.model.image_head is None else {**heads, IMAGE_HEAD_FILE: self.model.image_head}

    def modules(self) -> list[str]:
        """Return the full names of the backbone's modules that carry an adapter."""
        return [] if self.peft is None else list(self.peft.targeted_module_names)

    def parts(self) -> dict[str, Tensor]:
        """Return the weights of the base that train as a whole, by name.

        All processes must call it at once if the weights are sharded.
        """
        weights = dict(self.model.backbone.named_parameters())
        return {name: full_tensor(weights[name].detach()) for name in self.originals}

    def save_parts(self, file: Path) -> None:
        """Write the weights of the base that train as a whole as safetensors, by name."""
        with writing(file), atomic_file(file) as temporary:
            save_file(self.parts(), temporary)

    def save(self, folder: Path, write: bool = True) -> None:
        """Write the adapter in peft's layout, the heads and whole segments as safetensors, and the settings.

        The folder is written whole or not at all. All processes must call this method, because sharded weights are
        gathered from all. One process sets `write`.
        """
        weights = {} if self.peft is None else dict(self.peft.named_parameters())
        trained = {name: full_tensor(weight.detach()) for name, weight in weights.items() if weight.requires_grad}
        parts = self.parts()
        heads = {
            file: {name: full_tensor(weight) for name, weight in head.state_dict().items()}
            for file, head in self.heads().items()
        }
        if write:
            self._write(folder, trained, parts, heads)

    def _write(
        self,
        folder: Path,
        trained: Mapping[str, Tensor],
        parts: dict[str, Tensor],
        heads: Mapping[str, dict[str, Tensor]],
    ) -> None:
        with writing(folder), atomic_folder(folder) as temporary:
            if self.peft is not None:
                self.peft.save_pretrained(str(temporary), state_dict=trained)
            if parts:
                save_file(parts, temporary / PARTS_FILE)
            for file, head in heads.items():
                save_file(head, temporary / file)
            write_json(temporary / SETTINGS_FILE, asdict(self.settings))

    def merge(self) -> nn.Module:
        """Merge the adapter into the base's weights, and return the base, which no longer needs peft.

        Raises:
            UserError: peft cannot merge this kind of adapter, a merged weight is not finite, or the adapter acts on the
                text alone.
        """
        if self.peft is not None:
            if self.model.text_weights:
                raise UserError("adapter_positions is text: merged weights would act on all positions")
            try:
                self.peft.merge_and_unload(safe_merge=True)
            except (NotImplementedError, ValueError) as error:
                raise UserError(f"the adapter ({self.settings.adapter}) cannot be merged: {error}") from error
        return self.model.backbone  # type: ignore[no-any-return]

    def detach(self) -> None:
        """Make the base bit for bit what it was. A sharded base stays sharded, and must not be used again."""
        self.model.readout = None
        self.model.image_head = None
        self.model.adapt_all()
        # Read first: an adapted module's weights have other names without the adapter.
        weights = dict(self.model.backbone.named_parameters())
        if self.peft is not None:
            self.peft.unload()
        for name, original in self.originals.items():
            put_back(weights[name], original)
        set_checkpointing(self.model.backbone, False)
        self.model.requires_grad_(False).zero_grad(set_to_none=True)
        self.model.eval()


def require_positions(model: ToneModel | type[ToneModel], positions: Setting) -> None:
    """Raise UsageError if adapters cannot act on these positions of a model."""
    if positions == "text" and not model.reads_image_first:
        raise UsageError(f"adapter_positions text: {model.spec.name} reads no text behind its image, so it must be all")


def require_image_head(model: ToneModel | type[ToneModel], kind: Setting) -> None:
    """Raise UsageError if a model has no features that an image head of this kind could read."""
    if kind != "none" and not model.pools_image:
        raise UsageError(
            f"image_head {kind}: the readout of {model.spec.name} reads the image's features itself, so it must be none"
        )


def attach_adapter(model: ToneModel, settings: TrainingConfig, seed: int) -> Adapter:
    """Attach a new adapter, readout and image head. Their weights depend on the seed and settings alone.

    Raises:
        UsageError: the settings name a segment, layers, positions or features that the model lacks, or leave nothing to
            adapt.
    """
    torch.manual_seed(seed)
    # Checks that may raise come first: the model is still unchanged here.
    require_positions(model, settings.adapter_positions)
    require_image_head(model, settings.image_head)
    wholes = _prefixes(model, settings.unfreeze.split())
    readout = model.verbalizer_readout() if settings.readout == "verbalizer" else None
    peft = _inject(model, settings) if settings.rank else None
    originals: dict[str, Tensor] = {}
    adapter = Adapter(model, settings, peft, originals)
    try:
        if settings.rank and settings.adapter_positions == "text":
            model.adapt_text(_bare_copy, rounded=settings.rounds_prefix)
        if readout is None:
            readout = ClassifierHead(model.width, settings, len(model.labels))
        model.readout = readout.to(model.device)
        if settings.image_head == "linear":
            model.image_head = ImageHead(model.pooled_image_width, settings, len(model.labels)).to(model.device)
        _unfreeze(model, wholes, originals)
    except BaseException:
        # Another trial trains on this base, and memory may run out here.
        adapter.detach()
        raise
    return adapter


def _inject(model: ToneModel, settings: TrainingConfig) -> PeftModel:
    config = _config(model, settings)
    try:
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5.23 deprecates.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            peft = get_peft_model(model.backbone, config)
    except BaseException:
        # Memory may run out between two layers. peft has then returned nothing that could take off those before.
        for name, module in list(model.backbone.named_modules()):
            if isinstance(module, BaseTunerLayer):
                model.backbone.set_submodule(name, module.get_base_layer())
        model.requires_grad_(False)
        raise
    _use_fast_dropout(peft)
    return peft


@contextmanager
def fresh_adapter(model: ToneModel, settings: TrainingConfig, seed: int) -> Iterator[Adapter]:
    """Attach a new adapter for as long as the context lasts."""
    adapter = attach_adapter(model, settings, seed)
    try:
        yield adapter
    finally:
        adapter.detach()


def load(model: ToneModel, folder: Path) -> Adapter:
    """Attach a saved adapter with its heads, and set the model to evaluation.

    Raises:
        UserError: a file is missing or damaged, or its weights are not exactly those that the settings require.
            The model is left without an adapter then.
    """
    settings = build(TrainingConfig, read_json(folder / SETTINGS_FILE), str(folder / SETTINGS_FILE))
    adapter = attach_adapter(model, settings, seed=0)
    try:
        if adapter.peft is not None:
            state = _read(folder / ADAPTER_FILE, get_peft_model_state_dict(adapter.peft))
            set_peft_model_state_dict(adapter.peft, state)
        if adapter.originals:
            restore(model.backbone, _read(folder / PARTS_FILE, adapter.parts()))
        for file, head in adapter.heads().items():
            head.load_state_dict(_read(folder / file, head.state_dict()))
    except UserError:
        adapter.detach()
        raise
    model.eval()
    return adapter


@contextmanager
def saved_adapter(model: ToneModel, folder: Path) -> Iterator[Adapter]:
    """Attach a saved adapter for as long as the context lasts. Errors are those of `load`."""
    adapter = load(model, folder)
    try:
        yield adapter
    finally:
        adapter.detach()


def trainable_state(model: ToneModel) -> dict[str, Tensor]:
    """Return copies of all trainable weights by name, unsharded, on the CPU."""
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    return {name: full_tensor(weight).cpu().clone() for name, weight in trained.items()}


def restore(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into those of a module that have the same names."""
    weights = dict(module.named_parameters())
    for name, values in state.items():
        fill(weights[name], values)


def _prefixes(model: ToneModel, segments: Sequence[str]) -> tuple[str, ...]:
    """Return the prefixes of the names of the weights of some segments."""
    known = [segment.name for segment in model.segments if segment.modules]
    for name in segments:
        if name not in known:
            raise unknown("part of the model", name, set(known))
    return tuple(prefix for segment in model.segments if segment.name in segments for prefix in segment.modules)


def _unfreeze(model: ToneModel, prefixes: tuple[str, ...], originals: dict[str, Tensor]) -> None:
    """Make weights of the base trainable, in float32, and put the original weights into `originals` by name."""
    for name, weight in model.backbone.named_parameters():
        if name.startswith(prefixes) and not weight.requires_grad:
            originals[name] = weight.data
            # The clone is needed because float() returns the same memory if the weights are float32 already.
            weight.data = weight.data.float().clone()
            weight.requires_grad_(True)


def _config(model: ToneModel, settings: TrainingConfig) -> PeftConfig:
    target_projections = _target_modules(model, settings)
    if settings.adapter == "ia3":
        return IA3Config(target_modules=target_projections, feedforward_modules=[])
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_projections,
        use_dora=settings.adapter == "dora",
        use_rslora=settings.adapter == "rslora",
        bias="none",
    )


def _use_fast_dropout(peft: PeftModel) -> None:
    for layer in peft.modules():
        if isinstance(layer, LoraLayer):
            for name, dropout in layer.lora_dropout.items():
                if isinstance(dropout, nn.Dropout):  # peft puts an identity here if the rate is 0
                    layer.lora_dropout[name] = Dropout(dropout.p)


def _bare_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module without adapters and dropout, which shares the base's weights.

    A switch on the module itself, as `PeftModel.disable_adapter` is, would also act on requests that other threads
    serve and on layers that checkpointing runs again. The copy shares the hooks of sharded weights too.
    """
    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    bare = copy.copy(module)
    bare._modules = {name: child and _bare_copy(child) for name, child in module._modules.items()}  # noqa: SLF001
    bare.training = False
    return bare


def _target_modules(model: ToneModel, settings: TrainingConfig) -> str | list[str]:
    """Return the modules to adapt in peft's form: a pattern if no segment or layer is left out, else names."""
    pattern = model.spec.target_modules(settings.target_projections)
    left_out = _left_out(model, settings)
    if not left_out:
        return pattern
    names = [name for name, _ in model.backbone.named_modules() if re.fullmatch(pattern, name)]
    chosen = [name for name in names if not name.startswith(left_out)]
    if not chosen:
        raise UsageError(
            f"{model.spec.name} has nothing to adapt in {settings.adapter_segments} ({settings.adapter_layers})"
        )
    return chosen


def _left_out(model: ToneModel, settings: TrainingConfig) -> tuple[str, ...]:
    """Return the prefixes of the names of weights without an adapter: other segments, and layers that are too low."""
    adapter_segments = settings.adapter_segments.split()
    _prefixes(model, adapter_segments)
    adapted = [segment for segment in model.segments if not adapter_segments or segment.name in adapter_segments]
    left_out = [segment for segment in model.segments if segment not in adapted]
    left_out += _low_layers(model.spec.name, adapted, settings.adapter_layers)
    return tuple(prefix for segment in left_out for prefix in segment.modules)


def _low_layers(model: str, segments: Sequence[Segment], adapter_layers: str) -> list[Segment]:
    """Return the layers below the adapted ones in each stack of the segments."""
    if adapter_layers == "all":
        return []
    last = adapter_layers.removeprefix("last-")
    depths = Counter(segment.name for segment in segments if segment.layers)
    kept = {name: depth // 2 if last == "half" else int(last) for name, depth in depths.items()}
    for name, depth in depths.items():
        if not 0 < kept[name] <= depth:
            raise UsageError(f"adapter_layers {adapter_layers}: {name} of {model} has {depth} layers")
    return [
        segment
        for segment in segments
        if segment.layers and segment.layers[1] <= depths[segment.name] - kept[segment.name]
    ]


def _read(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing: the adapter is not whole")
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    wanted_shapes = {name: weight.shape for name, weight in wanted.items()}
    shapes = {name: weight.shape for name, weight in state.items()}
    stray = sorted(name for name in wanted_shapes.keys() | shapes.keys() if wanted_shapes.get(name) != shapes.get(name))
    if stray:
        raise UserError(
            f"{path} does not fit: {len(stray)} weights missing, unexpected or misshapen, such as {stray[0]}"
        )
    return state
