"""Baselines for a tuned model: the largest class, TF-IDF of the captions, and a linear probe of frozen features.

A baseline is a classifier of scikit-learn that is fitted on train. Validation macro-F1 chooses its settings. Only the
folds are random: the same posts give the same classifier.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from src.core.errors import InfeasibleAnalysis
from src.core.files import write_table
from src.core.paths import OUT_OF_FOLD_TABLE
from src.core.records import Post, Prediction, Scores, write_predictions
from src.evaluation.metrics import scores

# Candidates for the inverse strength of the L2 penalty. TF-IDF rows have norm 1, and above 100 the penalty hardly acts.
# Standardised features have a norm that grows with their width, and mostly more columns than there are posts. They
# need a stronger penalty.
TFIDF_C = (1.0, 10.0, 100.0)
PROBE_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NUM_FOLDS = 5
_MOST_ITERATIONS = 1000
_WORD = re.compile(r"\w\w")


@dataclass(frozen=True)
class Examples:
    """Labelled posts with a classifier's inputs."""

    posts: Sequence[Post]
    # Captions or features_ND, in the order of the posts.
    inputs: Any

    def labels(self) -> list[str]:
        """Return the labels in the order of the posts."""
        return [post.label for post in self.posts]


@dataclass(frozen=True)
class Candidate:
    """A classifier to choose from, with its settings."""

    # The settings in which the candidates of a baseline differ.
    settings: Mapping[str, str | float]
    classifier: Any


@dataclass(frozen=True)
class Fitted:
    """The classifier that validation has chosen, fitted on train, with its predictions for val and test."""

    # The settings and the fitted classifier.
    chosen: Candidate
    # A row for every candidate: settings, validation accuracy and macro-F1 (shares).
    tried: Sequence[Mapping[str, str | float]]
    val: list[Prediction]
    test: list[Prediction]

    def write_candidates(self, folder: Path) -> None:
        """Write candidates.csv: the settings and validation scores of every candidate."""
        write_table(folder / "candidates.csv", self.tried)


def majority(train: Sequence[Post], val: Sequence[Post], test: Sequence[Post], *, label_names: Sequence[str]) -> Fitted:
    """Fit a classifier that always predicts the largest class of train. Its probabilities are the classes' shares."""
    parts = map(captions, (train, val, test))
    return _fit([Candidate({}, DummyClassifier(strategy="prior"))], *parts, label_names=label_names)


def tfidf(train: Sequence[Post], val: Sequence[Post], test: Sequence[Post], *, label_names: Sequence[str]) -> Fitted:
    """Fit logistic regression on TF-IDF of the captions, with words alone or with words and characters.

    Words are runs of at least two letters or digits, single and in pairs. Characters are runs of 2 to 5 within a word:
    they match inflections, and the words that a hashtag joins. If no caption of train has a word, characters are used
    alone. If all its captions are empty, the result is that of `majority`.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    features = {"characters": characters}
    if any(_WORD.search(post.caption) for post in train):
        features = {"words": words, "words and characters": make_union(words, characters)}
    elif not any(post.caption.strip() for post in train):
        return majority(train, val, test, label_names=label_names)
    candidates = [
        Candidate({"features": name, "C": c}, make_pipeline(vectorizer, _logistic(c)))
        for name, vectorizer in features.items()
        for c in TFIDF_C
    ]
    return _fit(candidates, *map(captions, (train, val, test)), label_names=label_names)


def probe(train: Examples, val: Examples, test: Examples, *, label_names: Sequence[str]) -> Fitted:
    """Fit a linear probe: logistic regression (L-BFGS) on features_ND of a frozen model.

    After A. Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, section
    3.2 and appendix A.3. Unlike in that paper, features are standardised: one short list of C suits all models.
    """
    candidates = [Candidate({"C": c}, make_pipeline(StandardScaler(), _logistic(c))) for c in PROBE_C]
    return _fit(candidates, train, val, test, label_names=label_names)


def out_of_fold(
    classifier: Any, data: Examples, group_of: Mapping[str, str], seed: int, label_names: Sequence[str]
) -> list[Prediction]:
    """Predict every post with a classifier that has seen neither the post nor a near-duplicate of it.

    Clones of the classifier are fitted on four of five folds. Folds have about equal shares of the labels, and a group
    of near-duplicates lies in one fold. The settings stay as validation has chosen them: only they depend on the posts.

    Args:
        classifier: such as `Fitted.chosen.classifier`.
        data: posts of whatever parts.
        group_of: the group of near-duplicates by the id of a post.
        seed: decides the folds, which do not depend on the order of the posts.
        label_names: the labels that a post can have.

    Returns:
        the predictions in the order of the posts.

    Raises:
        InfeasibleAnalysis: too few posts are left without near-duplicates to fit a classifier.
    """
    labels = np.array(data.labels())
    groups = [group_of[post.id] for post in data.posts]
    # A fold needs a group, and scikit-learn warns if the rarest label has fewer posts than there are folds.
    num_folds = min(NUM_FOLDS, len(set(groups)), max(2, min(Counter(data.labels()).values())))
    if num_folds == 1:
        raise InfeasibleAnalysis(
            "all posts are near-duplicates of each other: no classifier can be fitted without them"
        )
    probabilities_NK = np.zeros((len(labels), len(label_names)))
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for seen, unseen in folds.split(labels, labels, groups):
        if not len(unseen):
            continue
        fitted = _fitted_on(clone(classifier), _rows(data.inputs, seen), labels[seen])
        probabilities_NK[unseen] = _probabilities(fitted, _rows(data.inputs, unseen), label_names)
    return _predictions(data.posts, probabilities_NK, label_names)


def _fitted_on(classifier: Any, inputs: Any, labels: NDArray[Any]) -> Any:
    try:
        return classifier.fit(inputs, labels)
    except ValueError as error:
        posts = f"{len(labels):,} posts"
        num_labels = len(set(labels))
        raise InfeasibleAnalysis(
            f"no classifier can be fitted on {posts} of {num_labels} labels, which are left without near-duplicates"
        ) from error


def write_out_of_fold(
    folder: Path,
    classifier: Any,
    data: Examples,
    group_of: Mapping[str, str],
    seed: int,
    label_names: Sequence[str],
) -> dict[str, str]:
    """Write the predictions of `out_of_fold` to out_of_fold.csv.

    The arguments after `folder` are those of `out_of_fold`.

    Returns:
        {"out_of_fold": reason} if the analysis is infeasible and the file has no rows, else an empty dictionary.
    """
    predictions: list[Prediction] = []
    omitted = {}
    try:
        predictions = out_of_fold(classifier, data, group_of, seed, label_names)
    except InfeasibleAnalysis as error:
        omitted["out_of_fold"] = str(error)
    write_predictions(folder / OUT_OF_FOLD_TABLE, predictions)
    return omitted


def captions(posts: Sequence[Post]) -> Examples:
    """Return posts with their captions as inputs."""
    return Examples(posts, [post.caption for post in posts])


def together(parts: Sequence[Examples]) -> Examples:
    """Join several parts whose inputs are features_ND."""
    return Examples([post for part in parts for post in part.posts], np.concatenate([part.inputs for part in parts]))


def _logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, solver="lbfgs", max_iter=_MOST_ITERATIONS)


def _fit(
    candidates: Sequence[Candidate], train: Examples, val: Examples, test: Examples, *, label_names: Sequence[str]
) -> Fitted:
    """Fit all candidates on train, and choose by validation macro-F1. The first, plainest one wins a tie."""
    results: list[tuple[Scores, Candidate, list[Prediction]]] = []
    for candidate in candidates:
        fitted = clone(candidate.classifier).fit(train.inputs, train.labels())
        predictions = _predictions(val.posts, _probabilities(fitted, val.inputs, label_names), label_names)
        results.append((scores(predictions), Candidate(candidate.settings, fitted), predictions))
    _, chosen, val_predictions = max(results, key=lambda result: result[0].macro_f1)
    rows = [
        {**candidate.settings, "val_accuracy": val_scores.accuracy, "val_macro_f1": val_scores.macro_f1}
        for val_scores, candidate, _ in results
    ]
    probabilities_NK = _probabilities(chosen.classifier, test.inputs, label_names)
    test_predictions = _predictions(test.posts, probabilities_NK, label_names)
    return Fitted(chosen, rows, val_predictions, test_predictions)


def _probabilities(fitted: Any, inputs: Any, label_names: Sequence[str]) -> NDArray[np.float64]:
    """Return probabilities_NK in the order of the labels. A label that the classifier has not seen has 0."""
    probabilities_NK = np.zeros((len(inputs), len(label_names)))
    columns = [label_names.index(label) for label in fitted.classes_]
    probabilities_NK[:, columns] = fitted.predict_proba(inputs)
    return probabilities_NK


def _predictions(
    posts: Sequence[Post], probabilities_NK: NDArray[np.float64], label_names: Sequence[str]
) -> list[Prediction]:
    return [Prediction.of(post, label_names, row) for post, row in zip(posts, probabilities_NK.tolist(), strict=True)]


def _rows(inputs: Any, places: NDArray[np.int64]) -> Any:
    return inputs[places] if isinstance(inputs, np.ndarray) else [inputs[place] for place in places]
