from pathlib import Path

import pytest
import torch

from src.training.checkpoint import TrainingCheckpoint, TrainingState


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    keeper = TrainingCheckpoint(tmp_path / "new" / "clip.safetensors", "a key")
    assert keeper.load() is None
    keeper.save(TrainingState({"weights/a": torch.zeros(2)}, {"best_epoch": 1}))
    keeper.save(TrainingState({"weights/a": torch.tensor([0.1, 1e-30])}, {"best_epoch": 2, "loss": 0.1 + 0.2}))
    found = keeper.load()
    assert found is not None and found.values == {"best_epoch": 2, "loss": 0.1 + 0.2}
    assert torch.equal(found.group("weights")["a"], torch.tensor([0.1, 1e-30])) and found.group("best") == {}
    assert [path.name for path in keeper.path.parent.iterdir()] == ["clip.safetensors"]
    keeper.forget()
    assert keeper.load() is None
    keeper.forget()


def test_another_training_finds_nothing(tmp_path: Path) -> None:
    TrainingCheckpoint(tmp_path / "clip.safetensors", "a key").save(TrainingState({}, {"best_epoch": 1}))
    assert TrainingCheckpoint(tmp_path / "clip.safetensors", "another").load() is None


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda _: b"", lambda _: b"\x80\x04]."])
def test_a_damaged_file_is_said_and_not_used(
    tmp_path: Path, damage: "type[bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    keeper = TrainingCheckpoint(tmp_path / "clip.safetensors", "a key")
    keeper.save(TrainingState({"weights/a": torch.zeros(200)}, {}))
    keeper.path.write_bytes(damage(keeper.path.read_bytes()))
    assert keeper.load() is None
    assert f"{keeper.path} cannot be read" in caplog.text and "begins anew" in caplog.text


def test_where_nothing_can_be_written_the_training_may_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    TrainingCheckpoint(tmp_path / "file" / "clip.safetensors", "a key").save(TrainingState({}, {"best_epoch": 1}))
    assert "cannot be written" in caplog.text


def test_a_full_disk_leaves_what_was_kept_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = TrainingCheckpoint(tmp_path / "clip.safetensors", "a key")
    keeper.save(TrainingState({}, {"best_epoch": 1}))
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        keeper.save(TrainingState({"weights/a": torch.zeros(9999)}, {"best_epoch": 2}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written" in caplog.text
    assert keeper.load() == TrainingState({}, {"best_epoch": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["clip.safetensors"]
