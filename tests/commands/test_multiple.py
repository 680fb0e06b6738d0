"""Covers: posts with three annotators, as in MVSA-Multiple, from `ingest` to `split`."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from src.core.data_outputs import DataReport, LeakReport, SplitReport
from src.core.paths import DATA_REPORT, LEAKS, POSTS, SPLIT, SPLIT_REPORT
from src.core.records import numeric_id_key, read_posts, read_split
from src.data.mvsa_labels import LABEL_FILE, header
from src.data.sample import make_sample
from tests.pipeline import run

# Number of posts, the labels of text and image by three annotators, and the majority in a comment.
VOTES = [
    (12, "positive,positive", "positive,positive", "positive,positive"),  # positive, positive
    (9, "negative,negative", "neutral,positive", "negative,negative"),  # negative, negative
    (8, "neutral,neutral", "positive,neutral", "neutral,positive"),  # neutral, neutral
    (3, "positive,neutral", "positive,neutral", "negative,positive"),  # positive, neutral
    (2, "neutral,negative", "positive,negative", "neutral,negative"),  # neutral, negative
    (2, "positive,negative", "positive,negative", "neutral,negative"),  # positive, negative
    (3, "positive,positive", "neutral,positive", "negative,positive"),  # no majority for the text
    (2, "positive,positive", "positive,neutral", "positive,negative"),  # no majority for the image
    (1, "positive,negative", "neutral,positive", "negative,neutral"),  # no majority for either
]
NUM_COMPLETE = 12 + 9 + 8 + 3 + 2 + 2
WITHOUT_MAJORITY = {
    "no majority for the text": 3,
    "no majority for the image": 2,
    "no majority for the text and the image": 1,
}
TONES_BY_PROTOCOL = {
    "agreement": {"negative": 9, "neutral": 8, "positive": 12},
    "standard": {"negative": 9 + 2, "neutral": 8, "positive": 12 + 3},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> Path:
    """Return such a folder, with images and captions of the sample. The current folder is an empty repository."""
    root = tmp_path / "MVSA-Multiple"
    files = make_sample(seed=7)
    keys = sorted((Path(name).stem for name in files if name.endswith(".jpg")), key=numeric_id_key)
    rows = [votes for count, *votes in VOTES for _ in range(count)]
    (root / "data").mkdir(parents=True)
    for key in keys[: len(rows)]:
        for suffix in (".jpg", ".txt"):
            (root / "data" / key).with_suffix(suffix).write_bytes(files[f"data/{key}{suffix}"])
    lines = ["\t".join([key, *votes]) for key, votes in zip(keys, rows, strict=False)]
    (root / LABEL_FILE).write_text("\n".join([header(3), *lines, ""]))
    (tmp_path / "repository" / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository")
    shutil.copy(repo_root / "params.yaml", "params.yaml")
    return root


def choose(protocol: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["prepare"]["protocol"] = protocol
    Path("params.yaml").write_text(yaml.safe_dump(params))


def test_ingest_counts_posts_without_majority(folder: Path) -> None:
    output = run("ingest", str(folder)).stdout
    assert "annotators a post: 3; posts without a majority: 6" in output
    for reason, count in WITHOUT_MAJORITY.items():
        assert f"  to be left out, {reason}: {count} (" in output
    assert "  agreement: 9 negative, 8 neutral, 12 positive\n" in output
    assert "  standard: 11 negative, 8 neutral, 15 positive\n" in output
    assert yaml.safe_load(Path("data.dvc").read_text())["deps"] == [{"path": str(folder)}]


@pytest.mark.parametrize("protocol", TONES_BY_PROTOCOL)
def test_prepare_and_split_use_the_majority(folder: Path, protocol: str) -> None:
    shutil.copytree(folder, "data")
    choose(protocol)
    run("prepare")
    report = DataReport.read(DATA_REPORT)
    posts = read_posts(POSTS)
    assert (report.annotators, report.posts, len(posts)) == (3, NUM_COMPLETE, NUM_COMPLETE)
    assert report.dropped.reasons == WITHOUT_MAJORITY
    assert report.label_counts == TONES_BY_PROTOCOL
    assert report.label_pairs["positive,neutral"] == 3
    tones = TONES_BY_PROTOCOL[protocol]
    assert Counter(post.label for post in posts if post.label) == tones

    run("split")
    parts = SplitReport.read(SPLIT_REPORT).parts
    part_of = read_split(SPLIT)
    assert {tone: sum(part[tone] for part in parts.values()) for tone in tones} == tones
    assert part_of.keys() == {post.id for post in posts if post.label}
    assert set(part_of.values()) == {"train", "val", "test"}
    assert LeakReport.read(LEAKS).images.posts == NUM_COMPLETE


def test_missing_annotator_names_the_line(folder: Path) -> None:
    path = folder / LABEL_FILE
    path.write_text(path.read_text().replace("1\tpositive,positive\t", "1\t", 1))
    shutil.copytree(folder, "data")
    message = run("prepare", code=1).stderr
    assert message.count("\n") == 1
    assert "labelResultAll.txt, line 2:" in message
    assert "ID<TAB>text,image<TAB>text,image<TAB>text,image" in message
    assert run("ingest", str(folder), code=1).stderr.count("\n") == 1
