"""dvc.yaml says what the code does: stages, what they depend on, where they write."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.config import load_params
from src.core.paths import OUTPUTS
from src.models.catalog import MODELS
from src.search.code import imported

ROOT = Path(__file__).parents[1]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
# What only decides how things look on a screen, the list of models, and what is said in place of a search.
EXEMPT = {
    "src/models/catalog.py",
    "src/services/board.py",
    "src/services/terminal.py",
    "src/sizing/dry_run.py",
}
ITEM = "${item.model}"


def listed(stage: str, kind: str) -> list[str]:
    """The entries of a stage, without the options that some of them carry."""
    entries = STAGES[stage].get(kind, [])
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def only_templates(dep: str) -> bool:
    """Whether a dependency is a page's template, or a folder of such, which nothing imports."""
    files = list((ROOT / dep).glob("*")) or [ROOT / dep]
    return all(path.suffix == ".jinja" for path in files)


def names_of(name: str) -> set[str]:
    """A file of src/ and all that it imports, less what is imported for the screen's sake alone."""
    return {path.relative_to(ROOT).as_posix() for path in imported([ROOT / name], frozenset(EXEMPT))}


def needed(stage: str) -> set[str]:
    """The code a stage depends on. `serve` is run by whoever loads what `register` packs, so its imports are not."""
    names = names_of(f"src/{stage}.py")
    if "src/models/catalog.py" in names and "src/learning/workspace.py" in names:
        names |= {f"src/models/{ITEM}.py"} | {
            name for model in MODELS for name in names_of(f"src/models/{model}.py") if name != f"src/models/{model}.py"
        }
    return names - EXEMPT


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_the_module_of_its_name(stage: str) -> None:
    per_model = " --model ${item.model}" if "matrix" in STAGES[stage] else ""
    assert STAGES[stage]["cmd"] == f"python -m src.{stage}{per_model}"
    assert (ROOT / "src" / f"{stage}.py").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_imports(stage: str) -> None:
    code = {dep for dep in listed(stage, "deps") if dep.startswith("src/")}
    missing = {name for name in needed(stage) if not any(name == dep or name.startswith(f"{dep}/") for dep in code)}
    assert not missing, f"dvc.yaml, {stage}: add to deps {sorted(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_import(stage: str) -> None:
    names = needed(stage) | {"src/serve.py"}
    code = [dep for dep in listed(stage, "deps") if dep.startswith("src/") and not only_templates(dep)]
    spare = [dep for dep in code if not any(name == dep or name.startswith(f"{dep}/") for name in names)]
    assert not spare, f"dvc.yaml, {stage}: remove from deps {spare}"


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_lists_exists(stage: str) -> None:
    for dep in listed(stage, "deps"):
        if dep.startswith("src/"):
            for model in MODELS:
                assert (ROOT / dep.replace(ITEM, model)).exists(), dep
    for out in [*listed(stage, "outs"), *listed(stage, "metrics"), *listed(stage, "plots")]:
        assert Path(out).is_relative_to(OUTPUTS), out


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_that_a_stage_lists_stand_in_the_file(stage: str) -> None:
    for name in STAGES[stage].get("params", []):
        for model in MODELS:
            found: Any = PARAMS
            for key in name.replace(ITEM, model).split("."):
                assert key in found, f"{stage}: params.yaml has no {name}"
                found = found[key]


def test_a_models_own_file_is_a_dependency_of_its_own_stages_alone() -> None:
    for stage in STAGES:
        own = [dep for dep in listed(stage, "deps") if dep.removeprefix("src/models/") in {f"{m}.py" for m in MODELS}]
        assert not own, f"{stage} names {own}: write src/models/{ITEM}.py in a matrix stage"


def test_the_pipeline_runs_every_model_of_the_catalog() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.models == MODELS
    for model in MODELS:
        assert params.space_of(model)
