"""The made-up data set resembles MVSA, and its tones can be learnt."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from src.core.records import MAX_PIXELS, Post
from src.data import images, mvsa
from src.data.encodings import CP1252
from src.data.reading import LoadedDataset, read_folder
from src.data.sample import PAIR_COUNTS, make_sample


@pytest.fixture(scope="module")
def reading(repo_root: Path) -> LoadedDataset:
    return read_folder(mvsa.survey(repo_root / "sample"), "agreement", MAX_PIXELS, lambda: None)


@pytest.fixture(scope="module")
def labelled(reading: LoadedDataset) -> list[Post]:
    return [post for post in reading.posts if post.label]


def test_committed_sample_is_generated(repo_root: Path) -> None:
    root = repo_root / "sample"
    committed = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    files = make_sample(seed=7)
    assert committed.keys() == files.keys()
    assert [name for name, content in files.items() if committed[name].read_bytes() != content] == []


def test_another_seed_makes_other_posts() -> None:
    assert make_sample(seed=7) != make_sample(seed=8)


def test_sample_is_small(repo_root: Path) -> None:
    assert sum(path.stat().st_size for path in (repo_root / "sample").rglob("*") if path.is_file()) < 600_000


def test_labels_resemble_mvsa(reading: LoadedDataset) -> None:
    counts = Counter((post.text_label, post.image_label) for post in reading.posts)
    assert counts == PAIR_COUNTS
    assert len(counts) == 9
    assert sum(bool(post.label) for post in reading.posts) == 105


def test_sample_has_old_encoding_and_copies(repo_root: Path, reading: LoadedDataset) -> None:
    assert 10 <= Counter(reading.encodings)[CP1252] <= 40
    pictures = Counter(path.read_bytes() for path in (repo_root / "sample" / "data").glob("*.jpg"))
    assert sum(count - 1 for count in pictures.values()) >= 5
    assert len({post.caption for post in reading.posts}) > 110


def test_words_mostly_tell_tone(labelled: list[Post]) -> None:
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=1000))
    tones = [post.label for post in labelled]
    accuracy = cross_val_score(classifier, [post.caption for post in labelled], tones, cv=5).mean()
    assert 0.8 < accuracy < 0.98


def test_colours_mostly_tell_tone(labelled: list[Post]) -> None:
    colours_B3 = np.array([np.asarray(images.open_image(post.image)).mean(axis=(0, 1)) for post in labelled])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=10, max_iter=1000))
    accuracy = cross_val_score(classifier, colours_B3, [post.label for post in labelled], cv=5).mean()
    assert 0.8 < accuracy < 0.98
