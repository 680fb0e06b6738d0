"""The lineage of a version: it holds in an unchanged repository, and the command names the first broken link."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.files import read_json, read_table, write_json, write_table
from src.core.records import ADAPTER_DIGEST
from src.registry import registry
from src.tracking.store import open_store
from tests.registry.conftest import MODEL, git, run

pytestmark = pytest.mark.slow

ADDRESS = f"models:/mvsa-{MODEL}@champion"
LINKS = [
    "version",
    "run",
    "study",
    "trial",
    "parameters",
    "split digest",
    "data digest",
    "data.dvc",
    "git commit",
    "checkpoint",
]


def kept() -> Any:
    """Return the contract that stage `register` wrote."""
    return read_json(Path("outputs/register") / MODEL / "contract" / "contract.json")


def test_fresh_version_links_hold(repository: Path) -> None:
    said = run("lineage", ADDRESS).output
    lines = [line for line in said.splitlines() if line.rstrip().endswith("holds")]
    assert [line.strip().split("  ")[0] for line in lines] == LINKS
    contract = kept()
    for fact in ("split_digest", "data_digest", "data_revision"):
        assert contract[fact] in said
    _, version = registry.version_at(ADDRESS)
    assert version.run_id in said and git("rev-parse", "HEAD")[:12] in said


def test_unrelated_commit_breaks_nothing(own: Path) -> None:
    (own / "src" / "reporting" / "more.py").write_text("MORE = 1\n")
    git("add", "-A")
    git("commit", "-qm", "more")
    run("lineage", ADDRESS)


def change_code(own: Path) -> None:
    with (own / "src" / "training" / "loss.py").open("a") as file:
        file.write("# more\n")


def add_code(own: Path) -> None:
    (own / "src" / "models" / "fifth.py").touch()


def other_history(own: Path) -> None:
    shutil.rmtree(own / ".git")
    git("init", "-q")


def change_caption(own: Path) -> None:
    (own / "data" / "data" / "1.txt").write_text("another day")


def change_label(own: Path) -> None:
    path = own / "data" / "labelResultAll.txt"
    lines = path.read_text().splitlines()
    number, pair = lines[1].split("\t")
    other = "negative" if "negative" not in pair else "positive"
    path.write_text("\n".join([lines[0], f"{number}\t{other},{other}", *lines[2:]]))


def change_split(own: Path) -> None:
    path = own / "outputs" / "split" / "split.csv"
    rows = read_table(path)
    write_table(path, [{**row, "part": "train"} for row in rows])


def change_revision(own: Path) -> None:
    (own / "data.dvc").write_text(yaml.safe_dump({"outs": [{"path": "data", "md5": "other.dir"}]}))


def change_checkpoint(own: Path) -> None:
    path = own / "outputs" / "encode" / MODEL / "checkpoint.json"
    write_json(path, {**read_json(path), "revision": "other"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_code, "git commit, 1 files have changed since, such as src/training/loss.py"),
        (add_code, "git commit, 1 files have changed since, such as src/models/fifth.py"),
        (other_history, "git commit, this repository does not know the commit"),
        (
            lambda own: (own / "data/data/1.jpg").write_bytes(b"JFIF"),
            "data digest, data/data/1.jpg or its caption has changed",
        ),
        (lambda own: (own / "data/data/1.jpg").unlink(), "data digest, data/ has no complete post 1 any more"),
        (change_caption, "data digest, data/data/1.jpg or its caption has changed"),
        (change_label, "data digest, the labels of post"),
        (lambda own: shutil.rmtree(own / "outputs/prepare"), "data digest, outputs/prepare/posts.csv is missing"),
        (change_split, "split digest, outputs/split/split.csv:"),
        (change_revision, "data.dvc, data.dvc: other.dir, not 0123"),
        (change_checkpoint, "checkpoint, outputs/encode/clip/checkpoint.json: other, not"),
    ],
)
def test_broken_link_is_named(spoil: Callable[[Path], object], message: str, own: Path) -> None:
    spoil(own)
    said = run("lineage", ADDRESS, code=1).output
    assert f"broken at 1 of 10 links: {message}" in said
    assert sum(line.rstrip().endswith("holds") for line in said.splitlines()) == 9


def test_requests_of_people_are_told(own: Path) -> None:
    search, client = kept()["search"], open_store()
    (trial,) = registry.runs_tagged(MODEL, {"stage": "trial", **search})
    for number in (2, 10):
        client.set_tag(trial.tags["mlflow.parentRunId"], f"request_{number}", f"--more {number} at noon")
    client.set_tag(trial.id, "request", "--try at noon")
    said = " ".join(run("lineage", ADDRESS).output.split())
    assert f"{search['trial']}, asked for by --try at noon" in said
    assert "asked for by --more 2 at noon; --more 10 at noon" in said


def test_deleted_runs_break_links(own: Path) -> None:
    search, client = kept()["search"], open_store()
    (trial,) = registry.runs_tagged(MODEL, {"stage": "trial", **search})
    client.delete_run(trial.id)
    run("lineage", ADDRESS)
    best = Path("outputs/tune") / MODEL / "best.json"
    write_json(best, {**read_json(best), "best_trial": search["trial"] + 1})
    said = run("lineage", ADDRESS, code=1).output
    assert f"broken at 2 of 10 links: trial, neither MLflow nor {best} has trial {search['trial']}" in said
    best.unlink()
    assert "broken at 3 of 10 links: study, neither MLflow nor" in run("lineage", ADDRESS, code=1).output
    _, version = registry.version_at(ADDRESS)
    client.delete_run(version.run_id)
    said = run("lineage", ADDRESS, code=1).output
    assert f"broken at 4 of 10 links: run, MLflow has no run {version.run_id}" in said


def test_other_adapter_breaks_version_link(own: Path) -> None:
    _, version = registry.version_at(ADDRESS)
    registry.tag_version(version, ADAPTER_DIGEST, "other")
    assert "broken at 1 of 10 links: version, its adapter's files:" in run("lineage", ADDRESS, code=1).output


def test_uncommitted_code_breaks_commit_link(own: Path) -> None:
    _, version = registry.version_at(ADDRESS)
    registry.tag_version(version, "git_dirty", "true")
    said = run("lineage", ADDRESS, code=1).output
    assert "git commit, src/ had changes then that are in no commit" in said and "with changes" in said


@pytest.mark.parametrize("command", ["lineage", "verify", "export"])
def test_old_contract_is_one_line(command: str, own: Path, downloaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = Path(shutil.copytree(downloaded, own / "version"))
    path = version / "artifacts" / "contract" / "contract.json"
    content = read_json(path)
    del content["code"]
    write_json(path, content)
    monkeypatch.setattr(registry, "download", lambda *_: version)
    words = {"verify": [str(version)], "export": [ADDRESS, "--out", "exported"], "lineage": [ADDRESS]}
    said = run(command, *words[command], code=1).output
    assert "code" in said and said.count("\n") == 1
    write_json(path, {**content, "format": 1})
    assert run(command, *words[command], code=1).output.count("\n") == 1
