"""Covers: the stage `ensemble`, src/ensemble.py and src/pipeline/ensemble.py."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from src.core.files import read_json
from src.core.outputs import EnsembleOutput
from src.core.paths import ENSEMBLE, ENSEMBLE_JSON, SPLIT_REPORT, stage_folder
from src.core.records import read_predictions, write_predictions
from src.ensemble import main
from src.evaluation.ensemble import Selection, answers_of
from tests.commands.test_compare import TEST, VAL, fill, judged
from tests.pipeline import as_written
from tests.split_report import split_report


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, repo_root: Path, store: Path) -> Path:
    """All that the stage reads, without other seeds: CLIP and LLaVA are equally good on validation."""
    folder = tmp_path_factory.mktemp("ensemble")
    fill(folder, repo_root)
    split_report().write(folder / SPLIT_REPORT)
    return folder


@pytest.fixture
def workplace(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(filled, copy)
    monkeypatch.chdir(copy)
    return copy


def set_params(change: Callable[[dict[str, object]], None]) -> None:
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text())
    change(params)
    path.write_text(yaml.safe_dump(params))


def ensemble() -> EnsembleOutput:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0, result.output
    assert result.output.count("\n") == 1
    return EnsembleOutput.read(ENSEMBLE / ENSEMBLE_JSON)


def write_seed(model: str, seed: int, wrong_val: int) -> None:
    folder = stage_folder("seeds", model) / str(seed)
    write_predictions(folder / "predictions.csv", judged(TEST, 10))
    write_predictions(folder / "val_predictions.csv", judged(VAL, wrong_val, 0.9))


@pytest.mark.usefixtures("workplace")
def test_files_hold_members_and_their_answers() -> None:
    output = ensemble()
    assert output.candidates == 8
    assert sum(member.weight for member in output.members) == pytest.approx(1, abs=1e-5)
    tables = {
        "clip tuned": stage_folder("evaluate", "clip") / "predictions.csv",
        "llava tuned": stage_folder("evaluate", "llava") / "predictions.csv",
        **{f"{m} probe": stage_folder("probe", m) / "predictions.csv" for m in ("clip", "llava")},
        **{f"{m} zero-shot": stage_folder("zeroshot", m) / "predictions.csv" for m in ("clip", "llava")},
        **{name: Path(f"outputs/baseline/{name}/predictions.csv") for name in ("majority", "tfidf")},
    }
    library = {name: read_predictions(path) for name, path in tables.items()}
    selection = Selection({member.system: member.weight for member in output.members}, output.temperature)
    answers = answers_of(library, selection)
    written = read_predictions(ENSEMBLE / "predictions.csv")
    assert [row.predicted for row in written] == [row.predicted for row in answers]
    computed = [probability for row in answers for probability in row.probabilities.values()]
    assert [probability for row in written for probability in row.probabilities.values()] == as_written(computed)
    assert len(read_predictions(ENSEMBLE / "val_predictions.csv")) == len(VAL)


@pytest.mark.usefixtures("workplace")
def test_test_part_chooses_nothing() -> None:
    before = ensemble()
    for model in ("clip", "llava"):
        for stage in ("evaluate", "probe", "zeroshot"):
            write_predictions(stage_folder(stage, model) / "predictions.csv", judged(TEST, 55))
    after = ensemble()
    assert after == before
    assert read_json(ENSEMBLE / "metrics.json")["accuracy"] < 0.5


@pytest.mark.usefixtures("workplace")
def test_other_seeds_are_members_with_passes() -> None:
    set_params(lambda params: params.update(ensemble={"bags": 1}))
    for seed in (8, 10):
        write_seed("llava", seed, wrong_val=0)
    output = ensemble()
    assert output.candidates == 10
    (first, *_) = output.members
    assert (first.system, first.kind, first.model, first.number) == ("llava seed 10", "seed", "llava", 10)
    assert output.passes["llava"] == sum(member.model == "llava" for member in output.members)
    # The best single system is one that the pipeline compares, and a further training is none.
    assert output.best_single in ("majority", "clip tuned"), "equally good on validation"


@pytest.mark.usefixtures("workplace")
def test_worse_trials_are_no_candidates() -> None:
    # The tuned CLIP and all trials err in 12 of 60 posts, but trial 4 in others than the tuned one.
    folders = {number: stage_folder("best_trials", "clip") / str(number) for number in (4, 5)}
    for folder in folders.values():
        write_predictions(folder / "predictions.csv", judged(TEST, 2))
    write_predictions(folders[4] / "val_predictions.csv", [*judged(VAL[:12], 12, 0.95), *judged(VAL[12:], 0, 0.95)])
    write_predictions(folders[5] / "val_predictions.csv", judged(VAL, 30, 0.95))
    output = ensemble()
    choice = output.best_trials["clip"]
    assert (choice.numbers, choice.k, len(choice.losses)) == ((4, 5), 2, 3)
    assert min(choice.losses) == choice.losses[1]
    assert output.candidates == 9
    assert "llava" not in output.best_trials


@pytest.mark.usefixtures("workplace")
def test_one_model_has_an_ensemble_too() -> None:
    set_params(lambda params: params.update(models=["llava"]))
    output = ensemble()
    assert output.candidates == 5
    assert {member.model for member in output.members} <= {"", "llava"}


@pytest.mark.usefixtures("workplace")
def test_second_run_writes_the_same_bytes() -> None:
    ensemble()
    first = {path.name: path.read_bytes() for path in ENSEMBLE.iterdir()}
    ensemble()
    assert {path.name: path.read_bytes() for path in ENSEMBLE.iterdir()} == first
    assert set(first) == {"ensemble.json", "metrics.json", "predictions.csv", "val_predictions.csv"}


@pytest.mark.usefixtures("workplace")
def test_missing_predictions_end_it_in_one_line() -> None:
    missing = stage_folder("probe", "llava") / "val_predictions.csv"
    missing.unlink()
    result = CliRunner().invoke(main, [])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert str(missing) in result.output


@pytest.mark.parametrize("setting", [{"bags": 0}, {"share": 0.0}, {"share": 1.5}, {"trials": -1}, {"bag": 3}], ids=str)
@pytest.mark.usefixtures("workplace")
def test_senseless_settings_are_usage_errors(setting: dict[str, float]) -> None:
    set_params(lambda params: params.update(ensemble=setting))
    result = CliRunner().invoke(main, [])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)


def test_run_holds_members_and_both_parts(workplace: Path) -> None:
    from src.tracking.run_logging import open_ensemble
    from src.tracking.store import open_store

    ensemble()
    (run_id, *_) = open_ensemble().find({"stage": "ensemble"})
    client = open_store()
    run = client.get_run(run_id)
    assert {"val_macro_f1", "test_macro_f1"} <= run.data.metrics.keys()
    assert "ensemble.json" in {item.path for item in client.list_artifacts(run_id)}
