"""Covers: stage `align`, and what `encode` makes of its weights."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.core.config import Params, load_params
from src.core.errors import StopRequested, UsageError, UserError
from src.core.outputs import AlignOutput
from src.core.paths import ALIGN_JSON, ALIGNED_FILE, PARAMS, UNFINISHED, stage_folder
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.pipeline.align import align_model
from src.pipeline.encode import encode_model
from src.tracking.epoch_logger import EpochLogger
from src.training.adapter import fresh_adapter
from src.training.cache import Boundary
from src.training.workspace import open_workspace
from tests.pipeline import run
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
    settings = params.alignment_config(MODEL)
    assert settings
    return settings


@pytest.fixture
def aligned(params: Params) -> AlignOutput:
    return align_model(params, MODEL, settings_of(params))


def connector(model: ToneModel) -> dict[str, torch.Tensor]:
    prefix = "model.multi_modal_projector."
    return {name: weight for name, weight in model.backbone.named_parameters() if name.startswith(prefix)}


def test_only_named_segments_are_written(aligned: AlignOutput, params: Params) -> None:
    encode_model(replace(params, align={}), MODEL)
    untrained = connector(open_workspace(load_params(), MODEL).model)
    weights = load_file(FOLDER / ALIGNED_FILE)
    assert aligned.segments == ("connector",)
    assert weights.keys() == untrained.keys()
    assert all(not torch.equal(weights[name], untrained[name]) for name in weights)


def test_encode_loads_aligned_weights(aligned: AlignOutput, params: Params) -> None:
    encode_model(params, MODEL)
    workspace = open_workspace(load_params(), MODEL)
    weights = load_file(FOLDER / ALIGNED_FILE)
    assert all(torch.equal(weight, weights[name]) for name, weight in connector(workspace.model).items())
    assert workspace.facts()["aligned"] == aligned.digest


def test_features_below_stay_valid(aligned: AlignOutput, params: Params) -> None:
    encode_model(params, MODEL)
    model = open_workspace(load_params(), MODEL).model
    above = Boundary.of(model)
    with fresh_adapter(model, settings_of(params), seed=0):
        below = Boundary.of(model)
    assert (below.aligned, above.aligned) == ("", aligned.digest)
    assert below.lies_before(above)
    assert not replace(below, aligned="other").lies_before(above)


def test_killed_alignment_continues(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
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
        open_workspace(load_params(), MODEL)


@pytest.mark.usefixtures("params")
def test_whole_checkpoint_needs_no_alignment() -> None:
    run("align", "--model", "clip")
    assert AlignOutput.read(stage_folder("align", "clip") / ALIGN_JSON) == AlignOutput()


@pytest.mark.parametrize("wrong", [{"rank": 4}, {"unfreeze": ""}], ids=["adapter", "nothing"])
def test_alignment_trains_whole_segments(params: Params, wrong: dict[str, int | str]) -> None:
    with pytest.raises(UsageError):
        replace(params, align={MODEL: {**SETTINGS, **wrong}})
