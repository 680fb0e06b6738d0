"""What a tuned model has to beat: the largest class, a bag of words of the captions, and a head on frozen features.

Each is a classifier of scikit-learn, fitted on train. Where there is something to choose, validation macro-F1 chooses
it, as it does for everything else here. Nothing is drawn by lot but the folds: the same posts give the same classifier.
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
from src.core.labels import TONES
from src.core.records import Post, Prediction, Scores, write_predictions
from src.evaluation.metrics import scores

# The inverse strength of the L2 penalty. TF-IDF rows have length 1, of which beyond 100 hardly anything is penalised;
# standardised features are as long as they are wide, and mostly wider than there are posts.
TFIDF_C = (1.0, 10.0, 100.0)
PROBE_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NUM_FOLDS = 5
_MOST_ITERATIONS = 1000
_WORD = re.compile(r"\w\w")


@dataclass(frozen=True)
class Examples:
    """Labelled posts, and what a classifier reads of each, in the same order: captions, or features_ND."""

    posts: Sequence[Post]
    inputs: Any

    def labels(self) -> list[str]:
        """The tone of each post."""
        return [post.label for post in self.posts]


@dataclass(frozen=True)
class Candidate:
    """A classifier that may be chosen, not fitted yet, and what tells it from the others."""

    settings: Mapping[str, str | float]
    classifier: Any


@dataclass(frozen=True)
class Fitted:
    """The classifier that validation has chosen, fitted on train.

    Attributes:
        chosen: its settings, and the classifier.
        tried: a row for each candidate: settings, validation accuracy and macro-F1 (shares).
        val, test: what it says of these parts.
    """

    chosen: Candidate
    tried: Sequence[Mapping[str, str | float]]
    val: list[Prediction]
    test: list[Prediction]

    def write_candidates(self, folder: Path) -> None:
        """Write candidates.csv: the settings and validation scores of every candidate."""
        write_table(folder / "candidates.csv", self.tried)


def majority(train: Sequence[Post], val: Sequence[Post], test: Sequence[Post]) -> Fitted:
    """Always the largest class of train; the probabilities are the classes' shares there."""
    return _fit([Candidate({}, DummyClassifier(strategy="prior"))], *map(captions, (train, val, test)))


def tfidf(train: Sequence[Post], val: Sequence[Post], test: Sequence[Post]) -> Fitted:
    """Logistic regression on TF-IDF of the captions: of words alone, or of words and of characters too.

    Words are runs of two letters or digits and more, single and in pairs. Characters are runs of 2 to 5 within a word,
    which also know its inflections, and what a hashtag of several words is made of. Captions without a word have
    characters alone. With nothing in any caption, logistic regression is left with the tones' shares, as `majority` is.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    features = {"characters": characters}
    if any(_WORD.search(post.caption) for post in train):
        features = {"words": words, "words and characters": make_union(words, characters)}
    elif not any(post.caption.strip() for post in train):
        return majority(train, val, test)
    candidates = [
        Candidate({"features": name, "C": c}, make_pipeline(vectorizer, _logistic(c)))
        for name, vectorizer in features.items()
        for c in TFIDF_C
    ]
    return _fit(candidates, *map(captions, (train, val, test)))


def probe(train: Examples, val: Examples, test: Examples) -> Fitted:
    """A linear probe: logistic regression (L-BFGS) on features_ND of a frozen model.

    After A. Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, section
    3.2 and appendix A.3. Unlike there features are standardised, so that one short list of C suits all models.
    """
    return _fit([Candidate({"C": c}, make_pipeline(StandardScaler(), _logistic(c))) for c in PROBE_C], train, val, test)


def out_of_fold(classifier: Any, data: Examples, group_of: Mapping[str, str], seed: int) -> list[Prediction]:
    """What classifiers that have not seen a post, nor a near-duplicate of it, say of it; in the order of the posts.

    Each is the given one, fitted anew on four of five folds, which have the tones in about the same shares and near-
    duplicates in one fold. Its settings stay: that validation has chosen them is all they know of the posts.

    Args:
        classifier: such as `Fitted.chosen.classifier`.
        data: posts of whatever parts.
        group_of: the group of near-duplicates of each post, by id.
        seed: which of the many possible folds; the same whatever the order of the posts.

    Raises:
        InfeasibleAnalysis: too few posts are left beside near-duplicates to fit a classifier.
    """
    labels, groups = np.array(data.labels()), [group_of[post.id] for post in data.posts]
    # Of fewer groups, or of fewer posts of the rarest tone, there are fewer folds.
    num_folds = min(NUM_FOLDS, len(set(groups)), max(2, min(Counter(data.labels()).values())))
    if num_folds == 1:
        raise InfeasibleAnalysis("all posts are near-duplicates of each other, so that none can be judged unseen")
    found_NK = np.zeros((len(labels), len(TONES)))
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for seen, unseen in folds.split(labels, labels, groups):
        if not len(unseen):
            continue
        fitted = _fitted_on(clone(classifier), _rows(data.inputs, seen), labels[seen])
        found_NK[unseen] = _probabilities(fitted, _rows(data.inputs, unseen))
    return _predictions(data.posts, found_NK)


def _fitted_on(classifier: Any, inputs: Any, labels: NDArray[Any]) -> Any:
    try:
        return classifier.fit(inputs, labels)
    except ValueError as error:
        posts, tones = f"{len(labels):,} posts", len(set(labels))
        raise InfeasibleAnalysis(
            f"of {posts} of {tones} tones beside near-duplicates no classifier can be made"
        ) from error


def write_out_of_fold(
    folder: Path, classifier: Any, data: Examples, group_of: Mapping[str, str], seed: int
) -> dict[str, str]:
    """Write out_of_fold.csv, and return why it has no rows, if it has none, as {"out_of_fold": reason}.

    The other arguments are those of `out_of_fold`.
    """
    predictions: list[Prediction] = []
    omitted = {}
    try:
        predictions = out_of_fold(classifier, data, group_of, seed)
    except InfeasibleAnalysis as error:
        omitted["out_of_fold"] = str(error)
    write_predictions(folder / "out_of_fold.csv", predictions)
    return omitted


def captions(posts: Sequence[Post]) -> Examples:
    """Posts of which their captions are read."""
    return Examples(posts, [post.caption for post in posts])


def together(parts: Sequence[Examples]) -> Examples:
    """Several parts as one, of which features_ND are read."""
    return Examples([post for part in parts for post in part.posts], np.concatenate([part.inputs for part in parts]))


def _logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, solver="lbfgs", max_iter=_MOST_ITERATIONS)


def _fit(candidates: Sequence[Candidate], train: Examples, val: Examples, test: Examples) -> Fitted:
    """Fit each, and take the best on validation; of equal ones the first, which is the plainest."""
    found: list[tuple[Scores, Candidate, list[Prediction]]] = []
    for candidate in candidates:
        fitted = clone(candidate.classifier).fit(train.inputs, train.labels())
        judged = _predictions(val.posts, _probabilities(fitted, val.inputs))
        found.append((scores(judged), Candidate(candidate.settings, fitted), judged))
    _, chosen, judged = max(found, key=lambda each: each[0].macro_f1)
    tried = [
        {**each.settings, "val_accuracy": result.accuracy, "val_macro_f1": result.macro_f1} for result, each, _ in found
    ]
    return Fitted(chosen, tried, judged, _predictions(test.posts, _probabilities(chosen.classifier, test.inputs)))


def _probabilities(fitted: Any, inputs: Any) -> NDArray[np.float64]:
    """probabilities_NK in the order of `TONES`; a tone that the classifier has not seen has 0."""
    found = np.zeros((len(inputs), len(TONES)))
    found[:, [TONES.index(tone) for tone in fitted.classes_]] = fitted.predict_proba(inputs)
    return found


def _predictions(posts: Sequence[Post], probabilities_NK: NDArray[np.float64]) -> list[Prediction]:
    return [
        Prediction(post.id, post.label, TONES[row.index(max(row))], *row)
        for post, row in zip(posts, probabilities_NK.tolist(), strict=True)
    ]


def _rows(inputs: Any, places: NDArray[np.int64]) -> Any:
    return inputs[places] if isinstance(inputs, np.ndarray) else [inputs[place] for place in places]
