"""Baselines' classifiers as files: numbers in safetensors and vocabularies in JSON, for nothing is pickled."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from src.core.config_parser import build
from src.core.errors import UserError
from src.core.files import atomic_folder, read_json, write_json

NUMBERS_FILE = "classifier.safetensors"
WORDS_FILE = "classifier.json"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Vectorizer:
    """The settings and the terms of a fitted `TfidfVectorizer`."""

    analyzer: str
    ngram_range: tuple[int, int]
    sublinear_tf: bool
    # In the order of its columns.
    terms: tuple[str, ...]


@dataclass(frozen=True)
class Words:
    """The content of classifier.json."""

    # The labels in the order of the classifier's probabilities.
    classes: tuple[str, ...]
    # Empty for a classifier that reads no captions.
    vectorizers: tuple[Vectorizer, ...]


def save_classifier(folder: Path, classifier: Any) -> None:
    """Write a fitted classifier of `src/training/baselines.py` into a folder, whole or not at all.

    Args:
        folder: the folder to write.
        classifier: a `DummyClassifier`, or a pipeline of a scaler or vectorizers and logistic regression.
    """
    numbers: Arrays = {}
    vectorizers: Sequence[TfidfVectorizer] = ()
    if isinstance(classifier, DummyClassifier):
        numbers["prior"] = classifier.class_prior_
    else:
        first, last = classifier[0], classifier[-1]
        numbers |= {"coef": last.coef_, "intercept": last.intercept_}
        if isinstance(first, StandardScaler):
            numbers |= {"mean": first.mean_, "scale": first.scale_}
        else:
            vectorizers = _vectorizers(first)
            numbers |= {f"idf.{place}": vectorizer.idf_ for place, vectorizer in enumerate(vectorizers)}
    words = Words(tuple(map(str, classifier.classes_)), tuple(map(_described, vectorizers)))
    with atomic_folder(folder) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in numbers.items()}, temporary / NUMBERS_FILE)
        write_json(temporary / WORDS_FILE, asdict(words))


def load_classifier(folder: Path) -> Any:
    """Return the classifier in a folder: it has `predict_proba` and `classes_`, and gives the same probabilities.

    Raises:
        UserError: a file is missing or damaged.
    """
    words = build(Words, read_json(folder / WORDS_FILE), str(folder / WORDS_FILE))
    try:
        numbers = load_file(folder / NUMBERS_FILE)
        return _rebuilt(words, numbers)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{folder / NUMBERS_FILE} is missing or damaged: {error}") from error


def _rebuilt(words: Words, numbers: Arrays) -> Any:
    classes = np.array(words.classes)
    if "prior" in numbers:
        majority = DummyClassifier(strategy="prior").fit(np.zeros((len(classes), 1)), classes)
        majority.class_prior_ = numbers["prior"]
        return majority
    logistic = LogisticRegression()
    logistic.classes_, logistic.coef_, logistic.intercept_ = classes, numbers["coef"], numbers["intercept"]
    if words.vectorizers:
        vectorizers = [_vectorizer(each, numbers[f"idf.{place}"]) for place, each in enumerate(words.vectorizers)]
        return make_pipeline(vectorizers[0] if len(vectorizers) == 1 else make_union(*vectorizers), logistic)
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_ = numbers["mean"], numbers["scale"]
    scaler.n_samples_seen_ = 1
    return make_pipeline(scaler, logistic)


def _vectorizers(step: Any) -> list[TfidfVectorizer]:
    return [vectorizer for _, vectorizer in step.transformer_list] if isinstance(step, FeatureUnion) else [step]


def _described(vectorizer: TfidfVectorizer) -> Vectorizer:
    terms = tuple(map(str, vectorizer.get_feature_names_out()))
    return Vectorizer(vectorizer.analyzer, tuple(vectorizer.ngram_range), vectorizer.sublinear_tf, terms)


def _vectorizer(described: Vectorizer, idf_D: NDArray[Any]) -> TfidfVectorizer:
    vectorizer = TfidfVectorizer(
        analyzer=described.analyzer,
        ngram_range=described.ngram_range,
        sublinear_tf=described.sublinear_tf,
        vocabulary={term: column for column, term in enumerate(described.terms)},
    )
    # Checks that there is one number for each term.
    vectorizer.idf_ = idf_D
    return vectorizer
