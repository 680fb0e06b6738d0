"""Work of stage `register`: make the trained adapter a model version, with a contract that its loading can check."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.core.config import Params
from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import read_json, write_table
from src.core.labels import Labels, listed, names_of
from src.core.outputs import EvaluateOutput, PretrainedWeights, RegisterOutput, Trained, read_trained
from src.core.paths import (
    CONTRACT_FOLDER,
    EVALUATE_JSON,
    GROUPS,
    METRICS_JSON,
    PREDICTIONS_FILE,
    REGISTER_FILE,
    SPLIT,
    SPLIT_REPORT,
    stage_folder,
)
from src.core.provenance import COMMIT_TAG, DIRTY_TAG, code_digest, data_revision, git_tags
from src.core.records import (
    ADAPTER_DIGEST,
    Post,
    leak_free,
    read_groups,
    read_predictions,
    read_split,
    write_predictions,
)
from src.registry import registry
from src.registry.contract import (
    FORMAT,
    SPLIT_REPORT_FILE,
    TEST_FILE,
    VALIDATION_FILE,
    Contract,
    GoldenPost,
    Search,
    choose_golden,
    read_contract,
    trained_parts,
)
from src.registry.contract_file import write_contract
from src.registry.loading import compute_logits, dtype_of, load_adapter
from src.registry.promotion import promote_if_better
from src.registry.pyfunc import ModelPackage
from src.registry.registry import RunRecord, Version
from src.tracking.client import parts_read
from src.tracking.run_logging import log_training, open_tracker, run_tags
from src.training.adapter import Adapter
from src.training.workspace import checkpoint_of, posts_by_part, require_base_of

# The libraries that a served version imports. A version requires the releases that trained it.
LIBRARIES = (
    "mlflow",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "tokenizers",
    "pillow",
    "numpy",
    "pandas",
    "pyyaml",
)


@dataclass(frozen=True)
class Registration:
    """The version of an adapter or an ensemble; `is_champion` tells whether it is the champion now."""

    version: Version
    is_champion: bool

    def summary(self) -> str:
        """Return the line that the command prints."""
        state = "new" if self.version.created else "registered already"
        rank = " and is the champion" if self.is_champion else ""
        return f"{self.version.name} version {self.version.number} is {state}{rank}"


@dataclass(frozen=True)
class _Subject:
    """The training of a model, and its test scores by name."""

    trained: Trained
    test: dict[str, float]

    @property
    def model(self) -> str:
        return self.trained.model


def register_model(params: Params, model: str) -> Registration:
    """Register the trained adapter, make it the champion if it is better, and write the outputs of the stage.

    The contract is written even if a version with the same adapter is registered already, because DVC expects the
    stage's outputs.

    Args:
        params: params.yaml.
        model: the name in the catalog.

    Raises:
        UserError: an earlier stage has not run for the present posts and adapter, or the adapter was never trained.
    """
    subject = _read_subject(model)
    digest = subject.trained.digest
    checkpoint = checkpoint_of(params, model)
    require_base_of(subject.trained, checkpoint, params.labels)
    package = _package(subject, checkpoint, params.labels)
    registered = registry.find_by_digest(model, digest)
    if registered is None:
        run = _training_run(subject, params.notice)
        registered = registry.register(
            model,
            package,
            run_id=run.id,
            digest=digest,
            tags=_tags(subject, run),
            description=_description(subject, package, params.label_names, params.notice),
        )
    is_champion = promote_if_better(model, registered)
    # The version's number is left out, because another registry gives it another number.
    output = RegisterOutput(name=registered.name, digest=digest)
    output.write(stage_folder("register", model) / REGISTER_FILE)
    return Registration(registered, is_champion)


def _read_subject(model: str) -> _Subject:
    trained = read_trained(model)
    folder = stage_folder("evaluate", model)
    test = read_json(folder / METRICS_JSON)
    evaluated = EvaluateOutput.read(folder / EVALUATE_JSON)
    split = SplitReport.read(SPLIT_REPORT)
    if evaluated.adapter_digest != trained.digest:
        raise UserError(f"this adapter of {model} has no test scores: run `python -m src.evaluate --model {model}`")
    if (split.data_digest, split.split_digest) != (trained.facts["data_digest"], trained.facts["split_digest"]):
        raise UserError(f"the posts are not those that {model} was trained on: run `dvc repro`")
    return _Subject(trained, test)


def _tags(subject: _Subject, run: RunRecord) -> dict[str, Any]:
    scores = {f"val_{name}": value for name, value in subject.trained.validation.items()}
    origin = {name: run.tags[name] for name in ("study", "trial", COMMIT_TAG, DIRTY_TAG) if name in run.tags}
    return {**subject.trained.facts, **origin, **scores, "test_macro_f1": subject.test["macro_f1"]}


def _training_run(subject: _Subject, notice: str) -> RunRecord:
    """Return the run of the training. A store without it, as after `dvc pull`, gets a run from the files."""
    tags = {"stage": "train", ADAPTER_DIGEST: subject.trained.digest}
    runs = registry.runs_tagged(subject.model, tags)
    if not runs:
        _log_run(subject, notice)
        runs = registry.runs_tagged(subject.model, tags)
    return runs[0]


def _log_run(subject: _Subject, notice: str) -> None:
    trained = subject.trained
    origin = {"study": trained.study, "trial": trained.trial, "logged_from": "files"}
    tags = {**run_tags("train", trained.facts, notice), **origin}
    if trained.code != code_digest(subject.model):
        # Other code trained the adapter, so the present commit is not its commit.
        tags = {name: value for name, value in tags.items() if name not in git_tags()}
    with open_tracker(subject.model).run("train", tags=tags, params=trained.params) as run:
        run.inputs(parts_read("train", "val"))
        log_training(run, trained)


def _package(subject: _Subject, checkpoint: PretrainedWeights, labels: Labels) -> ModelPackage:
    """Write the contract, and return the content of the version."""
    golden = choose_golden(posts_by_part()["val"], names_of(labels))
    contract_folder = stage_folder("register", subject.model) / CONTRACT_FOLDER
    _write_contract(subject, checkpoint, labels, golden, contract_folder)
    artifacts = {"adapter": subject.trained.adapter, "contract": contract_folder}
    if checkpoint.is_local:
        # Nobody else could load the version without it.
        artifacts["base"] = Path(checkpoint.source)
    if checkpoint.aligned:
        artifacts["aligned"] = Path(checkpoint.aligned.file)
    return ModelPackage(
        code=Path("src"),
        artifacts=artifacts,
        requirements=[f"{name}=={release}" for name, release in installed(LIBRARIES).items()],
        labels=names_of(labels),
        example=(Path(golden[0].image).read_bytes(), golden[0].caption),
    )


def _write_contract(
    subject: _Subject, checkpoint: PretrainedWeights, labels: Labels, posts: Sequence[Post], folder: Path
) -> None:
    """Write the contract, and the files for the model card and for `predict`.

    The golden logits come from the adapter's files and not from the training's process, so they also check the files.
    """
    adapter = load_adapter(subject.model, checkpoint, subject.trained.adapter, labels)
    rows = [(Path(post.image).read_bytes(), post.caption) for post in posts]
    logits_BK = compute_logits(adapter.model, rows).tolist()
    golden = []
    images = {}
    for index, (post, (image, caption), logits) in enumerate(zip(posts, rows, logits_BK, strict=True)):
        name = f"golden-{index}{Path(post.image).suffix}"
        golden.append(GoldenPost(post.id, post.digest, name, caption, tuple(logits)))
        images[name] = image
    write_contract(folder, _contract(subject, adapter, tuple(golden)), images)
    _write_evidence(subject, folder)


def _write_evidence(subject: _Subject, folder: Path) -> None:
    """Write the report of the split, and the predictions for validation and test.

    A test prediction has its post's group, and whether the post is leak-free.
    """
    validation = read_predictions(stage_folder("train", subject.model) / PREDICTIONS_FILE)
    write_predictions(folder / VALIDATION_FILE, validation)
    SplitReport.read(SPLIT_REPORT).write(folder / SPLIT_REPORT_FILE)
    predictions = read_predictions(stage_folder("evaluate", subject.model) / PREDICTIONS_FILE)
    group_of = read_groups(GROUPS)
    leak_free_ids = leak_free(read_split(SPLIT), group_of)
    rows = [
        {**prediction.cells(), "group": group_of[prediction.id], "leak_free": int(prediction.id in leak_free_ids)}
        for prediction in predictions
    ]
    write_table(folder / TEST_FILE, rows)


def _contract(subject: _Subject, adapter: Adapter, golden: tuple[GoldenPost, ...]) -> Contract:
    model = adapter.model
    trained = subject.trained
    return Contract(
        format=FORMAT,
        model=trained.model,
        labels=names_of(model.labels),
        words=tuple(label.word for label in model.labels),
        descriptions=tuple(label.description for label in model.labels),
        prompt=model.prompt,
        preprocessing=model.preprocessing_digest(),
        dtype=dtype_of(model),
        checkpoint=model.checkpoint,
        libraries=installed(LIBRARIES),
        adapted_modules=tuple(adapter.modules()),
        settings=adapter.settings,
        data_digest=trained.facts["data_digest"],
        split_digest=trained.facts["split_digest"],
        data_revision=data_revision(),
        code=trained.code,
        search=Search(trained.study, trained.trial),
        validation=dict(trained.validation),
        test=subject.test,
        golden=golden,
    )


def installed(libraries: Sequence[str]) -> dict[str, str]:
    """Return versions by library, without local parts such as +cpu."""
    return {name: version(name).partition("+")[0] for name in libraries}


def _description(subject: _Subject, package: ModelPackage, labels: Sequence[str], notice: str) -> str:
    trained = subject.trained
    contract = read_contract(package.artifacts["contract"])
    facts = trained.facts
    scores = trained.validation
    return (
        f"A post is {listed(labels)}, by **{subject.model}** ({facts['checkpoint']} at "
        f"`{facts['checkpoint_revision']}`) with trained {' and '.join(trained_parts(contract))}: trial "
        f"{trained.trial} of study `{trained.study}`.\n\n"
        f"Validation macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}. {notice}"
    )
