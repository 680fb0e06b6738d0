"""Covers: stage `align`, and what `frozen` makes of its weights."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from src.core.config import Params, load_params
from src.core.errors import StopRequested, UsageError, UserError
from src.core.outputs import AlignOutput, PretrainedWeights, read_trained
from src.core.paths import ALIGN_JSON, ALIGNED_FILE, PARAMS, UNFINISHED, checkpoint_file, stage_folder
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.pipeline.align import align_model
from src.pipeline.encode import encode_model
from src.tracking.epoch_logger import EpochLogger
from src.tracking.run_logging import open_tracker
from src.training.adapter import fresh_adapter
from src.training.cache import Boundary
from src.training.workspace import open_workspace
from tests.pipeline import copied, run
from tests.training.test_workspace import stages

MODEL = "tinyllava"
SETTINGS: dict[str, int | float | str | bool] = {
    "rank": 0,
    "readout": "verbalizer",
    "unfreeze": "connector",
    "lr": 0.01,
    "epochs": 2,
}
FOLDER = stage_folder("align", MODEL)


@pytest.fixture
def params(posts: list[Post], repo_root: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings that align one model, in a folder where `prepare` and `split` have run on twelve posts."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo_root / PARAMS, PARAMS)
    stages({"train": posts[:8], "val": posts[8:10], "test": posts[10:12]})
    return replace(load_params(), align={MODEL: SETTINGS})


def settings_of(params: Params) -> TrainingConfig:
    settings = params.align_config(MODEL)
    assert settings
    return settings


@pytest.fixture
def aligned(params: Params) -> AlignOutput:
    return align_model(params, MODEL, settings_of(params))


def connector(model: ToneModel) -> dict[str, torch.Tensor]:
    prefix = "model.multi_modal_projector."
    return {name: weight for name, weight in model.backbone.named_parameters() if name.startswith(prefix)}


def test_only_named_segments_are_written(aligned: AlignOutput, params: Params) -> None:
    without = replace(params, align={})
    encode_model(without, MODEL)
    untrained = connector(open_workspace(without, MODEL).model)
    weights = load_file(FOLDER / ALIGNED_FILE)
    assert aligned.segments == ("connector",)
    assert weights.keys() == untrained.keys()
    assert all(not torch.equal(weights[name], untrained[name]) for name in weights)


def test_encode_loads_aligned_weights(aligned: AlignOutput, params: Params) -> None:
    encode_model(params, MODEL)
    workspace = open_workspace(params, MODEL)
    weights = load_file(FOLDER / ALIGNED_FILE)
    assert all(torch.equal(weight, weights[name]) for name, weight in connector(workspace.model).items())
    assert workspace.facts()["aligned"] == aligned.digest


def test_features_below_stay_valid(aligned: AlignOutput, params: Params) -> None:
    encode_model(params, MODEL)
    model = open_workspace(params, MODEL).model
    above = Boundary.of(model)
    with fresh_adapter(model, settings_of(params), seed=0):
        below = Boundary.of(model)
    assert (below.aligned, above.aligned) == ("", aligned.digest)
    assert below.lies_before(above)
    assert not replace(below, aligned="other").lies_before(above)
    assert not replace(below, format=1).lies_before(above)


def test_killed_command_continues(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = align_model(params, MODEL, settings_of(params))
    epochs = []

    def stop_in_second(self: EpochLogger, epoch: int, metrics: dict[str, float]) -> bool:
        epochs.append(epoch)
        if epochs == [1, 2]:
            raise StopRequested("killed")
        return True

    with monkeypatch.context() as patch:
        patch.setattr(EpochLogger, "on_epoch", stop_in_second)
        with pytest.raises(StopRequested):
            align_model(params, MODEL, settings_of(params))
        assert any(UNFINISHED.iterdir())
        assert align_model(params, MODEL, settings_of(params)) == whole
    assert epochs == [1, 2, 2]
    resumed, first, *_ = open_tracker(MODEL).find({"stage": "align"})
    assert [resumed, first] == open_tracker(MODEL).find({"stage": "align"}, "attributes.status = 'FINISHED'")[:2]
    assert open_tracker(MODEL).reopen(resumed).steps("val_macro_f1") == {1, 2}
    assert not any(UNFINISHED.glob("*.safetensors"))


def test_encode_refuses_another_base(aligned: AlignOutput, params: Params) -> None:
    replace(aligned, revision="another").write(FOLDER / ALIGN_JSON)
    with pytest.raises(UserError, match="another"):
        encode_model(params, MODEL)


@pytest.mark.usefixtures("aligned")
def test_changed_weights_are_refused(params: Params) -> None:
    encode_model(params, MODEL)
    (FOLDER / ALIGNED_FILE).write_bytes(b"other")
    with pytest.raises(UserError, match=ALIGNED_FILE):
        open_workspace(params, MODEL)


@pytest.mark.usefixtures("params")
def test_whole_checkpoint_stays_as_it_is() -> None:
    run("align", "--model", "clip")
    assert AlignOutput.read(stage_folder("align", "clip") / ALIGN_JSON) == AlignOutput()


@pytest.mark.parametrize("wrong", [{"rank": 4}, {"unfreeze": ""}], ids=["adapter", "nothing"])
def test_only_whole_segments_can_align(params: Params, wrong: dict[str, int | str]) -> None:
    with pytest.raises(UsageError):
        replace(params, align={MODEL: {**SETTINGS, **wrong}})


@pytest.fixture
def registered(encoded: Path, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The current folder is a repository in which a version was trained on aligned weights."""
    with copied(encoded, tmp_path_factory, "aligned"):
        # `register` packs the code.
        Path("src").symlink_to(repo_root / "src")
        content = yaml.safe_load(Path(PARAMS).read_text())
        content.update(models=[MODEL], align={MODEL: SETTINGS})
        content["training"]["common"].update(epochs=1)
        content["tune"].update(trials=1)
        Path(PARAMS).write_text(yaml.safe_dump(content))
        for stage in ("align", "frozen", "tune", "train", "evaluate", "register"):
            run(stage, "--model", MODEL)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("registered", "warm_children")
def test_version_carries_aligned_weights(tmp_path: Path) -> None:
    address = f"models:/mvsa-{MODEL}@champion"
    FOLDER.rename(tmp_path / "away")
    run("verify", address)
    # The export runs its card's code, and compares the logits of the golden posts.
    run("export", address, "--out", str(tmp_path / "tone"))
    (row,) = re.findall(r"^\| trained \|.*", (tmp_path / "tone" / "README.md").read_text(), re.MULTILINE)
    assert "connector (aligned)" in row
    (tmp_path / "away").rename(FOLDER)
    digest = AlignOutput.read(FOLDER / ALIGN_JSON).digest
    assert read_trained(MODEL).facts["aligned"] == digest
    recorded = PretrainedWeights.read(checkpoint_file(MODEL))
    assert recorded.aligned
    replace(recorded, aligned=replace(recorded.aligned, digest="another")).write(checkpoint_file(MODEL))
    said = run("lineage", address, code=1).output
    assert f"another, not {digest}" in said


@pytest.mark.usefixtures("aligned")
def test_other_request_needs_encode(params: Params) -> None:
    encode_model(params, MODEL)
    with pytest.raises(UserError, match="frozen@"):
        open_workspace(replace(params, align={}), MODEL)
