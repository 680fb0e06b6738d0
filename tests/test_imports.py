"""Covers: the imports of modules. Libraries take most of a stage's start, so each stage loads only those it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Modules of libraries that take a tenth of a second or more to import.
HEAVY = (
    "accelerate",
    "captum",
    "cleanlab",
    "matplotlib",
    "mlflow",
    "optuna",
    "pandas",
    "peft",
    "ray",
    "rich",
    "scipy.stats",
    "sklearn",
    "sqlalchemy",
    "statsmodels",
    "torch",
    "transformers",
)
# Modules that load nothing heavy. They import it when a run is written, a plot drawn, a study opened, a worker started.
LIGHT = (
    "src.cli.output",
    "src.reporting.plot_evaluation",
    "src.reporting.saliency_page",
    "src.search.ray_pool",
    "src.search.study",
    "src.search.study_analysis",
    "src.tracking.client",
    "src.registry.registry",
)
# Each stage with the heavy libraries that its module of src/pipeline may load.
MODEL = {"accelerate", "peft", "torch", "transformers"}
ALLOWED: dict[str, set[str]] = {
    # pandas comes with statsmodels, and with scikit-learn as rich does.
    "prepare": set(),
    "split": set(),
    "baseline": {"pandas", "rich", "scipy.stats", "sklearn"},
    "align": MODEL,
    "frozen": MODEL | {"pandas", "rich", "scipy.stats", "sklearn"},
    "tune": MODEL,
    "train": MODEL,
    # captum draws with matplotlib.
    "evaluate": MODEL | {"captum", "matplotlib", "pandas", "scipy.stats", "statsmodels"},
    "repeat": MODEL | {"scipy.stats"},
    "register": MODEL,
    "register_ensemble": MODEL | {"pandas", "rich", "scipy.stats", "sklearn"},
    "noise": {"cleanlab", "pandas", "rich", "scipy.stats", "sklearn"},
    "ensemble": {"scipy.stats"},
    "compare": {"pandas", "scipy.stats", "statsmodels"},
    # Some recipes are baselines.
    "reproduce": MODEL | {"pandas", "rich", "scipy.stats", "sklearn"},
    "report": {"pandas", "scipy.stats", "statsmodels"},
}
# A fresh process loads the stages of a chain in this order, and shows what each adds. The light ones come first.
CHAINS = (
    ("prepare", "split", "ensemble", "compare", "report", "baseline", "noise", "frozen", "reproduce"),
    ("align", "tune", "train", "register", "repeat", "evaluate", "register_ensemble"),
)


def stages() -> list[str]:
    """The stages of dvc.yaml."""
    return list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def loaded(*modules: str) -> dict[str, set[str]]:
    """Import modules one after the other in a fresh process. Return the heavy libraries that are loaded after each."""
    script = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    found[module] = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {module: set(names) for module, names in json.loads(done.stdout).items()}


def test_every_stage_stands_in_a_chain() -> None:
    assert sorted(ALLOWED) == sorted(stage for chain in CHAINS for stage in chain) == sorted(stages())


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS, ids=["light", "trained"])
def test_a_stage_loads_only_what_it_runs(chain: tuple[str, ...]) -> None:
    allowed = {f"src.pipeline.{stage}": ALLOWED[stage] for stage in chain}
    before: set[str] = set()
    for module, found in loaded(*LIGHT, *allowed).items():
        assert found - before <= allowed.get(module, set()), module
        before |= found


def test_hub_is_quiet_before_its_library_loads() -> None:
    """Each module of src begins with the package, and no library of the Hub is loaded before."""
    code = (
        "import os, sys, src\n"
        "assert not {'huggingface_hub', 'transformers'} & sys.modules.keys()\n"
        "print(os.environ['DISABLE_SAFETENSORS_CONVERSION'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "1 1\n", done.stderr
