"""Covers: the whole pipeline as a user runs it, with real DVC, Optuna and MLflow, in a copy of the repository.

The commands of docs/tutorial.md are typed there as they are written. The other tests look at what they leave.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.files import read_json, read_table, write_table
from src.core.outputs import RecipeOutput, SaliencyOutput
from src.core.records import read_posts, read_predictions, read_split
from tests.browser.chromium import chromium, needed_programs
from tests.browser.layout import faults
from tests.pipeline import as_written, copy_tree
from tests.ports import free_port
from tests.warm import WarmPython

# What the tutorial's commands set in params.yaml.
MODEL = "clip"
TRIALS = 4
TUTORIAL = {"models": [MODEL], "tune.trials": TRIALS, "repeat.seeds": 2, "reproduce.recipes": []}
EPOCHS = 2
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The server in the background ends with the shell, whatever ends the commands before `kill`.
END_JOBS = """set -m; trap 'for job in $(jobs -p); do kill -- "-$job" || true; done' EXIT"""
# Longer than the tutorial takes on a busy machine. The limit ends the wait for a command that hangs.
TIMEOUT_S = 1800
pytestmark = pytest.mark.slow


def run(folder: Path, *words: str, code: int = 0) -> str:
    """Run a command as a user does, and return what it prints, standard error included."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    return printed


@pytest.fixture(scope="module")
def repository(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git knows or would take, committed, with few epochs."""
    folder = tmp_path_factory.mktemp("repository")
    copy_tree(repo_root, folder)
    settings = {"tune.pruner": "none", "training.common.epochs": EPOCHS, "saliency.mistakes": 1}
    for name, value in settings.items():
        edit_params(folder, partial(set_in, name=name, value=value))
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        git(folder, *words)
    return folder


def git(folder: Path, *words: str) -> str:
    return run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", *words)


def set_in(params: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        params = params[section]
    params[last] = value


def edit_params(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    edit(params)
    path.write_text(yaml.safe_dump(params))


@pytest.fixture(scope="module")
def tutorial(repository: Path, repo_root: Path, warm_python: WarmPython) -> str:
    """What the tutorial's commands print, typed in the repository. The first block makes this test's environment."""
    _, *blocks = BLOCK.findall((repo_root / "docs" / "tutorial.md").read_text())
    script = "\n".join(blocks)
    assert set(re.findall(r"-S '?([\w.]+)=", script)) == TUTORIAL.keys()
    variables = warm_python.environment
    path = os.pathsep.join((variables["PATH"], str(Path(sys.executable).parent)))
    return typed(script, repository, {**variables, "PATH": path, "PORT": str(free_port())})


@pytest.fixture(scope="module")
def done(repository: Path, tutorial: str) -> Path:
    """The repository after the tutorial."""
    return repository


@pytest.fixture(scope="module")
def locked(repository: Path, done: Path) -> Path:
    """The repository once `dvc.lock` and the settings are committed, before any test has changed something."""
    git(done, "add", "-A")
    git(done, "commit", "-qm", "lock")
    return done


def clone(source: Path, folder: Path) -> Path:
    git(source, "clone", "-q", str(source), str(folder))
    return folder


def typed(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script by bash with job control, which must not fail. Return what it prints."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{END_JOBS}\n{script}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_tutorial_ends_with_an_answer(repository: Path, tutorial: str) -> None:
    assert f"mvsa-{MODEL} version 1 keeps its contract" in tutorial
    assert re.search(r'"predictions": \[\{.*"label": "(negative|neutral|positive)"', tutorial), tutorial
    assert (repository / "outputs" / "report" / "index.html").is_file()
    ran = set(re.findall(r"Running stage '([\w@]+)'", tutorial))
    assert ran == set(yaml.safe_load((repository / "dvc.lock").read_text())["stages"])
    params = yaml.safe_load((repository / "params.yaml").read_text())
    assert params["models"] == [MODEL] and params["tune"]["trials"] == TRIALS


def test_unchanged_rerun_leaves_tree_clean(locked: Path, warm_python: WarmPython) -> None:
    assert "Running stage" not in warm_python.run(locked, "dvc", "repro")
    assert git(locked, "status", "--porcelain") == ""


def test_clone_computes_same_files(locked: Path, tmp_path: Path, warm_python: WarmPython) -> None:
    there = clone(locked, tmp_path / "clone")
    # Without DVC's cache each stage runs, and gives the files of the other clone.
    printed = warm_python.run(there, "dvc", "repro")
    assert printed.count("Running stage") == len(yaml.safe_load((there / "dvc.lock").read_text())["stages"])
    assert git(there, "status", "--porcelain") == ""


def test_pulled_outputs_are_not_recomputed(locked: Path, tmp_path: Path, warm_python: WarmPython) -> None:
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
    printed = warm_python.run(there, "src.lineage", f"models:/mvsa-{MODEL}@champion")
    assert sum(line.rstrip().endswith("holds") for line in printed.splitlines()) == 10


@pytest.fixture
def tracked(done: Path) -> Any:
    """MLflow's client on the runs of the job."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{done}/mlruns/mlflow.db")


def runs(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    return list(client.search_runs([experiment.experiment_id]))


def artifacts(client: Any, logged: Any) -> set[str]:
    return {item.path for item in client.list_artifacts(logged.info.run_id)}


def test_metrics_and_plots_list_model(done: Path, warm_python: WarmPython) -> None:
    shown = warm_python.run(done, "dvc", "metrics", "show")
    for stage in ("zeroshot", "probe", "evaluate", "modality"):
        assert f"outputs/{stage}/{MODEL}/metrics.json" in shown
    warm_python.run(done, "dvc", "plots", "show", "--out", "plots")
    page = (done / "plots" / "index.html").read_text()
    for name in (f"train_{MODEL}_history", f"evaluate_{MODEL}", f"zeroshot_{MODEL}"):
        assert name in page


def test_trials_are_children_of_study(tracked: Any) -> None:
    stages = Counter(logged.data.tags["stage"] for logged in runs(tracked))
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
    (study,) = [logged for logged in runs(tracked) if logged.data.tags["stage"] == "study"]
    for trial in (logged for logged in runs(tracked) if logged.data.tags["stage"] == "trial"):
        assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert {"git_commit", "data_digest", "split_digest", "checkpoint_revision", "scale"} <= trial.data.tags.keys()
        assert trial.data.tags["weights"] == "random"
        assert {"rank", "alpha", "lr", "dropout"} <= trial.data.params.keys()
        assert trial.info.status == "FINISHED"
        wanted = {"confusion_matrix.png", "confusion_matrix.json", "classification_report.txt", "learning_curves.png"}
        assert wanted | {"adapter", "adapted_modules.json"} <= artifacts(tracked, trial)
        assert [point.step for point in tracked.get_metric_history(trial.info.run_id, "val_macro_f1")] == [1, 2]


def test_no_run_is_left_running(tracked: Any) -> None:
    assert {logged.info.status for logged in runs(tracked)} == {"FINISHED"}


def test_evaluate_alone_logs_test_metrics(tracked: Any, done: Path) -> None:
    written = read_json(done / "outputs" / "evaluate" / MODEL / "metrics.json")
    for logged in runs(tracked):
        stage = logged.data.tags["stage"]
        tests = {name: value for name, value in logged.data.metrics.items() if name.startswith("test_")}
        assert bool(tests) == (stage in ("evaluate", "zeroshot")), stage
        if stage == "evaluate":
            assert tests["test_macro_f1"] == as_written(written["macro_f1"])


def test_learning_curves_fall(done: Path) -> None:
    history = read_table(done / "outputs" / "train" / MODEL / "history.csv")
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])


def test_champion_predicts_as_evaluate_measured(done: Path, warm_python: WarmPython) -> None:
    posts = {post.id: post for post in read_posts(done / "outputs" / "prepare" / "posts.csv")}
    measured = read_predictions(done / "outputs" / "evaluate" / MODEL / "predictions.csv")
    asked = [(posts[row.id].image, posts[row.id].caption) for row in measured]
    (done / "ask.py").write_text(f"""
import json, pathlib, mlflow, pandas
asked = json.loads({json.dumps(json.dumps(asked))})
table = pandas.DataFrame([(pathlib.Path(image).read_bytes(), text) for image, text in asked], columns=["image", "text"])
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
answers = mlflow.pyfunc.load_model("models:/mvsa-{MODEL}@champion").predict(table)
print("ANSWERS" + answers.to_json(orient="records"))
""")
    printed = warm_python.run(done, "ask")
    answers = json.loads(printed.split("ANSWERS")[1].splitlines()[0])
    assert [row["label"] for row in answers] == [row.predicted for row in measured]
    for answer, row in zip(answers, measured, strict=True):
        assert answer["positive"] == pytest.approx(row.probabilities["positive"], abs=1e-4)


def test_predict_prints_three_probabilities(done: Path, warm_python: WarmPython) -> None:
    image = next((done / "sample" / "data").glob("*.jpg"))
    printed = warm_python.run(done, "src.predict", "--model", MODEL, str(image), "what a day")
    assert all(tone in printed for tone in ("negative", "neutral", "positive"))


def test_predict_takes_folder_with_half_posts(done: Path, warm_python: WarmPython) -> None:
    folder = done / "mine"
    folder.mkdir()
    sample = done / "sample" / "data"
    for name in ("1.jpg", "1.txt", "10.jpg", "100.txt"):
        shutil.copyfile(sample / name, folder / name)
    (folder / "broken.jpg").write_text("no image")
    printed = warm_python.run(done, "src.predict", "--model", MODEL, "mine", "--out", "tones.csv")
    rows = {row["id"]: row for row in read_table(done / "tones.csv")}
    assert [(row["missing"], bool(row["predicted"])) for row in rows.values()] == [
        ("", True),
        ("text", True),
        ("image", True),
        ("text", False),
    ]
    assert "no readable JPEG" in rows["broken"]["problem"]
    assert sum(float(rows["1"][tone]) for tone in ("negative", "neutral", "positive")) == pytest.approx(1, abs=1e-4)
    for line in ("posts without image: 1", "1 of 4 posts could not be used"):
        assert line in printed


def test_predict_scores_labelled_csv(done: Path, warm_python: WarmPython) -> None:
    posts = {post.id: post for post in read_posts(done / "outputs" / "prepare" / "posts.csv")}
    measured = read_predictions(done / "outputs" / "evaluate" / MODEL / "predictions.csv")
    asked = [{"image": posts[row.id].image, "text": posts[row.id].caption, "label": row.actual} for row in measured]
    write_table(done / "asked.csv", asked)
    printed = warm_python.run(done, "src.predict", "--model", MODEL, "asked.csv", "--out", "answers.csv")
    assert [row["predicted"] for row in read_table(done / "answers.csv")] == [row.predicted for row in measured]
    assert f"{read_json(done / 'outputs' / 'evaluate' / MODEL / 'metrics.json')['accuracy']:.4f}" in printed
    assert "--out" in warm_python.run(done, "src.predict", "--model", MODEL, "asked.csv", code=2)


def test_predict_refuses_broken_image(done: Path, warm_python: WarmPython) -> None:
    (done / "notes.jpg").write_text("no image")
    printed = warm_python.run(done, "src.predict", "--model", MODEL, "notes.jpg", "what a day", code=1)
    assert printed.startswith("error: notes.jpg cannot be used") and printed.count("\n") == 1


def test_same_adapter_is_registered_once(done: Path, warm_python: WarmPython) -> None:
    assert "version 1 is registered already" in warm_python.run(done, "src.register", "--model", MODEL)


def test_champion_holds_contract_and_lineage(done: Path, warm_python: WarmPython) -> None:
    address = f"models:/mvsa-{MODEL}@champion"
    assert f"mvsa-{MODEL} version 1 keeps its contract" in warm_python.run(done, "src.verify", address)
    printed = warm_python.run(done, "src.lineage", address)
    assert sum(line.rstrip().endswith("holds") for line in printed.splitlines()) == 10
    (revision,) = (out["md5"] for out in yaml.safe_load((done / "data.dvc").read_text())["outs"])
    # It was trained at the first commit.
    assert revision in printed and run(done, "git", "rev-list", "--max-parents=0", "HEAD")[:12] in printed
    assert f"The champion of {MODEL} stays as it is" in warm_python.run(done, "src.promote", "--model", MODEL)


def test_report_shows_published_scores(done: Path) -> None:
    page = (done / "outputs" / "report" / "index.html").read_text()
    scores = read_json(done / "outputs" / "evaluate" / MODEL / "metrics.json")
    (row,) = re.findall(rf"<tr class=\"ours\"><th scope=\"row\">{MODEL} tuned</th>.*?</tr>", page, re.DOTALL)[:1]
    assert f"<td>{100 * scores['macro_f1']:.1f}<br>" in row and '<td class="paper">81.2</td>' in row
    assert "Weights are random" in page
    saliency = SaliencyOutput.read(done / "outputs" / "saliency" / MODEL / "saliency.json")
    assert page.count("data:image/png;base64,") == 11 + len(saliency.mistakes)
    # It links to papers, and fetches nothing.
    assert re.findall(r"<(?:script|link)|(?:src|@import|url\()[=\"' (]*http", page) == []


def test_report_begins_with_findings(done: Path) -> None:
    page = (done / "outputs" / "report" / "index.html").read_text()
    findings = page[page.index('id="findings"') : page.index('id="scores"')]
    assert f"Validation chooses {MODEL}" in findings and "Better than TF-IDF on the captions" in findings
    parts = re.findall(r'<a href="#([^"]+)">', page[: page.index('id="findings"')])
    assert len(parts) == 12
    assert all(f'id="{part}"' in page for part in parts)
    for system in ("majority", "tfidf", f"{MODEL} zero-shot", f"{MODEL} probe", f"{MODEL} tuned"):
        assert f'<th scope="row">{system}</th>' in page


@pytest.mark.browser
def test_report_fits_every_screen(done: Path) -> None:
    with chromium(needed_programs()) as driver:
        assert faults(driver, done / "outputs" / "report" / "index.html") == {}


def test_report_has_experiments_of_paper(done: Path, warm_python: WarmPython) -> None:
    recipes = [f"{MODEL}-zeroshot", f"{MODEL}-lora"]
    edit_params(done, partial(set_in, name="reproduce.recipes", value=recipes))
    printed = warm_python.run(done, "dvc", "repro")
    assert re.findall(r"Running stage '([\w@]+)'", printed) == ["reproduce", "report"]
    page = (done / "outputs" / "report" / "index.html").read_text()
    experiments = page[page.index('<h2 id="experiments">') : page.index('<h2 id="data-card">')]
    assert re.findall(r'<th scope="row" class="words">([\w-]+)', experiments) == [*recipes, "majority", "tfidf"]
    output = RecipeOutput.read(done / "outputs" / "reproduce" / f"{MODEL}-lora.json")
    assert f"<td>{100 * output.scores['macro_f1']:.1f}</td>" in experiments
    assert re.search(rf'<td class="\w+">{100 * output.recipe.published["accuracy"]:.1f}</td>', experiments)


def test_same_search_runs_missing_trials(done: Path, warm_python: WarmPython) -> None:
    before = (done / "outputs" / "tune" / MODEL / "trials.csv").read_text()
    assert "[1/" not in warm_python.run(done, "src.tune", "--model", MODEL, "--trials", str(TRIALS))
    assert (done / "outputs" / "tune" / MODEL / "trials.csv").read_text() == before
    printed = warm_python.run(done, "src.tune", "--model", MODEL, "--trials", str(TRIALS + 1))
    assert f"[{TRIALS + 1}/{TRIALS + 1}] trial {TRIALS}" in printed


def test_experiment_in_copy_logs_here(locked: Path, warm_python: WarmPython) -> None:
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
    of_study = client.search_runs([experiment.experiment_id], f"tags.study = '{study}'")
    assert {"study", "trial", "train"} <= {run.data.tags["stage"] for run in of_study}
    assert all(Path(run.info.artifact_uri).is_relative_to(locked / "mlruns") for run in of_study)
    versions = client.search_model_versions(f"name = 'mvsa-{MODEL}'")
    (applied,) = [version.version for version in versions if version.tags["study"] == study]
    assert not list((locked / ".dvc" / "tmp" / "exps").rglob("mlflow.db"))
    asked = ("src.predict", "--model", MODEL, "sample/data/1.jpg", "what a day")
    assert (
        warm_python.run(locked, *asked).splitlines()[-1]
        == (warm_python.run(locked, *asked, "--version", f"models:/mvsa-{MODEL}/{applied}").splitlines()[-1])
    )


def test_other_split_begins_other_study(done: Path, warm_python: WarmPython) -> None:
    before = read_json(done / "outputs" / "tune" / MODEL / "best.json")["study"]
    parts = read_split(done / "outputs" / "split" / "split.csv")
    git(done, "add", "dvc.lock")
    git(done, "commit", "-qam", "one division")
    edit_params(done, lambda params: params.update(seed=8))
    warm_python.run(done, "dvc", "repro", f"tune@{MODEL}", f"frozen@{MODEL}")
    assert read_split(done / "outputs" / "split" / "split.csv") != parts
    assert read_json(done / "outputs" / "tune" / MODEL / "best.json")["study"] != before


def test_changes_since_revision_are_shown(done: Path, warm_python: WarmPython) -> None:
    """After the test above, which has divided the posts anew since the last commit."""
    metrics = f"outputs/zeroshot/{MODEL}/metrics.json"
    changed = json.loads(warm_python.run(done, "dvc", "metrics", "diff", "HEAD", "--json"))
    scores = changed[metrics]["accuracy"] if metrics in changed else {}
    assert {"old", "new", "diff"} <= scores.keys()
    assert scores["new"] == read_json(done / metrics)["accuracy"]
    warm_python.run(done, "dvc", "plots", "diff", "HEAD", "--out", "changed")
    assert f"zeroshot_{MODEL}" in (done / "changed" / "index.html").read_text()


def test_missing_inputs_name_the_command(repository: Path, tmp_path: Path, warm_python: WarmPython) -> None:
    for name in ("src", "params.yaml"):
        (tmp_path / name).symlink_to(repository / name)
    for stage in ("frozen", "tune", "train", "evaluate", "register", "repeat"):
        printed = warm_python.run(tmp_path, f"src.{stage}", "--model", MODEL, code=1)
        assert printed.startswith("error: outputs/") and "dvc repro" in printed and printed.count("\n") == 1, printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "lava"], "unknown model 'lava'; did you mean 'llava'?"),
        (["--model", MODEL, "--trials", "0"], "'--trials': 0 is not in the range"),
        ([], "Missing option '--model'"),
    ],
)
def test_misuse_is_one_line(repository: Path, words: list[str], message: str, warm_python: WarmPython) -> None:
    printed = warm_python.run(repository, "src.tune", *words, code=2)
    assert printed.startswith("error: ") and message in printed and printed.count("\n") == 1


def test_unknown_setting_is_one_line(repository: Path, tmp_path: Path, warm_python: WarmPython) -> None:
    (tmp_path / "src").symlink_to(repository / "src")
    shutil.copyfile(repository / "params.yaml", tmp_path / "params.yaml")
    edit_params(tmp_path, lambda params: params["tune"].update(trails=3))
    printed = warm_python.run(tmp_path, "src.tune", "--model", MODEL, code=2)
    assert printed.count("\n") == 1 and "did you mean 'trials'?" in printed
