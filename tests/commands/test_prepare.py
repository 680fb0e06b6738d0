import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from src.core.config import load_params
from src.core.data_outputs import DataReport
from src.core.errors import UserError
from src.core.paths import DATA_REPORT, FINGERPRINTS, POSTS
from src.core.records import data_digest, read_fingerprints, read_posts
from src.pipeline.prepare import prepare_posts
from src.prepare import main


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo_root / "params.yaml", "params.yaml")
    shutil.copytree(repo_root / "sample", "data")


def run() -> Result:
    return CliRunner().invoke(main, [])


def test_writes_posts_and_report() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    posts = read_posts(POSTS)
    report = DataReport.read(DATA_REPORT)
    assert len(posts) == report.posts == 120
    assert all(Path(post.image).is_file() for post in posts)
    assert report.label_counts["agreement"] == {"negative": 29, "neutral": 19, "positive": 57}
    assert report.label_pairs["neutral,positive"] == 6
    assert (report.dropped.count, report.dropped.reasons, report.dropped.posts) == (0, {}, ())
    assert report.annotators == 1
    assert report.encodings == {"utf-8": 93, "cp1252": 27}
    assert report.variants == {}
    assert report.data_digest == data_digest(posts)
    words = report.caption_words
    assert words.min <= words.median <= words.p95 <= words.max
    assert report.image_megapixels.max < 0.03
    assert "120 posts read, 0 left out" in result.stdout


def test_every_read_post_has_fingerprint() -> None:
    bad, *_ = sorted(Path("data/data").glob("*.jpg"))
    bad.write_bytes(b"no picture")
    assert run().exit_code == 0
    prints = read_fingerprints(FINGERPRINTS)
    assert [print_.id for print_ in prints] == [post.id for post in read_posts(POSTS)]
    assert all(len(print_.image_digest) == 64 and len(print_.image_hash) == 16 for print_ in prints)


def test_bad_posts_are_dropped_and_listed() -> None:
    first, second, *_ = sorted(Path("data/data").glob("*.jpg"))
    first.write_bytes(first.read_bytes()[:100])
    second.with_suffix(".txt").unlink()
    result = run()
    assert result.exit_code == 0, result.output
    dropped = DataReport.read(DATA_REPORT).dropped
    assert (dropped.count, len(read_posts(POSTS))) == (2, 118)
    assert {post.id for post in dropped.posts} == {first.stem, second.stem}
    assert dropped.reasons["no caption"] == 1


def test_captions_survive_the_table() -> None:
    path = next(Path("data/data").glob("*.txt"))
    path.write_text('quote " comma, caf\u00e9 \U0001f600\n\nlast line\n', encoding="utf-8")
    run()
    captions = {post.id: post.caption for post in read_posts(POSTS)}
    assert captions[path.stem] == 'quote " comma, caf\u00e9 \U0001f600\n\nlast line'


def test_deviations_from_layout_are_counted() -> None:
    (first, second), labels = sorted(Path("data/data").glob("*.jpg"))[:2], Path("data/labelResultAll.txt")
    first.rename(first.with_suffix(".JPG"))
    second.with_suffix(".txt").write_bytes("so happy\n".encode("utf-16-le"))
    header, row, *rows = labels.read_text().splitlines()
    labels.write_text("\n".join([header.upper(), row.title(), row, *rows, ""]))
    shutil.move("data", "inner")
    shutil.move("inner", "data/outer/inner")
    result = run()
    assert result.exit_code == 0, result.output
    report = DataReport.read(DATA_REPORT)
    assert (report.posts, report.dropped.count) == (120, 0)
    assert report.variants == {
        "files in .JPG": 1,
        "folders above the posts": 2,
        "header in another spelling": 1,
        "label rows in another spelling": 1,
        "label rows repeated": 1,
    }
    assert report.guessed_encodings["utf-16 without a byte order mark"] == (second.stem,)
    assert len(report.guessed_encodings["cp1252"]) == report.encodings["cp1252"]
    assert {post.id: post.caption for post in read_posts(POSTS)}[second.stem] == "so happy"


def test_function_runs_without_command() -> None:
    report = prepare_posts(load_params())
    assert report == DataReport.read(DATA_REPORT)


def test_missing_data_folder_is_one_line() -> None:
    shutil.rmtree("data")
    with pytest.raises(UserError, match="data/ is missing"):
        prepare_posts(load_params())
    result = run()
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_bad_label_row_names_its_line() -> None:
    path = Path("data/labelResultAll.txt")
    header, first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, first.partition(",")[0], *rows]))
    result = run()
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "labelResultAll.txt, line 2:" in result.stderr
    assert not POSTS.exists()
