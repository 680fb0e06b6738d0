from pathlib import Path

import pytest
import torch

from src.training.checkpoint import TrainingCheckpoint, TrainingState


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    checkpoint = TrainingCheckpoint(tmp_path / "new" / "clip.safetensors", "a key")
    assert checkpoint.load() is None
    checkpoint.save(TrainingState({"weights/a": torch.zeros(2)}, {"best_epoch": 1}))
    checkpoint.save(TrainingState({"weights/a": torch.tensor([0.1, 1e-30])}, {"best_epoch": 2, "loss": 0.1 + 0.2}))
    state = checkpoint.load()
    assert state is not None and state.values == {"best_epoch": 2, "loss": 0.1 + 0.2}
    assert torch.equal(state.group("weights")["a"], torch.tensor([0.1, 1e-30])) and state.group("best") == {}
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["clip.safetensors"]
    checkpoint.delete()
    assert checkpoint.load() is None
    checkpoint.delete()


def test_another_training_finds_nothing(tmp_path: Path) -> None:
    TrainingCheckpoint(tmp_path / "clip.safetensors", "a key").save(TrainingState({}, {"best_epoch": 1}))
    assert TrainingCheckpoint(tmp_path / "clip.safetensors", "another").load() is None


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda _: b"", lambda _: b"\x80\x04]."])
def test_damaged_checkpoint_is_ignored(tmp_path: Path, damage: "type[bytes]", caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = TrainingCheckpoint(tmp_path / "clip.safetensors", "a key")
    checkpoint.save(TrainingState({"weights/a": torch.zeros(200)}, {}))
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    assert checkpoint.load() is None
    assert f"{checkpoint.path} cannot be read" in caplog.text and "begins anew" in caplog.text


def test_unwritable_folder_does_not_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    TrainingCheckpoint(tmp_path / "file" / "clip.safetensors", "a key").save(TrainingState({}, {"best_epoch": 1}))
    assert "cannot be written" in caplog.text


def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = TrainingCheckpoint(tmp_path / "clip.safetensors", "a key")
    checkpoint.save(TrainingState({}, {"best_epoch": 1}))
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        checkpoint.save(TrainingState({"weights/a": torch.zeros(9999)}, {"best_epoch": 2}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written" in caplog.text
    assert checkpoint.load() == TrainingState({}, {"best_epoch": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["clip.safetensors"]
