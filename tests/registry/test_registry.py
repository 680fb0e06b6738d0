"""Registration, search and loading of a toy model, in this process and in others."""

import os
import shutil
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mlflow.exceptions import MlflowException
from pandas import DataFrame

from src.core.errors import UsageError, UserError
from src.core.labels import TONES
from src.core.records import ADAPTER_DIGEST
from src.registry.pyfunc import ModelPackage, artifacts_in
from src.registry.registry import (
    CHAMPION,
    Answer,
    RunRecord,
    Version,
    download,
    load,
    model_tags,
    predict,
    register,
    remove_alias,
    run_record,
    runs_tagged,
    set_alias,
    tag_model,
    tag_version,
    uri_of,
    version_at,
    version_at_alias,
    versions,
)
from src.tracking.client import Tracker
from src.tracking.store import open_store

TOY = """
import json
from pathlib import Path

from src.core.errors import UserError
from src.core.toy import GOOD
from src.registry.pyfunc import Answers


def load(artifacts):
    words = json.loads((Path(artifacts["adapter"]) / "words.json").read_text())
    if not words:
        raise UserError("the toy has no words")
    return words


def predict(words, rows, halves):
    probabilities = [
        (0.0, 0.25, GOOD) if words["positive"] in text else (1.0, 0.0, len(image) / 100) for image, text in rows
    ]
    return Answers(("negative", "neutral", "positive"), probabilities)
"""


def answer(*probabilities: float) -> Answer:
    return Answer(TONES[probabilities.index(max(probabilities))], dict(zip(TONES, probabilities, strict=True)))


POSTS = [(b"\x89PNG", "a good day"), (b"JFIF", "a bad day")]


def toy_package(folder: Path, good: float = 0.75, words: str = '{"positive": "good"}') -> ModelPackage:
    """A toy whose code says how sure it is of a good text."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "words.json").write_text(words)
    code = folder / "src"
    for room in ("core", "registry", "tracking"):
        shutil.copytree(Path("src") / room, code / room, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "__init__.py").touch()
    (code / "core" / "toy.py").write_text(f"GOOD = {good}\n")
    (code / "serve.py").write_text(TOY)
    return ModelPackage(
        code=code,
        artifacts={"adapter": folder / "adapter"},
        requirements=["mlflow==3.17.2"],
        labels=TONES,
        example=(b"\x89PNG", "a good day"),
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return toy_package(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def version(store: Path, package: ModelPackage) -> Version:
    with Tracker("toy").run("register") as run:
        made = register("toy", package, run_id=run.id, digest="aaa", tags={"val_macro_f1": 0.5}, description="A *toy*")
    set_alias(made.name, CHAMPION, made.number)
    return made


def test_version_links_its_run(version: Version) -> None:
    assert (version.name, version.number, version.created) == ("mvsa-toy", 1, True)
    assert version.tags == {"val_macro_f1": "0.5", "adapter_digest": "aaa"}
    assert version.uri == "models:/mvsa-toy/1"
    client = open_store()
    registered = client.get_model_version("mvsa-toy", "1")
    run = client.get_run(registered.run_id)
    assert (registered.description, run.info.run_name) == ("A *toy*", "register")
    assert [output.model_id for output in run.outputs.model_outputs] == [registered.source.removeprefix("models:/")]


def test_equal_adapter_makes_no_version(version: Version, package: ModelPackage) -> None:
    with Tracker("toy").run("register again") as run:
        again = register("toy", package, run_id=run.id, digest="aaa", tags={})
        other = register("toy", package, run_id=run.id, digest="bbb", tags={})
    assert (again.number, again.created, again.tags) == (1, False, version.tags)
    assert (other.number, other.created) == (2, True)
    assert len(open_store().search_logged_models([Tracker("toy")._experiment_id])) == 2


def test_alias_points_at_champion(version: Version) -> None:
    assert version_at_alias("toy") == Version("mvsa-toy", version.number, False, version.tags, version.run_id)
    assert version_at_alias("toy", "challenger") is None
    assert version_at_alias("stranger") is None


def test_addresses_find_versions(version: Version) -> None:
    for address in ("models:/mvsa-toy@champion", "models:/mvsa-toy/1", version.uri):
        model, registered = version_at(address)
        assert (model, registered.number, registered.run_id) == ("toy", 1, version.run_id)
    assert [item.number for item in versions("toy")] == [1, 2]
    assert versions("stranger") == []
    with pytest.raises(UsageError, match="mvsa-toy"):
        version_at("mvsa-toy")
    with pytest.raises(UserError, match="toy has no version 99"):
        version_at("models:/mvsa-toy/99")


def test_tags_and_aliases_change(version: Version) -> None:
    set_alias(version.name, "other", version.number)
    tag_model("toy", "note.1", "first")
    tag_version(version, "checked", "yes")
    registered = version_at_alias("toy", "other")
    assert registered is not None and registered.tags["checked"] == "yes"
    assert model_tags("toy") == {"note.1": "first"} and model_tags("stranger") == {}
    remove_alias(version.name, "other")
    remove_alias(version.name, "other")
    assert version_at_alias("toy", "other") is None


def test_runs_are_found_by_tags(store: Path) -> None:
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


def test_downloaded_version_lists_artifacts(version: Version, tmp_path: Path) -> None:
    artifacts = artifacts_in(download(version, tmp_path))
    assert (Path(artifacts["adapter"]) / "words.json").is_file()
    with pytest.raises(UserError, match="holds no model version"):
        artifacts_in(tmp_path / "nothing")


def test_version_without_files_raises(store: Path, package: ModelPackage, tmp_path: Path) -> None:
    with Tracker("vanished").run("register") as run:
        made = register("vanished", package, run_id=run.id, digest="aaa", tags={})
    shutil.rmtree(store / "vanished" / "models")
    with pytest.raises(UserError, match="the files of models:/mvsa-vanished/1 are gone from the MLflow store"):
        download(made, tmp_path)


def test_nothing_is_pickled(version: Version, store: Path) -> None:
    names = {path.name for path in (store / "toy" / "models").rglob("*") if path.is_file()}
    assert {"model.py", "toy.py", "words.json", "MLmodel", "requirements.txt"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pyc"))]


def test_loaded_version_predicts(version: Version) -> None:
    answers = predict(load(uri_of("toy")), POSTS)
    assert answers == [answer(0.0, 0.25, 0.75), answer(1.0, 0.0, 0.04)]


def test_versions_run_their_own_code(store: Path, tmp_path: Path) -> None:
    models = []
    for good in (0.5, 0.625):
        with Tracker("two").run("register") as run:
            made = register("two", toy_package(tmp_path / str(good), good), run_id=run.id, digest=str(good), tags={})
        models.append(load(made.uri))
    assert [predict(model, POSTS[:1]) for model in models] == [
        [answer(0.0, 0.25, 0.5)],
        [answer(0.0, 0.25, 0.625)],
    ]


def test_error_of_versions_code_is_one_line(store: Path, tmp_path: Path) -> None:
    with Tracker("mute").run("register") as run:
        made = register("mute", toy_package(tmp_path, words="{}"), run_id=run.id, digest="aaa", tags={})
    with pytest.raises(UserError, match=r"mvsa-mute/1 .*the toy has no words"):
        load(made.uri)


def test_crash_of_versions_code_is_one_line(store: Path, tmp_path: Path) -> None:
    with Tracker("mute").run("register") as run:
        made = register("mute", toy_package(tmp_path, words='{"negative":\n1'), run_id=run.id, digest="bbb", tags={})
    with pytest.raises(UserError, match="JSONDecodeError") as raised:
        load(made.uri)
    assert "\n" not in str(raised.value)


PICTURE = b64encode(b"JFIF").decode()


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"image": PICTURE, "text": "bad"}]},
        {"dataframe_split": {"columns": ["image", "text"], "data": [[PICTURE, "bad"]]}},
        {"instances": [{"image": PICTURE, "text": "bad"}]},
        {"inputs": [{"image": PICTURE, "text": "bad"}]},
        {"inputs": {"image": [PICTURE], "text": ["bad"]}},
        {"instances": {"image": [PICTURE], "text": ["bad"]}},
        {"inputs": [{"image": f"data:image/jpeg;base64,{PICTURE}", "text": "bad"}]},
        {"dataframe_records": [{"image": f"data:;BASE64,{quote(PICTURE)}", "text": "bad"}]},
        {"dataframe_records": [{"image": f"{PICTURE[:3]}\n{PICTURE[3:]}\n", "text": "bad"}]},
    ],
)
def test_every_json_format_is_decoded(version: Version, body: dict[str, Any]) -> None:
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    model = load(uri_of("toy"))
    table = infer_and_parse_data(body, model.metadata.get_input_schema())
    assert model.predict(table)[["label", "positive"]].values.tolist() == [["negative", 0.04]]


@pytest.mark.parametrize(
    "row",
    [
        {"image": "/etc/passwd", "text": "bad"},
        {"image": "https://example.org/a.jpg", "text": "bad"},
        {"image": f"data:image/jpeg,{PICTURE}", "text": "bad"},
        {"image": "naïve", "text": "bad"},
        {"image": None, "text": "bad"},
        {"image": 7, "text": "bad"},
        {"image": b"JFIF", "text": None},
    ],
)
def test_invalid_post_raises_with_number(version: Version, row: dict[str, Any]) -> None:
    with pytest.raises(MlflowException, match=r"^post 2: an? (image is bytes|text is a string)"):
        load(uri_of("toy")).predict(DataFrame([{"image": b"JFIF", "text": "bad"}, row], dtype=object))


def test_saving_unloads_copied_modules(store: Path, tmp_path: Path) -> None:
    before, path = set(sys.modules), list(sys.path)
    with Tracker("tidy").run("register") as run:
        register("tidy", toy_package(tmp_path, 0.375), run_id=run.id, digest="aaa", tags={})
    assert not [name for name in set(sys.modules) - before if name.startswith("mvsa_tuner_")]
    assert sys.path == path


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "models:/mvsa-stranger@champion",
            "no champion of stranger is registered: run `python -m src.register",
        ),
        ("models:/mvsa-toy@challenger", "no challenger of toy is registered"),
        ("models:/mvsa-toy/99", "toy has no version 99"),
        ("gibberish", "gibberish"),
    ],
)
def test_missing_version_raises(version: Version, uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        load(uri)
    assert "\n" not in str(refusal.value)


def test_missing_column_raises(version: Version) -> None:
    with pytest.raises(Exception, match="Model is missing inputs \\['image'\\]"):
        load(uri_of("toy")).predict(DataFrame({"text": ["a good day"]}))


def test_read_only_version_is_left_as_it_is(version: Version, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in store.glob("toy/models/*/artifacts/*")}

    before = written()
    may = os.access
    # Root may write in spite of a folder's mode; a read-only mount of the files answers as this does.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "artifacts" and may(path, mode))
    assert predict(load(version.uri), POSTS)[0] == answer(0.0, 0.25, 0.75)
    assert written() == before
