"""Outputs of stages as typed records."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from src.core.config_parser import build
from src.core.estimates import (
    AblationResult,
    AgreementAccuracy,
    Disagreement,
    DuplicateAgreement,
    HashtagEffect,
    ShuffledImages,
    SimilarityCorrelation,
    Spread,
)
from src.core.files import folder_digest, read_json, write_json
from src.core.paper import Recipe
from src.core.paths import ADAPTER_FOLDER, TRAIN_JSON, stage_folder
from src.core.records import Interval
from src.core.saliency import Word
from src.core.training_config import Setting, TrainingConfig


@dataclass(frozen=True)
class StageOutput:
    """The content of one JSON file that a stage writes; each subclass is a frozen dataclass with the file's keys."""

    def write(self, path: Path) -> None:
        """Write the file, measured numbers rounded."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            UserError: the file is missing.
            UsageError: a key is unknown or missing, or a value has another type.
        """
        return build(cls, read_json(path), str(path))


@dataclass(frozen=True)
class BestTrial(StageOutput):
    """The best trial of a search (`BEST_FILE` of stage `tune`)."""

    # The study's name in Optuna's storage.
    study: str
    # The finished trials of the search, and how many of them were pruned.
    trials: int
    pruned: int
    # The number of the best trial in the study, counted from 0.
    best_trial: int
    best_val_macro_f1: float
    # The settings that the trial drew, by the names of TrainingConfig.
    params: dict[str, Setting]


@dataclass(frozen=True)
class SearchSummary(StageOutput):
    """What a search cost and which settings mattered (`SEARCH_FILE` of stage `tune`)."""

    # Complete and pruned trials, then how many of them were pruned, then failed trials beside them.
    finished: int
    pruned: int
    failed: int
    # The number of failed trials by their cause.
    reasons: dict[str, int]
    # The epochs that all trials trained, and what they would have trained at most without pruning.
    epochs: int
    epochs_unpruned: int
    # The share of each setting in the differences of scores, the highest first; empty where too few trials tell.
    importances: dict[str, float]


@dataclass(frozen=True)
class AlignedWeights:
    """Weights of whole segments, which take the place of a checkpoint's own."""

    # A safetensors file with the weights by their full names, and its digest.
    file: str
    digest: str
    # Names of the segments, such as connector.
    segments: tuple[str, ...]


@dataclass(frozen=True)
class PretrainedWeights(StageOutput):
    """The pretrained weights of a model, at one revision (`checkpoint_file` of stage `frozen`)."""

    # A Hub id, or a local folder.
    source: str
    # A commit of the Hub, or the digest of the local folder.
    revision: str
    # The scale in params.yaml that the weights belong to: full or tiny.
    scale: str
    # Whether the source is a folder.
    is_local: bool = False
    # The weights that stage `align` has trained for segments that the source has no trained weights for.
    aligned: AlignedWeights | None = None
    # The request in params.yaml for these weights in place of the published ones; empty without one.
    given: str = ""

    @classmethod
    def of_folder(cls, folder: Path, scale: str, given: str = "") -> Self:
        """Return the weights in a folder, as it is now."""
        return cls(str(folder), folder_digest(folder), scale, is_local=True, given=given)

    @property
    def is_random(self) -> bool:
        """Return whether the weights are tiny random ones."""
        return self.scale == "tiny"


@dataclass(frozen=True)
class AlignOutput(StageOutput):
    """The segments that `align` has trained (`ALIGN_JSON` of stage `align`)."""

    # Names of segments, such as connector. Empty if the checkpoint lacks none; all other fields are then empty too.
    segments: tuple[str, ...] = ()
    # The revision of the checkpoint whose segments were trained.
    revision: str = ""
    # The digest of the trained weights (`ALIGNED_FILE`).
    digest: str = ""
    # The epoch whose weights they are, counted from 1, and its scores on the validation part.
    best_epoch: int = 0
    validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodeOutput(StageOutput):
    """The posts and caches of a model (`ENCODE_FILE` of stage `frozen`)."""

    # The number of labelled posts of all parts.
    posts: int
    # Names of the cache folders: the adapted model's, then the bare model's. Both are the same if nothing differs.
    caches: tuple[str, ...]


@dataclass(frozen=True)
class EvaluateOutput(StageOutput):
    """The adapter that `evaluate` has scored (`EVALUATE_JSON`)."""

    # `Trained.digest` of the adapter.
    adapter_digest: str


@dataclass(frozen=True)
class Trained(StageOutput):
    """A training whose adapter is saved (`TRAIN_JSON` of stage `train`)."""

    # The name in the catalog.
    model: str
    # The epoch whose weights the adapter has, counted from 1, and its scores on the validation part.
    best_epoch: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    # The weights and posts of the training, as `Workspace.facts` gives them.
    facts: dict[str, str]
    # The digest of the code that trained.
    code: str
    # The study and the number of the trial that tried the settings, and the settings that the trial drew.
    study: str
    trial: int
    params: dict[str, Setting]
    # Full names of the modules that carry the adapter.
    adapted_modules: tuple[str, ...]

    @property
    def validation(self) -> dict[str, float]:
        """Return the scores of the best epoch on the validation part."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "weighted_f1": self.weighted_f1}

    @property
    def adapter(self) -> Path:
        """Return the folder of the adapter's files."""
        return stage_folder("train", self.model) / ADAPTER_FOLDER

    @property
    def digest(self) -> str:
        """Return the `adapter_digest`: equal trainings have the same."""
        return adapter_digest(self.adapter, self.facts["checkpoint_revision"])


def adapter_digest(adapter: Path, revision: str) -> str:
    """Return the digest of an adapter's files, followed by the beginning of its base's revision."""
    return f"{folder_digest(adapter)}-{revision[:12]}"


def read_trained(model: str) -> Trained:
    """Read the output of `train` for a model.

    Raises:
        UserError: `train` has not run.
    """
    return Trained.read(stage_folder("train", model) / TRAIN_JSON)


@dataclass(frozen=True)
class RegisterOutput(StageOutput):
    """The version that `register` or `register_ensemble` found or made (`REGISTER_FILE` of the stage)."""

    # The registered name, such as mvsa-clip.
    name: str
    # The digest of the adapter's files, or of the ensemble's.
    digest: str


@dataclass(frozen=True)
class ModalityOutput(StageOutput):
    """The content of modality.json: a tuned model on test posts with one half hidden or changed."""

    # The number of test posts.
    posts: int
    # The number of test posts without a near-duplicate in train or val.
    leak_free_posts: int
    # By ablation, both halves first.
    ablations: Mapping[str, AblationResult]
    # The reason for each ablation that these posts do not allow.
    omitted: Mapping[str, str]
    # None where that ablation is omitted.
    shuffled: ShuffledImages | None
    hashtags: HashtagEffect
    # By `agree` and `disagree`, the relation of the post's two labels. No entry without posts.
    by_agreement: Mapping[str, AgreementAccuracy]
    disagreement: Disagreement
    # None for a model without image-text similarity, and for test posts without captions.
    similarity: SimilarityCorrelation | None
    # The digest of the adapter that was judged.
    adapter_digest: str


@dataclass(frozen=True)
class CheckedMap:
    """The sanity check of one saliency map, as saliency.json holds it."""

    # The id of the post whose map was compared with maps of shuffled readouts.
    post: str
    # The mean of `correlations`. None where a map is flat.
    mean: float | None
    # Spearman's rank correlation with the map of each shuffled readout.
    correlations: tuple[float, ...]


@dataclass(frozen=True)
class ExplainedMistake:
    """A test post that the model gets wrong, with the saliency map's sums. Contributions are in log-odds (nats)."""

    id: str
    actual: str
    # The label that the map explains.
    predicted: str
    # The probability of the predicted label.
    probability: float
    # The contribution of the image as a whole, against a post without an image.
    image: float
    # The contribution of the caption as a whole.
    caption: float
    # The words in the caption's order.
    words: tuple[Word, ...]
    # The path of the heat map, relative to the folder of saliency.json.
    png: str


@dataclass(frozen=True)
class SaliencyOutput(StageOutput):
    """The content of saliency.json: the most confident mistakes of one model, the surest first."""

    model: str
    notice: str
    # The description of the method.
    method: str
    # The check of the first mistake's map. None without a mistake, and of an ensemble, which has no readout.
    sanity: CheckedMap | None
    mistakes: tuple[ExplainedMistake, ...]


@dataclass(frozen=True)
class EnsembleMember:
    """A member of the ensemble."""

    # As in `evaluation.systems.System`: the name in tables, such as "clip seed 8", then its parts. The model is empty
    # for a baseline, and the number is a seed or a trial.
    system: str
    kind: str
    model: str
    number: int | None
    # Positive; the weights of all members sum to 1.
    weight: float


@dataclass(frozen=True)
class BestTrials:
    """The choice of k for the plain mean of a study's best k trials, on validation."""

    # The numbers of the trials after the best one, whose settings are the tuned model's. The best is first.
    numbers: tuple[int, ...]
    # The mean negative log-likelihood of the mean of the tuned model and the k - 1 next trials, for k from 1 on, in
    # nats a post.
    losses: tuple[float, ...]
    # The k of the least loss. Only k - 1 of the trials are candidates for the ensemble.
    k: int


@dataclass(frozen=True)
class EnsembleOutput(StageOutput):
    """The content of ensemble.json: the members that validation chose."""

    # The largest weight first.
    members: tuple[EnsembleMember, ...]
    # The temperature that scales the weighted mean, fitted on validation.
    temperature: float
    # The number of systems that members were chosen from.
    candidates: int
    # The system of the highest validation macro-F1, with its scores on validation and the ensemble's, by name. The
    # ensemble's are optimistic, because its weights were fitted to these posts.
    best_single: str
    best_single_validation: Mapping[str, float]
    validation: Mapping[str, float]
    # By model. A model without other trials has no entry.
    best_trials: Mapping[str, BestTrials]
    # The cost of an answer: how often each model's base runs over a post. A baseline runs none.
    passes: Mapping[str, int]


@dataclass(frozen=True)
class RepeatOutput(StageOutput):
    """The content of repeat.json: the winner of a search and the default, each trained on the same other seeds.

    A `Spread` is None where no seed has the scores that it needs.
    """

    # The search whose winner was trained.
    study: str
    seeds: tuple[int, ...]
    # The settings of `winner` and, if params.yaml has initial trials, of `default`.
    settings: Mapping[str, TrainingConfig]
    winner_is_default: bool
    # The score by which the search chose the winner.
    best_val_macro_f1: float
    # By how much `best_val_macro_f1` is above the winner's mean on the other seeds.
    optimism: float | None
    # The winner's macro-F1 on validation less that on test, paired by seed.
    drop: Spread | None
    # By settings and figure.
    scores: Mapping[str, Mapping[str, Spread | None]]
    # The winner's figure less the default's, by figure, paired by seed.
    gain: Mapping[str, Spread | None]
    # The reason for each training that failed, by settings and seed.
    failures: Mapping[str, str]


@dataclass(frozen=True)
class VariantOutput(StageOutput):
    """The content of variant.json: the winner of a search, and the same with some settings changed, on the same seeds.

    A `Spread` is None where no seed has the scores that it needs.
    """

    # The search whose winner was changed.
    study: str
    seeds: tuple[int, ...]
    # Of the winner and of the variant.
    settings: Mapping[str, TrainingConfig]
    # By settings and figure.
    scores: Mapping[str, Mapping[str, Spread | None]]
    # The variant's figure less the winner's, by figure, paired by seed.
    difference: Mapping[str, Spread | None]
    # The mean over seeds of the test scores' differences, each with its interval over posts. Empty without a seed that
    # both have.
    over_posts: Mapping[str, Interval]
    # The reason for each training that failed, by settings and seed.
    failures: Mapping[str, str]


@dataclass(frozen=True)
class FoldScores:
    """Scores of one published fold's test part."""

    fold: int
    posts: int
    accuracy: float
    macro_f1: float
    weighted_f1: float


@dataclass(frozen=True)
class FoldsOutput(StageOutput):
    """The content of folds.json: one training on each published fold."""

    # The search whose settings were trained.
    study: str
    settings: TrainingConfig
    folds: tuple[FoldScores, ...]
    # The number of test posts of all folds.
    posts: int
    # Scores on the test posts of all folds, by figure.
    pooled: Mapping[str, float]
    # The number of test posts without a near-duplicate in their fold's train or val part.
    leak_free_posts: int
    # Scores on those, by figure. Empty without such a post.
    pooled_leak_free: Mapping[str, float]
    # By figure. The interval of the mean is left out: folds share most of their train parts, and no estimate of the
    # variance is unbiased (Y. Bengio and Y. Grandvalet, JMLR 2004).
    spread: Mapping[str, Spread]


@dataclass(frozen=True)
class RecipeOutput(StageOutput):
    """The content of outputs/reproduce/<recipe>.json: one experiment of the paper, run here."""

    recipe: Recipe
    # Our figures on the posts that the model was judged on, with `accuracy_low` and `accuracy_high`. Empty on failure.
    scores: Mapping[str, float]
    num_posts: int
    # The weights and posts that the experiment was run on.
    facts: Mapping[str, str]
    # The reason why there are no scores. Empty on success.
    failure: str


@dataclass(frozen=True)
class BaselineOmissions(StageOutput):
    """The content of omitted.json of TF-IDF and of a probe: reasons why something could not be done, else None."""

    # Why there are no out-of-fold predictions.
    out_of_fold: str | None = None
    # Why TF-IDF has no words to read, and predicts the largest class.
    words: str | None = None

    def reasons(self) -> dict[str, str]:
        """Return the reasons that there are, by what is missing."""
        return {name: reason for name, reason in asdict(self).items() if reason is not None}


@dataclass(frozen=True)
class JointDistribution:
    """Estimated shares of posts by given label and true label."""

    # The labels, in the order of rows and columns.
    labels: tuple[str, ...]
    rows_label_columns_true: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ConfidentLearning:
    """The result of confident learning on out-of-fold predictions."""

    # The number of labelled posts, and of posts whose label is likely wrong.
    posts: int
    flagged: int
    # The estimated share of wrong labels.
    noise_rate: float
    joint: JointDistribution
    # The weight of each classifier in the pooled predictions; they sum to 1.
    weights: Mapping[str, float]


@dataclass(frozen=True)
class NoiseOutput(StageOutput):
    """The content of noise.json: two estimates of wrong labels."""

    # None without out-of-fold predictions.
    confident_learning: ConfidentLearning | None
    # By protocol and by what near-duplicates share. None without near-duplicates.
    near_duplicates: Mapping[str, Mapping[str, DuplicateAgreement | None]]
    # The reason for an estimate that is missing, by its name.
    omitted: Mapping[str, str]


@dataclass(frozen=True)
class MislabelledRow:
    """A row of mislabelled.csv: a post whose label is likely wrong."""

    # From 1, the least plausible label.
    rank: int
    id: str
    label: str
    # The most probable label.
    suggested: str
    # The plausibility of the label, from 0 (certainly wrong) to 1.
    quality: float
    label_probability: float
    text_label: str
    image_label: str
    caption: str
