"""Stage `register`: makes the trained adapter a model version, and champion if it is the best on validation.

python -m src.register --model clip
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.core.config import load_params
from src.core.contract import (
    DIVISION_FILE,
    FORMAT,
    TEST_FILE,
    Code,
    Contract,
    GoldenPost,
    Search,
    Weights,
    choose_golden,
    write_contract,
)
from src.core.errors import Refusal
from src.core.labels import TONES
from src.core.paths import GROUPS, SPLIT, SPLIT_REPORT, checkpoint_folder, stage_folder
from src.core.records import (
    leak_free,
    read_groups,
    read_json,
    read_predictions,
    read_split,
    write_json,
    write_table,
)
from src.models.catalog import MODELS, folder_digest
from src.services.terminal import command, model_option, say

if TYPE_CHECKING:
    from src.core.records import Post
    from src.learning.lora import Adapter
    from src.services.packages import Package
    from src.services.registry import RunRecord, Version

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
class _Trained:
    """What the earlier stages have left of one model: train.json, the training's run, and the scores on both parts."""

    model: str
    facts: Mapping[str, str]
    run: "RunRecord"
    validation: Mapping[str, float]
    test: Mapping[str, float]

    @property
    def adapter(self) -> Path:
        return stage_folder("train", self.model) / "adapter"

    @property
    def digest(self) -> str:
        return f"{folder_digest(self.adapter)}-{self.facts['checkpoint_revision'][:12]}"

    @property
    def tags(self) -> dict[str, Any]:
        scores = {f"val_{name}": value for name, value in self.validation.items()}
        origin = {name: self.run.tags[name] for name in ("study", "trial", "git_commit") if name in self.run.tags}
        return {**self.facts, **origin, **scores, "test_macro_f1": self.test["macro_f1"]}


@command(example="python -m src.register --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Register the trained adapter with its head; an adapter that is registered already makes no new version."""
    params = load_params()
    trained = _read(model)
    from src.services import registry
    from src.services.promotion import consider

    found = registry.find(model, trained.digest) or _register(trained, params.notice)
    promoted = consider(model, found)
    write_json(stage_folder("register", model) / "version.json", {"name": found.name, "version": found.number})
    say(
        f"{found.name} version {found.number} is {'new' if found.created else 'registered already'}"
        f"{' and is the champion' if promoted else ''}"
    )


def _read(model: str) -> _Trained:
    """What there is to register.

    Raises:
        Refusal: a stage before has not run, or not for the present posts and this adapter.
    """
    trained = read_json(stage_folder("train", model) / "train.json")
    test = read_json(stage_folder("evaluate", model) / "metrics.json")
    report = read_json(SPLIT_REPORT)
    from src.services import registry

    run = registry.run_record(trained["run_id"])
    if run is None:
        raise Refusal(f"the run of {model}'s training is not in the MLflow store: run `python -m src.train` again")
    if not any(found.tags.get("stage") == "evaluate" for found in registry.runs_about(run.id, "train_run")):
        raise Refusal(f"this adapter of {model} has no test scores: run `python -m src.evaluate --model {model}`")
    if any(report[name] != trained["facts"][name] for name in ("data_digest", "split_digest")):
        raise Refusal(f"the posts are not those that {model} was trained on: run `dvc repro`")
    validation = {name: trained[name] for name in ("macro_f1", "weighted_f1", "accuracy")}
    return _Trained(model, trained["facts"], run, validation, test)


def _register(trained: _Trained, notice: str) -> "Version":
    from src.services import registry

    return registry.register(
        trained.model,
        _package(trained),
        run_id=trained.run.id,
        digest=trained.digest,
        tags=trained.tags,
        description=_description(trained, notice),
    )


def _package(trained: _Trained) -> "Package":
    from src.learning.workspace import posts_by_part
    from src.services.packages import Package

    golden = choose_golden(posts_by_part()["val"])
    contract = stage_folder("register", trained.model) / "contract"
    _draw_up(trained, golden, contract)
    artifacts = {"adapter": trained.adapter, "contract": contract}
    if checkpoint_folder(trained.model).is_dir():
        artifacts["base"] = checkpoint_folder(trained.model)
    return Package(
        code_file=Path("src/serve.py"),
        code_paths=[Path("src")],
        artifacts=artifacts,
        requirements=[f"{name}=={release}" for name, release in _libraries().items()],
        example=(Path(golden[0].image).read_bytes(), golden[0].caption),
    )


def _draw_up(trained: _Trained, golden: "list[Post]", folder: Path) -> None:
    """Write the contract. The golden logits are those of the adapter as its files have it, not the training's own."""
    from src.learning.workspace import checkpoint_of
    from src.tuned.versions import answer, load_adapter

    adapter = load_adapter(trained.model, checkpoint_of(trained.model), trained.adapter)
    pictures = [Path(post.image).read_bytes() for post in golden]
    rows = list(zip(pictures, [post.caption for post in golden], strict=True))
    posts = [
        GoldenPost(post.id, post.digest, f"golden-{place}{Path(post.image).suffix}", post.caption, tuple(logits))
        for place, (post, logits) in enumerate(zip(golden, answer(adapter.model, rows).tolist(), strict=True))
    ]
    content = {post.image: picture for post, picture in zip(posts, pictures, strict=True)}
    write_contract(folder, _contract(trained, adapter, posts), content)
    _keep_evidence(trained, folder)


def _keep_evidence(trained: _Trained, folder: Path) -> None:
    """What the scores rest on: how posts were divided, the answer to each test post, which of them have twins where."""
    write_json(folder / DIVISION_FILE, read_json(SPLIT_REPORT))
    found = read_predictions(stage_folder("evaluate", trained.model) / "predictions.csv")
    group_of = read_groups(GROUPS)
    unseen = leak_free(read_split(SPLIT), group_of)
    rows = [{**asdict(row), "group": group_of[row.id], "leak_free": int(row.id in unseen)} for row in found]
    write_table(folder / TEST_FILE, rows)


def _contract(trained: _Trained, adapter: "Adapter", golden: list[GoldenPost]) -> Contract:
    from src.services.repository import data_revision
    from src.tuned.versions import dtype_of

    model, tags = adapter.model, trained.run.tags
    return Contract(
        format=FORMAT,
        model=trained.model,
        labels=TONES,
        prompt=model.spec.prompt,
        preprocessing=model.preprocessing_digest(),
        dtype=dtype_of(model),
        checkpoint=Weights(**asdict(model.checkpoint)),
        libraries=_libraries(),
        adapted_modules=tuple(adapter.modules()),
        settings=asdict(adapter.settings),
        data_digest=trained.facts["data_digest"],
        split_digest=trained.facts["split_digest"],
        data_revision=data_revision(),
        code=Code(tags.get("git_commit", ""), tags.get("git_dirty", "")),
        search=Search(tags["study"], int(tags["trial"]), tags["trial_run"]),
        run_id=trained.run.id,
        validation=dict(trained.validation),
        test=dict(trained.test),
        golden=tuple(golden),
    )


def _libraries() -> dict[str, str]:
    return {name: version(name).split("+")[0] for name in REQUIREMENTS}


def _description(trained: _Trained, notice: str) -> str:
    facts, tags, scores = trained.facts, trained.run.tags, trained.validation
    return (
        f"Tone of a post (negative, neutral, positive) by **{trained.model}** ({facts['checkpoint']} at "
        f"`{facts['checkpoint_revision']}`) with a LoRA adapter: trial {tags['trial']} of study `{tags['study']}`.\n\n"
        f"Validation macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}. {notice}"
    )


if __name__ == "__main__":
    main()
