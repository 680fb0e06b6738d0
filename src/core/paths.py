"""Every place the pipeline reads or writes, relative to the repository's root (where all commands are run)."""

from pathlib import Path

PARAMS = Path("params.yaml")
DATA_DVC = Path("data.dvc")
DATA = Path("data")
SAMPLE = Path("sample")
MLRUNS = Path("mlruns")
OUTPUTS = Path("outputs")

POSTS = OUTPUTS / "prepare" / "posts.csv"
FINGERPRINTS = OUTPUTS / "prepare" / "fingerprints.csv"
DATA_REPORT = OUTPUTS / "prepare" / "report.json"
SPLIT = OUTPUTS / "split" / "split.csv"
SPLIT_REPORT = OUTPUTS / "split" / "report.json"
GROUPS = OUTPUTS / "split" / "groups.csv"
LEAKS = OUTPUTS / "split" / "leaks.json"
BASELINE = OUTPUTS / "baseline"
COMPARE = OUTPUTS / "compare"
NOISE = OUTPUTS / "noise"
REPORT = OUTPUTS / "report"

# Neither is an output of a stage: both outlive a rerun, which takes from them what is still valid.
CACHE = OUTPUTS / "cache"
STUDIES = OUTPUTS / "studies.db"


def stage_folder(stage: str, model: str) -> Path:
    """The folder that a stage writes for one model, such as outputs/train/clip."""
    return OUTPUTS / stage / model


def checkpoint_folder(model: str) -> Path:
    """What `encode` resolved the model's base to: checkpoint.json, and at tiny scale the weights too."""
    return stage_folder("encode", model) / "checkpoint"
