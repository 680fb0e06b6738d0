"""Load a registered version from its files, and check that it keeps its contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from src.core.errors import UserError
from src.core.labels import Labels
from src.core.outputs import PretrainedWeights
from src.data.images import UnreadableImage, open_image
from src.modeling.base import ToneModel
from src.registry.contract import Contract, read_contract
from src.training import adapter as adapter_module
from src.training.inference import logits_of, pooled_of
from src.training.workspace import load_model

# The initial value of LoRA's second matrix and of IA3's scales: with it an adapter does not change the base.
_INITIAL_VALUES = {".lora_B.": 0.0, ".ia3_l.": 1.0}


@dataclass(frozen=True)
class LoadedVersion:
    """A version that keeps its contract."""

    # Attached to its base.
    adapter: adapter_module.Adapter
    contract: Contract
    # The largest difference between computed and recorded golden logits, and the largest that the contract allows.
    difference: float
    allowed: float
    # Differences of libraries and preprocessing that are not errors, a line each.
    warnings: list[str]

    @property
    def model(self) -> ToneModel:
        """The base with the adapter attached."""
        return self.adapter.model

    def summary(self) -> list[str]:
        """Return what has been checked, a line each."""
        contract = self.contract
        return [
            f"base: {contract.checkpoint.source} at {contract.checkpoint.revision}",
            f"adapter: {len(contract.adapted_modules)} modules and the heads, complete and trained",
            f"golden posts: {len(contract.golden)} answered, "
            f"logits off by {self.difference:.2g} ({self.allowed:.2g} allowed)",
        ]

    def probabilities(self, rows: Sequence[tuple[bytes, str]], first: int = 1) -> list[list[float]]:
        """Return the probabilities of posts, in the order of the labels. Errors are those of `compute_logits`."""
        probabilities: list[list[float]] = compute_logits(self.model, rows, first).softmax(dim=-1).tolist()
        return probabilities


def load_version(artifacts: Mapping[str, str], device: str | None = None) -> LoadedVersion:
    """Load a version from its artifacts, and check it against its contract.

    Args:
        artifacts: the paths of `contract`, `adapter` and, if the version carries them, `base` and `aligned`.
        device: the device for the model, such as cpu; the best available one by default.

    Raises:
        UserError: a file is missing or damaged; the base has another revision; a weight of the adapter is missing,
            unexpected or was never trained; or the logits of a golden post differ by more than the contract allows.
    """
    folder = Path(artifacts.get("contract", ""))
    contract = read_contract(folder)
    if "adapter" not in artifacts:
        raise UserError("the version has no adapter: register it again")
    adapter = load_adapter(
        contract.model, _base(contract, artifacts), Path(artifacts["adapter"]), contract.label_set(), device
    )
    _require_equal_facts(contract, adapter)
    rows = [((folder / post.image).read_bytes(), post.caption) for post in contract.golden]
    golden = [post.logits for post in contract.golden]
    difference = largest_difference(compute_logits(adapter.model, rows).tolist(), golden)
    allowed = contract.tolerance(dtype_of(adapter.model))
    warnings = _compatibility_warnings(contract, adapter.model)
    require_kept("logits", difference, allowed, warnings)
    return LoadedVersion(adapter, contract, difference, allowed, warnings)


def largest_difference(computed: Sequence[Sequence[float]], recorded: Sequence[Sequence[float]]) -> float:
    """Return the largest absolute difference between two tables of numbers of one size; NaN if there is one."""
    differences = [
        abs(one - other)
        for ones, others in zip(computed, recorded, strict=True)
        for one, other in zip(ones, others, strict=True)
    ]
    return max(differences, key=lambda difference: (difference != difference, difference))


def require_kept(name: str, difference: float, allowed: float, warnings: Sequence[str]) -> None:
    """Raise UserError if golden answers differ by more than a contract allows.

    Args:
        name: what the numbers of an answer are, such as logits.
        difference: the largest absolute difference. NaN counts as too large.
        allowed: the contract's tolerance.
        warnings: possible causes, for the message.
    """
    if not difference <= allowed:
        causes = f" ({'; '.join(warnings)})" if warnings else ""
        raise UserError(
            f"golden {name} are off by {difference:.2g}, and {allowed:.2g} is allowed: the version does not answer as "
            f"it did when it was registered{causes}"
        )


def load_adapter(
    name: str, checkpoint: PretrainedWeights, folder: Path, labels: Labels, device: str | None = None
) -> adapter_module.Adapter:
    """Load a base and attach a saved adapter.

    Raises:
        UserError: the adapter's files are missing, damaged or do not fit; the base has another revision; or a module of
            the adapter was never trained.
    """
    model = load_model(name, checkpoint, labels, device)
    if model.checkpoint.revision != checkpoint.revision:
        raise UserError(
            f"the base {checkpoint.source} is at {model.checkpoint.revision}, and the adapter was trained on "
            f"{checkpoint.revision}"
        )
    adapter = adapter_module.load(model, folder)
    untrained = _untrained_weights(adapter)
    if untrained:
        raise UserError(
            f"{folder} was never trained: all of {untrained[0]} has its initial value ({len(untrained)} such weights)"
        )
    return adapter


def compute_logits(model: ToneModel, rows: Sequence[tuple[bytes, str]], first: int = 1) -> Tensor:
    """Compute logits_BK in float32 for posts given as image bytes and caption. Images are decoded as for training.

    Raises:
        UnreadableImage: an image cannot be used; the message has the number of its post, counted from `first`.
    """
    return logits_of(model, _images(model, rows, first), [text for _, text in rows])


def compute_pooled(model: ToneModel, rows: Sequence[tuple[bytes, str]], first: int = 1) -> Tensor:
    """Compute pooled_BD in float32, the features that a probe reads, as `compute_logits` computes logits."""
    return pooled_of(model, _images(model, rows, first), [text for _, text in rows])


def _images(model: ToneModel, rows: Sequence[tuple[bytes, str]], first: int) -> list[Image]:
    at_least = model.image_resizer().min_decoded_side
    return [_decoded(image, at_least, number) for number, (image, _) in enumerate(rows, start=first)]


def _decoded(image: bytes, at_least: int, number: int) -> Image:
    try:
        return open_image(image, at_least=at_least)
    except UnreadableImage as error:
        raise UnreadableImage(f"post {number}", error.reason) from error


def dtype_of(model: ToneModel) -> str:
    """Return the precision of the base's weights, such as float32."""
    return str(model.base_dtype).removeprefix("torch.")


def _base(contract: Contract, artifacts: Mapping[str, str]) -> PretrainedWeights:
    """Return the version's base: in the Hub, or in the version's own folder, whose digest is the revision.

    Aligned weights always come with the version.
    """
    base = contract.checkpoint
    if "base" in artifacts:
        base = replace(base, source=artifacts["base"], is_local=True)
    if base.aligned:
        base = replace(base, aligned=replace(base.aligned, file=artifacts.get("aligned", "")))
    return base


def _untrained_weights(adapter: adapter_module.Adapter) -> list[str]:
    """Return the names of the adapter's weights that still have their initial value."""
    weights = {} if adapter.peft is None else dict(adapter.peft.named_parameters())
    return [
        name
        for name, weight in weights.items()
        for part, start in _INITIAL_VALUES.items()
        if part in name and bool((weight == start).all())
    ]


def _require_equal_facts(contract: Contract, adapter: adapter_module.Adapter) -> None:
    facts = {
        "the prompt": (contract.prompt, adapter.model.prompt),
        "the list of adapted modules": (sorted(contract.adapted_modules), sorted(adapter.modules())),
    }
    for name, (recorded, present) in facts.items():
        if recorded != present:
            raise UserError(f"{name} is {str(present)[:200]}, and the contract says {str(recorded)[:200]}")


def _compatibility_warnings(contract: Contract, model: ToneModel) -> list[str]:
    warnings = library_warnings(contract.libraries)
    if model.preprocessing_digest() != contract.preprocessing:
        warnings.append("the preprocessing, or its description, has changed since the version was registered")
    return warnings


def library_warnings(recorded: Mapping[str, str]) -> list[str]:
    """Return a line for each library of another version than the recorded one."""
    installed = {name: _version_of(name) for name in recorded}
    return [f"{name} is {installed[name]}, was {then}" for name, then in recorded.items() if installed[name] != then]


def _version_of(library: str) -> str:
    try:
        return version(library).split("+")[0]
    except PackageNotFoundError:
        return "not installed"
