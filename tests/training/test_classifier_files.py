from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.core.errors import UserError
from src.core.labels import TONES
from src.core.records import Post
from src.training.baselines import Examples, captions, majority, probe, tfidf
from src.training.classifier_files import NUMBERS_FILE, WORDS_FILE, load_classifier, save_classifier


def parts(posts: Sequence[Post]) -> tuple[list[Post], list[Post], list[Post]]:
    half, rest = len(posts) // 2, 3 * len(posts) // 4
    return list(posts[:half]), list(posts[half:rest]), list(posts[rest:])


def examples(posts: Sequence[Post]) -> Examples:
    rng = np.random.default_rng(len(posts))
    return Examples(posts, rng.normal(3, 2, (len(posts), 5)))


def saved(classifier: Any, folder: Path) -> Any:
    save_classifier(folder / "classifier", classifier)
    return load_classifier(folder / "classifier")


@pytest.mark.parametrize("fit", [majority, tfidf])
def test_caption_classifiers_answer_as_before(fit: Any, posts: list[Post], tmp_path: Path) -> None:
    train, val, test = parts(posts)
    before = fit(train, val, test, label_names=TONES).chosen.classifier
    after = saved(before, tmp_path)
    texts = [*captions(test).inputs, "", "#joy not a word of it", "ÀÉ 中文"]
    assert list(after.classes_) == list(before.classes_)
    np.testing.assert_array_equal(after.predict_proba(texts), before.predict_proba(texts))


def test_words_and_characters_answer_as_before(posts: list[Post], tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    train = captions(posts)
    before = make_pipeline(make_union(words, characters), LogisticRegression()).fit(train.inputs, train.labels())
    after = saved(before, tmp_path)
    np.testing.assert_array_equal(after.predict_proba(train.inputs), before.predict_proba(train.inputs))


@pytest.mark.parametrize("num_labels", [2, 3])
def test_probe_answers_as_before(num_labels: int, posts: list[Post], tmp_path: Path) -> None:
    labels = sorted({post.label for post in posts})[:num_labels]
    some = [post for post in posts if post.label in labels]
    train, val, test = map(examples, parts(some))
    before = probe(train, val, test, label_names=TONES).chosen.classifier
    after = saved(before, tmp_path)
    np.testing.assert_array_equal(after.predict_proba(test.inputs), before.predict_proba(test.inputs))


def test_files_hold_no_pickle(posts: list[Post], tmp_path: Path) -> None:
    saved(majority(*parts(posts), label_names=TONES).chosen.classifier, tmp_path)
    assert {path.name for path in (tmp_path / "classifier").iterdir()} == {NUMBERS_FILE, WORDS_FILE}


@pytest.mark.parametrize("name", [NUMBERS_FILE, WORDS_FILE])
def test_missing_file_is_named(name: str, posts: list[Post], tmp_path: Path) -> None:
    save_classifier(tmp_path, majority(*parts(posts), label_names=TONES).chosen.classifier)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name):
        load_classifier(tmp_path)


def test_numbers_of_other_terms_are_refused(posts: list[Post], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train, val, test = parts(posts)
    save_classifier(first, tfidf(train, val, test, label_names=TONES).chosen.classifier)
    save_classifier(second, tfidf(train[:30], val, test, label_names=TONES).chosen.classifier)
    (first / NUMBERS_FILE).write_bytes((second / NUMBERS_FILE).read_bytes())
    with pytest.raises(UserError, match="damaged"):
        load_classifier(first)
