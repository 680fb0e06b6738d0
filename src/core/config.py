"""params.yaml as frozen, validated dataclasses: an unknown key or a senseless value is an error, never ignored."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.core.config_parser import build, load_yaml, require
from src.core.errors import UsageError, UserError
from src.core.paper import ALL, Recipe, recipes_of
from src.core.paths import PARAMS
from src.core.training_config import Setting, TrainingConfig

Pruning = Literal["halving", "hyperband", "median", "none"]
Sampling = Literal["tpe", "gp", "random"]
Objective = Literal["macro_f1", "parameters"]
Scale = Literal["tiny", "full"]
# Some generators take no larger one, and trials count on from it.
MAX_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class PrepareParams:
    """How posts are read: which labels count, and the largest picture worth decoding (in pixels)."""

    protocol: Literal["agreement", "standard"]
    max_pixels: int

    def __post_init__(self) -> None:
        require(self.max_pixels > 0, "max_pixels must be positive")


@dataclass(frozen=True, kw_only=True)
class PredefinedSplitParams:
    """Where divisions that others have published are read: the folder of the lists, and which fold, if it has folds."""

    folder: str = "data"
    fold: int | None = None

    def __post_init__(self) -> None:
        require(bool(self.folder), "folder must not be empty")
        require(self.fold is None or self.fold >= 0, "fold must not be negative")


@dataclass(frozen=True, kw_only=True)
class SplitParams:
    """How posts are divided.

    Of kind grouped near-duplicates stay together, of kind stratified they do not; `val` and `test` are then shares of
    all posts, and the rest is trained on. Of kind predefined the lists that `predefined` names decide, and the shares
    do not count. All folds of `predefined` are also what `repeat --folds` trains on, whatever the kind.
    """

    kind: Literal["grouped", "stratified", "predefined"]
    val: float
    test: float
    predefined: PredefinedSplitParams = PredefinedSplitParams()

    def __post_init__(self) -> None:
        require(0 < self.val < 1 and 0 < self.test < 1 and self.val + self.test < 1, "val and test must leave a rest")


@dataclass(frozen=True, kw_only=True)
class EncodeParams:
    """How the frozen part is run: posts a batch."""

    batch_size: int

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size must be positive")


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a search may choose for one setting: one of `choices`, or a value from `low` to `high`.

    On the scale `log` a value is drawn by its logarithm. On the scale `log2` it is a power of two, and each is as
    likely as the next.
    """

    low: int | float | None = None
    high: int | float | None = None
    scale: Literal["linear", "log", "log2"] = "linear"
    choices: tuple[Setting, ...] | None = None

    def __post_init__(self) -> None:
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
        """Return all that may be chosen, in order, or None if only bounds say it."""
        if self.scale != "log2":
            return self.choices
        low, high = map(exponent_of, self.bounds())
        return tuple(2**exponent for exponent in range(low, high + 1))

    def bounds(self) -> tuple[int | float, int | float]:
        """Return `low` and `high` of a setting without choices."""
        assert self.low is not None and self.high is not None
        return self.low, self.high

    def ends(self) -> list[Setting]:
        """All choices, or the lowest and the highest value."""
        return list(self.choices or self.bounds())

    def highest(self) -> int | float | None:
        """Return the highest number that may be chosen, or None if no number may."""
        return max((value for value in self.ends() if not isinstance(value, str)), default=None)


def exponent_of(power_of_two: Setting) -> int:
    """Return the exponent of a power of two."""
    return int(power_of_two).bit_length() - 1


Space = Mapping[str, Range]


@dataclass(frozen=True, kw_only=True)
class TuneParams:
    """A search: how many trials in total, which of them end early, and per model where it looks and starts.

    No trial is pruned before it has trained `min_epochs` epochs. With `pruner` halving it is compared after that many,
    `reduction_factor` times as many, and so on, and each time one in `reduction_factor` goes on.
    `known_good` settings are tried first: the study's own, and what is known to work at the tiny scale.
    `objectives` are validation macro-F1 (upwards) alone, or with the number of trainable parameters (downwards).
    """

    trials: int
    startup_trials: int
    sampler: Sampling = "tpe"
    objectives: tuple[Objective, ...] = ("macro_f1",)
    pruner: Pruning
    min_epochs: int
    reduction_factor: int = 3
    spaces: dict[str, dict[str, Range]]
    initial_trials: dict[str, tuple[dict[str, Setting], ...]]

    def __post_init__(self) -> None:
        require(self.trials > 0, "trials must be at least 1")
        require(self.startup_trials >= 0, "startup_trials must not be negative")
        require(self.min_epochs >= 1, "min_epochs must be at least 1")
        require(self.reduction_factor >= 2, "reduction_factor must be at least 2")
        require(self.objectives[:1] == ("macro_f1",), "objectives must begin with macro_f1")
        require(len(set(self.objectives)) == len(self.objectives), "objectives must not be named twice")
        settings = {setting.name for setting in dataclasses.fields(TrainingConfig)}
        for model, space in self.spaces.items():
            for name in set(space) - settings:
                raise ValueError(f"spaces.{model}.{name} is no setting of a fit; known: {', '.join(sorted(settings))}")


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """How a trained model is run over a part: posts a batch."""

    batch_size: int

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size must be positive")


@dataclass(frozen=True, kw_only=True)
class RepeatParams:
    """How often the winner of a search, and the settings it has to beat, are trained again: seeds for each."""

    seeds: int

    def __post_init__(self) -> None:
        require(self.seeds >= 2, "seeds must be at least 2: one score has no spread")


@dataclass(frozen=True, kw_only=True)
class ReproduceParams:
    """Which of the study's experiments are run: names of recipes, or `all` alone, for those of the models above."""

    recipes: tuple[str, ...] = (ALL,)

    def __post_init__(self) -> None:
        try:
            recipes_of(self.recipes, ())
        except UsageError as error:
            raise ValueError(str(error)) from error  # so that it says where
        require(ALL not in self.recipes or len(self.recipes) == 1, "recipes: all must stand alone")
        require(len(set(self.recipes)) == len(self.recipes), "recipes must not be named twice")


@dataclass(frozen=True, kw_only=True)
class SaliencyParams:
    """Of how many mistakes, those that a model is surest of, the report shows what they rest on."""

    mistakes: int

    def __post_init__(self) -> None:
        require(self.mistakes >= 1, "mistakes must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml. `scale` chooses the checkpoints: made on the spot (tiny) or the Hub's (full)."""

    scale: Scale
    seed: int
    models: tuple[str, ...]
    prepare: PrepareParams
    split: SplitParams
    encode: EncodeParams
    training: dict[str, dict[str, Setting | bool]]
    tune: TuneParams
    repeat: RepeatParams
    evaluate: EvaluateParams
    saliency: SaliencyParams
    reproduce: ReproduceParams = ReproduceParams()

    def __post_init__(self) -> None:
        require(0 <= self.seed <= MAX_SEED, f"seed must lie from 0 to {MAX_SEED}")
        for model in self.models:
            self.training_config(model)
            # What a search tries makes sense too, or hours later a trial would fail.
            for settings in self._tried(model):
                self.training_config(model, **settings)

    def _tried(self, model: str) -> Iterator[Mapping[str, Setting]]:
        """The settings known to be good, and each outermost value or choice of a space, beside the others' first."""
        yield from self.tune.initial_trials.get(model, ())
        values = {name: choice.ends() for name, choice in self.tune.spaces.get(model, {}).items()}
        first = {name: ends[0] for name, ends in values.items()}
        yield from ({**first, name: value} for name, ends in values.items() for value in ends)

    @property
    def notice(self) -> str:
        """What every reader of a score must know about the weights behind it."""
        return notice_of(self.scale)

    def training_config(self, model: str, **overrides: Setting | bool) -> TrainingConfig:
        """Merge `training.common`, `training.<model>` and the overrides of a trial, the later over the earlier."""
        merged = {**self.training.get("common", {}), **self.training.get(model, {}), **overrides}
        settings = build(TrainingConfig, merged, f"training of {model}")
        if settings.curriculum == self.prepare.protocol == "agreement":
            raise UsageError(f"training of {model}: curriculum agreement tells no posts apart under protocol agreement")
        return settings

    def recipes(self) -> tuple[Recipe, ...]:
        """The study's experiments that `dvc repro` runs."""
        return recipes_of(self.reproduce.recipes, self.models)

    def space_of(self, model: str) -> dict[str, Range]:
        """Where the search for `model` looks.

        Raises:
            UsageError: params.yaml gives no space for this model.
        """
        if model not in self.tune.spaces:
            raise UsageError(f"{PARAMS}: tune.spaces.{model} is missing: say what its search may choose")
        return self.tune.spaces[model]


def notice_of(scale: str) -> str:
    """The same of scores at any scale."""
    if scale == "tiny":
        return "Weights are random (scale: tiny): scores show that the machine works, and nothing else."
    return "Weights are the pretrained ones of the Hub (scale: full)."


def load_params(path: Path = PARAMS) -> Params:
    """Read and check params.yaml; at scale tiny, torch and BLAS have one thread if they are imported later.

    Several threads add in another order, and a file would depend on how many a machine has.

    Raises:
        UserError: there is no such file, or it is not YAML.
        UsageError: a key is unknown or missing, or a value makes no sense.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run commands from the repository's root") from error
    params = build(Params, content, str(path))
    if params.scale == "tiny":
        os.environ["OMP_NUM_THREADS"] = "1"
    return params
