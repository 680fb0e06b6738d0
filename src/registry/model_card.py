"""The model card of an exported version (M. Mitchell et al., Model Cards for Model Reporting, FAT* 2019), in Markdown.

The front matter is that of the Hub: huggingface.co/docs/hub/model-cards.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import read_table
from src.core.labels import listed
from src.core.records import Interval, Prediction, Scores, read_predictions
from src.evaluation.intervals import intervals, label_intervals
from src.evaluation.metrics import scores
from src.modeling.transformers_usage import TransformersUsage
from src.models.catalog import model_class
from src.registry.contract import (
    ADAPTER_KINDS,
    SPLIT_REPORT_FILE,
    TEST_COLUMNS,
    TEST_FILE,
    Contract,
    trained_parts,
)
from src.reporting.pages import render_markdown

PROTOCOLS = {
    "agreement": "posts whose text label and image label are equal",
    "standard": "a neutral label yields to the other label, and posts with opposite labels are left out",
}
SHOWN = (
    "readout",
    "image_head",
    "unimodal_labels",
    "adapter",
    "rank",
    "alpha",
    "dropout",
    "target_projections",
    "adapter_segments",
    "adapter_layers",
    "adapter_positions",
    "prefix_dtype",
    "unfreeze",
    "head_layers",
    "lr",
    "weight_decay",
    "loss",
    "class_weights",
    "sampling",
    "label_smoothing",
    "warmup_ratio",
    "batch_size",
    "gradient_accumulation_steps",
    "epochs",
    "patience",
)
_CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class LoadingSnippet:
    """The parts of a model card's code that depend on the version."""

    # The class of transformers whose `from_pretrained` loads the model or its base.
    loader: str
    # The arguments of `from_pretrained`.
    source: str
    # Whether peft then attaches an adapter.
    is_adapter: bool
    usage: TransformersUsage
    # The layers of the classifier as calls of `torch.nn`; empty for a verbalizer.
    layers: tuple[str, ...]
    # The layers of the image head, likewise; empty without one.
    image_layers: tuple[str, ...]
    # Whether the readout has weights to load.
    has_head: bool

    @property
    def lines(self) -> list[str]:
        """The lines that compute `logits` (logits_BK) from the processor's `inputs`."""
        lines = list(self.usage.lines)
        if self.layers:
            lines.append("logits = classifier(pooled.float())")
        if self.image_layers:
            lines.append(
                "logits = logits.float() * bool(caption.strip()) + image_head(pooled_image.float()) * has_image"
            )
        return lines


@dataclass(frozen=True)
class ScoredPosts:
    """A version's scores on some posts, with 95% intervals."""

    scores: Scores
    # Of accuracy, macro_f1, weighted_f1, and of f1_<label> for each label.
    intervals: Mapping[str, Interval]
    # The number of groups of near-duplicates.
    num_groups: int

    @property
    def num_posts(self) -> int:
        """The number of posts."""
        return sum(map(sum, self.scores.confusion))


@dataclass(frozen=True)
class CardInputs:
    """The content of a model card that is not in the contract."""

    # The report of stage `split`.
    split: SplitReport
    # Scores on all test posts, and on those without a near-duplicate in another part (None if there are no such posts).
    test: ScoredPosts
    leak_free: ScoredPosts | None
    # The git commit that trained the version; empty if unknown.
    commit: str


def read_card_inputs(contract_folder: Path, commit: str) -> CardInputs:
    """Read the files beside a contract, and score the version's test predictions.

    Raises:
        UserError: the version has no test predictions.
    """
    if not (contract_folder / TEST_FILE).is_file():
        raise UserError("the version has no test predictions, which a model card needs: train and register it again")
    split = SplitReport.read(contract_folder / SPLIT_REPORT_FILE)
    rows = read_table(contract_folder / TEST_FILE)
    predictions = read_predictions(contract_folder / TEST_FILE, TEST_COLUMNS)
    group_of = {row["id"]: row["group"] for row in rows}
    leak_free_ids = {row["id"] for row in rows if row["leak_free"] == "1"}
    leak_free = [prediction for prediction in predictions if prediction.id in leak_free_ids]
    return CardInputs(
        split=split,
        test=_score(predictions, group_of, split.seed),
        leak_free=_score(leak_free, group_of, split.seed) if leak_free else None,
        commit=commit,
    )


def _score(predictions: Sequence[Prediction], group_of: Mapping[str, str], seed: int) -> ScoredPosts:
    all_intervals = {**intervals(predictions, group_of, seed), **label_intervals(predictions, group_of, seed)}
    num_groups = len({group_of[prediction.id] for prediction in predictions})
    return ScoredPosts(scores(predictions), all_intervals, num_groups)


def model_card(
    name: str, number: int, contract: Contract, snippet: LoadingSnippet, inputs: CardInputs, *, merged: bool
) -> str:
    """Return the README.md of an exported folder.

    Args:
        name: the registered name, such as mvsa-clip.
        number: the number of the version.
        contract: the contract of the version.
        snippet: the parts of the code that loads the folder.
        inputs: split, scores and commit.
        merged: whether the adapter is merged into the base's weights.
    """
    settings = asdict(contract.settings)
    dtype = dtype_of(contract, merged=merged)
    return render_markdown(
        "card",
        front_matter=_front_matter(name, contract, inputs, merged=merged),
        title=name,
        number=number,
        contract=contract,
        checkpoint=contract.checkpoint,
        snippet=snippet,
        merged=merged,
        is_random=contract.checkpoint.is_random,
        origin=_origin(contract),
        adapter=_adapter(contract),
        trained=trained_parts(contract),
        readout=_readout(contract),
        dtype=dtype,
        allowed=contract.tolerance(dtype),
        dataset=_dataset(inputs),
        commit=inputs.commit,
        split=inputs.split,
        protocol=PROTOCOLS[inputs.split.protocol],
        total=inputs.split.num_posts,
        labels=list(contract.labels),
        choice=listed(contract.labels),
        shown={setting: settings[setting] for setting in SHOWN if settings[setting] not in ("", 0)},
        libraries=", ".join(f"{library} {version}" for library, version in contract.libraries.items()),
        test=inputs.test,
        leak_free=inputs.leak_free,
        confusion=dict(zip(contract.labels, inputs.test.scores.confusion, strict=True)),
    )


def _front_matter(name: str, contract: Contract, inputs: CardInputs, *, merged: bool) -> str:
    """Return the front matter as YAML. It names no local base, and no results of random weights."""
    random = contract.checkpoint.is_random
    local = contract.checkpoint.is_local
    dataset = _dataset(inputs)
    test = inputs.test.scores
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Tone of a post",
            dataset_type=dataset.lower(),
            dataset_name=dataset,
            dataset_split="test",
            metric_type=metric,
            metric_name=label,
            metric_value=round(value, 4),
        )
        for metric, label, value in (("accuracy", "Accuracy", test.accuracy), ("f1", "Macro-F1", test.macro_f1))
    ]
    data = ModelCardData(
        language="en",
        license="other",
        license_name="research-use-only",
        library_name="transformers" if merged else "peft",
        pipeline_tag="image-classification",
        tags=_tags(contract),
        metrics=["accuracy", "f1"],
        base_model=None if local else contract.checkpoint.source,
        base_model_relation=None if local else "finetune" if merged else "adapter",
        model_name=None if random else name,
        eval_results=None if random else results,
    )
    return str(data.to_yaml())


def code_of(card: str) -> str:
    """Return the Python code of a card."""
    return "\n".join(_CODE.findall(card))


def dtype_of(contract: Contract, *, merged: bool) -> str:
    """Return the precision in which a card's code computes: float32 for merged weights, else the contract's."""
    return "float32" if merged else contract.dtype


def _dataset(inputs: CardInputs) -> str:
    return "MVSA-Single" if inputs.split.is_mvsa_single else "Posts that are not the whole of MVSA-Single"


def _tags(contract: Contract) -> list[str]:
    kind = [contract.settings.adapter] if contract.settings.rank else []
    random = ["random-weights"] if contract.checkpoint.is_random else []
    return ["sentiment-analysis", "multimodal", "social-media", contract.model, *kind, *random]


def _origin(contract: Contract) -> str:
    """Return where the base comes from if that is not the Hub; empty for a base of the Hub and for random weights."""
    checkpoint = contract.checkpoint
    if checkpoint.is_local and checkpoint.given:
        return (
            "known by the digest of its files alone, which came from a local folder: its license, training data and "
            "limits are to be asked of whoever made it"
        )
    spec = model_class(contract.model).spec
    return spec.origin if checkpoint.revision == spec.revision else ""


def _adapter(contract: Contract) -> str:
    settings = contract.settings
    if not settings.rank:
        return "none"
    size = "" if settings.adapter == "ia3" else f" of rank {settings.rank}, alpha {settings.alpha},"
    where = ", on the positions behind the image alone" if settings.adapter_positions == "text" else ""
    if settings.rounds_prefix:
        where += ", which read the keys and values of those before in 8 bits"
    return f"{ADAPTER_KINDS[settings.adapter]}{size} on {len(contract.adapted_modules)} modules{where}"


def _readout(contract: Contract) -> str:
    settings = contract.settings
    image = "; a linear head on the vision tower's states adds its logits" if settings.image_head == "linear" else ""
    if settings.readout == "verbalizer":
        return f"the verbalizer: the model's own logits for the words of the labels, not trained{image}"
    shape = f"a norm, {settings.head_layers} hidden layers, {len(contract.labels)} logits"
    return f"a classifier head on the pooled states: {shape}{image}"
