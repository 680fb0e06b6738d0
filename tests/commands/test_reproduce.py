"""Covers: the stage `reproduce`, src/reproduce.py and src/pipeline/reproduce.py."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from src.core.errors import DivergenceError, UserError
from src.core.files import read_table, write_json
from src.core.outputs import RecipeOutput
from src.core.paper import RECIPES
from src.core.paths import SPLIT_REPORT
from src.core.records import Post, write_groups, write_posts, write_split
from src.reproduce import main
from tests.split_report import split_report
from tests.warm import WarmPython

TABLE = Path("outputs/reproduce/recipes.csv")
KILL_IN_TRAINING = """
import os, signal
from src.training import train_and_test
train_and_test.fit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def prepared(repo_root: Path, posts: list[Post], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which everything up to `encode` has run for two models, on the sample."""
    from src.data.split import stratified
    from src.models.catalog import resolve_checkpoint

    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        # Absolute, for within one process MLflow keeps a store by its address.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlruns/mlflow.db")
        shutil.copyfile(repo_root / "params.yaml", root / "params.yaml")
        (root / "sample").symlink_to(repo_root / "sample")
        write_posts(Path("outputs/prepare/posts.csv"), posts)
        write_split(Path("outputs/split/split.csv"), stratified(posts, 0.2, 0.2, seed=7))
        write_groups(Path("outputs/split/groups.csv"), {post.id: post.id for post in posts})
        split_report().write(SPLIT_REPORT)
        for model in ("clip", "blip2"):
            folder = Path("outputs/encode") / model
            checkpoint = resolve_checkpoint(model, "tiny", folder / "checkpoint", [post.caption for post in posts])
            write_json(folder / "checkpoint.json", asdict(checkpoint))
        yield root


@pytest.fixture
def anew(prepared: Path) -> Path:
    """The same folder, in which no recipe was run."""
    shutil.rmtree("outputs/paper", ignore_errors=True)
    shutil.rmtree("outputs/reproduce", ignore_errors=True)
    for run in logged():
        client().delete_run(run.info.run_id)
    return prepared


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def client() -> Any:
    from src.tracking.store import open_store

    return open_store()


def logged() -> list[Any]:
    """Return the runs of the experiment that are not deleted."""
    experiment = client().get_experiment_by_name("mvsa-paper")
    return list(client().search_runs([experiment.experiment_id])) if experiment else []


def choose(monkeypatch: pytest.MonkeyPatch, folder: Path, **changed: Any) -> None:
    """Work in another folder with its own params.yaml that shares everything else."""
    own = folder / "chosen"
    own.mkdir(exist_ok=True)
    for name in ("sample", "outputs"):
        if not (own / name).exists():
            (own / name).symlink_to(folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (own / "params.yaml").write_text(yaml.safe_dump({**params, **changed}))
    monkeypatch.chdir(own)


@pytest.mark.parametrize("name", ["clip-zeroshot", "clip-lora", "blip2-zeroshot-head", "blip2-qformer"])
def test_recipe_is_scored_beside_published_figures(prepared: Path, name: str) -> None:
    code, printed = run("--recipe", name)
    assert code == 0, printed
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
    output = RecipeOutput.read(prepared / "outputs" / "reproduce" / f"{name}.json")
    assert output.recipe == recipe
    assert 0 <= output.scores["accuracy_low"] <= output.scores["accuracy"] <= output.scores["accuracy_high"] <= 1
    assert output.num_posts == (105 if recipe.num_posts else 21)
    assert f"{name}: accuracy" in printed and "Weights are random" in printed
    rows = {row["name"]: row for row in read_table(prepared / TABLE)}
    assert set(rows) == {name, "majority", "tfidf"} and rows["tfidf"]["published_accuracy"] == ""
    assert float(rows[name]["accuracy"]) == output.scores["accuracy"] and rows[name]["scale"] == "tiny"
    least = float(rows["tfidf"]["macro_f1"])
    weak = output.scores["macro_f1"] <= least and not recipe.num_posts
    assert (f"Not above TF-IDF of the captions (macro-F1 {least:.4f}): {name}" in printed) == weak


def test_killed_command_continues(
    anew: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch, warm_python: WarmPython
) -> None:
    choose(monkeypatch, anew, reproduce={"recipes": ["clip-zeroshot", "clip-lora"]})
    killed = warm_python.start(
        Path.cwd(),
        "src.reproduce",
        before=KILL_IN_TRAINING,
        environment={"PYTHONPATH": str(repo_root), "MLFLOW_TRACKING_URI": f"sqlite:///{anew}/mlruns/mlflow.db"},
    )
    assert killed.wait()[0] == -signal.SIGKILL
    first = {run.info.run_name: run.info for run in logged()}
    assert {name: info.status for name, info in first.items()} == {"clip-zeroshot": "FINISHED", "clip-lora": "RUNNING"}

    code, printed = run()
    assert code == 0, printed
    assert "clip-zeroshot, taken from an earlier run: accuracy" in printed and "\nclip-lora: accuracy" in printed
    second = {run.info.run_name: run.info for run in logged()}
    assert len(logged()) == 2 and {info.status for info in second.values()} == {"FINISHED"}
    assert second["clip-zeroshot"].run_id == first["clip-zeroshot"].run_id
    rows = read_table(TABLE)
    assert [row["name"] for row in rows] == ["clip-zeroshot", "clip-lora", "majority", "tfidf"]

    code, printed = run()
    assert printed.count("taken from an earlier run") == 2
    assert {run.info.run_id for run in logged()} == {info.run_id for info in second.values()}
    assert read_table(TABLE) == rows


def test_settings_change_trainings_alone(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = yaml.safe_load(Path("params.yaml").read_text())["training"]
    names = {"recipes": ["blip2-zeroshot-prompt", "blip2-zeroshot-head"]}
    choose(monkeypatch, anew, reproduce=names)
    run()
    choose(monkeypatch, anew, reproduce=names, training={**training, "common": {**training["common"], "dropout": 0.3}})
    code, printed = run()
    assert code == 0, printed
    assert (
        "blip2-zeroshot-prompt, taken from an earlier run" in printed and "\nblip2-zeroshot-head: accuracy" in printed
    )


def test_divergence_is_final_but_not_memory(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [
        DivergenceError("the loss is no longer a number"),
        RuntimeError("out of memory at postgresql://me:secret@host/db\nand a long trace"),
    ]

    def fail(*_: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr("src.experiments.reproduction.train_and_test", fail)
    choose(monkeypatch, anew, reproduce={"recipes": ["clip-zeroshot", "clip-head", "clip-lora"]})
    code, printed = run()
    assert code == 1
    assert "warning: clip-head: failed: the loss is no longer a number\n" in printed
    assert "warning: clip-lora: failed: out of memory at postgresql://***@host/db\n" in printed
    assert printed.splitlines()[-1] == "error: 1 of 3 recipes failed: clip-lora"
    assert {row["name"]: row["failure"] for row in read_table(TABLE)}[
        "clip-lora"
    ] == "out of memory at postgresql://***@host/db"

    monkeypatch.undo()
    choose(monkeypatch, anew, reproduce={"recipes": ["clip-zeroshot", "clip-head", "clip-lora"]})
    code, printed = run()
    assert code == 0, printed
    assert "clip-head, taken from an earlier run: failed: the loss is no longer a number\n" in printed
    assert "\nclip-lora: accuracy" in printed
    assert {run.info.run_name: run.info.status for run in logged()}["clip-head"] == "FAILED"
    assert len(logged()) == 3


def test_other_scale_resolves_own_checkpoint(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, anew, scale="full")
    kept = Path("outputs/encode/clip/checkpoint.json").read_text()
    write_json(Path("outputs/encode/clip/checkpoint.json"), {**json.loads(kept), "scale": "full"})
    try:
        code, printed = run("--recipe", "clip-zeroshot", "--scale", "tiny")
    finally:
        Path("outputs/encode/clip/checkpoint.json").write_text(kept)
    assert code == 0 and "Weights are random (scale: tiny)" in printed, printed
    facts = RecipeOutput.read(Path("outputs/reproduce/clip-zeroshot.json")).facts
    assert (facts["scale"], facts["weights"]) == ("tiny", "random")
    assert facts["checkpoint"] == "outputs/checkpoints/clip" and Path(facts["checkpoint"], "config.json").is_file()
    assert logged()[0].data.tags["scale"] == "tiny"


def test_unreachable_hub_is_one_line_a_model(anew: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # For the library, which this process has loaded already.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run("--recipe", "blip2-zeroshot-head")
    before = read_table(TABLE)
    choose(monkeypatch, anew, models=["clip", "blip2"])
    code, printed = run("--scale", "full")
    *lines, last = printed.splitlines()
    assert code == 1 and last.startswith("error: 10 of 10 recipes failed: clip-zeroshot, clip-head, clip-lora, blip2-")
    assert [line.split(": failed: ")[1].split(":")[0] for line in lines] == [
        "openai/clip-vit-base-patch32 cannot be loaded",
        "Salesforce/blip2-opt-2.7b cannot be loaded",
    ]
    assert read_table(TABLE) == before


def test_store_that_is_away_fails_the_recipe(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise UserError("the MLflow store does not answer")

    monkeypatch.setattr("src.experiments.reproduction.Tracker", away)
    code, printed = run("--recipe", "blip2-zeroshot-head")
    assert code == 1 and "blip2-zeroshot-head: failed: the MLflow store does not answer" in printed


def test_no_recipe_runs_nothing(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, anew, reproduce={"recipes": []})
    code, printed = run()
    assert (code, read_table(TABLE)) == (0, []) and "names no experiment" in printed


def test_list_names_every_recipe() -> None:
    code, printed = run("--list")
    assert code == 0
    assert all(recipe.name in printed for recipe in RECIPES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--list", "--all"],
            "give one of --list, --recipe NAME and --all, or none: then params.yaml says which are run",
        ),
        (["--recipe", "clip-lorra"], "unknown recipe 'clip-lorra'; did you mean 'clip-lora'?"),
        (["--scale", "small"], "Invalid value for '--scale': 'small' is not one of 'tiny', 'full'. Try --help."),
    ],
)
def test_misuse_is_one_line(repo_root: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(repo_root)
    code, printed = run(*words)
    assert (code, printed) == (2, f"error: {message}\n")
