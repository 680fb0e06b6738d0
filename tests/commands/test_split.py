import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from src.core.labels import TONES
from src.core.paths import POSTS, SPLIT, SPLIT_REPORT
from src.core.records import Post, read_json, read_split, write_posts
from src.split import main


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo_root / "params.yaml", "params.yaml")


def post(key: int, label: str) -> Post:
    return Post(str(key), "", "", label or "positive", label or "negative", label, f"digest {key}")


def test_it_writes_the_parts_and_the_report() -> None:
    posts = [post(key, TONES[key % 3]) for key in range(60)]
    write_posts(POSTS, [*posts, post(60, "")])
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0, result.output
    part_of, report = read_split(SPLIT), read_json(SPLIT_REPORT)
    assert list(part_of) == [post.id for post in posts]
    assert Counter(part_of.values()) == {part: sum(tones.values()) for part, tones in report["parts"].items()}
    assert report["parts"]["test"] == {"negative": 4, "neutral": 4, "positive": 4}
    assert (report["kind"], report["protocol"]) == ("stratified", "agreement")
    assert len(report["split_digest"]) == 16


def test_without_prepare_it_says_what_to_do() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {POSTS} is missing: run `dvc repro`")
