import hashlib
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from src.core.errors import UserError
from src.core.labels import PROTOCOLS, label_of
from src.data import mvsa
from src.data.encodings import decode_caption
from src.data.mvsa_labels import LABEL_FILE, header
from src.data.reading import LoadedDataset, read_folder, require_all_labels, with_labels

PAIRS = {
    "2": "positive,positive",
    "10": "negative,negative",
    "9": "neutral,neutral",
    "11": "neutral,positive",
    "100": "positive,negative",
}


def picture(colour: str = "red", size: tuple[int, int] = (8, 4)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def write_folder(root: Path, pairs: Mapping[str, str] = PAIRS) -> Path:
    (root / "data").mkdir(parents=True)
    for key in pairs:
        (root / "data" / f"{key}.jpg").write_bytes(picture())
        (root / "data" / f"{key}.txt").write_text(f"caption {key}\n")
    write_labels(root, [f"{key}\t{pair}" for key, pair in pairs.items()])
    return root


def write_labels(root: Path, rows: list[str], first: str = header(1)) -> None:
    (root / LABEL_FILE).write_text("\n".join([first, *rows, ""]))


def read(root: Path, protocol: str = "agreement", max_pixels: int = 10_000) -> LoadedDataset:
    return read_folder(mvsa.survey(root), protocol, max_pixels, lambda: None)


def test_posts_come_in_numeric_order(tmp_path: Path) -> None:
    reading = read(write_folder(tmp_path / "m"))
    assert [post.id for post in reading.posts] == ["2", "9", "10", "11", "100"]
    assert reading.sizes == ((8, 4),) * 5
    assert reading.dropped == ()
    post = reading.posts[3]
    assert post.image == f"{tmp_path}/m/data/11.jpg"
    assert (post.caption, post.text_label, post.image_label) == ("caption 11", "neutral", "positive")
    assert len({post.digest for post in reading.posts}) == 5


def test_fingerprint_covers_image_alone(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "m")
    (root / "data" / "9.jpg").write_bytes(picture("blue"))
    prints = {fingerprint.id: fingerprint for fingerprint in read(root).fingerprints}
    assert list(prints) == ["2", "9", "10", "11", "100"]
    assert prints["2"].image_digest == hashlib.sha256(picture()).hexdigest() == prints["100"].image_digest
    assert prints["9"].image_digest != prints["2"].image_digest
    assert {fingerprint.image_hash for fingerprint in prints.values()} == {""}, "pictures of one colour have no looks"


@pytest.mark.parametrize(
    ("protocol", "labels"),
    [
        ("agreement", ["positive", "neutral", "negative", "", ""]),
        ("standard", ["positive", "neutral", "negative", "positive", ""]),
    ],
)
def test_protocol_gives_label(tmp_path: Path, protocol: str, labels: list[str]) -> None:
    assert [post.label for post in read(write_folder(tmp_path / "m"), protocol).posts] == labels


def test_unusable_posts_are_dropped(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "m", {**PAIRS, **dict.fromkeys("345678", "positive,positive")})
    (root / "data" / "3.jpg").unlink()
    (root / "data" / "4.txt").unlink()
    (root / "data" / "5.jpg").write_bytes(b"no picture")
    (root / "data" / "6.jpg").write_bytes(picture(size=(90, 90))[:-20])
    (root / "data" / "7.jpg").write_bytes(picture(size=(200, 100)))
    (root / "data" / "8.jpg").unlink()
    (root / "data" / "8.jpg").mkdir()
    (root / "data" / "20.jpg").write_bytes(picture())
    (root / "data" / ".hidden.jpg").write_bytes(picture())
    reading = read(root)
    assert {post.id: post.reason for post in reading.dropped} == {
        "3": "no image",
        "4": "no caption",
        "5": "the image is no readable JPEG, PNG, GIF, WEBP or BMP",
        "6": "the image is truncated or damaged",
        "7": "the image is larger than 10,000 pixels",
        "8": "a file cannot be read (Is a directory)",
        "20": "no label row, no caption",
    }
    assert [post.id for post in reading.dropped] == ["3", "4", "5", "6", "7", "8", "20"]
    assert [post.id for post in reading.posts] == ["2", "9", "10", "11", "100"]


def test_progress_counts_every_complete_post(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "m")
    ticks: list[int] = []
    read_folder(mvsa.survey(root), "agreement", 10_000, lambda: ticks.append(1))
    assert len(ticks) == 5


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"\xef\xbb\xbfmarked\r\n", "marked"),
        (b"  two \r\nlines\rthree \r\n\n", "  two \nlines\nthree "),
        (b"caf\xe9 \x92\x80\r\n", "caf\u00e9 \u2019\u20ac"),
        (b"\n", ""),
    ],
)
def test_caption_line_ends_become_newlines(content: bytes, caption: str) -> None:
    assert decode_caption(content)[0] == caption


def test_posts_without_majority_are_dropped(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "m", dict.fromkeys(("1", "2", "3", "4", "5"), ""))
    rows = [
        "1\tpositive,neutral\tpositive,negative\tneutral,negative",
        "2\tpositive,neutral\tneutral,neutral\tnegative,negative",
        "3\tpositive,neutral\tpositive,positive\tneutral,negative",
        "4\tpositive,neutral\tneutral,positive\tnegative,negative",
        "5\tpositive,neutral\tneutral,neutral\tnegative,neutral",
    ]
    write_labels(root, rows, header(3))
    (root / "data" / "5.jpg").unlink()
    index = mvsa.survey(root)
    assert (index.num_annotators, index.num_undecided) == (3, 4)
    assert index.pairs == {"1": ("positive", "negative")}
    assert {post.id: post.reason for post in index.dropped} == {
        "2": "no majority for the text",
        "3": "no majority for the image",
        "4": "no majority for the text and the image",
        "5": "no image, no majority for the text",
    }


def test_label_without_post_is_refused(tmp_path: Path) -> None:
    posts = read(write_folder(tmp_path / "m", {"1": "positive,positive", "2": "neutral,negative"})).posts
    with pytest.raises(UserError, match="no negative and no neutral post among 2 readable ones"):
        require_all_labels(posts, ("negative", "neutral", "positive"), "agreement")


def test_posts_with_other_labels_are_dropped(tmp_path: Path) -> None:
    rows = {"1": "joy,joy", "2": "joy,calm", "3": "anger,anger", "4": "fear,joy"}
    index = with_labels(mvsa.survey(write_folder(tmp_path / "m", rows)), ("joy", "anger"))
    assert index.pairs == {"1": ("joy", "joy"), "3": ("anger", "anger")}
    assert index.posts.keys() == index.pairs.keys()
    assert [post.id for post in index.dropped] == ["2", "4"]
    with pytest.raises(UserError, match="no post has the label rage; its labels are anger, calm, fear, joy"):
        with_labels(mvsa.survey(tmp_path / "m"), ("joy", "rage"))


def test_folder_without_readable_posts_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "m", {})
    with pytest.raises(UserError, match="none of 0 posts can be read"):
        read(root)


def test_root_is_found_below(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "MVSA_Single")
    assert mvsa.find_root(root) == mvsa.find_root(tmp_path) == root


def test_missing_layout_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"has no labelResultAll\.txt, and"):
        mvsa.find_root(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        mvsa.find_root(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no labelResultAll\.txt and no data/, and"):
        mvsa.find_root(tmp_path / "empty")


def test_root_is_at_most_two_levels_down(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "top" / "MVSA_Single" / "MVSA_Single")
    (tmp_path / "top" / "__MACOSX" / "data").mkdir(parents=True)
    assert mvsa.find_root(tmp_path / "top") == root
    with pytest.raises(UserError, match="up to 2 deep"):
        mvsa.find_root(tmp_path)


def test_upper_root_comes_first(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a")
    write_folder(tmp_path / "b" / "c")
    assert mvsa.find_root(tmp_path) == root


def test_other_suffixes_are_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "m")
    for key, suffix in (("2", ".JPG"), ("9", ".jpeg"), ("10", ".png"), ("11", ".webp")):
        file = BytesIO()
        Image.new("RGB", (8, 4), "blue").save(file, {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG"))
        (root / "data" / f"{key}.jpg").unlink()
        (root / "data" / f"{key}{suffix}").write_bytes(file.getvalue())
    (root / "data" / "9.txt").rename(root / "data" / "9.TXT")
    reading = read(root)
    assert [Path(post.image).name for post in reading.posts] == ["2.JPG", "9.jpeg", "10.png", "11.webp", "100.jpg"]
    assert reading.posts[1].caption == "caption 9"
    assert reading.dropped == ()
    assert mvsa.survey(root).variants == {
        f"files in {suffix}": 1 for suffix in (".JPG", ".TXT", ".jpeg", ".png", ".webp")
    }


@pytest.mark.parametrize(("own", "other"), [("9.jpg", "9.png"), ("9.txt", "9.TXT")])
def test_second_file_of_post_is_refused(tmp_path: Path, own: str, other: str) -> None:
    root = write_folder(tmp_path / "m")
    (root / "data" / other).write_bytes((root / "data" / own).read_bytes())
    with pytest.raises(UserError) as refused:
        mvsa.survey(root)
    assert {own, other} <= {Path(word).name for word in str(refused.value).split()}


def test_two_roots_are_refused(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    with pytest.raises(UserError, match=f"give one of {first}, {second}"):
        mvsa.find_root(tmp_path)


@pytest.mark.real_data
def test_real_labels_give_published_counts(real_mvsa: Path) -> None:
    index = mvsa.survey(mvsa.find_root(real_mvsa))
    pairs = index.pairs
    assert index.variants == {}
    counts = {name: Counter(label_of(name, *pair) for pair in pairs.values()) for name in PROTOCOLS}
    assert counts["agreement"] == {"positive": 1398, "negative": 724, "neutral": 470, None: 2277}
    assert counts["standard"] == {"positive": 2683, "negative": 1358, "neutral": 470, None: 358}


@pytest.mark.real_data
def test_every_real_post_can_be_read(real_reading: LoadedDataset) -> None:
    assert (len(real_reading.posts), real_reading.dropped) == (4869, ())
    assert Counter(real_reading.encodings) == {"utf-8": 3738, "gb18030": 1131}
    assert sum(bool(post.label) for post in real_reading.posts) == 4511
    assert sum(post.text_label == post.image_label for post in real_reading.posts) == 2592
