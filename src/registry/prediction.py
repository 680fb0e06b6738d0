"""Predict the labels of a user's own posts with a registered version."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from src.core.errors import UserError
from src.core.files import write_table
from src.core.outputs import read_trained
from src.core.paths import stage_folder
from src.core.records import Prediction
from src.data.inputs import InputPost
from src.evaluation.calibration import scaled
from src.registry import registry
from src.registry.evidence import Evidence
from src.registry.pyfunc import Row
from src.registry.registry import Answer

BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class PredictedPost:
    """A row of the table of predictions."""

    id: str
    text: str
    # The half that the post lacks: image, text, or empty.
    missing: str
    # The reason why the post has no prediction, or why its label is ignored; empty without a problem.
    problem: str = ""
    # The predicted label and the probabilities by label, in order; empty for a post without a prediction.
    predicted: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    # The probabilities, calibrated by the temperature of the version's evidence.
    calibrated: Mapping[str, float] = field(default_factory=dict)
    # Whether the post is left to a person; None if the user has asked for no accuracy.
    review: bool | None = None
    # The label that came with the post, if any.
    label: str = ""

    @property
    def confidence(self) -> float | None:
        """Return the calibrated probability of the predicted label; None for a post without a prediction."""
        return self.calibrated.get(self.predicted)

    def cells(self, labels: Sequence[str]) -> dict[str, str | float]:
        """Return the cells of a table's row, by column: a probability stands under its label."""
        probabilities = {label: self.probabilities.get(label, "") for label in labels}
        confidence = "" if self.confidence is None else self.confidence
        judged = {"confidence": confidence, "review": {None: "", False: "no", True: "yes"}[self.review]}
        ends = {"predicted": self.predicted, **probabilities, **judged, "label": self.label}
        return {"id": self.id, "text": self.text, "missing": self.missing, "problem": self.problem, **ends}

    def as_prediction(self) -> Prediction | None:
        """Return the prediction for scoring; None without a prediction or a valid label."""
        if self.label not in self.probabilities:
            return None
        return Prediction(self.id, self.label, self.predicted, self.probabilities)


@dataclass(frozen=True)
class AnsweringVersion:
    """The version that predicts: its address, and a warning if it is not the champion (empty if it is)."""

    uri: str
    warning: str = ""


def answering_version(model: str, address: str | None = None) -> AnsweringVersion:
    """Choose the version that predicts.

    This is the version at `address`; by default the version of the adapter in outputs/; without one, the champion.

    Raises:
        UserError: the adapter in outputs/ is not registered.
    """
    if address:
        return AnsweringVersion(address)
    if not stage_folder("train", model).is_dir():
        return AnsweringVersion(registry.uri_of(model))
    trained = read_trained(model)
    version = registry.find_by_digest(model, trained.digest)
    if version is None:
        remedy = f"run `python -m src.register --model {model}`, or name another with --version"
        raise UserError(f"the adapter in {trained.adapter} is no registered version here: {remedy}")
    champion = registry.version_at_alias(model)
    if champion is None or champion.number == version.number:
        return AnsweringVersion(version.uri)
    hint = f"the champion is version {champion.number}: --version {registry.uri_of(model)}"
    return AnsweringVersion(
        version.uri, f"{version.name} version {version.number} answers, which outputs/ holds; {hint}"
    )


def predict_post(uri: str, image: Path, caption: str) -> PredictedPost:
    """Predict the label of one post.

    Raises:
        UserError: the image or the caption cannot be used, or the version cannot be loaded.
    """
    post = InputPost(str(image), image, caption)
    try:
        post.read()
    except UserError as error:
        raise UserError(f"{image} cannot be used: {error}") from error
    (predicted,) = predict_posts(uri, [post])
    if not predicted.predicted:
        raise UserError(f"{image} with this caption cannot be used: {predicted.problem}")
    return predicted


def predict_posts(uri: str, posts: Sequence[InputPost]) -> Iterator[PredictedPost]:
    """Yield a row for each post, in their order. A post that cannot be used gets the reason in its row.

    Raises:
        UserError: the version cannot be loaded.
    """
    ask = partial(registry.predict, registry.load(uri), halves=True)
    for start in range(0, len(posts), BATCH_SIZE):
        batch = posts[start : start + BATCH_SIZE]
        usable: dict[int, Row] = {}
        outcomes: dict[int, Answer | str] = {}
        for index, post in enumerate(batch):
            try:
                usable[index] = (post.read(), post.text)
            except UserError as error:
                outcomes[index] = str(error)
        outcomes.update(zip(usable, _ask(ask, list(usable.values())), strict=True))
        for index, post in enumerate(batch):
            yield _predicted(post, outcomes[index])


def judge(rows: Sequence[PredictedPost], evidence: Evidence, accuracy: float | None) -> list[PredictedPost]:
    """Return the rows with calibrated confidences, and with the posts to leave to a person for a wanted accuracy.

    A post without a prediction is left to a person too. If the accuracy is out of reach, all posts are.
    """
    point = evidence.curve.widest(accuracy) if evidence.curve and accuracy is not None else None
    threshold = point.threshold if point else 1.0
    answered = [Prediction(row.id, row.predicted, row.predicted, row.probabilities) for row in rows if row.predicted]
    calibrated = iter(scaled(answered, evidence.temperature) if answered else [])
    judged = []
    for row in rows:
        probabilities = next(calibrated).probabilities if row.predicted else {}
        review = None if accuracy is None else probabilities.get(row.predicted, 0) <= threshold
        judged.append(replace(row, calibrated=probabilities, review=review))
    return judged


def write_predictions_table(path: Path, rows: Sequence[PredictedPost]) -> None:
    """Write rows as CSV; a missing value is an empty cell."""
    labels = next((tuple(row.probabilities) for row in rows if row.predicted), ())
    write_table(path, [row.cells(labels) for row in rows])


def _ask(ask: Callable[[Sequence[Row]], list[Answer]], rows: Sequence[Row]) -> list[Answer | str]:
    """Ask a version for the labels of posts; a post that it rejects gets the reason instead.

    A version rejects a whole call because of one post, so the halves of a rejected call are asked again.
    """
    if not rows:
        return []
    try:
        return list(ask(rows))
    except UserError as error:
        if len(rows) == 1:
            # The version numbers the posts of a call.
            return [str(error).removeprefix("post 1").lstrip(": ")]
    middle = len(rows) // 2
    return _ask(ask, rows[:middle]) + _ask(ask, rows[middle:])


def _predicted(post: InputPost, outcome: Answer | str) -> PredictedPost:
    common = partial(PredictedPost, id=post.id, text=post.text, missing=post.missing)
    if isinstance(outcome, str):
        return common(problem=outcome, label=post.label)
    labels = outcome.probabilities
    label = post.label.casefold() if post.label.casefold() in labels else post.label
    known = not label or label in labels
    problem = "" if known else f"the label {label!r} is none of {', '.join(labels)}: no score counts it"
    return common(problem=problem, label=label, predicted=outcome.label, probabilities=labels)
