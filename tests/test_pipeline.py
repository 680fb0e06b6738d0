"""dvc.yaml says what the code does: stages, what they depend on, where they write."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.config import load_params
from src.core.paths import OUTPUTS
from src.core.provenance import imported
from src.models.catalog import BUILT, MODELS

ROOT = Path(__file__).parents[1]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
# Code that decides what a screen or MLflow shows, the list of models, and the dry run in place of a search.
UNSEEN_FOLDERS = ("src/cli", "src/tracking")
UNSEEN_FILES = {"src/models/catalog.py", "src/sizing/tables.py"}
# Stages whose outputs hold plots or pages. The others log theirs to MLflow alone.
PLOTTING = {"tune", "compare", "evaluate", "report"}
ITEM = "${item.model}"


def listed(stage: str, kind: str) -> list[str]:
    """The entries of a stage, without the options that some of them carry."""
    entries = STAGES[stage].get(kind, [])
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def unseen(stage: str) -> frozenset[str]:
    """The code that changes nothing in the outputs of a stage."""
    folders = UNSEEN_FOLDERS if stage in PLOTTING else (*UNSEEN_FOLDERS, "src/reporting")
    files = {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    return frozenset(files | UNSEEN_FILES)


def code_of(stage: str, name: str) -> set[str]:
    """A file of src/ and all that it imports, less what is unseen."""
    return {path.relative_to(ROOT).as_posix() for path in imported([ROOT / name], unseen(stage))} - unseen(stage)


def dependency_of(name: str) -> str:
    """The entry for a file in dvc.yaml: commands, stages and models one by one, other code by its folder."""
    folder = name.rpartition("/")[0]
    return name if not name.endswith("/") and folder in {"src", "src/models", "src/pipeline"} else folder


def needed(stage: str) -> set[str]:
    """The code a stage depends on. `serve` is run by whoever loads what `register` packs, so its imports are not."""
    names = code_of(stage, f"src/{stage}.py")
    if "src/training/workspace.py" in names:
        for model in MODELS:
            names |= code_of(stage, f"src/models/{model}.py") - {f"src/models/{model}.py"}
        names.add(f"src/models/{ITEM}.py" if "matrix" in STAGES[stage] else "src/models/")
    return {dependency_of(name) for name in names}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_run_their_modules(stage: str) -> None:
    per_model = " --model ${item.model}" if "matrix" in STAGES[stage] else ""
    assert STAGES[stage]["cmd"] == f"python -m src.{stage}{per_model}"
    assert (ROOT / "src" / f"{stage}.py").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_stages_depend_on_imported_code(stage: str) -> None:
    listed_code = {dep for dep in listed(stage, "deps") if dep.startswith("src/")}
    assert listed_code - {"src/serve.py"} == needed(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_lists_exists(stage: str) -> None:
    for dep in listed(stage, "deps"):
        if dep.startswith("src/"):
            for model in MODELS:
                assert (ROOT / dep.replace(ITEM, model)).exists(), dep
    for out in [*listed(stage, "outs"), *listed(stage, "metrics"), *listed(stage, "plots")]:
        assert Path(out).is_relative_to(OUTPUTS), out


@pytest.mark.parametrize("stage", STAGES)
def test_listed_params_exist(stage: str) -> None:
    for name in STAGES[stage].get("params", []):
        for model in MODELS:
            found: Any = PARAMS
            for key in name.replace(ITEM, model).split("."):
                assert key in found, f"{stage}: params.yaml has no {name}"
                found = found[key]


def test_lock_has_no_removed_stage() -> None:
    """DVC keeps the entries of stages that dvc.yaml no longer has, and reads and writes them after each stage."""
    locked = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    assert {name.partition("@")[0] for name in locked} == set(STAGES)


def test_model_files_rerun_own_stages_alone() -> None:
    for stage in STAGES:
        own = [dep for dep in listed(stage, "deps") if dep.removeprefix("src/models/") in {f"{m}.py" for m in MODELS}]
        assert not own, f"{stage} names {own}: write src/models/{ITEM}.py in a matrix stage"


def test_the_pipeline_runs_the_papers_models() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.models == tuple(model for model in MODELS if model not in BUILT)
    for model in MODELS:
        assert params.space_of(model)
