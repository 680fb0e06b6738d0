"""params.yaml as frozen dataclasses, one a section. An unknown key or a senseless value is an error."""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from src.core.config_parser import build, load_yaml, require
from src.core.errors import UsageError, UserError, unknown
from src.core.labels import TONE_LABELS, Labels, are_tones, names_of, require_distinct
from src.core.paper import ALL, Recipe, recipes_of
from src.core.paths import PARAMS
from src.core.records import MAX_PIXELS
from src.core.training_config import Setting, TrainingConfig

Pruning = Literal["halving", "hyperband", "median", "none"]
Sampling = Literal["tpe", "gp", "random"]
Objective = Literal["macro_f1", "parameters"]
Scale = Literal["tiny", "full"]
# NumPy's generators take no more than 2**32 - 1, and the seeds of trials are counted on from this one.
MAX_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class CheckpointParams:
    """Section `checkpoints.<model>`: pretrained weights in place of the published ones. An empty section has none."""

    # An id of the Hub, and a commit, tag or branch of it.
    hub: str | None = None
    revision: str | None = None
    # A local folder in the layout of the Hub.
    folder: str | None = None

    def __post_init__(self) -> None:
        require("" not in (self.hub, self.revision, self.folder), "hub, revision and folder must not be empty")
        require(self.hub is None or self.folder is None, "give either hub or folder")
        require(self.hub is None or self.revision is not None, "hub needs a revision: a commit, tag or branch of it")
        require(self.revision is None or self.hub is not None, "revision belongs to hub: name the id")

    @property
    def source(self) -> str | None:
        """Return the id or the folder, or None for an empty section."""
        return self.hub or self.folder

    def __str__(self) -> str:
        return f"{self.hub} at {self.revision}" if self.hub else str(self.folder)


@dataclass(frozen=True, kw_only=True)
class PrepareParams:
    """Section `prepare`: how posts are read."""

    # The rule that makes one label of the text label and the image label (src/core/labels.py).
    protocol: Literal["agreement", "standard"]
    # The largest image that is decoded: width times height, in pixels.
    max_pixels: int

    def __post_init__(self) -> None:
        require(0 < self.max_pixels <= MAX_PIXELS, f"max_pixels must be between 1 and {MAX_PIXELS:,}")


@dataclass(frozen=True, kw_only=True)
class PredefinedSplitParams:
    """Section `split.predefined`: a split that others have published as lists of posts."""

    # The folder of the lists (src/data/published_splits.py).
    folder: str = "data"
    # The fold to take; None if the lists have no folds.
    fold: int | None = None

    def __post_init__(self) -> None:
        require(bool(self.folder), "folder must not be empty")
        require(self.fold is None or self.fold >= 0, "fold must not be negative")


@dataclass(frozen=True, kw_only=True)
class SplitParams:
    """Section `split`: how posts are assigned to train, val and test."""

    # grouped keeps near-duplicates in one part, and stratified may part them. predefined reads the lists below. given
    # takes the split that came with the posts; without one, it is grouped.
    kind: Literal["given", "grouped", "stratified", "predefined"]
    # The shares of val and test in all labelled posts; train has the rest. Kinds that read a split ignore both.
    val: float
    test: float
    # `repeat --folds` trains on all folds of these lists, whatever the kind.
    predefined: PredefinedSplitParams = PredefinedSplitParams()

    def __post_init__(self) -> None:
        require(0 < self.val < 1 and 0 < self.test < 1 and self.val + self.test < 1, "val and test must leave a rest")


@dataclass(frozen=True, kw_only=True)
class EncodeParams:
    """Section `encode`: how the frozen segments are run."""

    # Posts in a batch.
    batch_size: int

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size must be positive")


@dataclass(frozen=True, kw_only=True)
class Range:
    """The search space of one setting: either bounds or choices."""

    # Both bounds belong to the space.
    low: int | float | None = None
    high: int | float | None = None
    # log draws the logarithm of a value uniformly; log2 draws powers of two, all with the same probability.
    scale: Literal["linear", "log", "log2"] = "linear"
    choices: tuple[Setting, ...] | None = None

    def __post_init__(self) -> None:
        numbers = [value for value in (self.low, self.high, *(self.choices or ())) if isinstance(value, float)]
        require(all(map(math.isfinite, numbers)), "numbers must be finite")
        bounded = self.low is not None or self.high is not None
        require(bounded != (self.choices is not None), "give either low and high, or choices")
        if self.choices is not None:
            require(len(self.choices) > 0, "choices must not be empty")
            require(self.scale == "linear", "choices have no scale")
            return
        require(self.low is not None and self.high is not None and self.low <= self.high, "low must not be above high")
        require(self.scale != "log" or (self.low or 0) > 0, "a log scale needs low above 0")
        powers = all(isinstance(end, int) and end > 0 and end.bit_count() == 1 for end in self.ends())
        require(self.scale != "log2" or powers, "a log2 scale needs powers of two as low and high, such as 1 and 16")

    def listed(self) -> tuple[Setting, ...] | None:
        """Return all values of the space in order, or None if it has only bounds."""
        if self.scale != "log2":
            return self.choices
        low, high = map(exponent_of, self.bounds())
        return tuple(2**exponent for exponent in range(low, high + 1))

    def bounds(self) -> tuple[int | float, int | float]:
        """Return `low` and `high` of a space without choices."""
        assert self.low is not None and self.high is not None
        return self.low, self.high

    def ends(self) -> list[Setting]:
        """Return all choices, or the lowest and the highest value."""
        return list(self.choices or self.bounds())

    def highest(self) -> int | float | None:
        """Return the highest number in the space, or None if it has no number."""
        return max((value for value in self.ends() if not isinstance(value, str)), default=None)


def exponent_of(power_of_two: Setting) -> int:
    """Return the exponent of a power of two."""
    return int(power_of_two).bit_length() - 1


Space = Mapping[str, Range]


@dataclass(frozen=True, kw_only=True)
class TuneParams:
    """Section `tune`: the search of a model's settings."""

    # The number of trials in total; a search that is resumed runs those that are missing.
    trials: int
    # The number of trials that a worker trains side by side, on one base (docs/search.md).
    trials_at_once: int = 1
    # The number of trials that are drawn at random before the sampler learns from results.
    startup_trials: int
    sampler: Sampling = "tpe"
    # macro_f1 maximises validation macro-F1; parameters also minimises the number of trainable parameters.
    objectives: tuple[Objective, ...] = ("macro_f1",)
    pruner: Pruning
    # No trial is pruned before it has trained so many epochs.
    min_epochs: int
    # Halving compares trials after `min_epochs` times 1, this factor, its square and so on. One in so many goes on.
    reduction_factor: int = 3
    # The search space of each setting, by model.
    spaces: dict[str, dict[str, Range]]
    # Settings that a study tries first, by model: the paper's, and settings that work at the tiny scale.
    initial_trials: dict[str, tuple[dict[str, Setting], ...]]

    def __post_init__(self) -> None:
        require(self.trials > 0, "trials must be at least 1")
        require(self.trials_at_once > 0, "trials_at_once must be at least 1")
        require(self.startup_trials >= 0, "startup_trials must not be negative")
        require(self.min_epochs >= 1, "min_epochs must be at least 1")
        require(self.reduction_factor >= 2, "reduction_factor must be at least 2")
        require(self.objectives[:1] == ("macro_f1",), "objectives must begin with macro_f1")
        require(len(set(self.objectives)) == len(self.objectives), "objectives must not be named twice")
        settings = {setting.name for setting in dataclasses.fields(TrainingConfig)}
        for model, space in self.spaces.items():
            for name in set(space) - settings:
                raise ValueError(
                    f"spaces.{model}.{name} is no setting of a training; known: {', '.join(sorted(settings))}"
                )
            # Pruners compare trials at an epoch, and every trial may reach the last one.
            require("epochs" not in space, f"spaces.{model}.epochs: all trials of a study have as many epochs")


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """Section `evaluate`: how a trained model is run over a part."""

    # Posts in a batch.
    batch_size: int

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size must be positive")


@dataclass(frozen=True, kw_only=True)
class RepeatParams:
    """Section `repeat`: how often the best trial of a search and the initial trials are trained again."""

    # The number of seeds for each of them; 0 trains nothing.
    seeds: int

    def __post_init__(self) -> None:
        require(self.seeds == 0 or self.seeds >= 2, "seeds must be 0, or at least 2: one score has no spread")


@dataclass(frozen=True, kw_only=True)
class EnsembleParams:
    """Section `ensemble`: the choice of its members on validation (src/evaluation/ensemble.py)."""

    # The number of random subsets of the systems that members are chosen from; 1 is a single choice from all systems.
    bags: int = 20
    # The share of the systems in each subset, rounded up.
    share: float = 0.5
    # How many of a search's best trials may be members, beside the winner's training.
    trials: int = 3

    def __post_init__(self) -> None:
        require(self.bags >= 1, "bags must be at least 1")
        require(0 < self.share <= 1, "share must be above 0 and not above 1")
        require(self.trials >= 0, "trials must not be negative")


@dataclass(frozen=True, kw_only=True)
class ReproduceParams:
    """Section `reproduce`: the experiments of the paper that are run."""

    # Names of recipes, or `all` alone, which means every recipe of the models in params.yaml.
    recipes: tuple[str, ...] = (ALL,)

    def __post_init__(self) -> None:
        try:
            recipes_of(self.recipes, ())
        except UsageError as error:
            raise ValueError(str(error)) from error  # `build` adds the place in the file
        require(ALL not in self.recipes or len(self.recipes) == 1, "recipes: all must stand alone")
        require(len(set(self.recipes)) == len(self.recipes), "recipes must not be named twice")


@dataclass(frozen=True, kw_only=True)
class SaliencyParams:
    """Section `saliency`: the saliency maps in the report."""

    # The number of a model's mistakes, the most confident ones first, that get a map.
    mistakes: int

    def __post_init__(self) -> None:
        require(self.mistakes >= 1, "mistakes must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml."""

    # tiny builds small random weights locally; full takes pretrained ones.
    scale: Scale
    seed: int
    # Names in the catalog (src/models/catalog.py).
    models: tuple[str, ...]
    # In the order of logits and tables. Posts with other labels are left out.
    labels: Labels = TONE_LABELS
    prepare: PrepareParams
    split: SplitParams
    encode: EncodeParams
    # Settings of TrainingConfig under `common`, and under a model's name.
    training: dict[str, dict[str, Setting | bool]]
    tune: TuneParams
    repeat: RepeatParams
    evaluate: EvaluateParams
    saliency: SaliencyParams
    reproduce: ReproduceParams = ReproduceParams()
    ensemble: EnsembleParams = EnsembleParams()
    # By model: settings of the training of segments that its checkpoint has no trained weights for. Empty: none.
    align: dict[str, dict[str, Setting | bool]] = field(default_factory=dict)
    # By model; a model without an entry has the published checkpoint of its file in src/models/.
    checkpoints: dict[str, CheckpointParams] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._require_known_models()
        require_distinct(self.labels)
        tones = self.prepare.protocol != "standard" or are_tones(self.label_names)
        require(tones, "prepare.protocol standard is defined for negative, neutral and positive: choose agreement")
        require(0 <= self.seed <= MAX_SEED, f"seed must lie from 0 to {MAX_SEED}")
        for model in self.models:
            self.align_config(model)
            self.training_config(model)
            # A senseless value in a search space would otherwise fail a trial hours later.
            for settings in self._extreme_settings(model):
                self.training_config(model, **settings)

    def _require_known_models(self) -> None:
        """Raise ValueError for a name that stands in one section alone: it is mistyped."""
        require(len(self.models) > 0, "models must not be empty")
        require(len(set(self.models)) == len(self.models), "models must not name one twice")
        by_section = {
            "models": self.models,
            "training": [name for name in self.training if name != "common"],
            "tune.spaces": self.tune.spaces,
            "tune.initial_trials": self.tune.initial_trials,
            "align": self.align,
            "checkpoints": self.checkpoints,
        }
        counts = Counter(name for names in by_section.values() for name in names)
        known = [name for name, count in counts.items() if count > 1]
        for section, names in by_section.items():
            for name in names:
                if name not in known:
                    raise ValueError(f"{section}: {unknown('model', name, known)}")

    def _extreme_settings(self, model: str) -> Iterator[Mapping[str, Setting]]:
        """Yield the initial trials, and every bound or choice of a setting beside the first value of all others."""
        yield from self.tune.initial_trials.get(model, ())
        values = {name: space.ends() for name, space in self.tune.spaces.get(model, {}).items()}
        first = {name: ends[0] for name, ends in values.items()}
        yield from ({**first, name: value} for name, ends in values.items() for value in ends)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels."""
        return names_of(self.labels)

    @property
    def notice(self) -> str:
        """The sentence on the weights that stands beside every score."""
        return notice_of(self.scale)

    def training_config(self, model: str, /, **overrides: Setting | bool) -> TrainingConfig:
        """Merge `training.common`, `training.<model>` and a trial's overrides. The later wins."""
        merged = {**self.training.get("common", {}), **self.training.get(model, {}), **overrides}
        settings = build(TrainingConfig, merged, f"training of {model}")
        if settings.curriculum == self.prepare.protocol == "agreement":
            raise UsageError(f"training of {model}: curriculum agreement tells no posts apart under protocol agreement")
        return settings

    def checkpoint(self, model: str) -> CheckpointParams | None:
        """Return the checkpoint that takes the place of a model's published one, or None if there is none."""
        given = self.checkpoints.get(model)
        return given if given and given.source else None

    def align_config(self, model: str) -> TrainingConfig | None:
        """Merge `training.common` and `align.<model>`; None if the section is empty, so that nothing is aligned."""
        given = self.align.get(model)
        if not given:
            return None
        settings = build(TrainingConfig, {**self.training.get("common", {}), **given}, f"align of {model}")
        if settings.rank or not settings.unfreeze:
            raise UsageError(f"align of {model}: rank must be 0, and unfreeze must name segments, such as connector")
        return settings

    def recipes(self) -> tuple[Recipe, ...]:
        """Return the experiments of the paper that `dvc repro` runs: none with other labels than the paper's."""
        return recipes_of(self.reproduce.recipes, self.models) if are_tones(self.label_names) else ()

    def space_of(self, model: str) -> dict[str, Range]:
        """Return the search space of a model.

        Raises:
            UsageError: params.yaml gives no space for this model.
        """
        if model not in self.tune.spaces:
            raise UsageError(f"{PARAMS}: tune.spaces.{model} is missing: give the search space of each setting")
        return self.tune.spaces[model]


def notice_of(scale: str) -> str:
    """Return the sentence on the weights that stands beside every score at a scale."""
    if scale == "tiny":
        return "Weights are random (scale: tiny): scores show that the machine works, and nothing else."
    return "Weights are pretrained (scale: full)."


def load_params(path: Path = PARAMS, scale: Scale | None = None) -> Params:
    """Read and check params.yaml. `scale` takes the place of the scale there.

    At scale tiny, torch and BLAS get one thread if they are imported later. More threads add numbers in another order,
    so results would depend on the machine's number of cores.

    Raises:
        UserError: there is no such file, or it is not YAML.
        UsageError: a key is unknown or missing, or a value makes no sense.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run commands from the repository's root") from error
    params = build(Params, content, str(path))
    params = dataclasses.replace(params, scale=scale or params.scale)
    if params.scale == "tiny":
        os.environ["OMP_NUM_THREADS"] = "1"
    return params
