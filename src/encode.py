"""Stage `encode`: resolves a model's checkpoint and runs all that is frozen once over every labelled post.

python -m src.encode --model clip
"""

from src.core.config import load_params
from src.core.paths import checkpoint_folder, stage_folder
from src.core.records import write_json
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, progress, say


@command(example="python -m src.encode --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Fetch or make a model's checkpoint, and cache what its frozen part makes of every labelled post.

    The cache outlives this stage: what a post's content and the checkpoint have given before is not computed again.
    """
    params = load_params()
    from dataclasses import asdict

    from src.learning.features import FeatureStore
    from src.learning.lora import adapted
    from src.learning.workspace import CHECKPOINT_FILE, Workspace, load_model, posts_by_part
    from src.models.catalog import resolve

    parts = posts_by_part()
    captions = [post.caption for post in parts["train"]]
    checkpoint = resolve(model, params.scale, checkpoint_folder(model), captions)
    workspace = Workspace(load_model(model, checkpoint), parts)
    checkpoint = workspace.model.checkpoint
    posts = [post for part in parts.values() for post in part]
    caches = []

    def encode() -> None:
        store = FeatureStore.of(workspace.cache, workspace.model)
        with progress(len(posts), f"{model}: {store.folder.name}", "posts") as bar:
            count = store.ensure(workspace.model, posts, params.encode.batch_size, bar.advance)
        caches.append(store.folder.name)
        say(f"{model}: {count:,} posts encoded, {len(posts) - count:,} were in {store.folder} already")

    encode()
    with adapted(workspace.model, params.fit_of(model), params.seed):
        encode()
    write_json(stage_folder("encode", model) / CHECKPOINT_FILE, asdict(checkpoint))
    write_json(
        stage_folder("encode", model) / "encode.json",
        {"posts": len(posts), "caches": caches},
    )
    say(f"{model}: {checkpoint.source} at {checkpoint.revision}. {params.notice}")


if __name__ == "__main__":
    main()
