"""The chain from a registered version back to the raw data, and whether each link of it still holds here and today.

python -m src.lineage models:/mvsa-clip@champion
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from src.cli.options import command
from src.cli.output import say, table
from src.core.errors import UserError
from src.core.files import digest_of, folder_digest, read_json
from src.core.outputs import PretrainedWeights, adapter_digest
from src.core.paths import DATA, DATA_DVC, POSTS, SPLIT, checkpoint_file, stage_folder
from src.core.records import ADAPTER_DIGEST, content_digest, data_digest, read_posts, read_split
from src.data import mvsa
from src.registry.contract import Contract, read_contract

if TYPE_CHECKING:
    from src.registry.registry import RunRecord, Version

_COMMIT, _DIRTY = "git_commit", "git_dirty"
# What lies between the raw data and the adapter. Other code shows, stores or searches.
CODE = (
    "src/core",
    "src/data",
    "src/modeling",
    "src/models",
    "src/evaluation",
    "src/training",
    *(f"src/{folder}{stage}.py" for folder in ("", "pipeline/") for stage in ("prepare", "split", "encode", "train")),
)


@dataclass(frozen=True)
class _Subject:
    """A version with its downloaded files, as far as they can be read."""

    model: str
    version: "Version"
    folder: Path
    contract: Contract

    @property
    def artifacts(self) -> dict[str, str]:
        from src.registry.pyfunc import artifacts_in

        return artifacts_in(self.folder)


@dataclass(frozen=True)
class _Link:
    """One link: what the version says, and what is wrong with it today (empty: it holds)."""

    name: str
    recorded: str
    fault: str


@command(example="python -m src.lineage models:/mvsa-clip@champion")
@click.argument("version")
def main(version: str) -> None:
    """Print where VERSION (an address in the registry) is from, link by link; exit code 1 if a link does not hold."""
    from src.registry import registry
    from src.registry.pyfunc import artifacts_in

    model, found = registry.version_at(version)
    with tempfile.TemporaryDirectory() as place:
        folder = registry.download(found, Path(place))
        contract = read_contract(Path(artifacts_in(folder).get("contract", "")))
        links = list(_chain(_Subject(model, found, folder, contract)))
    say(f"{found.name} version {found.number}: validation macro-F1 {contract.validation['macro_f1']:.4f}")
    table("", ["link", "recorded", "today"], [(link.name, link.recorded, link.fault or "holds") for link in links])
    broken = [link for link in links if link.fault]
    if broken:
        first = f"{broken[0].name}, {broken[0].fault}"
        raise UserError(f"the chain is broken at {len(broken)} of {len(links)} links: {first}")


def _chain(subject: _Subject) -> Iterator[_Link]:
    contract, search, tags = subject.contract, subject.contract.search, subject.version.tags
    settings = ", ".join(f"{name} {contract.settings[name]}" for name in ("rank", "alpha", "lr", "dropout"))
    weights = f"{contract.checkpoint.source} at {contract.checkpoint.revision[:12]}"
    commit = f"{tags.get(_COMMIT, '')[:12] or 'none'}{' with changes' if tags.get(_DIRTY) == 'true' else ''}"
    yield _link("version", f"{subject.version.name} {subject.version.number}", lambda: _version_fault(subject))
    yield _link("run", subject.version.run_id, lambda: _run_fault(subject))
    yield _link("study", search.study, lambda: _study_fault(subject))
    yield _link("trial", str(search.trial), lambda: _trial_fault(subject))
    yield _link("parameters", settings, lambda: _parameters_fault(subject))
    yield _link("split digest", contract.split_digest, lambda: _split_fault(contract))
    yield _link("data digest", contract.data_digest, lambda: _data_fault(contract))
    yield _link("data.dvc", contract.data_revision or "none", lambda: _revision_fault(contract))
    yield _link("git commit", commit, lambda: _code_fault(subject))
    yield _link("checkpoint", weights, lambda: _checkpoint_fault(subject))


def _link(name: str, recorded: str, find_fault: Callable[[], str]) -> _Link:
    """A link; what cannot be looked at does not hold."""
    try:
        return _Link(name, recorded, find_fault())
    except UserError as refusal:
        return _Link(name, recorded, str(refusal))
    except OSError as error:
        return _Link(name, recorded, f"{error.filename} cannot be read: {error.strerror}")


def _digest(subject: _Subject) -> str:

    return adapter_digest(Path(subject.artifacts["adapter"]), subject.contract.checkpoint.revision)


def _version_fault(subject: _Subject) -> str:
    return _unequal("its adapter's files", _digest(subject), subject.version.tags.get(ADAPTER_DIGEST, ""))


def _run_of(run_id: str) -> "RunRecord":
    from src.registry.registry import run_record

    found = run_record(run_id) if run_id else None
    if found is None:
        raise UserError(f"MLflow has no run {run_id}".rstrip())
    return found


def _run_fault(subject: _Subject) -> str:
    contract, tags = subject.contract, _run_of(subject.version.run_id).tags
    wanted = {
        "data_digest": contract.data_digest,
        "split_digest": contract.split_digest,
        "checkpoint_revision": contract.checkpoint.revision,
        "study": contract.search.study,
        "trial": str(contract.search.trial),
        ADAPTER_DIGEST: _digest(subject),
    }
    return next((f"its {key} is {tags.get(key)}" for key, value in wanted.items() if tags.get(key) != value), "")


def _study_fault(subject: _Subject) -> str:
    run = _trial_run(subject)
    if run:
        study = _run_of(run.tags.get("mlflow.parentRunId", "")).tags.get("study", "")
        return _unequal("the trial's study", study, subject.contract.search.study)
    return "" if _winner(subject) else f"neither MLflow nor {_best_file(subject)} has it"


def _trial_fault(subject: _Subject) -> str:
    _drawn(subject)
    return ""


def _drawn(subject: _Subject) -> Mapping[str, str]:
    """The settings that the trial drew, by its run or, where MLflow has none, by what `tune` wrote of its winner.

    Raises:
        UserError: neither has the trial.
    """
    run, best, search = _trial_run(subject), _winner(subject), subject.contract.search
    if run:
        return run.params
    if not best or best["best_trial"] != search.trial:
        raise UserError(f"neither MLflow nor {_best_file(subject)} has trial {search.trial} of {search.study}")
    return {name: str(value) for name, value in best["params"].items()}


def _trial_run(subject: _Subject) -> "RunRecord | None":
    from src.registry.registry import runs_tagged

    search = subject.contract.search
    runs = runs_tagged(subject.model, {"stage": "trial", "study": search.study, "trial": search.trial})
    return runs[0] if runs else None


def _winner(subject: _Subject) -> Mapping[str, Any]:
    """Return what `tune` wrote of the version's study; empty where it wrote nothing, or of another study."""
    path = _best_file(subject)
    best: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return best if best.get("study") == subject.contract.search.study else {}


def _best_file(subject: _Subject) -> Path:
    return stage_folder("tune", subject.model) / "best.json"


def _parameters_fault(subject: _Subject) -> str:
    given = {name: str(value) for name, value in subject.contract.settings.items()}
    # Runs have the settings that were drawn as parameters; the others are in an artifact.
    params_of = {"training": _run_of(subject.version.run_id).params, "trial": _drawn(subject)}
    for what, params in params_of.items():
        if not params.keys() & given.keys():
            return f"the run of the {what} has none of the adapter's settings"
        for name in sorted(params.keys() & given.keys()):
            if params[name] != given[name]:
                return f"{name} is {given[name]}, and the {what} had {params[name]}"
    return ""


def _split_fault(contract: Contract) -> str:
    return _unequal(str(SPLIT), digest_of(read_split(SPLIT).items()), contract.split_digest)


def _data_fault(contract: Contract) -> str:
    posts, pairs = read_posts(POSTS), mvsa.survey(mvsa.find_root(DATA)).pairs
    for post in posts:
        picture = Path(post.image)
        caption, _ = mvsa.decode_caption(picture.with_suffix(".txt").read_bytes())
        if content_digest(picture.read_bytes(), caption) != post.digest:
            return f"{picture} or its caption is not what it was"
        if pairs.get(post.id) != (post.text_label, post.image_label):
            return f"the labels of post {post.id} are not what they were"
    return _unequal(str(POSTS), data_digest(posts), contract.data_digest)


def _revision_fault(contract: Contract) -> str:
    from src.core.provenance import data_revision

    if not contract.data_revision:
        return f"there was no {DATA_DVC} that knew the posts"
    return _unequal(str(DATA_DVC), data_revision(), contract.data_revision)


def _code_fault(subject: _Subject) -> str:
    from src.core.provenance import changed_since, has_commit

    commit = subject.version.tags.get(_COMMIT)
    if not commit:
        return "no commit is known: it was trained outside of a git repository, or by other code than this one's"
    if subject.version.tags.get(_DIRTY) != "false":
        return "src/ had changes then that are in no commit"
    if not has_commit(commit):
        return "this repository does not know the commit"
    changed = changed_since(commit, CODE)
    return (
        f"{len(changed)} files have changed since, such as {changed[0]}: `git checkout {commit[:12]}`"
        if changed
        else ""
    )


def _checkpoint_fault(subject: _Subject) -> str:
    revision = subject.contract.checkpoint.revision
    if "base" in subject.artifacts:
        fault = _unequal("the base that came with it", folder_digest(Path(subject.artifacts["base"])), revision)
        if fault:
            return fault
    path = checkpoint_file(subject.model)
    return _unequal(str(path), PretrainedWeights.read(path).revision, revision)


def _unequal(what: str, found: str, recorded: str) -> str:
    return "" if found == recorded else f"{what}: {found or 'none'}, not {recorded}"


if __name__ == "__main__":
    main()
