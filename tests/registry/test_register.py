"""Stage `register`: contract, version, and repeated registration."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from src.core.files import read_json, read_table, write_json
from src.core.labels import TONES
from src.core.outputs import read_trained
from src.core.provenance import code_digest
from src.core.records import leak_free, read_groups, read_posts, read_predictions, read_split
from src.evaluation.metrics import scores
from src.registry import promotion, registry
from src.registry.contract import TEST_COLUMNS, VALIDATION_FILE, Contract, choose_golden, read_contract, trained_parts
from tests.registry.conftest import DATA_MD5, MODEL, STORE, git, run, store_in

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.slow

OUTPUTS = Path("outputs")


@pytest.fixture
def contract(repository: Path) -> Contract:
    return read_contract(OUTPUTS / "register" / MODEL / "contract")


def test_contract_records_training(contract: Contract, repository: Path) -> None:
    from mlflow import MlflowClient

    trained = read_json(OUTPUTS / "train" / MODEL / "train.json")
    best = read_json(OUTPUTS / "tune" / MODEL / "best.json")
    assert (contract.search.study, contract.search.trial) == (best["study"], best["best_trial"])
    assert contract.code == trained["code"] == code_digest(MODEL)
    assert contract.test == read_json(OUTPUTS / "evaluate" / MODEL / "metrics.json")
    assert contract.validation["macro_f1"] == trained["macro_f1"]
    assert list(contract.adapted_modules) == trained["adapted_modules"]
    assert contract.checkpoint.revision == trained["facts"]["checkpoint_revision"]
    assert (contract.labels, contract.dtype, contract.data_revision) == (TONES, "float32", DATA_MD5)
    (version,) = registry.versions(MODEL)
    assert (version.tags["git_commit"], version.tags["git_dirty"]) == (git("rev-parse", "HEAD"), "false")
    assert {"torch", "peft", "transformers"} <= contract.libraries.keys()
    assert asdict(contract.settings) == read_json(OUTPUTS / "train" / MODEL / "adapter" / "settings.json")
    registered = MlflowClient().get_model_version(version.name, str(version.number))
    assert f"trained {' and '.join(trained_parts(contract))}: trial" in registered.description


def test_golden_posts_have_training_logits(contract: Contract, repository: Path) -> None:
    part_of = read_split(OUTPUTS / "split" / "split.csv")
    val = [post for post in read_posts(OUTPUTS / "prepare" / "posts.csv") if part_of.get(post.id) == "val"]
    assert [(post.id, post.caption) for post in contract.golden] == [
        (post.id, post.caption) for post in choose_golden(val, TONES)
    ]
    said = {row.id: row for row in read_predictions(OUTPUTS / "train" / MODEL / "predictions.csv")}
    for post in contract.golden:
        row = said[post.id]
        assert probabilities(post.logits) == pytest.approx(list(row.probabilities.values()), abs=1e-4)


def test_contract_folder_has_validation_predictions(repository: Path) -> None:
    written = read_predictions(OUTPUTS / "register" / MODEL / "contract" / VALIDATION_FILE)
    part_of = read_split(OUTPUTS / "split" / "split.csv")
    assert {row.id for row in written} == {key for key, part in part_of.items() if part == "val"}
    assert scores(written).macro_f1 == pytest.approx(read_trained(MODEL).macro_f1)


def test_contract_folder_has_test_predictions(repository: Path) -> None:
    folder = OUTPUTS / "register" / MODEL / "contract"
    assert read_json(folder / "split_report.json") == read_json(OUTPUTS / "split" / "report.json")
    assert read_predictions(folder / "test.csv", TEST_COLUMNS) == read_predictions(
        OUTPUTS / "evaluate" / MODEL / "predictions.csv"
    )
    group_of = read_groups(OUTPUTS / "split" / "groups.csv")
    unseen = leak_free(read_split(OUTPUTS / "split" / "split.csv"), group_of)
    rows = read_table(folder / "test.csv")
    assert [(row["group"], row["leak_free"] == "1") for row in rows] == [
        (group_of[row["id"]], row["id"] in unseen) for row in rows
    ]


def probabilities(logits: tuple[float, ...]) -> list[float]:
    import torch

    return [float(share) for share in torch.tensor(logits).softmax(dim=-1)]


def test_second_registration_changes_nothing(own: Path) -> None:
    before, history = registry.versions(MODEL), promotion.history(MODEL)
    said = run("register", "--model", MODEL).output
    assert said == f"mvsa-{MODEL} version 1 is registered already and is the champion\n"
    assert (registry.versions(MODEL), promotion.history(MODEL)) == (before, history)


def untrain(state: "dict[str, Tensor]") -> None:
    for name, weight in state.items():
        if ".lora_B." in name:
            weight.zero_()


def test_untrained_adapter_is_not_registered(own: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = OUTPUTS / "train" / MODEL / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    untrain(state)
    save_file(state, path)
    edit(OUTPUTS / "evaluate" / MODEL / "evaluate.json", adapter_digest=read_trained(MODEL).digest)
    said = run("register", "--model", MODEL, code=1).output
    assert said.startswith(f"error: outputs/train/{MODEL}/adapter was never trained") and said.count("\n") == 1
    assert len(registry.versions(MODEL)) == 1


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def test_other_posts_or_scores_raise(own: Path) -> None:
    edit(OUTPUTS / "split" / "report.json", split_digest="other")
    assert "the posts are not those that clip was trained on" in run("register", "--model", MODEL, code=1).output
    edit(OUTPUTS / "evaluate" / MODEL / "evaluate.json", adapter_digest="other")
    assert "this adapter of clip has no test scores: run" in run("register", "--model", MODEL, code=1).output
    shutil.rmtree(OUTPUTS / "evaluate")
    assert "outputs/evaluate/clip/metrics.json is missing" in run("register", "--model", MODEL, code=1).output


def test_new_store_gets_run_from_files(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `dvc pull` in another clone, where nothing is trained again."""
    address, written = f"models:/mvsa-{MODEL}@champion", OUTPUTS / "register" / MODEL
    before = {path: path.read_bytes() for path in sorted(written.rglob("*")) if path.is_file()}
    (first,) = registry.versions(MODEL)
    monkeypatch.setenv(STORE, store_in(own / "other"))
    said = run("register", "--model", MODEL).output
    assert said == f"mvsa-{MODEL} version 1 is new and is the champion\n"
    assert {path: path.read_bytes() for path in sorted(written.rglob("*")) if path.is_file()} == before
    (version,) = registry.versions(MODEL)
    assert version.run_id != first.run_id
    assert {name: first.tags[name] for name in first.tags} == {name: version.tags[name] for name in first.tags}
    record = registry.run_record(version.run_id)
    assert record and record.tags["logged_from"] == "files"
    said = run("lineage", address).output
    assert sum(line.rstrip().endswith("holds") for line in said.splitlines()) == 10
    assert "positive" in run("predict", "--model", MODEL, "data/data/1.jpg", "what a day").output


def test_other_code_gives_no_commit(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE, store_in(own / "other"))
    edit(OUTPUTS / "train" / MODEL / "train.json", code="other")
    run("register", "--model", MODEL)
    (version,) = registry.versions(MODEL)
    assert "git_commit" not in version.tags
    said = run("lineage", f"models:/mvsa-{MODEL}@champion", code=1).output
    assert "broken at 1 of 10 links: git commit, no commit is known" in said


def test_adapter_in_outputs_predicts(own: Path) -> None:
    """As after `dvc exp apply` of a training that is no champion."""
    from safetensors.torch import load_file, save_file

    asked = ("--model", MODEL, "data/data/1.jpg", "what a day")
    champion = run("predict", *asked).output
    head = OUTPUTS / "train" / MODEL / "adapter" / "head.safetensors"
    save_file({name: -weight for name, weight in load_file(head).items()}, head)
    said = run("predict", *asked, code=1).output
    assert "is no registered version here: run `python -m src.register --model clip`" in said and said.count("\n") == 1

    edit(OUTPUTS / "evaluate" / MODEL / "evaluate.json", adapter_digest=read_trained(MODEL).digest)
    edit(OUTPUTS / "train" / MODEL / "train.json", macro_f1=0.0)
    assert "version 2 is new\n" in run("register", "--model", MODEL).output
    answer = run("predict", *asked).output
    assert "mvsa-clip version 2 answers, which outputs/ holds; the champion is version 1" in answer
    assert champion.splitlines()[-1] not in answer
    assert run("predict", *asked, "--version", f"models:/mvsa-{MODEL}@champion").output == champion
