"""Covers: a local folder as the checkpoint of a model at scale full, from `frozen` to an exported version."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.config import Params, load_params
from src.core.files import folder_digest, read_json
from src.core.labels import TONE_LABELS
from src.core.outputs import PretrainedWeights, read_trained
from src.core.paths import checkpoint_file, checkpoint_folder
from src.registry import registry
from src.search.plan import plan_of
from src.training.workspace import checkpoint_of, facts_of
from tests.pipeline import MODEL, copied, run

pytestmark = pytest.mark.slow

MINE = Path("models/mine")
ADDRESS = f"models:/mvsa-{MODEL}@champion"


def set_params(scale: str, **checkpoint: str) -> Params:
    content: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
    content.update(scale=scale, checkpoints={MODEL: checkpoint})
    content["training"]["common"].update(epochs=1)
    content["tune"].update(trials=1)
    Path("params.yaml").write_text(yaml.safe_dump(content))
    return load_params()


def study() -> str:
    params = load_params()
    return plan_of(params, MODEL, facts_of(MODEL, checkpoint_of(params, MODEL), TONE_LABELS)).name


@pytest.fixture(scope="module")
def registered(encoded: Path, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the current folder: a repository in which a version was trained on the weights in `MINE`."""
    with copied(encoded, tmp_path_factory, "given") as folder:
        # `register` packs the code.
        Path("src").symlink_to(repo_root / "src")
        MINE.parent.mkdir()
        checkpoint_folder(MODEL).rename(MINE)
        set_params("full", folder=str(MINE))
        for stage in ("frozen", "tune", "train", "evaluate", "register"):
            run(stage, "--model", MODEL)
        yield folder


def test_every_record_names_the_folder_and_digest(registered: Path) -> None:
    digest = folder_digest(MINE)
    expected = PretrainedWeights(str(MINE), digest, "full", is_local=True, given=str(MINE))
    assert PretrainedWeights.read(checkpoint_file(MODEL)) == expected
    assert read_json(Path("outputs/register") / MODEL / "contract/contract.json")["checkpoint"] == vars(expected)
    facts = {"checkpoint": str(MINE), "checkpoint_revision": digest, "weights": "given", "scale": "full"}
    assert facts.items() <= read_trained(MODEL).facts.items()
    (version,) = registry.versions(MODEL)
    run_record = registry.run_record(version.run_id)
    assert run_record
    (trial,) = registry.runs_tagged(MODEL, {"stage": "trial", "study": study()})
    for tags in (version.tags, run_record.tags, trial.tags):
        assert facts.items() <= tags.items()
    assert any(f"{MINE} at {digest}" in line and "holds" in line for line in lineage())


def lineage() -> list[str]:
    # There is no git commit here, so one link is broken.
    said: str = run("lineage", ADDRESS, code=1).output
    return said.splitlines()


@pytest.mark.usefixtures("warm_children")
def test_version_carries_its_base(registered: Path, tmp_path: Path) -> None:
    MINE.rename(tmp_path / "away")
    try:
        run("export", ADDRESS, "--out", str(tmp_path / "tone"))
        assert any("the files in models/mine: none, not" in line for line in lineage())
    finally:
        (tmp_path / "away").rename(MINE)
    assert folder_digest(tmp_path / "tone" / "base") == folder_digest(MINE)
    card = (tmp_path / "tone" / "README.md").read_text()
    assert "The base is known by the digest of its files alone" in card
    assert f"weights in a local folder, digest `{folder_digest(MINE)}`" in card
    front_matter = yaml.safe_load(card.split("---")[1])
    assert "base_model" not in front_matter
    assert front_matter["model-index"]


def test_changed_folder_is_another_study(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with copied(registered, tmp_path_factory, "changed"):
        before, adapted = study(), read_json(Path("outputs/encode") / MODEL / "encode.json")["caches"]
        (MINE / "config.json").write_text(json.dumps({**read_json(MINE / "config.json"), "note": "changed"}))
        said = run("evaluate", "--model", MODEL, code=1).output
        assert said.startswith("error: models/mine has changed: ") and said.count("\n") == 1
        run("frozen", "--model", MODEL)
        assert study() != before
        assert not set(adapted) & set(read_json(Path("outputs/encode") / MODEL / "encode.json")["caches"])
        for stage in ("evaluate", "register"):
            said = run(stage, "--model", MODEL, code=1).output
            assert "the adapter of clip was trained on models/mine at " in said and said.count("\n") == 1


def test_other_request_needs_encode(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with copied(registered, tmp_path_factory, "other"):
        shutil.copytree(MINE, "models/other")
        for scale, checkpoint in (("full", {}), ("full", {"folder": "models/other"}), ("tiny", {})):
            set_params(scale, **checkpoint)
            said = run("tune", "--model", MODEL, code=1).output
            assert "run `dvc repro frozen@clip`" in said and said.count("\n") == 1
        set_params("tiny", folder=str(MINE))
        assert "needs scale: full" in run("frozen", "--model", MODEL, code=2).output
