"""Stage `register`: makes the trained adapter a model version, and champion if it is the best on validation.

python -m src.register --model clip
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.core.config import load_params
from src.core.paths import POSTS, checkpoint_folder, stage_folder
from src.core.records import Post, read_json, read_posts, write_json
from src.models.catalog import MODELS, folder_digest
from src.services.terminal import command, model_option, say

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
# Validation scores compare only between adapters judged on the same posts, over weights of the same kind.
COMPARABLE = ("split_digest", "data_digest", "scale")


@command(example="python -m src.register --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Register the trained adapter with its head; an adapter that is registered already makes no new version."""
    params = load_params()
    trained = read_json(stage_folder("train", model) / "train.json")
    from src.services import registry

    tags = _tags(model, trained)
    digest = folder_digest(stage_folder("train", model) / "adapter")
    found = registry.register(
        model,
        _package(model),
        run_id=trained["run_id"],
        digest=f"{digest}-{tags['checkpoint_revision'][:12]}",
        tags=tags,
        description=_description(model, tags, params.notice),
    )
    promoted = _promote(model, found, tags)
    write_json(stage_folder("register", model) / "version.json", {"name": found.name, "version": found.number})
    say(
        f"{found.name} version {found.number} is {'new' if found.created else 'registered already'}"
        f"{' and is the champion' if promoted else ''}"
    )


def _promote(model: str, found: Any, tags: Mapping[str, Any]) -> bool:
    """Make the version champion unless the present one is better on the same validation posts."""
    from src.services import registry

    present = registry.champion(model)
    if present and present.number != found.number:
        same = all(present.tags.get(name) == str(tags[name]) for name in COMPARABLE)
        if same and float(present.tags["val_macro_f1"]) > float(tags["val_macro_f1"]):
            return False
    registry.alias(found.name, registry.CHAMPION, found.number)
    return True


def _tags(model: str, trained: Mapping[str, Any]) -> dict[str, Any]:
    best = read_json(stage_folder("tune", model) / "best.json")
    scores = {f"val_{name}": trained[name] for name in ("macro_f1", "weighted_f1", "accuracy")}
    return {"study": best["study"], "trial": best["best_trial"], **trained["facts"], **scores}


def _package(model: str) -> Any:
    from src.services.registry import Package

    folder = stage_folder("train", model)
    artifacts = {
        "adapter": folder / "adapter",
        "checkpoint": stage_folder("encode", model) / "checkpoint.json",
        "model": folder / "train.json",
    }
    if checkpoint_folder(model).is_dir():
        artifacts["base"] = checkpoint_folder(model)
    return Package(
        code_file=Path("src/serve.py"),
        code_paths=[Path("src")],
        artifacts=artifacts,
        requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
        example=_example(),
    )


def _example() -> tuple[bytes, str]:
    post: Post = read_posts(POSTS)[0]
    return Path(post.image).read_bytes(), post.caption


def _description(model: str, tags: Mapping[str, Any], notice: str) -> str:
    return (
        f"Tone of a post (negative, neutral, positive) by **{model}** ({tags['checkpoint']} at "
        f"`{tags['checkpoint_revision']}`) with a LoRA adapter: trial {tags['trial']} of study `{tags['study']}`.\n\n"
        f"Validation macro-F1 {tags['val_macro_f1']:.4f}, accuracy {tags['val_accuracy']:.4f}. {notice}"
    )


if __name__ == "__main__":
    main()
