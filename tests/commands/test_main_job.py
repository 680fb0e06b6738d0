"""The main job as a user runs it: real processes, real DVC, Optuna and MLflow, in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.files import read_json, read_table, write_table
from src.core.records import read_posts, read_predictions, read_split
from tests.pipeline import as_written
from tests.warm import WarmPython

MODEL = "tinyllava"
TRIALS = 2
pytestmark = pytest.mark.slow


def run(folder: Path, *words: str, code: int = 0) -> str:
    """What a command says that is started as a user starts it, standard error included."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said


@pytest.fixture(scope="module")
def repository(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git knows or would take, committed, with one model and few epochs."""
    folder = tmp_path_factory.mktemp("repository")
    files = run(repo_root, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (repo_root / name).is_file() and not name.startswith("tests/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repo_root / name, folder / name)
    edit_params(folder, lambda params: params.update(models=[MODEL]))
    edit_params(folder, lambda params: params["tune"].update(trials=TRIALS, pruner="none"))
    edit_params(folder, lambda params: params["training"]["common"].update(epochs=3))
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        git(folder, *words)
    return folder


def git(folder: Path, *words: str) -> str:
    return run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", *words)


def edit_params(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    edit(params)
    path.write_text(yaml.safe_dump(params))


@pytest.fixture(scope="module")
def done(repository: Path, warm_python: WarmPython) -> Path:
    """The repository after `dvc repro`, of which the first stages are run as a user starts them."""
    run(repository, "dvc", "repro", "encode")
    warm_python.run(repository, "dvc", "repro")
    return repository


@pytest.fixture(scope="module")
def locked(repository: Path, done: Path) -> Path:
    """The repository once `dvc.lock` is committed, before any test has changed something."""
    git(done, "add", "dvc.lock")
    git(done, "commit", "-qm", "lock")
    return done


def clone(source: Path, folder: Path) -> Path:
    git(source, "clone", "-q", str(source), str(folder))
    return folder


def test_a_run_that_changes_nothing_leaves_a_clean_tree(locked: Path, warm_python: WarmPython) -> None:
    assert "Running stage" not in warm_python.run(locked, "dvc", "repro")
    assert git(locked, "status", "--porcelain") == ""


def test_another_clone_computes_the_same_files(locked: Path, tmp_path: Path, warm_python: WarmPython) -> None:
    there = clone(locked, tmp_path / "clone")
    # Without DVC's cache each stage runs.
    assert "Running stage" in warm_python.run(there, "dvc", "repro")
    assert git(there, "diff", "--stat") == ""
    assert git(there, "status", "--porcelain") == ""


def test_what_is_pulled_is_not_run_and_answers(locked: Path, tmp_path: Path, warm_python: WarmPython) -> None:
    there, remote = clone(locked, tmp_path / "clone"), str(tmp_path / "remote")
    for folder in (locked, there):
        warm_python.run(folder, "dvc", "remote", "add", "-q", "--local", "-d", "-f", "shared", remote)
    warm_python.run(locked, "dvc", "push")
    warm_python.run(there, "dvc", "pull")
    assert "Running stage" not in warm_python.run(there, "dvc", "repro")
    assert git(there, "status", "--porcelain") == ""
    asked = ("src.predict", "--model", MODEL, "sample/data/1.jpg", "what a day")
    assert f"run `python -m src.register --model {MODEL}`" in warm_python.run(there, *asked, code=1)
    warm_python.run(there, "src.register", "--model", MODEL)
    assert warm_python.run(there, *asked) == warm_python.run(locked, *asked)
    said = warm_python.run(there, "src.lineage", f"models:/mvsa-{MODEL}@champion")
    assert sum(line.rstrip().endswith("holds") for line in said.splitlines()) == 10


@pytest.fixture
def tracked(done: Path) -> Any:
    """MLflow's client on what the job tracked."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{done}/mlruns/mlflow.db")


def runs(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    return list(client.search_runs([experiment.experiment_id]))


def artifacts(client: Any, found: Any) -> set[str]:
    return {item.path for item in client.list_artifacts(found.info.run_id)}


def test_a_second_repro_runs_nothing(done: Path, warm_python: WarmPython) -> None:
    assert "Running stage" not in warm_python.run(done, "dvc", "repro")


def test_metrics_and_plots_list_the_model(done: Path, warm_python: WarmPython) -> None:
    shown = warm_python.run(done, "dvc", "metrics", "show")
    for stage in ("zeroshot", "evaluate"):
        assert f"outputs/{stage}/{MODEL}/metrics.json" in shown
    warm_python.run(done, "dvc", "plots", "show", "--out", "plots")
    page = (done / "plots" / "index.html").read_text()
    for name in ("train_tinyllava_history", "evaluate_tinyllava", "zeroshot_tinyllava"):
        assert name in page


def test_every_trial_is_a_child_of_the_study_with_all_that_a_reviewer_needs(tracked: Any) -> None:
    stages = Counter(found.data.tags["stage"] for found in runs(tracked))
    assert stages == {
        "zeroshot": 1,
        "study": 1,
        "trial": TRIALS,
        "train": 1,
        "evaluate": 1,
        "modality": 1,
        "saliency": 1,
        "repeat": 1,
    }
    (study,) = [found for found in runs(tracked) if found.data.tags["stage"] == "study"]
    for trial in (found for found in runs(tracked) if found.data.tags["stage"] == "trial"):
        assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert {"git_commit", "data_digest", "split_digest", "checkpoint_revision", "scale"} <= trial.data.tags.keys()
        assert trial.data.tags["weights"] == "random"
        assert {"rank", "alpha", "lr", "dropout"} <= trial.data.params.keys()
        assert trial.info.status == "FINISHED"
        wanted = {"confusion_matrix.png", "confusion_matrix.json", "classification_report.txt", "learning_curves.png"}
        assert wanted | {"adapter", "adapted_modules.json"} <= artifacts(tracked, trial)
        assert [point.step for point in tracked.get_metric_history(trial.info.run_id, "val_macro_f1")] == [1, 2, 3]


def test_no_run_is_left_running(tracked: Any) -> None:
    assert {found.info.status for found in runs(tracked)} == {"FINISHED"}


def test_the_evaluate_run_holds_the_test_metrics_and_no_other_run_of_the_search_does(tracked: Any, done: Path) -> None:
    written = read_json(done / "outputs" / "evaluate" / MODEL / "metrics.json")
    for found in runs(tracked):
        stage = found.data.tags["stage"]
        tests = {name: value for name, value in found.data.metrics.items() if name.startswith("test_")}
        assert bool(tests) == (stage in ("evaluate", "zeroshot")), stage
        if stage == "evaluate":
            assert tests["test_macro_f1"] == as_written(written["macro_f1"])


def test_learning_curves_fall(done: Path) -> None:
    history = read_table(done / "outputs" / "train" / MODEL / "history.csv")
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])


def test_the_champion_predicts_in_a_fresh_process_what_evaluate_measured(done: Path) -> None:
    posts = {post.id: post for post in read_posts(done / "outputs" / "prepare" / "posts.csv")}
    measured = read_predictions(done / "outputs" / "evaluate" / MODEL / "predictions.csv")
    asked = [(posts[row.id].image, posts[row.id].caption) for row in measured]
    script = f"""
import json, pathlib, mlflow, pandas
asked = json.loads({json.dumps(json.dumps(asked))})
table = pandas.DataFrame([(pathlib.Path(image).read_bytes(), text) for image, text in asked], columns=["image", "text"])
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
answers = mlflow.pyfunc.load_model("models:/mvsa-{MODEL}@champion").predict(table)
print("ANSWERS" + answers.to_json(orient="records"))
"""
    said = run(done, sys.executable, "-c", script)
    answers = json.loads(said.split("ANSWERS")[1].splitlines()[0])
    assert [row["label"] for row in answers] == [row.predicted for row in measured]
    for answer, row in zip(answers, measured, strict=True):
        assert answer["positive"] == pytest.approx(row.positive, abs=1e-4)


def test_predict_prints_the_tone_with_three_probabilities(done: Path, warm_python: WarmPython) -> None:
    picture = next((done / "sample" / "data").glob("*.jpg"))
    said = warm_python.run(done, "src.predict", "--model", MODEL, str(picture), "what a day")
    assert all(tone in said for tone in ("negative", "neutral", "positive"))


def test_predict_judges_a_folder_with_halves_of_posts_and_a_broken_one(done: Path, warm_python: WarmPython) -> None:
    folder = done / "mine"
    folder.mkdir()
    sample = done / "sample" / "data"
    for name in ("1.jpg", "1.txt", "10.jpg", "100.txt"):
        shutil.copyfile(sample / name, folder / name)
    (folder / "broken.jpg").write_text("no picture")
    said = warm_python.run(done, "src.predict", "--model", MODEL, "mine", "--out", "tones.csv")
    rows = {row["id"]: row for row in read_table(done / "tones.csv")}
    assert [(row["missing"], bool(row["tone"])) for row in rows.values()] == [
        ("", True),
        ("text", True),
        ("image", True),
        ("text", False),
    ]
    assert rows["broken"]["problem"].startswith("the image is no readable JPEG")
    assert sum(float(rows["1"][tone]) for tone in ("negative", "neutral", "positive")) == pytest.approx(1, abs=1e-4)
    for line in ("1 posts have no image: a grey one stands in its place", "1 of 4 posts could not be used"):
        assert line in said


def test_predict_scores_a_csv_whose_tones_are_known_as_evaluate_did(done: Path, warm_python: WarmPython) -> None:
    posts = {post.id: post for post in read_posts(done / "outputs" / "prepare" / "posts.csv")}
    measured = read_predictions(done / "outputs" / "evaluate" / MODEL / "predictions.csv")
    asked = [{"image": posts[row.id].image, "text": posts[row.id].caption, "label": row.actual} for row in measured]
    write_table(done / "asked.csv", asked)
    said = warm_python.run(done, "src.predict", "--model", MODEL, "asked.csv", "--out", "answers.csv")
    assert [row["tone"] for row in read_table(done / "answers.csv")] == [row.predicted for row in measured]
    assert f"{read_json(done / 'outputs' / 'evaluate' / MODEL / 'metrics.json')['accuracy']:.4f}" in said
    assert "--out" in warm_python.run(done, "src.predict", "--model", MODEL, "asked.csv", code=2)


def test_predict_refuses_what_is_no_picture(done: Path, warm_python: WarmPython) -> None:
    (done / "notes.jpg").write_text("no picture")
    said = warm_python.run(done, "src.predict", "--model", MODEL, "notes.jpg", "what a day", code=1)
    assert said.startswith("error: notes.jpg cannot be used") and said.count("\n") == 1


def test_registering_the_same_adapter_again_makes_no_new_version(done: Path, warm_python: WarmPython) -> None:
    assert "version 1 is registered already" in warm_python.run(done, "src.register", "--model", MODEL)


def test_the_champion_holds_its_contract_and_every_link_back_to_the_raw_data(
    done: Path, warm_python: WarmPython
) -> None:
    address = f"models:/mvsa-{MODEL}@champion"
    assert f"mvsa-{MODEL} version 1 holds its contract" in warm_python.run(done, "src.verify", address)
    said = warm_python.run(done, "src.lineage", address)
    assert sum(line.rstrip().endswith("holds") for line in said.splitlines()) == 10
    (revision,) = (out["md5"] for out in yaml.safe_load((done / "data.dvc").read_text())["outs"])
    # It was trained at the first commit.
    assert revision in said and run(done, "git", "rev-list", "--max-parents=0", "HEAD")[:12] in said
    assert f"The champion of {MODEL} stays as it is" in warm_python.run(done, "src.promote", "--model", MODEL)


def test_the_report_shows_the_scores_beside_the_published_ones(done: Path) -> None:
    page = (done / "outputs" / "report" / "index.html").read_text()
    scores = read_json(done / "outputs" / "evaluate" / MODEL / "metrics.json")
    (row,) = re.findall(rf"<tr class=\"ours\"><td>{MODEL} tuned</td>.*?</tr>", page, re.DOTALL)[:1]
    assert f"<td>{100 * scores['macro_f1']:.1f} " in row and "<td>78.6</td>" in row
    assert "Weights are random" in page
    mistakes = read_json(done / "outputs" / "saliency" / MODEL / "saliency.json")["mistakes"]
    assert page.count("data:image/png;base64,") == 10 + len(mistakes)
    # It links to papers, and fetches nothing.
    assert re.findall(r"<(?:script|link)|(?:src|@import|url\()[=\"' (]*http", page) == []


def test_the_report_begins_with_findings_and_has_every_part(done: Path) -> None:
    page = (done / "outputs" / "report" / "index.html").read_text()
    findings = page[page.index('id="findings"') : page.index('id="scores"')]
    assert f"Validation chooses {MODEL}" in findings and "Against TF-IDF on the captions" in findings
    parts = re.findall(r'<a href="#([^"]+)">', page[: page.index('id="findings"')])
    assert len(parts) == 11
    assert all(f'id="{part}"' in page for part in parts)
    for system in ("majority", "tfidf", f"{MODEL} zero-shot", f"{MODEL} probe", f"{MODEL} tuned"):
        assert f"<td>{system}</td>" in page


def test_the_report_has_the_studys_experiments_on_the_model(done: Path) -> None:
    page = (done / "outputs" / "report" / "index.html").read_text()
    experiments = page[page.index('<h2 id="experiments">') : page.index('<h2 id="data-card">')]
    rows = re.findall(r'<td class="words">([\w-]+)', experiments)
    assert rows == [f"{MODEL}-zeroshot", f"{MODEL}-lora", "majority", "tfidf"]
    ours = read_json(done / "outputs" / "reproduce" / f"{MODEL}-lora.json")["ours"]
    assert f"<td>{100 * ours['macro_f1']:.1f}</td>" in experiments and '<td class="study">78.6</td>' in experiments


def test_the_same_search_again_runs_only_what_is_missing(done: Path, warm_python: WarmPython) -> None:
    before = (done / "outputs" / "tune" / MODEL / "trials.csv").read_text()
    assert "[1/" not in warm_python.run(done, "src.tune", "--model", MODEL, "--trials", str(TRIALS))
    assert (done / "outputs" / "tune" / MODEL / "trials.csv").read_text() == before
    said = warm_python.run(done, "src.tune", "--model", MODEL, "--trials", str(TRIALS + 1))
    assert f"[{TRIALS + 1}/{TRIALS + 1}] trial {TRIALS}" in said


def test_an_experiment_with_another_number_of_trials_runs(done: Path, warm_python: WarmPython) -> None:
    said = warm_python.run(done, "dvc", "exp", "run", "-S", "tune.trials=1", f"tune@{MODEL}")
    assert f"Running stage 'tune@{MODEL}'" in said
    assert "Running stage 'encode" not in said
    assert read_json(done / "outputs" / "tune" / MODEL / "best.json")["trials"] == 1


def test_an_experiment_in_a_copy_leaves_its_runs_here_and_answers_once_applied(
    locked: Path, warm_python: WarmPython
) -> None:
    git(locked, "add", "-A")
    git(locked, "commit", "-qm", "before")
    changes = ("-S", "training.common.weight_decay=0.5", "-S", "tune.trials=1")
    warm_python.run(locked, "dvc", "exp", "run", "--temp", "-n", "decay", *changes, f"register@{MODEL}")
    best = f"outputs/tune/{MODEL}/best.json"
    before = read_json(locked / best)["study"]
    warm_python.run(locked, "dvc", "exp", "apply", "decay")
    study = read_json(locked / best)["study"]
    assert study != before
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{locked}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    made = client.search_runs([experiment.experiment_id], f"tags.study = '{study}'")
    assert {"study", "trial", "train"} <= {run.data.tags["stage"] for run in made}
    assert all(Path(run.info.artifact_uri).is_relative_to(locked / "mlruns") for run in made)
    versions = client.search_model_versions(f"name = 'mvsa-{MODEL}'")
    (applied,) = [version.version for version in versions if version.tags["study"] == study]
    assert not list((locked / ".dvc" / "tmp" / "exps").rglob("mlflow.db"))
    asked = ("src.predict", "--model", MODEL, "sample/data/1.jpg", "what a day")
    assert (
        warm_python.run(locked, *asked).splitlines()[-1]
        == (warm_python.run(locked, *asked, "--version", f"models:/mvsa-{MODEL}/{applied}").splitlines()[-1])
    )


def test_another_division_of_the_posts_begins_another_study(done: Path, warm_python: WarmPython) -> None:
    before = read_json(done / "outputs" / "tune" / MODEL / "best.json")["study"]
    parts = read_split(done / "outputs" / "split" / "split.csv")
    git(done, "add", "dvc.lock")
    git(done, "commit", "-qam", "one division")
    edit_params(done, lambda params: params.update(seed=8))
    warm_python.run(done, "dvc", "repro", f"tune@{MODEL}", f"zeroshot@{MODEL}")
    assert read_split(done / "outputs" / "split" / "split.csv") != parts
    assert read_json(done / "outputs" / "tune" / MODEL / "best.json")["study"] != before


def test_what_has_changed_since_a_revision_is_shown(done: Path, warm_python: WarmPython) -> None:
    """After the test above, which has divided the posts anew since the last commit."""
    metrics = f"outputs/zeroshot/{MODEL}/metrics.json"
    changed = json.loads(warm_python.run(done, "dvc", "metrics", "diff", "HEAD", "--json"))
    scores = changed[metrics]["accuracy"] if metrics in changed else {}
    assert {"old", "new", "diff"} <= scores.keys()
    assert scores["new"] == read_json(done / metrics)["accuracy"]
    warm_python.run(done, "dvc", "plots", "diff", "HEAD", "--out", "changed")
    assert f"zeroshot_{MODEL}" in (done / "changed" / "index.html").read_text()


def test_a_stage_without_what_it_needs_says_what_to_run(
    repository: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    for name in ("src", "params.yaml"):
        (tmp_path / name).symlink_to(repository / name)
    for stage in ("encode", "zeroshot", "tune", "train", "evaluate", "register", "repeat"):
        said = warm_python.run(tmp_path, f"src.{stage}", "--model", MODEL, code=1)
        assert said.startswith("error: outputs/") and "dvc repro" in said and said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "lava"], "unknown model 'lava'; did you mean 'llava'?"),
        (["--model", MODEL, "--trials", "0"], "'--trials': 0 is not in the range"),
        ([], "Missing option '--model'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    repository: Path, words: list[str], message: str, warm_python: WarmPython
) -> None:
    said = warm_python.run(repository, "src.tune", *words, code=2)
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_an_unknown_key_in_params_is_one_line_and_exit_code_2(
    repository: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    (tmp_path / "src").symlink_to(repository / "src")
    shutil.copyfile(repository / "params.yaml", tmp_path / "params.yaml")
    edit_params(tmp_path, lambda params: params["tune"].update(trails=3))
    said = warm_python.run(tmp_path, "src.tune", "--model", MODEL, code=2)
    assert said == "error: params.yaml: tune: unknown key 'trails'; did you mean 'trials'?\n"
