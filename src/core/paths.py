"""Paths that the pipeline reads or writes, relative to the repository's root, where all commands run."""

from pathlib import Path


def origin_of(folder: Path) -> Path:
    """Return the repository that keeps the stores of a folder: the folder itself, or the original of DVC's copy.

    `dvc exp run --queue` and `--temp` run in a copy below .dvc/tmp/exps/ of the repository, and remove the copy.
    """
    parents = folder.resolve().parents
    copies = [parent for parent in parents if parent.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else Path()


PARAMS = Path("params.yaml")
DATA_DVC = Path("data.dvc")
DATA = Path("data")
SAMPLE = Path("sample")
OUTPUTS = Path("outputs")
# Stores that outlive a rerun and are no output of a stage. A copy that DVC makes for an experiment uses the original's.
ORIGIN = origin_of(Path())
MLRUNS = ORIGIN / "mlruns"
KEPT = ORIGIN / "outputs"

POSTS = OUTPUTS / "prepare" / "posts.csv"
FINGERPRINTS = OUTPUTS / "prepare" / "fingerprints.csv"
DATA_REPORT = OUTPUTS / "prepare" / "report.json"
SPLIT = OUTPUTS / "split" / "split.csv"
SPLIT_REPORT = OUTPUTS / "split" / "report.json"
GROUPS = OUTPUTS / "split" / "groups.csv"
UNIMODAL = OUTPUTS / "split" / "unimodal.csv"
LEAKS = OUTPUTS / "split" / "leaks.json"
BASELINE = OUTPUTS / "baseline"
ENSEMBLE = OUTPUTS / "ensemble"
REGISTER_ENSEMBLE = OUTPUTS / "register_ensemble"
COMPARE = OUTPUTS / "compare"
NOISE = OUTPUTS / "noise"
REPORT = OUTPUTS / "report"
REPRODUCE = OUTPUTS / "reproduce"

# File names in the folder of a stage.
MODALITY_JSON = "modality.json"
SALIENCY_JSON = "saliency.json"
MISTAKES_HTML = "mistakes.html"
MISTAKES_FOLDER = "mistakes"
REPEAT_JSON = "repeat.json"
FOLDS_JSON = "folds.json"
OMITTED_JSON = "omitted.json"
NOISE_JSON = "noise.json"
MISLABELLED_TABLE = "mislabelled.csv"
SCORES_TABLE = "scores.csv"
PAIRS_TABLE = "pairs.csv"
SEEDS_TABLE = "seeds.csv"
CALIBRATION_TABLE = "calibration.csv"
SELECTIVE_TABLE = "selective.csv"
PLOTS_FOLDER = "plots"
REPORT_HTML = "index.html"

# Files that several stages write in their folders.
METRICS_JSON = "metrics.json"
OUT_OF_FOLD_TABLE = "out_of_fold.csv"

# What `register` and `register_ensemble` write in their stage's folder.
REGISTER_FILE = "version.json"
CONTRACT_FOLDER = "contract"

# What `align` writes in its stage's folder, besides the history of the training.
ALIGN_JSON = "align.json"
ALIGNED_FILE = "aligned.safetensors"

# What `frozen` writes beside the checkpoint.
ENCODE_FILE = "encode.json"

# What `tune` writes in its stage's folder.
BEST_FILE = "best.json"
SEARCH_FILE = "search.json"
TRIALS_FILE = "trials.csv"

# What every stage that evaluates a system writes in the system's folder.
PREDICTIONS_FILE = "predictions.csv"
VAL_PREDICTIONS_FILE = "val_predictions.csv"

# What `train` writes in its stage's folder, besides the predictions of the validation part.
TRAIN_JSON = "train.json"
HISTORY_FILE = "history.csv"
ADAPTER_FOLDER = "adapter"

# What `baseline` and `frozen` write for each fitted classifier, beside its predictions.
CLASSIFIER_FOLDER = "classifier"

# What `ensemble` writes in its stage's folder, besides metrics and predictions.
ENSEMBLE_JSON = "ensemble.json"

# What `evaluate` writes in its stage's folder, besides metrics and predictions.
EVALUATE_JSON = "evaluate.json"

CACHE = KEPT / "cache"
STUDIES = KEPT / "studies.db"
TRIALS = KEPT / "trials"
REPEATS = KEPT / "repeats"
PAPER_RUNS = KEPT / "paper"
UNFINISHED = KEPT / "unfinished"
CHECKPOINTS = KEPT / "checkpoints"


def stage_folder(stage: str, model: str) -> Path:
    """Return the folder that a stage writes for one model, such as outputs/train/clip."""
    return OUTPUTS / stage / model


def checkpoint_folder(model: str) -> Path:
    """Return the folder to which `frozen` writes a model's weights at tiny scale."""
    return stage_folder("encode", model) / "checkpoint"


def checkpoint_file(model: str) -> Path:
    """Return the file in which `frozen` records the checkpoint that it resolved (`PretrainedWeights`)."""
    return stage_folder("encode", model) / "checkpoint.json"


def seed_runs_file(model: str) -> Path:
    """Return the table of finished trainings on other seeds of one model."""
    return REPEATS / f"{model}.csv"


def seed_runs_folder(model: str) -> Path:
    """Return the folder with the predictions and the adapter of each finished training on another seed."""
    return REPEATS / f"{model}-seeds"


def fold_runs_folder(model: str) -> Path:
    """Return the folder with the predictions of each finished training on a published fold."""
    return REPEATS / f"{model}-folds"


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLAlchemy URL for SQLite, or None for other databases.

    Three slashes begin a relative path, four an absolute one.
    """
    scheme, separator, path = url.partition(":///")
    return Path(path) if separator and scheme.startswith("sqlite") else None


def at_origin(url: str) -> str:
    """Return an SQLAlchemy URL whose relative SQLite file is taken from `ORIGIN`."""
    file = sqlite_file(url)
    return url if file is None else f"{url.partition(':///')[0]}:///{ORIGIN / file}"
