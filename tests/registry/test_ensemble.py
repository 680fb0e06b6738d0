"""Covers: a registered ensemble, from `register_ensemble` to `verify`, `predict`, `lineage` and `promote`."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from src.core.config import load_params
from src.core.errors import UserError
from src.core.files import read_json, read_table
from src.core.outputs import BestTrial, EnsembleOutput, SaliencyOutput, read_trained
from src.core.paths import BEST_FILE, ENSEMBLE, ENSEMBLE_JSON, SALIENCY_JSON, TRIALS_FILE, stage_folder
from src.core.records import Prediction, read_posts, read_predictions
from src.evaluation.ensemble import Bagging, Selection
from src.evaluation.metrics import scores
from src.registry import registry
from src.registry.ensemble_contract import FILES_DIGEST, read_ensemble_contract
from src.registry.evidence import read_evidence
from src.registry.lineage import ADAPTER_CODE, ENSEMBLE_CODE, lineage_of
from src.registry.pyfunc import artifacts_in
from src.registry.verification import verify_folder
from src.reporting.mistakes import mistaken
from tests.pipeline import TRIALS, as_written, copied, run

CHAMPION = "models:/mvsa-ensemble@champion"


def add_seed(seed: int) -> None:
    """Put the trained adapter in the place of a training on another seed."""
    folder = stage_folder("seeds", "clip") / str(seed)
    trained = stage_folder("train", "clip")
    shutil.copytree(trained / "adapter", folder / "adapter")
    shutil.copy(trained / "predictions.csv", folder / "val_predictions.csv")
    shutil.copy(stage_folder("evaluate", "clip") / "predictions.csv", folder / "predictions.csv")


def all_alike(library: Mapping[str, Sequence[Prediction]], _: Bagging) -> Selection:
    return Selection(dict.fromkeys(library, 1 / len(library)), 1.25)


@pytest.fixture(scope="module")
def registered(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with a registered ensemble; tests only read it."""
    with copied(made, tmp_path_factory, "ensemble") as folder:
        add_seed(8)
        run("baseline")
        with pytest.MonkeyPatch.context() as patch:
            # On so few posts one system is best alone, and these tests are about members of every kind.
            patch.setattr("src.pipeline.ensemble.select", all_alike)
            run("ensemble")
        run("register_ensemble")
        yield folder


@pytest.fixture(scope="module")
def downloaded(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, version = registry.version_at(CHAMPION)
    return registry.download(version, tmp_path_factory.mktemp("downloaded"))


def artifact(downloaded: Path) -> Path:
    return Path(artifacts_in(downloaded)["ensemble"])


def test_next_best_trials_answer_as_in_the_search(registered: Path) -> None:
    best = BestTrial.read(stage_folder("tune", "clip") / BEST_FILE)
    rows = {row["number"]: row for row in read_table(stage_folder("tune", "clip") / TRIALS_FILE)}
    folder = stage_folder("best_trials", "clip")
    assert {path.name for path in folder.iterdir()} == rows.keys() - {str(best.best_trial)}
    for path in folder.iterdir():
        val = read_predictions(path / "val_predictions.csv")
        assert scores(val).macro_f1 == as_written(float(rows[path.name]["val_macro_f1"]))
    assert set(EnsembleOutput.read(ENSEMBLE / ENSEMBLE_JSON).best_trials) == {"clip"}


def test_trials_whose_adapters_are_gone_are_left_out(
    registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from src.pipeline.best_trials import next_best, predict_best_trials

    shutil.copytree(stage_folder("tune", "clip"), tmp_path / stage_folder("tune", "clip"))
    trained, params = replace(read_trained("clip"), study="another"), load_params()
    monkeypatch.chdir(tmp_path)
    # No trial has an adapter, so the model is not asked.
    predict_best_trials(params, cast("Any", None), trained)
    assert list(stage_folder("best_trials", "clip").iterdir()) == []
    assert capfd.readouterr().err.count("is no candidate") == len(next_best(trained)) == TRIALS - 1


def test_contract_names_versions_of_members(downloaded: Path) -> None:
    contract = read_ensemble_contract(artifact(downloaded))
    output = EnsembleOutput.read(ENSEMBLE / ENSEMBLE_JSON)
    assert tuple(record.member for record in contract.members) == output.members
    assert {member.kind for member in output.members} >= {"majority", "tfidf", "probe", "zero-shot", "tuned", "seed"}
    _, clip = registry.version_at("models:/mvsa-clip@champion")
    assert contract.versions() == {"models:/mvsa-clip/1": clip.tags["adapter_digest"]}
    with_files = {record.member.kind for record in contract.members if record.folder}
    assert with_files == {member.kind for member in output.members} - {"tuned", "zero-shot"}
    assert len(contract.golden) == 8


def test_version_holds_no_pickle(downloaded: Path) -> None:
    assert not [path for path in downloaded.rglob("*") if path.suffix in (".pkl", ".pickle", ".joblib", ".pt")]


def test_version_answers_as_the_stage_scored(registered: Path) -> None:
    model = registry.load(CHAMPION)
    post_of = {post.id: post for post in read_posts(Path("outputs/prepare/posts.csv"))}
    rows = read_predictions(ENSEMBLE / "predictions.csv")[:40]
    posts = [post_of[row.id] for row in rows]
    answers = registry.predict(model, [(Path(post.image).read_bytes(), post.caption) for post in posts])
    for row, answer in zip(rows, answers, strict=True):
        assert answer.label == row.predicted
        assert answer.probabilities == pytest.approx(row.probabilities, abs=1e-4)


def test_commands_take_the_ensemble(registered: Path) -> None:
    post = read_posts(Path("outputs/prepare/posts.csv"))[0]
    said = run("predict", "--model", "ensemble", post.image, post.caption).output
    assert said == run("predict", "--model", "ensemble", "--version", CHAMPION, post.image, post.caption).output
    assert "mvsa-ensemble" in run("promote", "--model", "ensemble").output
    assert "is an ensemble" in run("export", CHAMPION, "--out", "exported", code=1).output


def test_explained_answer_equals_predicted(registered: Path) -> None:
    row = read_predictions(ENSEMBLE / "predictions.csv")[0]
    said = run("saliency", "--model", "ensemble", row.id).output
    assert f"predicted {row.predicted}, labelled {row.actual}" in said
    assert ", ".join(f"{label} {share:.3f}" for label, share in row.probabilities.items()) in said
    folder = stage_folder("saliency", "ensemble")
    assert {path.name for path in folder.iterdir()} >= {f"{row.id}.png", f"{row.id}.html"}


@pytest.mark.slow
def test_mistakes_are_explained(registered: Path) -> None:
    wrong = mistaken(read_predictions(ENSEMBLE / "predictions.csv"))[:2]
    run("saliency", "--model", "ensemble", "--mistakes", "2")
    output = SaliencyOutput.read(stage_folder("saliency", "ensemble") / SALIENCY_JSON)
    assert [mistake.id for mistake in output.mistakes] == [row.id for row in wrong]
    for mistake, row in zip(output.mistakes, wrong, strict=True):
        assert mistake.probability == pytest.approx(row.confidence, abs=1e-3)
        assert any(word.contribution for word in mistake.words)
    assert output.sanity is None


def test_mistakes_of_unregistered_ensemble_are_refused(registered: Path) -> None:
    """The champion would explain another ensemble's mistakes."""
    path = ENSEMBLE / ENSEMBLE_JSON
    content = path.read_text()
    path.write_text(content + "\n")
    try:
        said = run("saliency", "--model", "ensemble", "--mistakes", "2", code=1).output
    finally:
        path.write_text(content)
    assert said.count("\n") == 1
    assert "python -m src.register_ensemble" in said


def test_readout_of_an_ensemble_is_refused(registered: Path) -> None:
    assert run("saliency", "--model", "ensemble", "1", "--sanity", code=2).output.count("\n") == 1


def test_every_link_of_the_lineage_holds(registered: Path, repo_root: Path) -> None:
    said = run("lineage", CHAMPION).output
    assert "models:/mvsa-clip/1" in said
    assert set(ADAPTER_CODE) < set(ENSEMBLE_CODE)
    assert all((repo_root / path).exists() for path in ENSEMBLE_CODE)


@pytest.mark.parametrize("recorded", [{}, {FILES_DIGEST: "0123456789ab"}])
def test_other_files_break_the_version_link(
    registered: Path, recorded: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, version = registry.version_at(CHAMPION)
    tags = {name: value for name, value in version.tags.items() if name != FILES_DIGEST}
    version_at = registry.version_at
    monkeypatch.setattr(
        registry,
        "version_at",
        lambda uri: (model, replace(version, tags={**tags, **recorded})) if uri == CHAMPION else version_at(uri),
    )
    assert [link.name for link in lineage_of(CHAMPION).broken] == ["version"]


def test_answers_of_random_weights_say_so(registered: Path) -> None:
    assert "random" in read_evidence(CHAMPION).notice


@pytest.mark.usefixtures("warm_children")
def test_own_code_keeps_the_contract(registered: Path, downloaded: Path) -> None:
    run("verify", CHAMPION)
    assert verify_folder(downloaded).difference < 1e-4


def test_same_ensemble_makes_no_other_version(registered: Path) -> None:
    assert "registered already" in run("register_ensemble").output
    assert [version.number for version in registry.versions("ensemble")] == [1]


def test_damaged_golden_answer_is_told(downloaded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "version"
    shutil.copytree(downloaded, folder)
    path = artifact(folder) / "contract.json"
    first = read_json(path)["golden"][0]["probabilities"][0]
    path.write_text(path.read_text().replace(str(first), str(round(first + 0.1, 6)), 1))
    with pytest.raises(UserError, match="golden probabilities are off by"):
        verify_folder(folder)


def test_missing_version_of_a_member_is_told(registered: Path, downloaded: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    # The version is as good as gone under a name that nothing looks for, and comes back for other tests.
    client.rename_registered_model("mvsa-clip", "mvsa-away")
    try:
        with pytest.raises(UserError, match="clip has no version 1"):
            verify_folder(downloaded)
        refused = run("register_ensemble", code=1).output
    finally:
        client.rename_registered_model("mvsa-away", "mvsa-clip")
    assert refused.count("\n") == 1
    assert "python -m src.register --model clip" in refused
