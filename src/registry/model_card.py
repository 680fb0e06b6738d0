"""The model card of an exported version (M. Mitchell et al., Model Cards for Model Reporting, FAT* 2019), in Markdown.

Its front matter is the Hub's: huggingface.co/docs/hub/model-cards.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from src.core.data_outputs import SplitReport
from src.core.labels import TONES
from src.core.records import Interval, Scores
from src.registry.contract import Contract
from src.registry.export import LoadingSnippet
from src.reporting.pages import render_markdown

# How many posts of MVSA-Single each protocol labels: by them it is known from posts that only have its layout.
MVSA_SINGLE = {"agreement": 2_592, "standard": 4_511}
PROTOCOLS = {
    "agreement": "the labels of text and picture are equal",
    "standard": "a neutral label gives way to the other; opposite ones leave a post out",
}
KINDS = {"lora": "LoRA", "dora": "DoRA", "rslora": "rank-stabilised LoRA", "ia3": "IA3"}
SHOWN = (
    "readout",
    "adapter",
    "rank",
    "alpha",
    "dropout",
    "target_projections",
    "adapter_segments",
    "adapter_layers",
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
class Measured:
    """What a version scores on some posts.

    Attributes:
        scores: all of them.
        intervals: of accuracy, macro_f1, weighted_f1, and of f1_TONE for each tone.
        num_groups: how many groups of near-duplicates the posts are.
    """

    scores: Scores
    intervals: Mapping[str, Interval]
    num_groups: int

    @property
    def num_posts(self) -> int:
        """How many posts."""
        return sum(map(sum, self.scores.confusion))


@dataclass(frozen=True)
class CardInputs:
    """What a version's scores rest on.

    Attributes:
        division: the report of the split stage.
        test: on the test part.
        leak_free: on those test posts that have no near-duplicate in another part; None if there are none.
        commit: of the code that trained the version; empty if it is unknown.
    """

    division: SplitReport
    test: Measured
    leak_free: Measured | None
    commit: str


def model_card(
    title: str, number: int, contract: Contract, snippet: LoadingSnippet, evidence: CardInputs, *, merged: bool
) -> str:
    """The README.md of an exported folder.

    Args:
        title: the registered name, such as mvsa-clip.
        number: of the version.
        contract: the version's.
        snippet: how the folder is loaded and asked.
        evidence: behind its scores.
        merged: whether the adapter is part of the base's weights.
    """
    settings, dtype = contract.settings, dtype_of(contract, merged=merged)
    return render_markdown(
        "card",
        title=title,
        number=number,
        contract=contract,
        checkpoint=contract.checkpoint,
        snippet=snippet,
        merged=merged,
        is_random=contract.checkpoint.scale == "tiny",
        tags=_tags(contract),
        adapter=_adapter(contract),
        readout=_readout(contract),
        dtype=dtype,
        allowed=contract.tolerance(dtype),
        dataset=_dataset(evidence.division),
        commit=evidence.commit,
        division=evidence.division,
        protocol=PROTOCOLS[evidence.division.protocol],
        total=_total(evidence.division),
        labels=list(TONES),
        shown={name: settings[name] for name in SHOWN if settings[name] not in ("", 0)},
        libraries=", ".join(f"{name} {version}" for name, version in contract.libraries.items()),
        test=evidence.test,
        leak_free=evidence.leak_free,
        confusion=dict(zip(TONES, evidence.test.scores.confusion, strict=True)),
    )


def code_of(card: str) -> str:
    """The Python that a card shows, to be run as it stands."""
    return "\n".join(_CODE.findall(card))


def dtype_of(contract: Contract, *, merged: bool) -> str:
    """The precision that a card's code computes in: merged weights are float32, else it is the recorded logits' own."""
    return "float32" if merged else contract.dtype


def _total(division: SplitReport) -> int:
    return sum(sum(counts.values()) for counts in division.parts.values())


def is_mvsa(division: SplitReport) -> bool:
    """Whether it is a division of MVSA-Single, by the number of its posts."""
    return _total(division) == MVSA_SINGLE[division.protocol]


def _dataset(division: SplitReport) -> str:
    return "MVSA-Single" if is_mvsa(division) else "Posts in MVSA's layout, and not the whole of MVSA-Single"


def _tags(contract: Contract) -> list[str]:
    kind = [str(contract.settings["adapter"])] if contract.settings["rank"] else []
    random = ["random-weights"] if contract.checkpoint.scale == "tiny" else []
    return ["sentiment-analysis", "multimodal", "social-media", contract.model, *kind, *random]


def _adapter(contract: Contract) -> str:
    settings, modules = contract.settings, len(contract.adapted_modules)
    if not settings["rank"]:
        return "none: the head alone was trained"
    size = "" if settings["adapter"] == "ia3" else f" of rank {settings['rank']}, alpha {settings['alpha']},"
    return f"{KINDS[str(settings['adapter'])]}{size} on {modules} modules"


def _readout(contract: Contract) -> str:
    if contract.settings["readout"] == "verbalizer":
        return "the model's own words for the tones, untrained"
    return f"a classifier on its pooled states: a norm, {contract.settings['head_layers']} hidden layers, three logits"
