"""A toy model registered, found, and loaded by a process that has never seen this repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pandas import DataFrame

from src.core.errors import Refusal, UsageRefusal
from src.core.records import ADAPTER_DIGEST
from src.services.packages import Package, artifacts_in
from src.services.registry import (
    CHAMPION,
    RunRecord,
    Version,
    alias,
    champion,
    download,
    load,
    model_tags,
    predict,
    register,
    remove_alias,
    run_record,
    runs_tagged,
    tag_model,
    tag_version,
    uri_of,
    version_at,
    versions,
)
from src.services.store import open_store
from src.services.tracking import Tracker

TOY = """
import json
from pathlib import Path

from src.services.packages import publish


def load(artifacts):
    return json.loads((Path(artifacts["adapter"]) / "words.json").read_text())


def predict(words, rows, halves):
    return [
        ("positive", 0.0, 0.25, 0.75) if words["positive"] in text else ("negative", 1.0, 0.0, len(image) / 100)
        for image, text in rows
    ]


publish(load, predict)
"""
POSTS = [(b"\x89PNG", "a good day"), (b"JFIF", "a bad day")]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "words.json").write_text('{"positive": "good"}')
    sources = folder / "src"
    for floor in ("core", "services"):
        shutil.copytree(Path("src") / floor, sources / floor, ignore=shutil.ignore_patterns("__pycache__"))
    (sources / "__init__.py").touch()
    return Package(
        code_file=folder / "toy.py",
        code_paths=[sources],
        artifacts={"adapter": folder / "adapter"},
        requirements=["mlflow==3.17.2"],
        example=(b"\x89PNG", "a good day"),
    )


@pytest.fixture(scope="module")
def version(store: Path, package: Package) -> Version:
    with Tracker("toy").run("register") as run:
        made = register("toy", package, run_id=run.id, digest="aaa", tags={"val_macro_f1": 0.5}, description="A *toy*")
    alias(made.name, CHAMPION, made.number)
    return made


def test_a_version_says_where_it_is_from(version: Version) -> None:
    assert (version.name, version.number, version.created) == ("mvsa-toy", 1, True)
    assert version.tags == {"val_macro_f1": "0.5", "adapter_digest": "aaa"}
    assert version.uri == "models:/mvsa-toy/1"
    client = open_store()
    found = client.get_model_version("mvsa-toy", "1")
    run = client.get_run(found.run_id)
    assert (found.description, run.info.run_name) == ("A *toy*", "register")
    assert [output.model_id for output in run.outputs.model_outputs] == [found.source.removeprefix("models:/")]


def test_the_same_adapter_makes_no_new_version(version: Version, package: Package) -> None:
    with Tracker("toy").run("register again") as run:
        again = register("toy", package, run_id=run.id, digest="aaa", tags={})
        other = register("toy", package, run_id=run.id, digest="bbb", tags={})
    assert (again.number, again.created, again.tags) == (1, False, version.tags)
    assert (other.number, other.created) == (2, True)
    assert len(open_store().search_logged_models([Tracker("toy")._experiment_id])) == 2


def test_the_champion_is_where_the_alias_points(version: Version) -> None:
    assert champion("toy") == Version("mvsa-toy", version.number, False, version.tags, version.run_id)
    assert champion("toy", "challenger") is None
    assert champion("stranger") is None


def test_a_version_is_found_by_alias_and_by_number(version: Version) -> None:
    for address in ("models:/mvsa-toy@champion", "models:/mvsa-toy/1", version.uri):
        model, found = version_at(address)
        assert (model, found.number, found.run_id) == ("toy", 1, version.run_id)
    assert [each.number for each in versions("toy")] == [1, 2]
    assert versions("stranger") == []
    with pytest.raises(UsageRefusal, match="mvsa-toy is no address of a version"):
        version_at("mvsa-toy")
    with pytest.raises(Refusal, match="toy has no version 99"):
        version_at("models:/mvsa-toy/99")


def test_tags_and_aliases_come_and_go(version: Version) -> None:
    alias(version.name, "other", version.number)
    tag_model("toy", "note.1", "first")
    tag_version(version, "checked", "yes")
    found = champion("toy", "other")
    assert found is not None and found.tags["checked"] == "yes"
    assert model_tags("toy") == {"note.1": "first"} and model_tags("stranger") == {}
    remove_alias(version.name, "other")
    remove_alias(version.name, "other")
    assert champion("toy", "other") is None


def test_runs_are_read_and_found_by_their_tags(store: Path) -> None:
    tracker, tags = Tracker("mvsa-about"), {"stage": "train", ADAPTER_DIGEST: "a"}
    with tracker.run("train", tags=tags, params={"rank": 8}) as train:
        pass
    with tracker.run("evaluate", tags={**tags, "stage": "evaluate"}):
        pass
    with pytest.raises(ValueError, match="bad"), tracker.run("failed", tags=tags):
        raise ValueError("bad")
    record = run_record(train.id)
    assert isinstance(record, RunRecord) and record.params == {"rank": "8"}
    assert [run.id for run in runs_tagged("about", tags)] == [train.id]
    assert runs_tagged("stranger", tags) == []
    tracker.remove(train.id)
    assert run_record(train.id) is None and run_record("0" * 32) is None


def test_a_downloaded_version_says_where_its_artifacts_are(version: Version, tmp_path: Path) -> None:
    found = artifacts_in(download(version, tmp_path))
    assert (Path(found["adapter"]) / "words.json").is_file()
    with pytest.raises(Refusal, match="holds no model version"):
        artifacts_in(tmp_path / "nothing")


def test_a_version_whose_files_are_gone_is_refused(store: Path, package: Package, tmp_path: Path) -> None:
    with Tracker("gone").run("register") as run:
        made = register("gone", package, run_id=run.id, digest="aaa", tags={})
    shutil.rmtree(store / "gone" / "models")
    with pytest.raises(Refusal, match="the files of models:/mvsa-gone/1 are gone from the MLflow store"):
        download(made, tmp_path)


def test_nothing_is_pickled(version: Version, store: Path) -> None:
    names = {path.name for path in (store / "toy" / "models").rglob("*") if path.is_file()}
    assert {"toy.py", "words.json", "MLmodel", "requirements.txt"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pyc"))]


def test_a_loaded_version_predicts(version: Version) -> None:
    answers = predict(load(uri_of("toy")), POSTS)
    assert answers == [("positive", 0.0, 0.25, 0.75), ("negative", 1.0, 0.0, 0.04)]


def test_a_fresh_process_elsewhere_loads_and_predicts_in_silence(
    version: Version, tmp_path: Path, repo_root: Path
) -> None:
    code = (
        "import sys, pandas, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model('models:/mvsa-toy@champion')\n"
        "posts = pandas.DataFrame([[b'JFIF', 'a good day']], columns=['image', 'text'])\n"
        "print(model.predict(posts).values.tolist())\n"
        "print(sys.modules['src'].__file__)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    answer, source = done.stdout.splitlines()
    assert (answer, done.stderr) == ("[['positive', 0.0, 0.25, 0.75]]", "")
    assert not Path(source).is_relative_to(repo_root / "src")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "models:/mvsa-stranger@champion",
            "no champion of stranger is registered: run `python -m src.register",
        ),
        ("models:/mvsa-toy@challenger", "no challenger of toy is registered"),
        ("models:/mvsa-toy/99", "toy has no version 99"),
        ("gibberish", "gibberish cannot be loaded"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(version: Version, uri: str, message: str) -> None:
    with pytest.raises(Refusal, match=message) as refusal:
        load(uri)
    assert "\n" not in str(refusal.value)


def test_a_table_without_the_columns_is_refused(version: Version) -> None:
    with pytest.raises(Exception, match="Model is missing inputs \\['image'\\]"):
        load(uri_of("toy")).predict(DataFrame({"text": ["a good day"]}))
