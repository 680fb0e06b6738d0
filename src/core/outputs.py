"""Outputs of stages as typed records."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from src.core.config_parser import build
from src.core.estimates import (
    AblationResult,
    AgreementAccuracy,
    AlignmentCorrelation,
    Disagreement,
    DuplicateAgreement,
    HashtagEffect,
    ShuffledImages,
    Spread,
)
from src.core.files import folder_digest, read_json, write_json
from src.core.paper import Recipe
from src.core.paths import stage_folder
from src.core.records import DroppedPost
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
class PretrainedWeights(StageOutput):
    """The pretrained weights of a model, at one revision (`checkpoint_file` of stage `encode`)."""

    # A Hub id, or a local folder.
    source: str
    # A commit of the Hub, or the digest of the local folder.
    revision: str
    # The scale in params.yaml that the weights belong to: full or tiny.
    scale: str

    @property
    def is_local(self) -> bool:
        """Return whether the weights are tiny random ones in a local folder."""
        return self.scale == "tiny"


@dataclass(frozen=True)
class EncodeOutput(StageOutput):
    """The posts and caches of a model (`ENCODE_FILE` of stage `encode`)."""

    # The number of labelled posts of all parts.
    posts: int
    # Names of the cache folders: the adapted model's, then the bare model's. Both are the same if nothing differs.
    caches: tuple[str, ...]


@dataclass(frozen=True)
class DroppedPosts:
    """The posts that `prepare` leaves out."""

    count: int
    # The number of posts for each reason, the most frequent reason first.
    reasons: dict[str, int]
    posts: tuple[DroppedPost, ...]


@dataclass(frozen=True)
class Quantiles:
    """The smallest, median and largest of some numbers."""

    min: int | float
    median: int | float
    max: int | float


@dataclass(frozen=True)
class WordCounts(Quantiles):
    """Numbers of words in a caption."""

    p95: int | float


@dataclass(frozen=True)
class DataReport(StageOutput):
    """The posts that `prepare` has read, and those that it has left out: prepare/report.json."""

    protocol: str
    # Digest of the posts' contents and labels.
    data_digest: str
    # Number of annotators of each post.
    annotators: int
    posts: int
    # Number of posts that have a label under `protocol`.
    labelled: int
    # Number of posts by protocol and tone.
    tones: dict[str, dict[str, int]]
    # Number of posts by text label and image label, such as "positive,neutral".
    label_pairs: dict[str, int]
    dropped: DroppedPosts
    # Number of deviations from MVSA's layout that do no harm, by kind.
    variants: dict[str, int]
    # Number of captions by encoding.
    encodings: dict[str, int]
    # Ids of the posts whose caption may be read wrongly, by the encoding that was guessed.
    guessed_encodings: dict[str, tuple[str, ...]]
    caption_words: WordCounts
    empty_captions: int
    image_width_px: Quantiles
    image_height_px: Quantiles
    image_megapixels: Quantiles


@dataclass(frozen=True)
class PredefinedLists:
    """The lists that a predefined split was read from."""

    folder: str
    # None if the lists have no folds.
    fold: int | None


@dataclass(frozen=True)
class SplitReport(StageOutput):
    """The settings and sizes of a split: split/report.json."""

    kind: str
    protocol: str
    seed: int
    # None unless `kind` is predefined.
    predefined: PredefinedLists | None
    # Digest of the posts' contents and labels.
    data_digest: str
    # Digest of the part of each post.
    split_digest: str
    # Number of posts by part and tone.
    parts: dict[str, dict[str, int]]
    # Number of labelled posts that the lists of a predefined split do not name.
    in_no_part: int


@dataclass(frozen=True)
class CrossPartTwins:
    """Numbers of posts in `part` that have a near-duplicate in the part `twin_in`, by what is alike."""

    part: str
    twin_in: str
    caption: int
    image: int
    looks: int
    any: int


@dataclass(frozen=True)
class GroupCounts:
    """Numbers of groups of two or more near-duplicates."""

    groups: int
    # Number of posts in these groups.
    posts: int
    # Number of groups whose posts have several labels.
    conflicting: int


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images."""

    posts: int
    # Number of images that equal an earlier one byte for byte.
    surplus_identical: int


@dataclass(frozen=True)
class RevealingHashtag:
    """A hashtag that gives a label away."""

    hashtag: str
    label: str
    # Number of posts with the hashtag.
    posts: int
    # Number of these posts that have the label.
    with_label: int


@dataclass(frozen=True)
class ExamplePost:
    """A post, as an example shows it."""

    id: str
    label: str
    caption: str


@dataclass(frozen=True)
class ExamplePostOfPart:
    """A post and its part, as an example shows it."""

    id: str
    part: str
    label: str
    caption: str


@dataclass(frozen=True)
class ExampleTwins:
    """A test post and a near-duplicate of it in train."""

    # What is alike: caption, image or looks.
    kinds: tuple[str, ...]
    posts: tuple[ExamplePostOfPart, ...]


@dataclass(frozen=True)
class LeakExamples:
    """Examples of leaks."""

    # Pairs by what is alike.
    twins: dict[str, tuple[ExampleTwins, ...]]
    # Groups of near-duplicates with several labels.
    conflicting: tuple[tuple[ExamplePost, ...], ...]


@dataclass(frozen=True)
class LeakReport(StageOutput):
    """The leaks of a split: split/leaks.json. It holds captions, so do not publish it."""

    # The definition of each kind of near-duplicate.
    rules: dict[str, str]
    # Number of posts by part.
    parts: dict[str, int]
    # Number of test posts without a near-duplicate in another part.
    leak_free_test_posts: int
    twins: tuple[CrossPartTwins, ...]
    # Groups by what is alike.
    groups: dict[str, GroupCounts]
    # Number of captions without words and hashtags, by part.
    captions_without_words: dict[str, int]
    images: ImageCounts
    hashtags: tuple[RevealingHashtag, ...]
    examples: LeakExamples


@dataclass(frozen=True)
class Trained:
    """A training as train.json describes it.

    Attributes:
        model: the name in the catalog.
        facts: the weights and posts that it was trained on.
        code: the digest of the code that trained it.
        study, trial: the trial that tried the settings.
        params: what that trial drew.
        best_epoch: whose weights the adapter has, counted from 1.
        adapted_modules: full names of the modules that carry the adapter.
        validation: accuracy, macro_f1 and weighted_f1 of the best epoch.
    """

    model: str
    facts: Mapping[str, str]
    code: str
    study: str
    trial: int
    params: Mapping[str, Any]
    best_epoch: int
    adapted_modules: tuple[str, ...]
    validation: Mapping[str, float]

    @property
    def adapter(self) -> Path:
        """The folder of the adapter's files."""
        return stage_folder("train", self.model) / "adapter"

    @property
    def digest(self) -> str:
        """Return the `adapter_digest`: equal trainings have the same."""
        return adapter_digest(self.adapter, self.facts["checkpoint_revision"])


def adapter_digest(adapter: Path, revision: str) -> str:
    """Return the digest of an adapter's files, followed by the beginning of its base's revision."""
    return f"{folder_digest(adapter)}-{revision[:12]}"


def read_trained(model: str) -> Trained:
    """Read what `train` wrote of a model.

    Raises:
        UserError: it has not run.
    """
    content = read_json(stage_folder("train", model) / "train.json")
    return Trained(
        model=content["name"],
        facts=content["facts"],
        code=content["code"],
        study=content["study"],
        trial=content["trial"],
        params=content["params"],
        best_epoch=content["best_epoch"],
        adapted_modules=tuple(content["adapted_modules"]),
        validation={name: content[name] for name in ("accuracy", "macro_f1", "weighted_f1")},
    )


@dataclass(frozen=True)
class ModalityOutput(StageOutput):
    """The content of modality.json: a tuned model on test posts with one half hidden or changed."""

    # The number of test posts.
    posts: int
    # The number of test posts without a near-duplicate in train or val.
    leak_free_posts: int
    # By ablation, both halves first.
    conditions: Mapping[str, AblationResult]
    # The reason for each ablation that these posts do not allow.
    omitted: Mapping[str, str]
    # None where that ablation is omitted.
    shuffled: ShuffledImages | None
    hashtags: HashtagEffect
    # By `agree` and `disagree`, the relation of the post's two labels. No entry without posts.
    by_agreement: Mapping[str, AgreementAccuracy]
    disagreement: Disagreement
    # None for a model without image-text alignment, and for test posts without captions.
    alignment: AlignmentCorrelation | None
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
    # The tone that the map explains.
    predicted: str
    # The probability of the predicted tone.
    probability: float
    # The contribution of the image as a whole.
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
    # The check of the first mistake's map. None without a mistake.
    sanity: CheckedMap | None
    mistakes: tuple[ExplainedMistake, ...]


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
class MetricsOutput(StageOutput):
    """The content of metrics.json of one system: scores on the test part, shares between 0 and 1."""

    accuracy: float
    macro_f1: float
    weighted_f1: float
    f1_negative: float
    f1_neutral: float
    f1_positive: float


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
    """Estimated shares of posts by given label and true tone."""

    # The tones, in the order of rows and columns.
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
    twins: Mapping[str, Mapping[str, DuplicateAgreement | None]]
    # The reason for an estimate that is missing, by its name.
    omitted: Mapping[str, str]


@dataclass(frozen=True)
class MislabelledRow:
    """A row of mislabelled.csv: a post whose label is likely wrong."""

    # From 1, the least plausible label.
    rank: int
    id: str
    label: str
    # The most probable tone.
    suggested: str
    # The plausibility of the label, from 0 (certainly wrong) to 1.
    quality: float
    label_probability: float
    text_label: str
    image_label: str
    caption: str
