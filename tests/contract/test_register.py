"""What registering writes down, what it refuses, and that doing it again changes nothing."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from src.core.contract import Contract, choose_golden, read_contract
from src.core.labels import TONES
from src.core.records import (
    leak_free,
    read_groups,
    read_json,
    read_posts,
    read_predictions,
    read_split,
    read_table,
    write_json,
)
from src.services import promotion, registry
from tests.contract.conftest import DATA_MD5, MODEL, git, run

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.slow

OUTPUTS = Path("outputs")


@pytest.fixture
def contract(repository: Path) -> Contract:
    return read_contract(OUTPUTS / "register" / MODEL / "contract")


def test_the_contract_says_what_the_version_was_made_from(contract: Contract, repository: Path) -> None:
    trained = read_json(OUTPUTS / "train" / MODEL / "train.json")
    best = read_json(OUTPUTS / "tune" / MODEL / "best.json")
    assert (contract.search.study, contract.search.trial) == (best["study"], best["best_trial"])
    assert (contract.search.run_id, contract.run_id) == (best["run_id"], trained["run_id"])
    assert contract.test == read_json(OUTPUTS / "evaluate" / MODEL / "metrics.json")
    assert contract.validation["macro_f1"] == trained["macro_f1"]
    assert list(contract.adapted_modules) == trained["adapted_modules"]
    assert contract.checkpoint.revision == trained["facts"]["checkpoint_revision"]
    assert (contract.labels, contract.dtype, contract.data_revision) == (TONES, "float32", DATA_MD5)
    assert (contract.code.git_commit, contract.code.git_dirty) == (git("rev-parse", "HEAD"), "false")
    assert {"torch", "peft", "transformers"} <= contract.libraries.keys()
    assert contract.settings == read_json(OUTPUTS / "train" / MODEL / "adapter" / "settings.json")


def test_golden_posts_are_validation_posts_with_the_answers_of_the_training(
    contract: Contract, repository: Path
) -> None:
    part_of = read_split(OUTPUTS / "split" / "split.csv")
    val = [post for post in read_posts(OUTPUTS / "prepare" / "posts.csv") if part_of.get(post.id) == "val"]
    assert [(post.id, post.caption) for post in contract.golden] == [
        (post.id, post.caption) for post in choose_golden(val)
    ]
    said = {row.id: row for row in read_predictions(OUTPUTS / "train" / MODEL / "predictions.csv")}
    for post in contract.golden:
        row = said[post.id]
        assert probabilities(post.logits) == pytest.approx([row.negative, row.neutral, row.positive], abs=1e-4)


def test_beside_the_contract_lies_what_the_scores_rest_on(repository: Path) -> None:
    folder = OUTPUTS / "register" / MODEL / "contract"
    assert read_json(folder / "division.json") == read_json(OUTPUTS / "split" / "report.json")
    assert read_predictions(folder / "test.csv") == read_predictions(OUTPUTS / "evaluate" / MODEL / "predictions.csv")
    group_of = read_groups(OUTPUTS / "split" / "groups.csv")
    unseen = leak_free(read_split(OUTPUTS / "split" / "split.csv"), group_of)
    rows = read_table(folder / "test.csv")
    assert [(row["group"], row["leak_free"] == "1") for row in rows] == [
        (group_of[row["id"]], row["id"] in unseen) for row in rows
    ]


def probabilities(logits: tuple[float, ...]) -> list[float]:
    import torch

    return [float(share) for share in torch.tensor(logits).softmax(dim=-1)]


def test_registering_again_changes_nothing(own: Path) -> None:
    before, history = registry.versions(MODEL), promotion.history(MODEL)
    said = run("register", "--model", MODEL).output
    assert said == f"mvsa-{MODEL} version 1 is registered already and is the champion\n"
    assert (registry.versions(MODEL), promotion.history(MODEL)) == (before, history)


def untrain(state: "dict[str, Tensor]") -> None:
    for name, weight in state.items():
        if ".lora_B." in name:
            weight.zero_()


def test_an_adapter_that_was_never_trained_is_not_registered(own: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = OUTPUTS / "train" / MODEL / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    untrain(state)
    save_file(state, path)
    said = run("register", "--model", MODEL, code=1).output
    assert said.startswith(f"error: outputs/train/{MODEL}/adapter was never trained") and said.count("\n") == 1
    assert len(registry.versions(MODEL)) == 1


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def test_an_adapter_is_registered_only_with_its_own_scores_and_posts(own: Path) -> None:
    trained = OUTPUTS / "train" / MODEL / "train.json"
    edit(OUTPUTS / "split" / "report.json", split_digest="other")
    assert "the posts are not those that clip was trained on" in run("register", "--model", MODEL, code=1).output
    best = read_json(OUTPUTS / "tune" / MODEL / "best.json")
    edit(trained, run_id=best["run_id"])
    assert "this adapter of clip has no test scores: run" in run("register", "--model", MODEL, code=1).output
    edit(trained, run_id="0" * 32)
    assert "the run of clip's training is not in the MLflow store" in run("register", "--model", MODEL, code=1).output
    shutil.rmtree(OUTPUTS / "evaluate")
    assert "outputs/evaluate/clip/metrics.json is missing" in run("register", "--model", MODEL, code=1).output
