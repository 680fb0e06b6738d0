"""Covers: `tune --dry-run`, which needs params.yaml and the model files alone."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from src.cli.output import console
from src.core.records import write_split
from src.tune import main


@pytest.fixture
def bare(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with nothing but params.yaml.

    The console is cached for the streams of one run, so the cache is cleared.
    """
    (tmp_path / "params.yaml").write_text((repo_root / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    console.cache_clear()
    return tmp_path


def tune(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    console.cache_clear()
    return result


def test_dry_run_needs_only_params(bare: Path) -> None:
    result = tune("--model", "clip", "--scale", "full", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "openai/clip-vit-base-patch32" in result.stdout
    for figure in ("151,277,313", "61,440", "an epoch of 1,555 posts", "2,592 posts", "It fits 32 GiB"):
        assert figure in result.stdout
    assert [path.name for path in bare.iterdir()] == ["params.yaml"]


def test_dry_run_reads_the_split(bare: Path) -> None:
    write_split(bare / "outputs" / "split" / "split.csv", {"1": "train", "2": "train", "3": "val", "4": "test"})
    result = tune("--model", "clip", "--scale", "full", "--dry-run", "--memory-gib", "0.01")
    assert "an epoch of 2 posts" in result.stdout
    assert "4 posts" in result.stdout
    assert "It does not fit 0.01 GiB" in result.stdout


def test_dry_run_names_choices_it_leaves_out(bare: Path) -> None:
    params = yaml.safe_load((bare / "params.yaml").read_text())
    params["tune"]["spaces"]["clip"]["target_projections"] = {"choices": ["qv", "qkvo"]}
    (bare / "params.yaml").write_text(yaml.safe_dump(params))
    result = tune("--model", "clip", "--scale", "full", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "target_projections -" in result.stdout and "training.clip" in result.stdout


def give(bare: Path, **checkpoint: str) -> None:
    params = yaml.safe_load((bare / "params.yaml").read_text())
    params["checkpoints"] = {"clip": checkpoint}
    (bare / "params.yaml").write_text(yaml.safe_dump(params))


def test_dry_run_reads_given_config(bare: Path) -> None:
    """The folder's configuration alone is read: its weights are none."""
    give(bare, folder="mine")
    (bare / "mine").mkdir()
    (bare / "mine" / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config": {"num_hidden_layers": 6}})
    )
    (bare / "mine" / "model.safetensors").touch()
    result = tune("--model", "clip", "--scale", "full", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("clip as mine, ")
    # A layer of ViT-B has 7,087,872 parameters, 12 times the square of its width and 13 times the width.
    assert f"{151_277_313 - 6 * 7_087_872:,}" in result.stdout


def test_dry_run_without_given_checkpoint_raises(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(bare / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for checkpoint, message in (
        ({"folder": "mine"}, "error: mine cannot be loaded: there is no such folder\n"),
        ({"hub": "some/body", "revision": "v1"}, "error: some/body at v1 cannot be loaded: "),
    ):
        give(bare, **checkpoint)
        result = tune("--model", "clip", "--scale", "full", "--dry-run")
        assert result.exit_code == 1
        assert result.stderr.startswith(message)
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run"], "--dry-run --scale full"),
        (["--scale", "full"], "params.yaml's scale"),
        (["--memory-gib", "32"], "--dry-run --scale full"),
        (["--dry-run", "--scale", "full", "--trials", "3"], "--dry-run --scale full"),
        (["--dry-run", "--scale", "tiny"], "'tiny' is not 'full'"),
        (["--dry-run", "--scale", "full", "--memory-gib", "0"], "0.0 is not in the range"),
    ],
)
def test_misuse_is_one_line(bare: Path, arguments: list[str], message: str) -> None:
    result = tune("--model", "clip", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout
