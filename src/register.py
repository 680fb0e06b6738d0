"""Stage `register`: makes the trained adapter a model version, and champion if it is the best on validation.

python -m src.register --model clip
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import read_json, write_json, write_table
from src.core.labels import TONES
from src.core.paths import GROUPS, SPLIT, SPLIT_REPORT, checkpoint_folder, stage_folder
from src.core.records import ADAPTER_DIGEST, leak_free, read_groups, read_predictions, read_split
from src.models.catalog import MODELS
from src.registry.contract import (
    DIVISION_FILE,
    FORMAT,
    TEST_FILE,
    Contract,
    GoldenPost,
    Search,
    choose_golden,
    write_contract,
)

if TYPE_CHECKING:
    from src.core.outputs import Trained
    from src.core.records import Post
    from src.registry.pyfunc import ModelPackage
    from src.registry.registry import RunRecord, Version
    from src.training.adapter import Adapter

# What the served model imports; the versions are those that trained it.
REQUIREMENTS = (
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
class _Subject:
    """What the earlier stages have left of one model: the training and its test scores."""

    trained: "Trained"
    test: Mapping[str, float]

    @property
    def model(self) -> str:
        return self.trained.model

    def tags(self, run: "RunRecord") -> dict[str, Any]:
        scores = {f"val_{name}": value for name, value in self.trained.validation.items()}
        origin = {name: run.tags[name] for name in ("study", "trial", "git_commit", "git_dirty") if name in run.tags}
        return {**self.trained.facts, **origin, **scores, "test_macro_f1": self.test["macro_f1"]}


@command(example="python -m src.register --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Register the trained adapter with its head; an adapter that is registered already makes no new version."""
    params = load_params()
    subject = _read(model)
    from src.registry import registry
    from src.registry.promotion import promote_if_better

    digest = subject.trained.digest
    package = _package(subject)
    found = registry.find_by_digest(model, digest) or _register(subject, package, params.notice)
    promoted = promote_if_better(model, found)
    # Its number is the registry's own to give: another store has another one for it.
    write_json(stage_folder("register", model) / "version.json", {"name": found.name, ADAPTER_DIGEST: digest})
    say(
        f"{found.name} version {found.number} is {'new' if found.created else 'registered already'}"
        f"{' and is the champion' if promoted else ''}"
    )


def _read(model: str) -> _Subject:
    """What there is to register.

    Raises:
        UserError: a stage before has not run, or not for the present posts and this adapter.
    """
    from src.core.outputs import read_trained

    trained = read_trained(model)
    test, judged = (read_json(stage_folder("evaluate", model) / name) for name in ("metrics.json", "evaluate.json"))
    report = SplitReport.read(SPLIT_REPORT)
    if judged[ADAPTER_DIGEST] != trained.digest:
        raise UserError(f"this adapter of {model} has no test scores: run `python -m src.evaluate --model {model}`")
    if any(getattr(report, name) != trained.facts[name] for name in ("data_digest", "split_digest")):
        raise UserError(f"the posts are not those that {model} was trained on: run `dvc repro`")
    return _Subject(trained, test)


def _register(subject: _Subject, package: "ModelPackage", notice: str) -> "Version":
    from src.registry import registry

    run = _training_run(subject, notice)
    return registry.register(
        subject.model,
        package,
        run_id=run.id,
        digest=subject.trained.digest,
        tags=subject.tags(run),
        description=_description(subject, notice),
    )


def _training_run(subject: _Subject, notice: str) -> "RunRecord":
    """The run of the training; where the store has none, as after `dvc pull`, one that is logged from the files."""
    from src.registry import registry

    tags = {"stage": "train", ADAPTER_DIGEST: subject.trained.digest}
    runs = registry.runs_tagged(subject.model, tags)
    if not runs:
        _log_run(subject, notice)
        runs = registry.runs_tagged(subject.model, tags)
    return runs[0]


def _log_run(subject: _Subject, notice: str) -> None:
    from src.core.provenance import code_digest, git_tags
    from src.tracking.client import parts_read
    from src.tracking.run_logging import log_training, open_tracker, run_tags

    trained = subject.trained
    origin = {"study": trained.study, "trial": trained.trial, "logged_from": "files"}
    tags = {**run_tags("train", trained.facts, notice), **origin}
    if trained.code != code_digest(subject.model):
        # Other code has trained it, in a commit that nobody here knows.
        tags = {name: value for name, value in tags.items() if name not in git_tags()}
    with open_tracker(subject.model).run("train", tags=tags, params=trained.params) as run:
        run.inputs(parts_read("train", "val"))
        log_training(run, trained)


def _package(subject: _Subject) -> "ModelPackage":
    from src.registry.pyfunc import ModelPackage
    from src.training.workspace import posts_by_part

    golden = choose_golden(posts_by_part()["val"])
    contract = stage_folder("register", subject.model) / "contract"
    _write_contract(subject, golden, contract)
    artifacts = {"adapter": subject.trained.adapter, "contract": contract}
    if checkpoint_folder(subject.model).is_dir():
        artifacts["base"] = checkpoint_folder(subject.model)
    return ModelPackage(
        code=Path("src"),
        artifacts=artifacts,
        requirements=[f"{name}=={release}" for name, release in _libraries().items()],
        example=(Path(golden[0].image).read_bytes(), golden[0].caption),
    )


def _write_contract(subject: _Subject, golden: "list[Post]", folder: Path) -> None:
    """Write the contract. The golden logits are those of the adapter as its files have it, not the training's own."""
    from src.registry.loading import answer, load_adapter
    from src.training.workspace import checkpoint_of

    adapter = load_adapter(subject.model, checkpoint_of(subject.model), subject.trained.adapter)
    pictures = [Path(post.image).read_bytes() for post in golden]
    rows = list(zip(pictures, [post.caption for post in golden], strict=True))
    posts = [
        GoldenPost(post.id, post.digest, f"golden-{place}{Path(post.image).suffix}", post.caption, tuple(logits))
        for place, (post, logits) in enumerate(zip(golden, answer(adapter.model, rows).tolist(), strict=True))
    ]
    content = {post.image: picture for post, picture in zip(posts, pictures, strict=True)}
    write_contract(folder, _contract(subject, adapter, posts), content)
    _keep_evidence(subject, folder)


def _keep_evidence(subject: _Subject, folder: Path) -> None:
    """What the scores rest on: how posts were divided, the answer to each test post, which of them have twins where."""
    SplitReport.read(SPLIT_REPORT).write(folder / DIVISION_FILE)
    found = read_predictions(stage_folder("evaluate", subject.model) / "predictions.csv")
    group_of = read_groups(GROUPS)
    unseen = leak_free(read_split(SPLIT), group_of)
    rows = [{**asdict(row), "group": group_of[row.id], "leak_free": int(row.id in unseen)} for row in found]
    write_table(folder / TEST_FILE, rows)


def _contract(subject: _Subject, adapter: "Adapter", golden: list[GoldenPost]) -> Contract:
    from src.core.provenance import data_revision
    from src.registry.loading import dtype_of

    model, trained = adapter.model, subject.trained
    return Contract(
        format=FORMAT,
        model=trained.model,
        labels=TONES,
        prompt=model.spec.prompt,
        preprocessing=model.preprocessing_digest(),
        dtype=dtype_of(model),
        checkpoint=model.checkpoint,
        libraries=_libraries(),
        adapted_modules=tuple(adapter.modules()),
        settings=asdict(adapter.settings),
        data_digest=trained.facts["data_digest"],
        split_digest=trained.facts["split_digest"],
        data_revision=data_revision(),
        code=trained.code,
        search=Search(trained.study, trained.trial),
        validation=dict(trained.validation),
        test=dict(subject.test),
        golden=tuple(golden),
    )


def _libraries() -> dict[str, str]:
    return {name: version(name).split("+")[0] for name in REQUIREMENTS}


def _description(subject: _Subject, notice: str) -> str:
    trained = subject.trained
    facts, scores = trained.facts, trained.validation
    return (
        f"Tone of a post (negative, neutral, positive) by **{subject.model}** ({facts['checkpoint']} at "
        f"`{facts['checkpoint_revision']}`) with a LoRA adapter: trial {trained.trial} of study "
        f"`{trained.study}`.\n\n"
        f"Validation macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}. {notice}"
    )


if __name__ == "__main__":
    main()
