import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from src.core.files import read_json
from src.core.paths import DATA_REPORT, FINGERPRINTS, POSTS
from src.core.records import data_digest, read_fingerprints, read_posts
from src.prepare import main


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo_root / "params.yaml", "params.yaml")
    shutil.copytree(repo_root / "sample", "data")


def run() -> Result:
    return CliRunner().invoke(main, [])


def test_it_writes_the_table_and_the_report() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    posts, report = read_posts(POSTS), read_json(DATA_REPORT)
    assert len(posts) == report["posts"] == 120
    assert all(Path(post.image).is_file() for post in posts)
    assert report["tones"]["agreement"] == {"negative": 29, "neutral": 19, "positive": 57}
    assert report["label_pairs"]["neutral,positive"] == 6
    assert report["dropped"] == {"count": 0, "reasons": {}, "posts": []}
    assert report["annotators"] == 1
    assert report["encodings"] == {"utf-8": 93, "cp1252": 27}
    assert report["variants"] == {}
    assert report["data_digest"] == data_digest(posts)
    assert report["caption_words"]["min"] <= report["caption_words"]["median"] <= report["caption_words"]["p95"]
    assert report["image_megapixels"]["max"] < 0.03
    assert "120 posts read, 0 left out" in result.stdout


def test_every_post_that_is_read_has_a_fingerprint() -> None:
    bad, *_ = sorted(Path("data/data").glob("*.jpg"))
    bad.write_bytes(b"no picture")
    assert run().exit_code == 0
    prints = read_fingerprints(FINGERPRINTS)
    assert [each.id for each in prints] == [post.id for post in read_posts(POSTS)]
    assert all(len(each.image_digest) == 64 and len(each.image_hash) == 16 for each in prints)


def test_one_bad_post_stops_nothing_and_is_listed() -> None:
    first, second, *_ = sorted(Path("data/data").glob("*.jpg"))
    first.write_bytes(first.read_bytes()[:100])
    second.with_suffix(".txt").unlink()
    result = run()
    assert result.exit_code == 0, result.output
    dropped = read_json(DATA_REPORT)["dropped"]
    assert (dropped["count"], len(read_posts(POSTS))) == (2, 118)
    assert {post["id"] for post in dropped["posts"]} == {first.stem, second.stem}
    assert dropped["reasons"]["no caption"] == 1


def test_captions_survive_the_table_as_they_are() -> None:
    path = next(Path("data/data").glob("*.txt"))
    path.write_text('quote " comma, caf\u00e9 \U0001f600\n\nlast line\n', encoding="utf-8")
    run()
    captions = {post.id: post.caption for post in read_posts(POSTS)}
    assert captions[path.stem] == 'quote " comma, caf\u00e9 \U0001f600\n\nlast line'


def test_what_is_read_though_the_layout_differs_is_counted() -> None:
    (first, second), labels = sorted(Path("data/data").glob("*.jpg"))[:2], Path("data/labelResultAll.txt")
    first.rename(first.with_suffix(".JPG"))
    second.with_suffix(".txt").write_bytes("so happy\n".encode("utf-16-le"))
    header, row, *rows = labels.read_text().splitlines()
    labels.write_text("\n".join([header.upper(), row.title(), row, *rows, ""]))
    shutil.move("data", "inner")
    shutil.move("inner", "data/outer/inner")
    result = run()
    assert result.exit_code == 0, result.output
    report = read_json(DATA_REPORT)
    assert (report["posts"], report["dropped"]["count"]) == (120, 0)
    assert report["variants"] == {
        "files in .JPG": 1,
        "folders above the posts": 2,
        "header in another spelling": 1,
        "label rows in another spelling": 1,
        "label rows repeated": 1,
    }
    assert report["guessed_encodings"]["utf-16 without a byte order mark"] == [second.stem]
    assert len(report["guessed_encodings"]["cp1252"]) == report["encodings"]["cp1252"]
    assert {post.id: post.caption for post in read_posts(POSTS)}[second.stem] == "so happy"


def test_a_missing_data_folder_is_one_line() -> None:
    shutil.rmtree("data")
    result = run()
    assert result.exit_code == 1
    assert result.stderr == "error: data/ is missing: run `dvc repro`, which brings in what data.dvc names\n"


def test_a_bad_label_row_is_one_line_with_its_place() -> None:
    path = Path("data/labelResultAll.txt")
    path.write_text(path.read_text().replace("negative", "angry", 1))
    result = run()
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "labelResultAll.txt, line 2: found" in result.stderr
    assert not POSTS.exists()
