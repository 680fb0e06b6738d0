"""Load a registered ensemble with its members' versions, and check that it keeps its contract.

Members of one model share its base: each call attaches their adapters one after the other.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.outputs import EnsembleMember
from src.core.records import ADAPTER_DIGEST, Prediction
from src.evaluation.ensemble import Selection, answers_of
from src.modeling.base import ToneModel
from src.registry import registry
from src.registry.ensemble_contract import ENSEMBLE, EnsembleContract, MemberRecord, read_ensemble_contract
from src.registry.loading import (
    compute_logits,
    compute_pooled,
    dtype_of,
    largest_difference,
    library_warnings,
    load_version,
    require_kept,
)
from src.registry.pyfunc import Row, artifacts_in
from src.training.adapter import saved_adapter
from src.training.classifier_files import load_classifier

# Returns the probabilities of posts: a list for each post, in the order of the labels. The number is that of the first
# post in messages.
Answering = Callable[[Sequence[Row], int], list[list[float]]]


@dataclass(frozen=True)
class _Base:
    """A member's version: its base without adapter, and its adapter's files."""

    model: ToneModel
    adapter: Path


@dataclass(frozen=True)
class Ensemble:
    """Members in memory."""

    labels: tuple[str, ...]
    temperature: float
    members: Sequence[tuple[EnsembleMember, Answering]]
    # The coarsest precision of the members' bases: float32 or bfloat16.
    dtype: str
    # The downloaded versions of members, which are removed with this object.
    files: "tempfile.TemporaryDirectory[str]" = field(repr=False)

    def probabilities(self, rows: Sequence[Row], first: int = 1) -> list[list[float]]:
        """Return the probabilities of posts, in the order of the labels.

        Raises:
            UserError: a post cannot be used; the message has its number, counted from `first`.
        """
        library = {
            member.system: [
                Prediction(str(place), "", "", dict(zip(self.labels, probabilities, strict=True)))
                for place, probabilities in enumerate(answering(rows, first))
            ]
            for member, answering in self.members
        }
        weights = {member.system: member.weight for member, _ in self.members}
        answers = answers_of(library, Selection(weights, self.temperature))
        return [list(answer.probabilities.values()) for answer in answers]


@dataclass(frozen=True)
class LoadedEnsemble:
    """An ensemble that keeps its contract."""

    ensemble: Ensemble
    contract: EnsembleContract
    # The largest difference between computed and recorded golden probabilities, and the largest that is allowed.
    difference: float
    allowed: float
    # Differences of libraries, a line each.
    warnings: list[str]

    def summary(self) -> list[str]:
        """Return what has been checked, a line each."""
        contract = self.contract
        versions = f", with {', '.join(contract.versions())}" if contract.versions() else ""
        return [
            f"members: {len(contract.members)}, complete{versions}",
            f"golden posts: {len(contract.golden)} answered, "
            f"probabilities off by {self.difference:.2g} ({self.allowed:.2g} allowed)",
        ]

    def probabilities(self, rows: Sequence[Row], first: int = 1) -> list[list[float]]:
        """Return the probabilities of posts (see `Ensemble.probabilities`)."""
        return self.ensemble.probabilities(rows, first)


def load_ensemble(artifacts: Mapping[str, str]) -> LoadedEnsemble:
    """Load an ensemble from its artifacts and the registry, and check it against its contract.

    Args:
        artifacts: the path of `ENSEMBLE`.

    Raises:
        UserError: a file is missing or damaged; the version of a member is gone, is another one or breaks its own
            contract; or the answer to a golden post differs by more than the contract allows.
    """
    folder = Path(artifacts[ENSEMBLE])
    contract = read_ensemble_contract(folder)
    ensemble = open_ensemble(contract.labels, contract.temperature, contract.members, folder)
    rows = [((folder / post.image).read_bytes(), post.caption) for post in contract.golden]
    golden = [post.probabilities for post in contract.golden]
    difference = largest_difference(ensemble.probabilities(rows), golden)
    allowed = contract.tolerance(ensemble.dtype)
    warnings = library_warnings(contract.libraries)
    require_kept("probabilities", difference, allowed, warnings)
    return LoadedEnsemble(ensemble, contract, difference, allowed, warnings)


def open_ensemble(
    labels: tuple[str, ...],
    temperature: float,
    records: Sequence[MemberRecord],
    folder: Path,
) -> Ensemble:
    """Load the members: their registered versions, and their own files below `folder`.

    Raises:
        UserError: the version of a member is gone, is another one, or breaks its own contract; or a file is damaged.
    """
    files = tempfile.TemporaryDirectory(prefix="mvsa-ensemble-")
    bases: dict[str, _Base] = {}
    for record in records:
        if record.version and record.version not in bases:
            bases[record.version] = _load_base(record, Path(files.name))
    members = [
        (record.member, _answering(record, labels, bases.get(record.version), folder / record.folder))
        for record in records
    ]
    dtypes = {dtype_of(base.model) for base in bases.values()}
    dtype = "bfloat16" if "bfloat16" in dtypes else "float32"
    return Ensemble(labels, temperature, members, dtype, files)


def _load_base(record: MemberRecord, folder: Path) -> _Base:
    """Load the version of a member, checked against the version's own contract, and take its adapter off."""
    try:
        artifacts = _downloaded(record, folder)
        loaded = load_version(artifacts)
    except UserError as error:
        raise UserError(f"the ensemble's member {record.member.system} cannot be loaded: {error}") from error
    loaded.adapter.detach()
    return _Base(loaded.model, Path(artifacts["adapter"]))


def _downloaded(record: MemberRecord, folder: Path) -> dict[str, str]:
    _, version = registry.version_at(record.version)
    if version.tags.get(ADAPTER_DIGEST) != record.version_digest:
        raise UserError(f"{record.version} is another adapter today")
    downloaded = folder / version.name
    downloaded.mkdir()
    return artifacts_in(registry.download(version, downloaded))


def _answering(record: MemberRecord, labels: Sequence[str], base: _Base | None, folder: Path) -> Answering:
    """Return the function that answers as a member."""
    kind = record.member.kind
    if base is None:
        return partial(_by_captions, load_classifier(folder), labels)
    if kind == "probe":
        return partial(_by_probe, load_classifier(folder), labels, base.model)
    if kind == "zero-shot":
        return partial(_by_verbalizer, base.model)
    return partial(_by_adapter, base.model, base.adapter if kind == "tuned" else folder)


def _by_captions(classifier: Any, labels: Sequence[str], rows: Sequence[Row], _: int) -> list[list[float]]:
    return _in_order(classifier, [text for _, text in rows], labels)


def _by_probe(
    classifier: Any, labels: Sequence[str], model: ToneModel, rows: Sequence[Row], first: int
) -> list[list[float]]:
    return _in_order(classifier, compute_pooled(model, rows, first).double().numpy(), labels)


def _by_verbalizer(model: ToneModel, rows: Sequence[Row], first: int) -> list[list[float]]:
    with _readout(model):
        return _softmax(model, rows, first)


def _by_adapter(model: ToneModel, folder: Path, rows: Sequence[Row], first: int) -> list[list[float]]:
    with saved_adapter(model, folder) as adapter:
        return _softmax(adapter.model, rows, first)


@contextmanager
def _readout(model: ToneModel) -> Iterator[None]:
    """Attach the readout that needs no training for as long as the context lasts."""
    before = model.readout
    model.readout = model.verbalizer_readout()
    try:
        yield
    finally:
        model.readout = before


def _softmax(model: ToneModel, rows: Sequence[Row], first: int) -> list[list[float]]:
    probabilities: list[list[float]] = compute_logits(model, rows, first).softmax(dim=-1).tolist()
    return probabilities


def _in_order(classifier: Any, inputs: Any, labels: Sequence[str]) -> list[list[float]]:
    """Return a classifier's probabilities in the order of `labels`. A label that it has not seen has 0."""
    column_of = {label: column for column, label in enumerate(classifier.classes_)}
    rows = classifier.predict_proba(inputs).tolist()
    return [[row[column_of[label]] if label in column_of else 0.0 for label in labels] for row in rows]
