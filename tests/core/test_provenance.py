import shutil
from pathlib import Path

import pytest

from src.core import provenance
from src.core.provenance import code_digest, imported, training_key
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS

SETTINGS = TrainingConfig(readout="head", rank=1, alpha=1, dropout=0.0, lr=0.001)
MODEL = "clip"
FACTS = {"model": MODEL, "split_digest": "s"}


@pytest.fixture
def root(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the code, and clear the cached digests."""
    shutil.copytree(repo_root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    return tmp_path


def digest(model: str) -> str:
    return code_digest.__wrapped__(model)


@pytest.fixture(scope="module")
def unchanged() -> dict[str, str]:
    """The digests of the repository's own code, which the copies hold too."""
    return {model: digest(model) for model in MODELS}


@pytest.mark.parametrize(
    ("changed", "models"),
    [
        ("training/trainer.py", set(MODELS)),
        ("training/train_and_test.py", set(MODELS)),
        ("training/cache_shards.py", set(MODELS)),
        ("data/augmentation.py", set(MODELS)),
        ("core/training_config.py", set(MODELS)),
        ("modeling/segments.py", set(MODELS)),
        ("models/blip2.py", {"blip2"}),
        ("modeling/llava_format.py", {"llava", "tinyllava", "smol"}),
        ("models/catalog.py", set()),
        ("core/outputs.py", set()),
        ("core/data_outputs.py", set()),
        ("core/paper.py", set()),
        ("training/occlusion.py", set()),
        ("sizing/cost_profile.py", set()),
        ("data/leaks.py", set()),
        ("cli/output.py", set()),
        ("train.py", set()),
    ],
)
def test_code_digest_covers_training_code(
    unchanged: dict[str, str], root: Path, changed: str, models: set[str]
) -> None:
    with (root / "src" / changed).open("a") as file:
        file.write("CHANGED = True\n")
    assert {model for model in MODELS if digest(model) != unchanged[model]} == models


def test_code_digest_leaves_out_explanations(unchanged: dict[str, str], root: Path) -> None:
    path = root / "src" / "training" / "trainer.py"
    explained = path.read_text().replace('"""', '"""Said better: ', 1).replace('    """', '    """Said better: ', 1)
    path.write_text(f"# Said first.\n\n{explained}")
    assert digest(MODEL) == unchanged[MODEL]


def test_imports_stop_at_left_out_files(root: Path) -> None:
    (root / "src" / "first.py").write_text("def late():\n    from src.second import nothing\n")
    (root / "src" / "second.py").write_text("from src import third\nimport json\n")
    (root / "src" / "third.py").write_text("from src.first import late\n")
    first = root / "src" / "first.py"
    assert {path.name for path in imported([first])} == {"first.py", "second.py", "third.py"}
    assert {path.name for path in imported([first], frozenset({"src/second.py"}))} == {"first.py", "second.py"}


def test_training_key_covers_settings_and_facts() -> None:
    first = training_key(SETTINGS, FACTS, 1)
    assert first == training_key(SETTINGS, dict(reversed(FACTS.items())), 1)
    others = [
        training_key(TrainingConfig(**{**SETTINGS.__dict__, "rank": 2}), FACTS, 1),
        training_key(SETTINGS, {**FACTS, "split_digest": "t"}, 1),
        training_key(SETTINGS, {**FACTS, "model": "blip2"}, 1),
        training_key(SETTINGS, FACTS, 2),
    ]
    assert len({first, *others}) == 5
