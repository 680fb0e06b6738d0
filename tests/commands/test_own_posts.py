"""Covers: own posts in tables, from `ingest` over `dvc repro` to `split` and what the baselines read."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from src.core.config import load_params
from src.core.data_outputs import DataReport, SplitReport
from src.core.paths import DATA, DATA_REPORT, FINGERPRINTS, GROUPS, POSTS, SPLIT, SPLIT_REPORT
from src.core.records import (
    PARTS,
    Post,
    data_digest,
    read_fingerprints,
    read_groups,
    read_posts,
    read_split,
    write_posts,
)
from src.data.layouts import survey
from src.data.reading import LoadedDataset, read_folder
from src.pipeline.split import split_posts
from tests.pipeline import run

Rows = list[dict[str, str]]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> Path:
    """Change to a repository without data/."""
    root = tmp_path / "repository"
    (root / ".dvc").mkdir(parents=True)
    shutil.copy(repo_root / "params.yaml", root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def rows(repo_root: Path) -> Rows:
    """The posts of the sample as rows, with paths in a folder named images."""
    return rows_of(repo_root / "sample")


def rows_of(root: Path) -> Rows:
    return [
        {
            "id": key,
            "image": f"images/{post.image.name}",
            "text": post.read_caption()[0],
            "text_label": post.pair[0],
            "image_label": post.pair[1],
        }
        for key, post in survey(root).posts.items()
    ]


def beside(folder: Path, images: Path) -> Path:
    """Make a folder with the images beside a table, as a link."""
    folder.mkdir()
    (folder / "images").symlink_to(images, target_is_directory=True)
    return folder


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], encoding: str = "utf-8", delimiter: str = ",") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_json_lines(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_image_folder(path: Path, rows: Rows) -> None:
    write_csv(path / "metadata.csv", [{"file_name": row.pop("image"), **row} for row in map(dict, rows)])


def imported() -> Path:
    """Return the folder that data.dvc names."""
    (dependency,) = yaml.safe_load(Path("data.dvc").read_text())["deps"]
    return Path(dependency["path"])


def copy_data() -> None:
    """Copy the posts to data/, as DVC does."""
    shutil.rmtree(DATA, ignore_errors=True)
    shutil.copytree(imported(), DATA)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("posts.csv", write_csv),
        ("excel.csv", lambda path, rows: write_csv(path, rows, "utf-8-sig", ";")),
        ("unicode.csv", lambda path, rows: write_csv(path, rows, "utf-16", "\t")),
        ("posts.tsv", lambda path, rows: write_csv(path, rows, delimiter="\t")),
        ("posts.jsonl", write_json_lines),
        ("posts.parquet", write_parquet),
        (".", write_image_folder),
    ],
)
def test_every_format_gives_the_same_posts(
    name: str, write: Callable[[Path, Rows], None], rows: Rows, posts: list[Post], repository: Path, repo_root: Path
) -> None:
    path = beside(repository.parent / "mine", repo_root / "sample" / "data") / name
    write(path, rows)
    output = run("ingest", str(path)).stdout
    assert "agreement: 29 negative, 19 neutral, 57 positive\n" in output
    assert "to be left out" not in output and "annotators" not in output
    read = read_folder(survey(imported()), "agreement", 10**6, lambda: None, hashes=False).posts
    assert [(post.id, post.digest, post.label) for post in read if post.label] == [
        (post.id, post.digest, post.label) for post in posts
    ]


def test_names_of_columns_are_options(rows: Rows, repository: Path, repo_root: Path) -> None:
    path = beside(repository.parent / "mine", repo_root / "sample" / "data") / "posts.csv"
    write_csv(path, [{"file": row["image"], "tweet": row["text"], "tone": row["text_label"]} for row in rows])
    names = [f"--column={name}" for name in ("image=file", "text=tweet", "label=tone")]
    run("ingest", str(path), *names, "--to", "../there")
    assert imported() == repository.parent / "there"
    assert len(survey(imported()).posts) == len(rows)
    for bad in (names[:2], [*names[:2], "--column=label=tones"], ["--column=tweet=text"]):
        result = run("ingest", str(path), *bad, code=2)
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert run("ingest", str(repo_root / "sample"), *names, code=2).stderr.count("\n") == 1
    assert run("ingest", str(repo_root / "sample"), "--to", "there", code=2).stderr.count("\n") == 1


def test_each_reason_is_one_line(rows: Rows, repository: Path, repo_root: Path) -> None:
    path = beside(repository.parent / "mine", repo_root / "sample" / "data") / "posts.csv"
    odd: Rows = [
        {**rows[0], "id": "9001", "image": "none.jpg"},
        {**rows[0], "id": "9002", "image": "none either.jpg"},
        {**rows[0], "id": "9003", "text_label": "joy", "image_label": "joy"},
        {**rows[0], "text": "other words"},
    ]
    write_csv(path, [*rows, *odd])
    output = run("ingest", str(path)).stdout
    assert "124 posts, 120 complete" in output
    assert output.count("to be left out") == 3
    assert "  to be left out, a missing image file: 2 (9001, 9002)\n" in output
    assert f"  to be left out, a doubled id: 2 ({rows[0]['id']}, {rows[0]['id']})\n" in output
    assert "(joy): 1 (9003)\n" in output

    copy_data()
    run("prepare")
    report = DataReport.read(DATA_REPORT)
    assert (report.posts, report.dropped.count, report.annotators) == (119, 5, None)
    assert report.dropped.reasons["a missing image file"] == 2
    assert "9003" not in {post.id for post in read_posts(POSTS)}


def test_table_without_usable_row_changes_nothing(rows: Rows, repository: Path) -> None:
    (repository.parent / "mine").mkdir()
    path = repository.parent / "mine" / "posts.csv"
    write_csv(path, rows)  # without images
    Path("data.dvc").write_text("deps:\n- path: sample\nouts:\n- path: data\n")
    result = run("ingest", str(path), code=1)
    assert (result.stderr.count("\n"), "120 have a missing image file" in result.stderr) == (1, True)
    assert [path.name for path in path.parent.iterdir()] == ["posts.csv"]
    assert yaml.safe_load(Path("data.dvc").read_text())["deps"] == [{"path": "sample"}]


def test_given_split_and_groups_are_used(rows: Rows, repository: Path, repo_root: Path) -> None:
    path = beside(repository.parent / "mine", repo_root / "sample" / "data") / "posts.csv"
    names = ("train", "dev", "test")
    parts = {row["id"]: names[number % 3] for number, row in enumerate(rows[:-9])}
    write_csv(path, [{**row, "split": parts.get(row["id"], ""), "group": row["id"][-1]} for row in rows])
    output = run("ingest", str(path)).stdout
    assert "split: 37 train, 37 val, 37 test\n" in output
    copy_data()
    run("prepare")
    run("split")
    report = SplitReport.read(SPLIT_REPORT)
    given = {key: {"dev": "val"}.get(part, part) for key, part in parts.items()}
    labelled = [post.id for post in read_posts(POSTS) if post.label]
    assert (report.kind, report.in_no_part) == ("given", sum(key not in given for key in labelled))
    assert read_split(SPLIT) == {key: given[key] for key in labelled if key in given}
    groups = read_groups(GROUPS)
    for first in labelled:
        assert all(groups[first] == groups[key] for key in labelled if key[-1] == first[-1])


def test_given_split_without_validation_says_so(rows: Rows, repository: Path, repo_root: Path) -> None:
    path = beside(repository.parent / "mine", repo_root / "sample" / "data") / "posts.csv"
    write_csv(path, [{**row, "split": ("train", "test")[number % 2]} for number, row in enumerate(rows)])
    run("ingest", str(path))
    copy_data()
    run("prepare")
    assert "no labelled post in val" in run("split", code=1).stderr


def test_groups_stay_in_one_part(rows: Rows, repository: Path, repo_root: Path) -> None:
    path = beside(repository.parent / "mine", repo_root / "sample" / "data") / "posts.csv"
    authors = {row["id"]: str(number // 3) for number, row in enumerate(rows)}
    write_csv(path, [{**row, "group": authors[row["id"]]} for row in rows])
    assert "groups: 40\n" in run("ingest", str(path)).stdout
    copy_data()
    run("prepare")
    run("split")
    assert SplitReport.read(SPLIT_REPORT).kind == "grouped"
    part_of = read_split(SPLIT)
    assert set(part_of.values()) == set(PARTS)
    for author in authors.values():
        assert len({part for key, part in part_of.items() if authors[key] == author}) <= 1


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def test_dvc_repro_copies_the_import_in_any_clone(
    rows: Rows, repository: Path, repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    path = beside(tmp_path / "mine", repo_root / "sample" / "data") / "posts.csv"
    write_csv(path, rows)
    run("ingest", str(path))
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copy("data.dvc", clone)
    stage = {"cmd": "cp data/metadata.csv out", "deps": ["data"], "outs": ["out"]}
    (clone / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"look": stage}}))
    monkeypatch.chdir(clone)
    dvc("init", "--no-scm")
    dvc("repro")
    first = yaml.safe_load(Path("data.dvc").read_text())["outs"][0]["md5"]
    assert Path("out").read_bytes() == (imported() / "metadata.csv").read_bytes()
    assert len(survey(DATA).posts) == len(rows)

    # Another picture under the same name is another version of the data.
    (tmp_path / "mine" / "images").unlink()
    shutil.copytree(repo_root / "sample" / "data", tmp_path / "mine" / "images")
    shutil.copy(tmp_path / "mine" / rows[1]["image"], tmp_path / "mine" / rows[0]["image"])
    run("ingest", str(path))
    dvc("repro")
    assert yaml.safe_load(Path("data.dvc").read_text())["outs"][0]["md5"] != first


@pytest.mark.slow
@pytest.mark.real_data
def test_real_posts_in_a_table_equal_those_in_mvsas_layout(
    real_mvsa: Path, real_reading: LoadedDataset, repository: Path
) -> None:
    path = beside(repository.parent / "mine", real_mvsa / "data") / "posts.csv"
    lists = {name: (real_mvsa / "splits" / f"qmf_{name}.txt").read_text().split() for name in ("train", "dev", "test")}
    part_of = {key: name for name, keys in lists.items() for key in keys}
    rows = [{**row, "split": part_of.get(row["id"], "")} for row in rows_of(real_mvsa)]
    write_csv(path, rows, "utf-8-sig", ";")
    output = run("ingest", str(path)).stdout
    assert "agreement: 724 negative, 470 neutral, 1,398 positive\n" in output
    Path("data").symlink_to(imported(), target_is_directory=True)
    run("prepare")
    labels = [post.text_label if post.text_label == post.image_label else "" for post in real_reading.posts]
    posts = [replace(post, label=label) for post, label in zip(real_reading.posts, labels, strict=True)]
    own = read_posts(POSTS)
    assert [replace(post, image="", part="") for post in own] == [replace(post, image="") for post in posts]
    assert DataReport.read(DATA_REPORT).data_digest == data_digest(posts)
    assert read_fingerprints(FINGERPRINTS) == list(real_reading.fingerprints)
    own_report, _ = split_posts(load_params())
    own_parts = captions_by_part(own, read_split(SPLIT))

    params = yaml.safe_load(Path("params.yaml").read_text())
    params["split"].update(kind="predefined", predefined={"folder": str(real_mvsa / "splits"), "fold": None})
    Path("params.yaml").write_text(yaml.safe_dump(params))
    write_posts(POSTS, posts)
    report, _ = split_posts(load_params())
    assert (own_report.split_digest, own_report.parts) == (report.split_digest, report.parts)
    assert [sum(part.values()) for part in report.parts.values()] == [1555, 518, 519]
    assert own_parts == captions_by_part(posts, read_split(SPLIT))


def captions_by_part(posts: Sequence[Post], part_of: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return all that the baseline TF-IDF reads, in its order."""
    return {part: [(post.caption, post.label) for post in posts if part_of.get(post.id) == part] for part in PARTS}
