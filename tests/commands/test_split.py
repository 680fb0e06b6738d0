import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from src.core.config import load_params
from src.core.data_outputs import GroupCounts, LeakReport, PredefinedLists, SplitReport
from src.core.labels import TONES
from src.core.paths import DATA, FINGERPRINTS, GROUPS, LEAKS, POSTS, SPLIT, SPLIT_REPORT, UNIMODAL
from src.core.records import Fingerprint, Post, read_groups, read_split, read_unimodal, write_fingerprints, write_posts
from src.pipeline.split import split_posts
from src.split import main

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> Configure:
    """Change to a folder with params.yaml, and return a function that changes settings of `split`."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo_root / "params.yaml", "params.yaml")

    def change(**settings: Any) -> None:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["split"].update(settings)
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return change


def post(key: int, label: str) -> Post:
    return Post(str(key), "", f"caption {key // 2}", label or "positive", label or "negative", label, f"digest {key}")


# Near-duplicates: 0 and 1, 2 and 3, and so on, because they have one caption. The last post has no label.
POSTS_READ = [*(post(key, TONES[key // 2 % 3]) for key in range(120)), post(120, "")]


def prepared(posts: list[Post] = POSTS_READ) -> None:
    write_posts(POSTS, posts)
    write_fingerprints(FINGERPRINTS, [Fingerprint(post.id, f"file {post.id}", "") for post in posts])


def split() -> SplitReport:
    """Run the stage's function, and return the report that it writes."""
    report, leaks = split_posts(load_params())
    assert report == SplitReport.read(SPLIT_REPORT)
    assert leaks == LeakReport.read(LEAKS)
    return report


def output() -> str:
    """Run the command, and return what it prints."""
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0, result.output
    return result.stdout


def error() -> str:
    result = CliRunner().invoke(main, [])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    return result.stderr


def num_separated() -> int:
    """Return the number of near-duplicates in two parts."""
    part_of = read_split(SPLIT)
    return sum(part_of[str(key)] != part_of[str(key + 1)] for key in range(0, 120, 2))


def write_lists(part_of: Mapping[str, str], folder: Path = Path("lists")) -> None:
    folder.mkdir(exist_ok=True)
    for part in ("train", "val", "test"):
        keys = [key for key, own in part_of.items() if own == part]
        (folder / f"{part}.txt").write_text("\n".join(keys))


def test_writes_parts_groups_and_reports() -> None:
    prepared()
    report = split()
    part_of = read_split(SPLIT)
    assert list(part_of) == [post.id for post in POSTS_READ[:-1]]
    assert Counter(part_of.values()) == {part: sum(tones.values()) for part, tones in report.parts.items()}
    assert report.parts["test"] == {"negative": 8, "neutral": 8, "positive": 8}
    assert (report.kind, report.protocol, report.in_no_part) == ("grouped", "agreement", 0)
    assert len(report.split_digest) == 16
    assert read_groups(GROUPS) == {str(key): str(key // 2 * 2) for key in range(120)}
    assert LeakReport.read(LEAKS).groups["caption"] == GroupCounts(groups=60, posts=120, conflicting=0)


def test_posts_for_unimodal_labels() -> None:
    """They have two labels, both of them known, and no near-duplicate among the posts of the parts."""
    near = post(119, "")
    unknown = replace(post(124, ""), text_label="anger")
    prepared([*POSTS_READ[:119], near, post(120, ""), post(122, ""), unknown])
    report = split()
    assert report.unimodal == 2
    assert read_unimodal(UNIMODAL) == {"120", "122"}
    assert "2 posts" in output()


def test_only_stratified_split_separates_near_duplicates(configure: Configure) -> None:
    prepared()
    grouped = split()
    assert num_separated() == 0
    assert "24 of 24 test posts" in output()
    configure(kind="stratified")
    stratified = split()
    assert stratified.parts == grouped.parts
    assert num_separated() > 0
    assert LeakReport.read(LEAKS).near_duplicates[0].caption > 0
    assert "24 of 24 test posts" not in output()


@pytest.mark.parametrize("kind", ["grouped", "stratified"])
def test_order_of_posts_does_not_matter(configure: Configure, kind: str) -> None:
    configure(kind=kind)
    prepared()
    first = split()
    prepared(POSTS_READ[::-1])
    assert split().split_digest == first.split_digest


def test_predefined_lists_override_shares(configure: Configure) -> None:
    prepared()
    split()
    part_of = read_split(SPLIT)
    write_lists({key: part for key, part in part_of.items() if int(key) < 100})
    configure(kind="predefined", predefined={"folder": "lists"}, val=0.4, test=0.4)
    report = split()
    assert read_split(SPLIT) == {key: part for key, part in part_of.items() if int(key) < 100}
    assert (report.predefined, report.in_no_part) == (PredefinedLists("lists", None), 20)
    assert "in no part: 20" in output()
    assert len(read_groups(GROUPS)) == 120, "posts in no part have a group all the same"


def test_another_list_is_another_split(configure: Configure) -> None:
    prepared()
    split()
    part_of = read_split(SPLIT)
    write_lists(part_of)
    configure(kind="predefined", predefined={"folder": "lists"})
    before = split().split_digest
    write_lists(part_of | {"0": next(part for part in ("train", "val") if part != part_of["0"])})
    assert split().split_digest != before


def test_lists_need_kind_predefined(configure: Configure) -> None:
    prepared()
    before = split()
    configure(predefined={"folder": "nowhere", "fold": 3})
    report = split()
    assert report.split_digest == before.split_digest
    assert report.predefined is None


def test_lists_default_to_data_folder(configure: Configure) -> None:
    prepared()
    configure(kind="predefined")
    assert "train.txt" in error()
    split_of = {str(key): ("train", "val", "test")[key // 6 % 3] for key in range(120)}
    DATA.mkdir()
    write_lists(split_of, DATA)
    split()
    assert read_split(SPLIT) == split_of


def test_folder_of_lists_is_a_dependency(repo_root: Path) -> None:
    """`dvc repro` must notice changed lists."""
    stage = yaml.safe_load((repo_root / "dvc.yaml").read_text())["stages"]["split"]
    assert "${split.predefined.folder}" in stage["deps"]


def test_missing_input_is_one_line() -> None:
    assert f"{POSTS} is missing" in error()
    write_posts(POSTS, POSTS_READ)
    assert f"{FINGERPRINTS} is missing" in error()
