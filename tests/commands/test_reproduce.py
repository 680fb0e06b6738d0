import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from src.core.recipes import RECIPES
from src.core.records import Post, read_table, write_json, write_posts, write_split
from src.reproduce import main


@pytest.fixture(scope="module")
def prepared(repo_root: Path, posts: list[Post], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which everything up to `encode` has run for two models, on the sample."""
    from src.data.split import stratified
    from src.models.catalog import resolve

    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        # Absolute, for within one process MLflow keeps a store by its address.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlruns/mlflow.db")
        (root / "params.yaml").write_text((repo_root / "params.yaml").read_text())
        (root / "sample").symlink_to(repo_root / "sample")
        write_posts(Path("outputs/prepare/posts.csv"), posts)
        write_split(Path("outputs/split/split.csv"), stratified(posts, 0.2, 0.2, seed=7))
        write_json(Path("outputs/split/report.json"), {"data_digest": "d", "split_digest": "s"})
        for model in ("clip", "blip2"):
            folder = Path("outputs/encode") / model
            checkpoint = resolve(model, "tiny", folder / "checkpoint", [post.caption for post in posts])
            write_json(folder / "checkpoint.json", asdict(checkpoint))
        yield root


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("name", ["clip-zeroshot", "clip-lora", "blip2-zeroshot-head", "blip2-qformer"])
def test_a_recipe_gives_our_scores_beside_the_published_ones(prepared: Path, name: str) -> None:
    code, said = run("--recipe", name)
    assert code == 0, said
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
    written = json.loads((prepared / "outputs" / "reproduce" / f"{name}.json").read_text())
    assert written["published"] == recipe.published
    assert 0 <= written["ours"]["accuracy"] <= 1
    assert written["num_posts"] == (105 if recipe.posts else 21)
    assert f"{name}: accuracy" in said and "Weights are random" in said
    rows = {row["recipe"]: row for row in read_table(prepared / "outputs" / "reproduce" / "recipes.csv")}
    assert set(rows) == {name, "majority", "tfidf"} and rows["tfidf"]["published accuracy"] == ""
    beaten = written["ours"]["macro_f1"] > float(rows["tfidf"]["ours macro_f1"])
    assert (
        f"Not above TF-IDF of the captions (macro-F1 {float(rows['tfidf']['ours macro_f1']):.4f}): {name}" in said
    ) != beaten


def test_the_list_names_every_recipe_with_its_figures() -> None:
    code, said = run("--list")
    assert code == 0
    for recipe in RECIPES:
        assert recipe.name in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --list, --recipe NAME and --all"),
        (["--list", "--all"], "give one of --list, --recipe NAME and --all"),
        (["--recipe", "clip-lorra"], "unknown recipe 'clip-lorra'; did you mean 'clip-lora'?"),
    ],
)
def test_misuse_is_one_line(repo_root: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(repo_root)
    code, said = run(*words)
    assert (code, said) == (2, f"error: {message}\n")
