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

from src.core.errors import DivergenceError
from src.core.files import read_json, read_table, write_json
from src.core.paper import RECIPES
from src.core.paths import SPLIT_REPORT
from src.core.records import Post, write_groups, write_posts, write_split
from src.reproduce import main
from tests.split_report import split_report
from tests.warm import WarmPython

TABLE = Path("outputs/reproduce/recipes.csv")


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
    """The same where no recipe was run."""
    shutil.rmtree("outputs/repeats", ignore_errors=True)
    shutil.rmtree("outputs/reproduce", ignore_errors=True)
    for found in logged():
        client().delete_run(found.info.run_id)
    return prepared


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def client() -> Any:
    from src.tracking.store import open_store

    return open_store()


def logged() -> list[Any]:
    """The runs of the experiment, those in the bin left out."""
    experiment = client().get_experiment_by_name("mvsa-paper")
    return list(client().search_runs([experiment.experiment_id])) if experiment else []


def choose(monkeypatch: pytest.MonkeyPatch, folder: Path, **changed: Any) -> None:
    """Work in a folder beside, which has its own params.yaml and shares all else."""
    own = folder / "chosen"
    own.mkdir(exist_ok=True)
    for name in ("sample", "outputs"):
        if not (own / name).exists():
            (own / name).symlink_to(folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (own / "params.yaml").write_text(yaml.safe_dump({**params, **changed}))
    monkeypatch.chdir(own)


@pytest.mark.parametrize("name", ["clip-zeroshot", "clip-lora", "blip2-zeroshot-head", "blip2-qformer"])
def test_a_recipe_gives_our_scores_beside_the_published_ones(prepared: Path, name: str) -> None:
    code, said = run("--recipe", name)
    assert code == 0, said
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
    written = read_json(prepared / "outputs" / "reproduce" / f"{name}.json")
    assert written["published"] == recipe.published
    assert 0 <= written["ours"]["accuracy_low"] <= written["ours"]["accuracy"] <= written["ours"]["accuracy_high"] <= 1
    assert written["num_posts"] == (105 if recipe.num_posts else 21)
    assert f"{name}: accuracy" in said and "Weights are random" in said
    rows = {row["name"]: row for row in read_table(prepared / TABLE)}
    assert set(rows) == {name, "majority", "tfidf"} and rows["tfidf"]["published_accuracy"] == ""
    assert float(rows[name]["accuracy"]) == written["ours"]["accuracy"] and rows[name]["scale"] == "tiny"
    least = float(rows["tfidf"]["macro_f1"])
    beaten = written["ours"]["macro_f1"] > least
    assert (f"Not above TF-IDF of the captions (macro-F1 {least:.4f}): {name}" in said) != beaten


def test_what_was_done_before_a_kill_is_not_done_again(
    anew: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch, warm_python: WarmPython
) -> None:
    choose(monkeypatch, anew, reproduce={"recipes": ["clip-zeroshot", "clip-lora"]})
    killed = warm_python.start(
        Path.cwd(),
        "src.reproduce",
        before="import os, signal, src.training.trainer as f\nf.fit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
        environment={"PYTHONPATH": str(repo_root), "MLFLOW_TRACKING_URI": f"sqlite:///{anew}/mlruns/mlflow.db"},
    )
    assert killed.wait()[0] == -signal.SIGKILL
    first = {found.info.run_name: found.info for found in logged()}
    assert {name: info.status for name, info in first.items()} == {"clip-zeroshot": "FINISHED", "clip-lora": "RUNNING"}

    code, said = run()
    assert code == 0, said
    assert "clip-zeroshot, taken from an earlier run: accuracy" in said and "\nclip-lora: accuracy" in said
    second = {found.info.run_name: found.info for found in logged()}
    assert len(logged()) == 2 and {info.status for info in second.values()} == {"FINISHED"}
    assert second["clip-zeroshot"].run_id == first["clip-zeroshot"].run_id
    rows = read_table(TABLE)
    assert [row["name"] for row in rows] == ["clip-zeroshot", "clip-lora", "majority", "tfidf"]

    code, said = run()
    assert said.count("taken from an earlier run") == 2
    assert {found.info.run_id for found in logged()} == {info.run_id for info in second.values()}
    assert read_table(TABLE) == rows


def test_other_settings_of_a_training_are_another_one_and_an_untrained_model_has_none(
    anew: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = yaml.safe_load(Path("params.yaml").read_text())["training"]
    names = {"recipes": ["blip2-zeroshot-prompt", "blip2-zeroshot-head"]}
    choose(monkeypatch, anew, reproduce=names)
    run()
    choose(monkeypatch, anew, reproduce=names, fit={**fit, "common": {**fit["common"], "dropout": 0.3}})
    code, said = run()
    assert code == 0, said
    assert "blip2-zeroshot-prompt, taken from an earlier run" in said and "\nblip2-zeroshot-head: accuracy" in said


def test_a_training_that_diverges_is_a_result_and_one_that_lacks_memory_is_tried_again(
    anew: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [DivergenceError("the loss is no longer a number"), RuntimeError("out of memory\nand a long trace")]

    def fails(*_: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr("src.experiments.reproduction.fit", fails)
    choose(monkeypatch, anew, reproduce={"recipes": ["clip-zeroshot", "clip-head", "clip-lora"]})
    code, said = run()
    assert code == 1
    assert "warning: clip-head: failed: the loss is no longer a number\n" in said
    assert "warning: clip-lora: failed: out of memory\n" in said
    assert said.splitlines()[-1] == "error: 1 of 3 recipes failed: clip-lora"
    assert {row["name"]: row["failure"] for row in read_table(TABLE)}["clip-lora"] == "out of memory"

    monkeypatch.undo()
    choose(monkeypatch, anew, reproduce={"recipes": ["clip-zeroshot", "clip-head", "clip-lora"]})
    code, said = run()
    assert code == 0, said
    assert "clip-head, taken from an earlier run: failed: the loss is no longer a number\n" in said
    assert "\nclip-lora: accuracy" in said
    assert {found.info.run_name: found.info.status for found in logged()}["clip-head"] == "FAILED"
    assert len(logged()) == 3


def test_another_scale_makes_its_own_checkpoint_and_says_whose_scores_these_are(
    anew: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, anew, scale="full")
    kept = Path("outputs/encode/clip/checkpoint.json").read_text()
    write_json(Path("outputs/encode/clip/checkpoint.json"), {**json.loads(kept), "scale": "full"})
    try:
        code, said = run("--recipe", "clip-zeroshot", "--scale", "tiny")
    finally:
        Path("outputs/encode/clip/checkpoint.json").write_text(kept)
    assert code == 0 and "Weights are random (scale: tiny)" in said, said
    facts = read_json(Path("outputs/reproduce/clip-zeroshot.json"))["facts"]
    assert (facts["scale"], facts["weights"]) == ("tiny", "random")
    assert facts["checkpoint"] == "outputs/checkpoints/clip" and Path(facts["checkpoint"], "config.json").is_file()
    assert logged()[0].data.tags["scale"] == "tiny"


def test_full_scale_without_the_hub_is_a_line_for_each_model(
    anew: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # For the library, which this process has loaded already.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run("--recipe", "blip2-zeroshot-head")
    before = read_table(TABLE)
    choose(monkeypatch, anew, models=["clip", "blip2"])
    code, said = run("--scale", "full")
    *lines, last = said.splitlines()
    assert code == 1 and last.startswith("error: 10 of 10 recipes failed: clip-zeroshot, clip-head, clip-lora, blip2-")
    assert [line.split(": failed: ")[1].split(":")[0] for line in lines] == [
        "openai/clip-vit-base-patch32 cannot be loaded",
        "Salesforce/blip2-opt-2.7b cannot be loaded",
    ]
    assert read_table(TABLE) == before


def test_with_no_recipe_named_nothing_is_run(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, anew, reproduce={"recipes": []})
    code, said = run()
    assert (code, read_table(TABLE)) == (0, []) and "names no experiment" in said


def test_the_list_names_every_recipe_with_its_figures() -> None:
    code, said = run("--list")
    assert code == 0
    for recipe in RECIPES:
        assert recipe.name in said


@pytest.mark.parametrize(
    ("zeroshot", "message"),
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
    code, said = run(*words)
    assert (code, said) == (2, f"error: {message}\n")
