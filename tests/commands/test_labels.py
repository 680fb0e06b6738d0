"""Covers: labels of params.yaml, through the pipeline from `prepare` to `predict` and the report."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.config import load_params
from src.core.files import read_json, read_table
from src.core.outputs import read_trained
from src.core.paths import MISLABELLED_TABLE, NOISE, POSTS
from src.core.records import read_posts, read_predictions
from src.data.mvsa_labels import LABEL_FILE, header
from src.registry import registry
from src.registry.contract import read_contract
from src.search.plan import plan_of
from tests.pipeline import STORE, run, store_in

pytestmark = pytest.mark.slow

# The names that the sample's tones get, in turn by id.
NAMES = {"negative": ("anger", "sadness"), "neutral": ("calm",), "positive": ("great joy", "love")}
FIVE = ("calm", "anger", "sadness", "great joy", "love")
PARAMS = [
    "calm",
    {"name": "anger", "word": "angry", "description": "furious or annoyed"},
    {"name": "sadness", "word": "sad"},
    # With a space, as a name may have.
    "great joy",
    # Of two tokens: its whole log-likelihood is its score.
    {"name": "love", "word": "full love"},
]
MODEL = "tinyllava"


@contextmanager
def repository(folder: Path, root: Path, model: str, labels: Sequence[Any]) -> Iterator[None]:
    """Make a folder with data/ a repository, for the time of the context the current folder."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params |= {"models": [model], "labels": list(labels)}
    params["training"]["common"].update(epochs=1, batch_size=32)
    params["tune"].update(trials=2, pruner="none")
    params["repeat"]["seeds"] = 0
    params["saliency"]["mistakes"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copytree(root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(STORE, store_in(folder))
        yield


def run_to_register(model: str) -> None:
    for stage in ("prepare", "split", "baseline"):
        run(stage)
    for stage in ("frozen", "tune", "train", "evaluate", "register"):
        run(stage, "--model", model)


def relabel(folder: Path) -> None:
    """Give the sample's posts five labels."""
    _, *rows = (folder / LABEL_FILE).read_text().splitlines()
    renamed = [header(1)]
    for row in rows:
        key, pair = row.split("\t")
        renamed.append(f"{key}\t{','.join(NAMES[tone][int(key) % len(NAMES[tone])] for tone in pair.split(','))}")
    (folder / LABEL_FILE).write_text("\n".join(renamed))


def predicted_columns(model: str, source: str) -> tuple[list[str], list[dict[str, str]]]:
    """Ask the registered version for all posts of a folder, and return the table's columns and rows."""
    run("predict", "--model", model, source, "--out", "answers.csv")
    rows = read_table(Path("answers.csv"))
    return list(rows[0]), rows


@pytest.fixture(scope="module")
def five(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with five labels, after all stages up to `register`."""
    folder = tmp_path_factory.mktemp("five")
    shutil.copytree(repo_root / "sample", folder / "data")
    relabel(folder / "data")
    with repository(folder, repo_root, MODEL, PARAMS):
        run_to_register(MODEL)
        yield folder


def test_tables_have_five_labels(five: Path) -> None:
    for stage in ("zeroshot", "probe", "train", "evaluate"):
        table = Path("outputs") / stage / MODEL / "predictions.csv"
        rows = read_predictions(table)
        assert list(read_table(table)[0]) == ["id", "actual", "predicted", *FIVE]
        assert all(sum(row.probabilities.values()) == pytest.approx(1, abs=1e-5) for row in rows)
    assert {row.actual for row in read_predictions(Path("outputs/baseline/tfidf/predictions.csv"))} == set(FIVE)
    metrics = read_json(Path("outputs/evaluate") / MODEL / "metrics.json")
    assert list(metrics) == ["accuracy", "macro_f1", "weighted_f1", *(f"f1_{label}" for label in FIVE)]
    assert all(list(counts) == list(FIVE) for counts in read_json(Path("outputs/split/report.json"))["parts"].values())


@pytest.mark.usefixtures("warm_children")
def test_version_carries_its_labels(five: Path) -> None:
    contract = read_contract(Path("outputs/register") / MODEL / "contract")
    assert contract.labels == FIVE
    assert contract.label_set() == load_params().labels
    assert "calm, angry (furious or annoyed), sad, great joy or full love?" in contract.prompt
    assert len(contract.golden[0].logits) == 5
    # The version does not ask params.yaml.
    Path("params.yaml").rename("away.yaml")
    model = registry.load(registry.uri_of(MODEL))
    Path("away.yaml").rename("params.yaml")
    assert model.metadata.get_output_schema().input_names() == ["label", *FIVE]
    columns, rows = predicted_columns(MODEL, "data/data")
    assert columns == ["id", "text", "missing", "problem", "predicted", *FIVE, "confidence", "review", "label"]
    assert len(rows) == len(read_posts(POSTS)) and {row["predicted"] for row in rows} <= set(FIVE)
    run("verify", f"models:/mvsa-{MODEL}@champion")
    run("export", f"models:/mvsa-{MODEL}@champion", "--out", "exported")
    assert "calm, anger, sadness, great joy or love" in Path("exported/README.md").read_text()


def test_other_labels_are_another_study(five: Path) -> None:
    params, facts = load_params(), read_trained(MODEL).facts
    name = plan_of(params, MODEL, facts).name
    assert name == read_trained(MODEL).study
    assert plan_of(params, MODEL, {**facts, "data_digest": "of corrected labels"}).name != name
    assert plan_of(params, MODEL, {**facts, "labels": "calm, anger, sadness, great joy, love"}).name != name


def test_report_has_five_labels(five: Path) -> None:
    run("repeat", "--model", MODEL)
    for stage in ("noise", "ensemble", "compare", "reproduce", "report"):
        run(stage)
    page = Path("outputs/report/index.html").read_text()
    assert all(label in page for label in FIVE)
    assert {row["label"] for row in read_table(NOISE / MISLABELLED_TABLE)} <= set(FIVE)
    assert read_table(Path("outputs/reproduce/recipes.csv")) == []
    run("reproduce", "--recipe", "clip-lora", code=2)


def test_changed_labels_need_the_stages_again(five: Path) -> None:
    before = Path("params.yaml").read_text()
    Path("params.yaml").write_text(before.replace("- great joy\n", "- hope\n"))
    assert "dvc repro" in run("train", "--model", MODEL, code=1).output
    assert "no post has the label hope" in run("prepare", code=1).output
    # The data is the same, and the prompt another one.
    Path("params.yaml").write_text(before.replace("word: sad", "word: unhappy"))
    for stage in ("evaluate", "register", "saliency"):
        assert "trained on other labels, words" in run(stage, "--model", MODEL, code=1).output
    Path("params.yaml").write_text(before)


@pytest.mark.real_data
def test_two_labels_of_real_posts(real_mvsa: Path, repo_root: Path, tmp_path: Path) -> None:
    """Neutral posts are left out, and counted."""
    taken: Counter[str] = Counter()
    rows = [header(1)]
    (tmp_path / "data" / "data").mkdir(parents=True)
    for row in (real_mvsa / LABEL_FILE).read_text().splitlines()[1:]:
        key, pair = row.split("\t")
        if taken[pair] < 40:
            taken[pair] += 1
            rows.append(row)
            for suffix in (".jpg", ".txt"):
                (tmp_path / "data" / "data" / f"{key}{suffix}").symlink_to(real_mvsa / "data" / f"{key}{suffix}")
    (tmp_path / "data" / LABEL_FILE).write_text("\n".join(rows))
    with repository(tmp_path, repo_root, "clip", ["negative", "positive"]):
        run_to_register("clip")
        report = read_json(Path("outputs/prepare/report.json"))
        left_out = sum(count for pair, count in taken.items() if "neutral" in pair)
        assert report["dropped"]["reasons"] == {"the label neutral is not among labels": left_out}
        assert report["label_counts"]["agreement"] == {
            "negative": taken["negative,negative"],
            "positive": taken["positive,positive"],
        }
        assert {row.predicted for row in read_predictions(Path("outputs/evaluate/clip/predictions.csv"))} <= {
            "negative",
            "positive",
        }
        assert predicted_columns("clip", "data/data")[0][5:7] == ["negative", "positive"]
