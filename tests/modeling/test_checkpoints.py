"""Covers: checkpoints in place of the published ones, which are checked before any weights are read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.core.config import CheckpointParams
from src.core.errors import UsageError, UserError
from src.core.files import folder_digest
from src.core.outputs import PretrainedWeights
from src.modeling.checkpoints import config_of
from src.models.catalog import model_class, resolve_checkpoint

COMMIT = "a" * 40
HUB = CheckpointParams(hub="somebody/clip", revision="main")
UNUSED = Path("unused")


def write_folder(folder: Path, config: object, weights: str = "model.safetensors") -> CheckpointParams:
    """Write a folder whose weights cannot be read, so that a test fails if somebody reads them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / weights).write_bytes(b"no weights")
    return CheckpointParams(folder=str(folder))


def config_dict(name: str, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(model_class(name).published_config().to_json_string(use_diff=False))
    return {**content, **changes}


def refused(name: str, given: CheckpointParams) -> str:
    with pytest.raises(UserError) as error:
        resolve_checkpoint(name, "full", UNUSED, [], given)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of one repository in the Hub's cache, offline: `main` is `COMMIT`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--somebody--clip"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    write_folder(folder / "snapshots" / COMMIT, config_dict("clip"))
    return folder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin.index.json"])
def test_folder_is_known_by_its_digest(tmp_path: Path, weights: str) -> None:
    folder = tmp_path / "mine"
    given = write_folder(folder, config_dict("clip"), weights)
    resolved = resolve_checkpoint("clip", "full", UNUSED, [], given)
    assert resolved == PretrainedWeights(str(folder), folder_digest(folder), "full", is_local=True, given=str(folder))
    (folder / weights).write_bytes(b"other weights")
    assert resolve_checkpoint("clip", "full", UNUSED, [], given).revision != resolved.revision


def test_branch_becomes_its_commit(hub_cache: Path) -> None:
    resolved = resolve_checkpoint("clip", "full", UNUSED, [], HUB)
    assert resolved == PretrainedWeights("somebody/clip", COMMIT, "full", given="somebody/clip at main")


def test_uncached_id_offline_raises(hub_cache: Path) -> None:
    for given in (CheckpointParams(hub="somebody/other", revision="main"), CheckpointParams(hub="a b", revision="1")):
        assert str(given) in refused("clip", given)
    with pytest.raises(UserError, match="somebody/clip at v2 cannot be loaded: "):
        config_of(model_class("clip"), CheckpointParams(hub="somebody/clip", revision="v2"))


def test_id_of_a_local_folder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path(str(HUB.hub)), config_dict("clip"))
    assert "is a folder here" in refused("clip", HUB)


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_config, "mine cannot be loaded: it has no config.json"),
        (drop_weights, "mine cannot be loaded: it has no weights, which are model.safetensors or "),
        (break_config, "mine: config.json is not JSON: "),
    ],
)
def test_incomplete_folder_raises(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    given = write_folder(tmp_path / "mine", config_dict("clip"))
    spoil(tmp_path / "mine")
    assert message in refused("clip", given)


def test_missing_folder_raises(tmp_path: Path) -> None:
    given = CheckpointParams(folder=str(tmp_path / "none"))
    assert refused("clip", given) == f"{tmp_path / 'none'} cannot be loaded: there is no such folder"


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("llava", config_dict("clip"), "does not fit llava: its architecture is clip, and must be llava"),
        ("clip", {}, "does not fit clip: its architecture is None, and must be clip"),
        ("clip", [], "config.json holds no keys and values"),
        (
            "blip2",
            config_dict("blip2", text_config={"model_type": "t5"}),
            "does not fit blip2: its text_config is t5, and must be opt",
        ),
        (
            "llava",
            config_dict("llava", vision_config={"model_type": "vit"}),
            "does not fit llava: its vision_config is vit, and must be ",
        ),
        ("clip", config_dict("clip", projection_dim="wide"), "config.json cannot be read: "),
    ],
)
def test_other_architecture_names_the_part(tmp_path: Path, name: str, config: object, message: str) -> None:
    assert message in refused(name, write_folder(tmp_path / "mine", config))


def test_scale_tiny_takes_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"checkpoints\.clip in params\.yaml needs scale: full"):
        resolve_checkpoint("clip", "tiny", tmp_path / "tiny", ["a caption"], HUB)
    assert not (tmp_path / "tiny").exists()
