"""Covers: the parts of `benchmarks.gpu` on a machine with few libraries, and the figures that they print."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import marked_tests
from benchmarks.lib.floor import Product, Products
from benchmarks.lib.peaks import peak_flops
from benchmarks.lib.predicted_memory import on_meta, step_bytes
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.sizing.cost_profile import profile_step
from src.sizing.meta_model import META
from src.training.adapter import attach_adapter

ABSENT = [
    "alembic",
    "captum",
    "cleanlab",
    "dvc",
    "imagehash",
    "matplotlib",
    "mlflow",
    "optuna",
    "pandas",
    "pyarrow",
    "ray",
    "sqlalchemy",
    "statsmodels",
]
# Runs the commands of all parts but the longest in one process that cannot find these libraries.
PROGRAM = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

from benchmarks import environment, epoch, gpu, marked_tests, memory, step

def run(command, words):
    try:
        command.main(words.split(), standalone_mode=False)
    except SystemExit as left:
        assert left.code in (0, None), (words, left.code)

run(environment.main, "")
run(step.main, "--model clip --batch-size 4 --rounds 1 --baseline --fit-memory")
run(epoch.main, "--model clip --train-posts 40 --val-posts 10 --epochs 1")
run(marked_tests.main, "gpu")
loaded = set({ABSENT!r}) & {{name.split(".")[0] for name in sys.modules}}
assert not loaded, loaded
"""


@pytest.mark.slow
def test_parts_run_without_tracking_libraries(repo_root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=repo_root, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    kinds = [row.get("benchmark") for row in figures]
    assert list(dict.fromkeys(kinds))[:3] == ["environment", "step", "epoch"]
    project, baseline = (next(row[side] for row in figures if side in row) for side in ("project", "baseline"))
    assert 0 < project["gflop"] <= baseline["gflop"]
    assert figures[-1]["benchmark"] == "marked_tests"
    assert figures[-1].get("failed", 0) == 0
    assert sum(figures[-1].get(end, 0) for end in ("passed", "skipped")) >= 3


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("GeForce 256", None),
    ],
)
def test_peak_matches_card_name(card: str, peak: float | None) -> None:
    assert peak_flops(card) == peak


@pytest.mark.parametrize(("causal", "share"), [(False, 1), (True, 0.5)])
def test_efficient_attention_kernel_counts_causal(causal: bool, share: float) -> None:
    # The flag before `causal` asks for the log-sum-exp. It must not count as causal.
    query, key, value = (torch.empty(2, 3, 8, 4, device=META) for _ in range(3))
    with Products() as products:
        torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, causal)
    assert products.counts == {Product(6, 8, 4, 8, share): 2}


def test_meta_copy_keeps_shapes(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("tinyllava")
    attach_adapter(model, TrainingConfig(readout="head", rank=2, alpha=2, dropout=0.1, lr=0.001), seed=1)
    copied = on_meta(model)
    assert {weight.device for weight in (*copied.parameters(), *copied.buffers())} == {META}
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    of_copy = {name: (weight.shape, weight.requires_grad) for name, weight in copied.named_parameters()}
    assert of_copy == {name: (weight.shape, weight.requires_grad) for name, weight in model.named_parameters()}


def test_step_bytes_add_optimiser_state(tiny_model: Callable[[str], ToneModel]) -> None:
    settings = TrainingConfig(readout="head", rank=2, alpha=2, dropout=0.0, lr=0.001)
    model = tiny_model("clip")
    attach_adapter(model, settings, seed=1)
    side = model.backbone.config.vision_config.image_size
    features = {
        "pixels": torch.zeros(2, 3, side, side, dtype=torch.uint8),
        "tokens": torch.ones(2, 9, dtype=torch.long),
        "length": torch.tensor([9, 7]),
    }
    predicted = step_bytes(model, features, settings)
    weights = [*model.parameters(), *model.buffers()]
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    blank = {name: value.to(META) for name, value in features.items()}
    batch = profile_step(model.to(META), blank, settings, gradient_checkpointing=False).peak_bytes
    assert predicted == sum(weight.nbytes for weight in weights) + 3 * trained + batch


def test_marked_tests_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_other.py").write_text("import no_such_library\n")
    (tmp_path / "tests" / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_good(): pass\n"
        "@pytest.mark.gpu\ndef test_bad(): assert False\n"
        "def test_unmarked(): assert False\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(marked_tests.main, ["gpu"])
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert result.exit_code == 1
    assert (rows[-1]["passed"], rows[-1]["failed"]) == (1, 1)
    assert rows[-1]["failures"] == ["tests/test_some.py::test_bad"]
    assert len(rows) == 3  # after each test, and at the end
