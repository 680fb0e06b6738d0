"""Lineage of a version: the chain of links from a registered version back to the raw data, each checked today."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from src.core.errors import UserError
from src.core.files import folder_digest
from src.core.outputs import BestTrial, PretrainedWeights, adapter_digest
from src.core.paths import BEST_FILE, DATA, DATA_DVC, POSTS, SPLIT, UNIMODAL, checkpoint_file, stage_folder
from src.core.provenance import COMMIT_TAG, DIRTY_TAG, changed_since, data_revision, has_commit
from src.core.records import (
    ADAPTER_DIGEST,
    ENSEMBLE_DIGEST,
    content_digest,
    data_digest,
    read_posts,
    read_split,
    read_unimodal,
    split_digest,
)
from src.data import layouts
from src.registry import registry
from src.registry.contract import Contract, read_contract
from src.registry.ensemble_contract import ENSEMBLE, FILES_DIGEST, EnsembleContract, read_ensemble_contract
from src.registry.pyfunc import artifacts_in
from src.registry.registry import RunRecord, Version

# Code between the raw data and the adapter. All other code displays, stores or searches.
ADAPTER_CODE = (
    "src/core",
    "src/data",
    "src/modeling",
    "src/models",
    "src/evaluation",
    "src/training",
    *(f"src/{stage}.py" for stage in ("prepare", "split", "align", "frozen", "train")),
    *(f"src/pipeline/{work}.py" for work in ("prepare", "split", "align", "encode", "train")),
)
# Code between the raw data and an ensemble's members and weights.
ENSEMBLE_CODE = (
    *ADAPTER_CODE,
    "src/experiments",
    *(f"src/{stage}.py" for stage in ("baseline", "repeat", "ensemble")),
    *(f"src/pipeline/{work}.py" for work in ("baseline", "frozen", "repeat", "best_trials", "ensemble")),
)


@dataclass(frozen=True)
class Link:
    """One link of a lineage."""

    name: str
    # What the version records.
    recorded: str
    # What is wrong today; empty if the link holds.
    fault: str


@dataclass(frozen=True)
class Lineage:
    """A version with the links from it back to the raw data."""

    version: Version
    contract: Contract | EnsembleContract
    links: tuple[Link, ...]

    @property
    def broken(self) -> list[Link]:
        """The links that do not hold."""
        return [link for link in self.links if link.fault]


@dataclass(frozen=True)
class _Subject:
    """A version with its downloaded files."""

    model: str
    version: Version
    # Paths by name.
    artifacts: Mapping[str, str]
    contract: Contract

    @property
    def digest(self) -> str:
        """The digest of the adapter's files."""
        if "adapter" not in self.artifacts:
            raise UserError("the version has no adapter")
        return adapter_digest(Path(self.artifacts["adapter"]), self.contract.checkpoint.revision)


def lineage_of(address: str) -> Lineage:
    """Check each link from the version at `address` back to the raw data.

    Raises:
        UserError: there is no such version, its files are gone, or its contract cannot be read.
    """
    model, version = registry.version_at(address)
    with tempfile.TemporaryDirectory() as temporary:
        artifacts = artifacts_in(registry.download(version, Path(temporary)))
        if ENSEMBLE in artifacts:
            members = read_ensemble_contract(Path(artifacts[ENSEMBLE]))
            return Lineage(version, members, tuple(_ensemble_links(version, members, Path(artifacts[ENSEMBLE]))))
        contract = read_contract(Path(artifacts.get("contract", "")))
        links = tuple(_links(_Subject(model, version, artifacts, contract)))
    return Lineage(version, contract, links)


def _links(subject: _Subject) -> Iterator[Link]:
    contract = subject.contract
    search = contract.search
    settings = contract.settings
    parameters = f"rank {settings.rank}, alpha {settings.alpha}, lr {settings.lr}, dropout {settings.dropout}"
    weights = f"{contract.checkpoint.source} at {contract.checkpoint.revision[:12]}"
    yield _link("version", f"{subject.version.name} {subject.version.number}", lambda: _version_fault(subject))
    yield _link("run", subject.version.run_id, lambda: _run_fault(subject))
    yield _link("study", search.study, lambda: _study_fault(subject), lambda: _asked_of_study(subject))
    yield _link("trial", str(search.trial), lambda: _trial_fault(subject), lambda: _asked_of_trial(subject))
    yield _link("parameters", parameters, lambda: _parameters_fault(subject))
    yield from _links_to_the_data(subject.version, contract)
    yield _link("checkpoint", weights, lambda: _checkpoint_fault(subject))


def _ensemble_links(version: Version, contract: EnsembleContract, folder: Path) -> Iterator[Link]:
    yield _link("version", f"{version.name} {version.number}", lambda: _files_fault(version, folder))
    yield _link("run", version.run_id, lambda: _ensemble_run_fault(version))
    for address, digest in contract.versions().items():
        systems = ", ".join(record.member.system for record in contract.members if record.version == address)
        yield _link(systems, address, partial(_members_fault, address, digest))
    yield from _links_to_the_data(version, contract)


def _links_to_the_data(version: Version, contract: Contract | EnsembleContract) -> Iterator[Link]:
    tags = version.tags
    commit = f"{tags.get(COMMIT_TAG, '')[:12] or 'none'}{' with changes' if tags.get(DIRTY_TAG) == 'true' else ''}"
    yield _link("split digest", contract.split_digest, lambda: _split_fault(contract))
    yield _link("data digest", contract.data_digest, lambda: _data_fault(contract))
    yield _link("data.dvc", contract.data_revision or "none", lambda: _revision_fault(contract))
    yield _link("git commit", commit, lambda: _code_fault(version, contract))


def _link(name: str, recorded: str, find_fault: Callable[[], str], remark: Callable[[], str] = str) -> Link:
    """Check one link. A link whose evidence cannot be read does not hold."""
    try:
        return Link(name, f"{recorded}{remark()}", find_fault())
    except UserError as error:
        return Link(name, recorded, str(error))
    except OSError as error:
        return Link(name, recorded, f"{error.filename} cannot be read: {error.strerror}")


def _version_fault(subject: _Subject) -> str:
    return _unequal("its adapter's files", subject.digest, subject.version.tags.get(ADAPTER_DIGEST, ""))


def _run_of(run_id: str) -> RunRecord:
    run = registry.run_record(run_id) if run_id else None
    if run is None:
        raise UserError(f"MLflow has no run {run_id}".rstrip())
    return run


def _run_fault(subject: _Subject) -> str:
    contract = subject.contract
    tags = _run_of(subject.version.run_id).tags
    expected = {
        "data_digest": contract.data_digest,
        "split_digest": contract.split_digest,
        "checkpoint_revision": contract.checkpoint.revision,
        "study": contract.search.study,
        "trial": str(contract.search.trial),
        ADAPTER_DIGEST: subject.digest,
    }
    return next((f"its {key} is {tags.get(key)}" for key, value in expected.items() if tags.get(key) != value), "")


def _files_fault(version: Version, folder: Path) -> str:
    recorded = version.tags.get(FILES_DIGEST)
    if recorded is None:
        return "it was registered without a digest of its files"
    return _unequal("its files", folder_digest(folder), recorded)


def _ensemble_run_fault(version: Version) -> str:
    recorded, present = (tags.get(ENSEMBLE_DIGEST, "") for tags in (version.tags, _run_of(version.run_id).tags))
    return _unequal("its members and answers", present, recorded)


def _members_fault(address: str, digest: str) -> str:
    """Return the first fault in the lineage of the version of some members."""
    lineage = lineage_of(address)
    if lineage.broken:
        return f"its {lineage.broken[0].name}: {lineage.broken[0].fault}"
    return _unequal("its adapter's files", lineage.version.tags.get(ADAPTER_DIGEST, ""), digest)


def _study_fault(subject: _Subject) -> str:
    run = _trial_run(subject)
    if run:
        study = _run_of(run.tags.get("mlflow.parentRunId", "")).tags.get("study", "")
        return _unequal("the trial's study", study, subject.contract.search.study)
    return "" if _best_trial(subject) else f"neither MLflow nor {_best_file(subject)} has it"


def _asked_of_study(subject: _Subject) -> str:
    """Return what a person asked of the search, and when. Only MLflow records it."""
    run = _trial_run(subject)
    study = registry.run_record(run.tags.get("mlflow.parentRunId", "")) if run else None
    numbered = {name: text for name, text in (study.tags if study else {}).items() if name.startswith("request_")}
    return _asked(numbered[name] for name in sorted(numbered, key=lambda name: (len(name), name)))


def _asked_of_trial(subject: _Subject) -> str:
    """Return what a person asked about the trial, and when. Only MLflow records it."""
    run = _trial_run(subject)
    return _asked(run.tags[name] for name in ("request", "stop_request") if run and name in run.tags)


def _asked(requests: Iterable[str]) -> str:
    joined = "; ".join(requests)
    return f", asked for by {joined}" if joined else ""


def _trial_fault(subject: _Subject) -> str:
    _drawn_params(subject)
    return ""


def _drawn_params(subject: _Subject) -> Mapping[str, str]:
    """Return the parameters that the trial drew: from its run, or from the file that `tune` wrote.

    Raises:
        UserError: neither has the trial.
    """
    run = _trial_run(subject)
    if run:
        return run.params
    best = _best_trial(subject)
    search = subject.contract.search
    if best is None or best.best_trial != search.trial:
        raise UserError(f"neither MLflow nor {_best_file(subject)} has trial {search.trial} of {search.study}")
    return {name: str(value) for name, value in best.params.items()}


def _trial_run(subject: _Subject) -> RunRecord | None:
    search = subject.contract.search
    runs = registry.runs_tagged(subject.model, {"stage": "trial", "study": search.study, "trial": search.trial})
    return runs[0] if runs else None


def _best_trial(subject: _Subject) -> BestTrial | None:
    """Return the best trial of the version's study as `tune` wrote it; None if the file is of another study."""
    path = _best_file(subject)
    if not path.is_file():
        return None
    best = BestTrial.read(path)
    return best if best.study == subject.contract.search.study else None


def _best_file(subject: _Subject) -> Path:
    return stage_folder("tune", subject.model) / BEST_FILE


def _parameters_fault(subject: _Subject) -> str:
    settings = {name: str(value) for name, value in asdict(subject.contract.settings).items()}
    # A run's parameters are the drawn settings only; the other settings are in an artifact.
    params_of = {"training": _run_of(subject.version.run_id).params, "trial": _drawn_params(subject)}
    for source, params in params_of.items():
        common = sorted(params.keys() & settings.keys())
        if not common:
            return f"the run of the {source} has none of the adapter's settings"
        for name in common:
            if params[name] != settings[name]:
                return f"{name} is {settings[name]}, and the {source} had {params[name]}"
    return ""


def _split_fault(contract: Contract | EnsembleContract) -> str:
    return _unequal(str(SPLIT), split_digest(read_split(SPLIT), read_unimodal(UNIMODAL)), contract.split_digest)


def _data_fault(contract: Contract | EnsembleContract) -> str:
    posts = read_posts(POSTS)
    sources = layouts.survey(DATA).posts
    for post in posts:
        source = sources.get(post.id)
        if source is None:
            return f"{DATA}/ has no complete post {post.id} any more"
        caption, _ = source.read_caption()
        if content_digest(source.image.read_bytes(), caption) != post.digest:
            return f"{post.image} or its caption has changed"
        if source.pair != (post.text_label, post.image_label):
            return f"the labels of post {post.id} have changed"
    return _unequal(str(POSTS), data_digest(posts), contract.data_digest)


def _revision_fault(contract: Contract | EnsembleContract) -> str:
    if not contract.data_revision:
        return f"there was no {DATA_DVC} with a digest of the posts"
    return _unequal(str(DATA_DVC), data_revision(), contract.data_revision)


def _code_fault(version: Version, contract: Contract | EnsembleContract) -> str:
    commit = version.tags.get(COMMIT_TAG)
    if not commit:
        return "no commit is known: it was trained outside of a git repository, or by other code than this one's"
    if version.tags.get(DIRTY_TAG) != "false":
        return "src/ had changes then that are in no commit"
    if not has_commit(commit):
        return "this repository does not know the commit"
    changed = changed_since(commit, ADAPTER_CODE if isinstance(contract, Contract) else ENSEMBLE_CODE)
    if not changed:
        return ""
    return f"{len(changed)} files have changed since, such as {changed[0]}: `git checkout {commit[:12]}`"


def _checkpoint_fault(subject: _Subject) -> str:
    revision = subject.contract.checkpoint.revision
    if "base" in subject.artifacts:
        fault = _unequal("the base that came with it", folder_digest(Path(subject.artifacts["base"])), revision)
        if fault:
            return fault
    path = checkpoint_file(subject.model)
    resolved = PretrainedWeights.read(path)
    aligned = [weights.aligned.digest if weights.aligned else "" for weights in (resolved, subject.contract.checkpoint)]
    if aligned[0] != aligned[1]:
        return _unequal(f"the aligned weights of {path}", *aligned)
    if resolved.is_local and resolved.revision == revision:
        folder = Path(resolved.source)
        return _unequal(f"the files in {folder}", folder_digest(folder) if folder.is_dir() else "", revision)
    return _unequal(str(path), resolved.revision, revision)


def _unequal(name: str, present: str, recorded: str) -> str:
    """Describe a difference; empty if the values are equal."""
    return "" if present == recorded else f"{name}: {present or 'none'}, not {recorded}"
