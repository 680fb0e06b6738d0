"""Work of stage `register_ensemble`: make the ensemble a model version, with a contract that its loading can check."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from src.core.config import Params
from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import digest_of, folder_digest, read_json
from src.core.outputs import EnsembleMember, EnsembleOutput, RegisterOutput
from src.core.paths import (
    ADAPTER_FOLDER,
    BASELINE,
    CLASSIFIER_FOLDER,
    ENSEMBLE,
    ENSEMBLE_JSON,
    METRICS_JSON,
    PREDICTIONS_FILE,
    REGISTER_ENSEMBLE,
    REGISTER_FILE,
    SPLIT_REPORT,
    VAL_PREDICTIONS_FILE,
    stage_folder,
)
from src.core.provenance import COMMIT_TAG, DIRTY_TAG, data_revision
from src.core.records import ADAPTER_DIGEST, ENSEMBLE_DIGEST, Prediction, read_predictions
from src.evaluation.metrics import scores
from src.evaluation.systems import BASELINES, COMBINED, FURTHER
from src.pipeline.ensemble import ensemble_digest, log_ensemble
from src.pipeline.register import LIBRARIES, Registration, installed
from src.registry import registry
from src.registry.contract import TEST_FILE, VALIDATION_FILE, choose_golden
from src.registry.contract_file import write_contract
from src.registry.ensemble import open_ensemble
from src.registry.ensemble_contract import FILES_DIGEST, FORMAT, EnsembleContract, GoldenAnswer, MemberRecord
from src.registry.loading import largest_difference
from src.registry.promotion import promote_if_better
from src.registry.pyfunc import ModelPackage
from src.registry.registry import RunRecord, Version
from src.training.workspace import posts_by_part


def register_ensemble(params: Params) -> Registration:
    """Register the ensemble with its members' versions, and make it the champion if it is better on validation.

    Raises:
        UserError: an earlier stage has not run, or the adapter of a member's model is no registered version.
    """
    output = EnsembleOutput.read(ENSEMBLE / ENSEMBLE_JSON)
    versions = {model: _registered(model) for model in output.passes}
    digest = digest_of([("ensemble", ensemble_digest()), *((model, each.uri) for model, each in versions.items())])
    registered = registry.find_by_digest(COMBINED, digest)
    if registered is None:
        run = _run_of(params)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / COMBINED
            package = _package(output, versions, params.label_names, folder)
            registered = registry.register(
                COMBINED,
                package,
                run_id=run.id,
                digest=digest,
                tags={**_tags(params, run), FILES_DIGEST: folder_digest(folder)},
                description=_description(output, versions, params.notice),
            )
    is_champion = promote_if_better(COMBINED, registered)
    # The version's digest is left out, because it depends on the numbers of versions in this registry.
    RegisterOutput(registered.name, ensemble_digest()).write(REGISTER_ENSEMBLE / REGISTER_FILE)
    return Registration(registered, is_champion)


def _registered(model: str) -> Version:
    """Return the version that stage `register` has made for a model, on whose base the model's members run."""
    registered = RegisterOutput.read(stage_folder("register", model) / REGISTER_FILE)
    version = registry.find_by_digest(model, registered.digest)
    if version is None:
        raise UserError(
            f"the ensemble needs {model}, whose adapter in outputs/ is no registered version here: "
            f"run `python -m src.register --model {model}`"
        )
    return version


def _run_of(params: Params) -> RunRecord:
    """Return the run of stage `ensemble`. A store without it, as after `dvc pull`, gets a run from the files."""
    tags = {"stage": COMBINED, ENSEMBLE_DIGEST: ensemble_digest()}
    runs = registry.runs_tagged(COMBINED, tags)
    if not runs:
        log_ensemble(params)
        runs = registry.runs_tagged(COMBINED, tags)
    return runs[0]


def _package(
    output: EnsembleOutput, versions: Mapping[str, Version], labels: tuple[str, ...], folder: Path
) -> ModelPackage:
    """Write the contract with the members' own files, and return the content of the version."""
    records = [_record(place, member, versions, folder) for place, member in enumerate(output.members)]
    rows = _write_contract(output, records, labels, folder)
    return ModelPackage(
        code=Path("src"),
        artifacts={COMBINED: folder},
        requirements=[f"{name}=={release}" for name, release in _libraries().items()],
        labels=labels,
        example=rows[0],
    )


def _record(place: int, member: EnsembleMember, versions: Mapping[str, Version], folder: Path) -> MemberRecord:
    """Copy a member's own files to a folder below `folder`, and say where its parameters are."""
    source = _own_files(member)
    name = f"members/{place}" if source else ""
    if source:
        shutil.copytree(source, folder / name)
    version = versions.get(member.model)
    digest = version.tags.get(ADAPTER_DIGEST, "") if version else ""
    return MemberRecord(member, version.uri if version else "", digest, name)


def _own_files(member: EnsembleMember) -> Path | None:
    """Return the folder with a member's parameters; None if they are in the version of its model."""
    if member.kind in BASELINES:
        return BASELINE / member.kind / CLASSIFIER_FOLDER
    if member.kind == "probe":
        return stage_folder("probe", member.model) / CLASSIFIER_FOLDER
    trainings = [stage_folder(stage, member.model) for kind, stage in FURTHER.items() if kind == member.kind]
    return trainings[0] / str(member.number) / ADAPTER_FOLDER if trainings else None


def _write_contract(
    output: EnsembleOutput, records: Sequence[MemberRecord], labels: tuple[str, ...], folder: Path
) -> list[tuple[bytes, str]]:
    """Write the contract, and return the golden posts.

    The golden answers come from the members' files, as a loaded version computes them, and so check the files too.
    """
    val = {row.id: row for row in read_predictions(ENSEMBLE / VAL_PREDICTIONS_FILE)}
    posts = choose_golden(posts_by_part()["val"], labels)
    rows = [(Path(post.image).read_bytes(), post.caption) for post in posts]
    ensemble = open_ensemble(labels, output.temperature, records, folder)
    answers = ensemble.probabilities(rows)
    images = {f"golden-{place}{Path(post.image).suffix}": rows[place][0] for place, post in enumerate(posts)}
    golden = tuple(
        GoldenAnswer(post.id, post.digest, name, post.caption, tuple(probabilities))
        for post, name, probabilities in zip(posts, images, answers, strict=True)
    )
    split = SplitReport.read(SPLIT_REPORT)
    contract = EnsembleContract(
        format=FORMAT,
        labels=labels,
        members=tuple(records),
        temperature=output.temperature,
        dtype=ensemble.dtype,
        libraries=_libraries(),
        data_digest=split.data_digest,
        split_digest=split.split_digest,
        data_revision=data_revision(),
        validation=scores(list(val.values())).summary(),
        test=read_json(ENSEMBLE / METRICS_JSON),
        golden=golden,
    )
    _require_equal(contract, [val[post.id] for post in posts])
    write_contract(folder, contract, images)
    for source, name in ((VAL_PREDICTIONS_FILE, VALIDATION_FILE), (PREDICTIONS_FILE, TEST_FILE)):
        shutil.copyfile(ENSEMBLE / source, folder / name)
    return rows


def _require_equal(contract: EnsembleContract, predicted: Sequence[Prediction]) -> None:
    """Check that the members' files give the answers that stage `ensemble` has scored."""
    written = [list(row.probabilities.values()) for row in predicted]
    difference = largest_difference([post.probabilities for post in contract.golden], written)
    if not difference <= contract.tolerance(contract.dtype):
        raise UserError(
            f"the members answer otherwise than {ENSEMBLE / VAL_PREDICTIONS_FILE} says, by {difference:.2g}: "
            "run `dvc repro`"
        )


def _libraries() -> dict[str, str]:
    return installed((*LIBRARIES, "scikit-learn", "scipy"))


def _tags(params: Params, run: RunRecord) -> dict[str, object]:
    val = scores(read_predictions(ENSEMBLE / VAL_PREDICTIONS_FILE)).headline()
    split = SplitReport.read(SPLIT_REPORT)
    return {
        "scale": params.scale,
        "data_digest": split.data_digest,
        "split_digest": split.split_digest,
        **{name: run.tags[name] for name in (COMMIT_TAG, DIRTY_TAG) if name in run.tags},
        **{f"val_{name}": value for name, value in val.items()},
        "test_macro_f1": read_json(ENSEMBLE / METRICS_JSON)["macro_f1"],
        ENSEMBLE_DIGEST: ensemble_digest(),
    }


def _description(output: EnsembleOutput, versions: Mapping[str, Version], notice: str) -> str:
    members = "\n".join(
        f"| {member.system} | {member.weight:.4f} | {versions[member.model].uri if member.model else '-'} |"
        for member in output.members
    )
    return (
        f"Weighted mean of {len(output.members)} systems, chosen among {output.candidates} on validation. {notice}\n\n"
        f"| member | weight | version |\n| --- | --- | --- |\n{members}"
    )
